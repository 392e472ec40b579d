"""Show the progress of transfers and hashing: bars on a terminal, occasional lines otherwise."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli import output
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID

    from llm_hf_models.transfer.types import Event, Progress

LINE_SECONDS = 5.0  # between two lines about one file
LINE_SHARE = 0.1  # of the file, between two lines about it
MAX_NAME_CELLS = 40
NARROW_CELLS = 80  # a terminal of fewer columns gets shorter bars
TOTAL = "total"


class PendingFile(Protocol):
    """A file to transfer, such as a `PlannedFile`."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def partial(self) -> int: ...


def show_progress(files: Sequence[PendingFile] = (), *, quiet: bool = False) -> AbstractContextManager[Progress]:
    """Return a context manager that shows the progress of a transfer or re-hash on stderr.

    Args:
        files: the files to transfer, if known; several files get a total.
        quiet: show nothing.
    """
    if quiet:
        return nullcontext(_ignore_event)
    return ProgressBars(files) if output.is_terminal(sys.stderr) else ProgressLines()


def _ignore_event(_event: Event) -> None:
    pass


@dataclass
class _FileState:
    """Time and bytes of the last line about one file and of the start of its transfer."""

    line_at: float
    line_bytes: int
    started_at: float
    start_bytes: int
    last_message: str | None = None
    has_line: bool = False


class ProgressLines:
    """Plain lines: one when a file starts, one when it is done, and a few between them.

    A progress line needs LINE_SECONDS and LINE_SHARE of the file since the one before. A file that is only hashed
    again has no `started` event and gets a line only if hashing takes long.
    """

    def __init__(self, write: Callable[[str], None] = output.note, clock: Callable[[], float] = time.monotonic) -> None:
        """Take functions that print a line and return the time in seconds."""
        self._write = write
        self._clock = clock
        self._files: dict[str, _FileState] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        return self.show

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, event: Event) -> None:
        """Show one event of one file. Any thread may call this."""
        with self._lock:
            state = self._files.get(event.file)
            if state is None or event.kind == "started":
                now = self._clock()
                self._files[event.file] = _FileState(now, event.done, now, event.done)
                if event.kind == "started":
                    self._write_line(event, _describe_start(event))
                if event.kind in ("started", "verifying"):
                    return
            self._report(event, self._files[event.file])

    def _report(self, event: Event, state: _FileState) -> None:
        now = self._clock()
        if event.kind == "done":
            if state.has_line:
                self._write_line(event, _describe_end(event, state, now))
            del self._files[event.file]
        elif event.kind == "verifying":
            if state.last_message != event.kind:
                self._write_line(event, "verifying the digest")
                state.last_message = event.kind
        elif event.kind != "progress":
            text = _describe_problem(event)
            if text != state.last_message:
                self._write_line(event, text)
            state.last_message = text
        elif now - state.line_at >= LINE_SECONDS and event.done - state.line_bytes >= event.total * LINE_SHARE:
            self._write_line(event, _describe_progress(event, state, now))
            state.line_at, state.line_bytes, state.last_message = now, event.done, None

    def _write_line(self, event: Event, text: str) -> None:
        self._files[event.file].has_line = True
        self._write(f"{clean_text(event.file)}: {text}")


def _describe_start(event: Event) -> str:
    if event.done:
        return f"continuing at {_format_percent(event)} of {format_size(event.total)}"
    return format_size(event.total)


def _describe_progress(event: Event, state: _FileState, now: float) -> str:
    speed = (event.done - state.start_bytes) / max(now - state.started_at, 0.001)
    left = format_duration((event.total - event.done) / speed) if speed else "unknown time"
    return f"{_format_percent(event)} of {format_size(event.total)}, {format_size(speed)}/s, {left} left"


def _describe_end(event: Event, state: _FileState, now: float) -> str:
    moved, seconds = event.total - state.start_bytes, now - state.started_at
    if moved <= 0 or seconds <= 0:
        return f"done, {format_size(event.total)}"
    part = (
        f"{format_size(event.total)}, the last {format_size(moved)} of it" if state.start_bytes else format_size(moved)
    )
    return f"done, {part} in {cli_format.format_elapsed(seconds)} ({format_size(moved / seconds)}/s)"


