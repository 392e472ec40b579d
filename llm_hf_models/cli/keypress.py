"""Call a function when the user presses one key while a command runs. Not supported on Windows."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_hf_models.cli.output import is_terminal


@contextmanager
def call_on_key(key: str, callback: Callable[[], None]) -> Iterator[bool]:
    """Call `callback` from a thread when the user presses `key`. Yield whether a terminal can deliver keys.

    Meanwhile the terminal is in cbreak mode, in which Ctrl-C still interrupts. Its mode is restored afterwards.
    """
    if not _can_read_keys():
        yield False
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    wake_reading, wake_writing = os.pipe()
    listener = threading.Thread(target=_listen, args=(terminal, wake_reading, key, callback), name="key", daemon=True)
    tty.setcbreak(terminal)
    try:
        listener.start()
        with _reapply_after_ctrl_z(lambda: tty.setcbreak(terminal)):
            yield True
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(wake_writing)
        listener.join()
        os.close(wake_reading)


@contextmanager
def _reapply_after_ctrl_z(set_terminal: Callable[[], object]) -> Iterator[None]:
    """Set the terminal's mode again after Ctrl-Z and `fg`: shells change the mode when a job stops."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def handle_continue(_signal: int, _frame: object) -> None:
        if _can_read_keys():
            set_terminal()

    before = signal.signal(signal.SIGCONT, handle_continue)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, before)


def _can_read_keys() -> bool:
    """Return whether this process can read keys. The system stops a background job that uses the terminal."""
    if sys.platform == "win32" or not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
        return False
    return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


def _listen(terminal: int, wake: int, key: str, callback: Callable[[], None]) -> None:
    import select

    while True:
        ready, _, _ = select.select([terminal, wake], [], [])
        if wake in ready:
            return
        pressed = os.read(terminal, 1)
        if not pressed:
            return
        if pressed.decode(errors="replace").lower() == key:
            callback()
            return
