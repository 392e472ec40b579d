"""Show the progress of transfers and hashing: bars on a terminal, occasional lines otherwise."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli import output
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_duration, format_size

if TYPE_CHECKING:
    from llm_hf_models.cli.progress_bars import PendingFile
    from llm_hf_models.transfer.types import Event, Progress

LINE_SECONDS = 5.0  # between two lines about one file
LINE_SHARE = 0.1  # of the file, between two lines about it


def show_progress(
    files: Sequence[PendingFile] = (), *, name: Callable[[str], str] | None = None, quiet: bool = False
) -> AbstractContextManager[Progress]:
    """Return a context manager that shows the progress of a transfer or re-hash on stderr.

    Args:
        files: the files to transfer, if known; several files get a total.
        name: returns the label of a file's bar; None is the file's name.
        quiet: show nothing.
    """
    if quiet:
        return nullcontext(_ignore_event)
    if not output.is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
        return ProgressLines()
    from llm_hf_models.cli.progress_bars import ProgressBars, name_file

    return ProgressBars(files, name=name or name_file)


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