def _describe_problem(event: Event) -> str:
    return f"{event.kind}: {clean_text(event.message)}" if event.message else event.kind


def _format_percent(event: Event) -> str:
    return f"{100 * event.done // event.total if event.total else 100} %"


class ProgressBars:
    """A bar for each file with bytes, speed and remaining time, and a total if there are several files."""

    def __init__(self, files: Sequence[PendingFile] = (), console: Console | None = None) -> None:
        """Take the files to transfer and a console; None is stderr."""
        self._files = files
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {file.path: file.partial for file in files}
        self._total: TaskID | None = None
        self._bars: RichProgress | None = None
        self._lock = threading.Lock()
        self._last_problem: str | None = None

    def __enter__(self) -> Progress:
        self._bars = _make_bars(self._console or _make_console())
        if len(self._files) > 1:
            size, partial = sum(file.size for file in self._files), sum(file.partial for file in self._files)
            self._total = self._bars.add_task(TOTAL, total=size, completed=partial)
        self._bars.start()
        return self.show

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, event: Event) -> None:
        """Show one event of one file. Any thread may call this."""
        bars = self._bars
        if bars is None:
            return
        output.waiting_note.cancel()
        with self._lock:
            if event.file not in self._tasks:
                # Bytes from an earlier run don't count as speed, so the bar starts after them.
                self._tasks[event.file] = bars.add_task(
                    self._make_label(event.file), total=event.total, completed=event.done
                )
            task = self._tasks[event.file]
            note = event.kind if event.kind not in ("started", "progress", "done") else ""
            bars.update(task, completed=event.done, total=event.total, note=note, visible=not self._should_hide(event))
            if event.file in self._done:  # a file that is only hashed again is not in the total
                self._done[event.file] = event.done
            if self._total is not None:
                bars.update(self._total, completed=sum(self._done.values()))
            self._print_problem(bars, event)

    def _make_label(self, path: str) -> str:
        """Return a name that leaves two thirds of the line for the bar and its figures."""
        return _shorten_name(path, min(MAX_NAME_CELLS, self._bars.console.width // 3)) if self._bars else path

    def _should_hide(self, event: Event) -> bool:
        """Return whether to hide the bar: a finished file is part of the total."""
        return event.kind == "done" and self._total is not None

    def _print_problem(self, bars: RichProgress, event: Event) -> None:
        if event.kind in ("stalled", "retrying", "waiting") and event.message:
            text = f"{self._make_label(event.file)}: {_describe_problem(event)}"
            if text != self._last_problem:
                bars.console.print(text, markup=False, highlight=False)
            self._last_problem = text


def _make_console() -> Console:
    from rich.console import Console

    return Console(stderr=True, no_color=not output.has_colour(sys.stderr))


def _shorten_name(path: str, cells: int) -> str:
    """Return the file's name. A long one loses its middle, because it ends with the quantization and shard."""
    name = clean_text(path.rpartition("/")[2])
    if len(name) <= cells:
        return name
    half = (cells - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _make_bars(console: Console) -> RichProgress:
    from rich.progress import BarColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column
    from rich.text import Text

    narrow = console.width < NARROW_CELLS

    class Figures(ProgressColumn):
        """Bytes, speed and remaining time, formatted as everywhere else."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(
                _format_figures(
                    task.completed, None if narrow else task.total, speed, _estimate_seconds_left(task), task.fields
                )
            )

    return RichProgress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True)),
        Figures(table_column=Column(no_wrap=True)),
        console=console,
        expand=True,
    )


def _estimate_seconds_left(task: Task) -> float | None:
    """Return the remaining seconds at the speed of the last half minute, or None if unknown."""
    if task.finished or not task.speed or task.total is None:
        return None
    return (task.total - task.completed) / task.speed


def _format_figures(
    done: float, total: float | None, speed: float | None, left: float | None, fields: dict[str, str]
) -> str:
    parts = [format_size(done) + (f" of {format_size(total)}" if total else "")]
    if speed:
        parts.append(f"{format_size(speed)}/s")
    if note := fields.get("note"):
        parts.append(note)
    elif left is not None:
        parts.append(f"{format_duration(left)} left")
    return "  ".join(parts)
