"""Lines at the end of a terminal's output that are redrawn in place.

The cursor rests at the start of the first line. When a window changes its width, some terminals wrap the lines again
and others cut them off, but all keep the cursor at its character. A redraw erases everything from there.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

_START = "\r\x1b[?25l\x1b[?7l"  # hide the cursor, and don't wrap: the window may have become narrower just now
_END = "\x1b[?7h\x1b[?25h"
_ERASE_LINE_END = "\x1b[K"
_ERASE_BELOW = "\x1b[J"


class LiveLines:
    """The last lines of a terminal. Any thread may call the methods."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._lock = threading.RLock()  # the handler of Ctrl-Z may interrupt a method
        self._lines: Sequence[str] = ()
        self._size = (0, 0)

    def get_size(self) -> tuple[int, int]:
        """Return the terminal's columns and rows now."""
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            size = os.terminal_size((0, 0))
        fallback = shutil.get_terminal_size()
        return size.columns or fallback.columns, size.lines or fallback.lines

    def draw(self, lines: Sequence[str], above: Sequence[str] = ()) -> None:
        """Replace the lines. The texts in `above` stay above them.

        Nothing is written if the terminal already shows these lines.
        """
        size = self.get_size()
        with self._lock:
            if (lines, size) == (self._lines, self._size) and not above:
                return
            text = "".join(f"{_ERASE_BELOW}{part}\n" for part in above)
            up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
            body = f"{_ERASE_LINE_END}\n".join(lines)
            self._write(f"\r{text}{_START}{body}{_ERASE_BELOW}{up}\r{_END}")
            self._lines, self._size = lines, size

    def leave(self, lines: Sequence[str] = ()) -> None:
        """Replace the lines for the last time, and move the cursor below them."""
        with self._lock:
            if self._lines:
                body = "".join(f"{line}{_ERASE_LINE_END}\n" for line in lines)
                self._write(f"{_START}{body}{_ERASE_BELOW}{_END}")
                self._lines = ()

    @contextmanager
    def leave_on_ctrl_z(self) -> Iterator[None]:
        """Leave the lines as they are if the user stops this process, so that the shell's prompt is below them."""
        if not hasattr(signal, "SIGTSTP") or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _frame: FrameType | None) -> None:
            with self._lock:
                self.leave(self._lines)
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)  # the process stops here until it is continued
                signal.signal(number, stop)

        before = signal.signal(signal.SIGTSTP, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTSTP, before)

    def _write(self, text: str) -> None:
        encoding = self.stream.encoding or "utf-8"
        with suppress(OSError, ValueError):  # the terminal is gone
            self.stream.write(text.encode(encoding, "replace").decode(encoding))
            self.stream.flush()
