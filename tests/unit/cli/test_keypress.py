"""A key pressed while a command runs, in a real terminal."""

from __future__ import annotations

import os
import sys

import pytest

pytest.importorskip("pty", reason="needs POSIX pseudo-terminals")

import pty

from llm_hf_models.cli.keypress import call_on_key

CHILD = """
import sys, termios, threading
from llm_hf_models.cli.keypress import call_on_key
before = termios.tcgetattr(0)
pressed = threading.Event()
with call_on_key("b", pressed.set) as heard:
    print("ready", heard, flush=True)
    came = pressed.wait({wait})
print("pressed" if came else "not pressed", "as before" if termios.tcgetattr(0) == before else "changed", flush=True)
"""


def run_in_terminal(code: str, typed: bytes) -> str:
    """Run code in a terminal of its own, type when it is ready, and return its output."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    output = b""
    while True:
        try:
            block = os.read(terminal, 1024)
        except OSError:  # Linux reports the closed other side as this error
            break
        if not block:
            break
        if b"ready" not in output and b"ready" in output + block:
            os.write(terminal, typed)
        output += block
    os.close(terminal)
    os.waitpid(child, 0)
    return output.decode()


def test_key_runs_its_action_and_the_terminal_is_restored() -> None:
    output = run_in_terminal(CHILD.format(wait=30), b"xyB")
    assert "ready True" in output
    assert "pressed as before" in output


def test_key_still_works_after_ctrl_z_and_fg() -> None:
    """A shell does this: it changes the terminal for itself meanwhile, and leaves it so."""
    code = CHILD.format(wait=30).replace(
        '    print("ready"',
        """    import os, signal
    termios.tcsetattr(0, termios.TCSANOW, before)
    os.kill(os.getpid(), signal.SIGCONT)
    print("ready\"""",
    )
    assert "pressed as before" in run_in_terminal(code, b"b")


def test_another_key_does_nothing() -> None:
    assert "not pressed as before" in run_in_terminal(CHILD.format(wait=0.2), b"x")


def test_no_key_is_watched_without_a_terminal() -> None:
    with call_on_key("b", lambda: None) as received:
        assert not received
