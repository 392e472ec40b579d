"""Show the progress of transfers and hashing as bars on a terminal, with a total if there are several files."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from llm_hf_models.cli import output
from llm_hf_models.cli.bar_layout import BarLine, choose_style, format_lines
from llm_hf_models.cli.live_lines import LiveLines
from llm_hf_models.system.text import clean_text
from llm_hf_models.transfer.types import RETRY_DELAY

if TYPE_CHECKING:
    from llm_hf_models.transfer.types import Event, Progress

FRAME_SECONDS = 0.1
SILENT_SECONDS = 3.0  # without new bytes, after which a reason replaces the rate
RATE_WINDOW_SECONDS = 10.0
TOTAL = "total"
NO_NETWORK = "waiting for the network"


class PendingFile(Protocol):
    """A file to transfer, such as a `PlannedFile`."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def partial(self) -> int: ...


def name_file(path: str) -> str:
    """Return a file's name without its folder."""
    return clean_text(path.rpartition("/")[2])


class _Meter:
    """The rate at which bytes arrive, as an average over the last seconds."""

    def __init__(self, now: float) -> None:
        self.moved_at = now
        self._samples = deque([(now, 0)])

    def add(self, count: int, now: float) -> None:
        """Count new bytes. A negative number starts again, because bytes were discarded."""
        if count < 0:
            self._samples = deque([(now, 0)])
        if count > 0:
            self.moved_at = now
            self._samples.append((now, self._samples[-1][1] + count))

    def is_silent(self, now: float) -> bool:
        """Return whether no bytes have arrived for some time."""
        return now - self.moved_at >= SILENT_SECONDS

    def compute_rate(self, now: float) -> float:
        """Return the bytes per second; 0 if no bytes arrive."""
        while len(self._samples) > 1 and self._samples[1][0] < now - RATE_WINDOW_SECONDS:
            self._samples.popleft()
        (start, first), (_, last) = self._samples[0], self._samples[-1]
        return 0.0 if self.is_silent(now) else (last - first) / max(now - start, 1.0)


class _File:
    """The state of one file."""

    def __init__(self, label: str, size: int, received: int, now: float) -> None:
        self.label, self.size, self.received = label, size, received
        self.shown = received  # received or hashed bytes
        self.is_started = self.is_done = self.is_hashing = False
        self.problem: Event | None = None  # until new bytes arrive
        self.meter = _Meter(now)

    def update(self, event: Event, now: float) -> int:
        """Apply an event. Return the number of bytes that have arrived since the last one."""
        self.is_done = event.kind == "done"
        self.is_hashing = event.kind == "verifying" or (
            self.is_hashing and event.kind == "progress" and not event.by_others
        )
        # Bytes from before this pull, and those of a file that another download has completed, don't count as speed.
        counts = self.is_started and event.kind != "started" and not (self.is_done and event.by_others)
        count = event.done - self.shown if counts else 0
        if event.kind in ("stalled", "retrying", "waiting"):
            self.problem = event
        elif event.done != self.shown or event.kind != "progress":
            self.problem = None
        if not counts or event.done < self.shown:
            self.meter = _Meter(now)
        self.meter.add(count, now)
        self.shown, self.size, self.is_started = event.done, event.total, True
        if self.is_hashing and event.done < event.total:
            return 0
        self.received = event.done
        return 0 if self.is_hashing else count

    def describe_state(self) -> str:
        """Return what the file is waiting for, in one word; empty while bytes arrive."""
        if self.is_hashing and not self.is_done:
            return "verifying"
        if self.problem is None:
            return ""
        return (self.problem.message or "waiting") if self.problem.by_others else self.problem.kind


