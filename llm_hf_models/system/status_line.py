"""A line at the end of a terminal's output that says what the program is doing. The next output replaces it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from llm_hf_models.system.units import format_duration

ERASE = "\r\x1b[K"
REFRESH_SECONDS = 1.0


class StatusLine:
    """The status line on standard error. It is shown only on a terminal that can erase a line."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_shown = False

    def show(self, text: str) -> None:
        """Show a text in place of the previous one, cut to the width of the terminal."""
        stream = sys.stderr
        if stream is None or stream.closed or not stream.isatty() or os.environ.get("TERM") == "dumb":
            return
        columns = shutil.get_terminal_size().columns
        encoding = stream.encoding or "utf-8"
        shown = text[: max(1, columns - 1)].encode(encoding, "replace").decode(encoding)
        with self._lock:
            self._is_shown = True
            _write(ERASE + shown)

    def clear(self) -> None:
        """Erase the line, so that other output can follow."""
        with self._lock:
            if self._is_shown:
                self._is_shown = False
                _write(ERASE)

    @contextmanager
    def show_elapsed(self, text: str, *, after: float) -> Iterator[None]:
        """Show a text with the elapsed time while the `with` block runs, once it has run for `after` seconds."""
        ended, started = threading.Event(), time.monotonic()

        def refresh() -> None:
            wait = after
            while not ended.wait(wait):
                with self._lock:
                    if not ended.is_set():
                        self.show(f"{text} {format_duration(time.monotonic() - started)}")
                wait = REFRESH_SECONDS

        thread = threading.Thread(target=refresh, name="status line", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.clear()


def _write(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