class ProgressBars:
    """A bar for each file. The last line has the rate and the remaining time."""

    def __init__(
        self,
        files: Sequence[PendingFile] = (),
        *,
        name: Callable[[str], str] = name_file,
        lines: LiveLines | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the files to transfer, a function that names them, the terminal (None: stderr) and a clock."""
        self._lines = lines or LiveLines(sys.stderr)
        self._style = choose_style(self._lines.stream)
        self._clock, self._name = clock, name
        names = Counter(name(file.path) for file in files)
        self._files = {
            file.path: _File(
                name(file.path) if names[name(file.path)] == 1 else clean_text(file.path),
                file.size, file.partial, clock(),
            )
            for file in files
        }  # fmt: skip
        self._pending = list(self._files.values())
        self._total = _Meter(clock())
        self._lock = threading.Lock()  # never held while writing: a terminal that is stopped must not stop a transfer
        self._ended = threading.Event()
        self._problems: list[str] = []  # to print above the bars
        self._known_problems: set[str] = set()
        self._thread = threading.Thread(target=self._keep_drawn, name="progress", daemon=True)
        self._exit = ExitStack()

    def __enter__(self) -> Progress:
        self._exit.enter_context(self._lines.leave_on_ctrl_z())
        self._thread.start()
        return self.show

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with self._exit:
            # The result of the command follows, and says more than full bars. Otherwise it matters how much is done.
            self._lines.leave(self._render_end() if kind is not None else ())

    def show(self, event: Event) -> None:
        """Show one event of one file. Any thread may call this."""
        output.waiting_note.cancel()
        with self._lock:
            now = self._clock()
            file = self._files.get(event.file)
            if file is None:
                file = self._files[event.file] = _File(self._name(event.file), event.total, event.done, now)
            count = file.update(event, now)
            if file in self._pending:
                self._total.add(count, now)
            self._note_problem(file, event)

    def _note_problem(self, file: _File, event: Event) -> None:
        """Print each reason for a delay once, above the bars."""
        if file.problem is event and event.message and not event.by_others:
            reason = clean_text(event.message.partition(RETRY_DELAY)[0])
            if reason not in self._known_problems:
                self._known_problems.add(reason)
                self._problems.append(f"{file.label}: {reason}")

    def _keep_drawn(self) -> None:
        while not self._ended.wait(FRAME_SECONDS):
            self.draw()

    def draw(self) -> None:
        """Draw the lines as they are now."""
        columns, rows = self._lines.get_size()
        with self._lock:
            lines = self._list_lines(rows)
            problems, self._problems = self._problems, []
        if lines or problems:
            self._lines.draw(format_lines(lines, columns, self._style), problems)

    def _list_lines(self, rows: int) -> list[BarLine]:
        has_total, now = len(self._pending) > 1, self._clock()
        shown = [file for file in self._files.values() if file.is_started and not (file.is_done and has_total)]
        lines = [self._make_line(file, now, has_rate=not has_total) for file in shown]
        most = max(1, rows - 1 - has_total)
        if len(lines) > most:
            lines = [*lines[: most - 1], BarLine(f"and {len(lines) - most + 1} more")]
        if has_total and any(file.is_started for file in self._pending):
            lines.append(self._make_total(now))
        return lines

    def _make_line(self, file: _File, now: float, *, has_rate: bool) -> BarLine:
        state = file.describe_state()
        rate = file.meter.compute_rate(now) if has_rate and not file.is_done else 0.0
        is_missing = file.shown < file.size and not file.is_done
        if has_rate and is_missing and not file.is_hashing and file.meter.is_silent(now):
            state = _explain_silence([file])
        return BarLine(file.label, file.shown, file.size, rate if is_missing else 0.0, state)

    def _make_total(self, now: float) -> BarLine:
        done, size = self._count_received()
        state, waiting = "", [file for file in self._pending if not file.is_done and not file.is_hashing]
        if done >= size or not waiting:
            state = "verifying"
        elif self._total.is_silent(now):
            state = _explain_silence(waiting)
        return BarLine(TOTAL, done, size, self._total.compute_rate(now) if done < size else 0.0, state)

    def _count_received(self) -> tuple[int, int]:
        return sum(file.received for file in self._pending), sum(file.size for file in self._pending)

    def _render_end(self) -> list[str]:
        """Return how much has arrived, without a rate."""
        with self._lock:
            lines = [BarLine(file.label, file.shown, file.size) for file in self._files.values() if file.is_started]
            if len(self._pending) > 1:
                lines = [BarLine(TOTAL, *self._count_received())]
        return format_lines(lines, self._lines.get_size()[0], self._style)


def _explain_silence(files: Sequence[_File]) -> str:
    """Return why no bytes arrive, from the problems of the files that are not complete."""
    own = [file for file in files if file.problem is None or not file.problem.by_others]
    for problem in (file.problem for file in own or files if file.problem is not None):
        message = clean_text(problem.message or "")
        if problem.by_others and message:
            return message
        if message.startswith("Rate limited"):
            return "rate limited"
        if problem.kind == "retrying":
            return "retrying"
    return NO_NETWORK
