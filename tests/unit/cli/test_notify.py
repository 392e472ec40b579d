"""The notification after a long command: a bell and a message on a terminal, nothing anywhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NOTIFY = "import sys; from llm_hf_models.cli import output; output.notify(sys.argv[1], float(sys.argv[2]))"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


def read_notification(text: str, seconds: float, **environment: str) -> str:
    """Return what a terminal receives if stderr is one."""
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", NOTIFY, text, str(seconds)], stderr=theirs, env={**os.environ, **environment}, check=True
    )
    os.close(theirs)
    assert done.returncode == 0
    try:
        return os.read(ours, 4096).decode()
    except OSError:  # a terminal without output
        return ""
    finally:
        os.close(ours)


def test_long_command_rings_and_names_its_result() -> None:
    output = read_notification("hf/tests/tiny:Q4_K_M is here", 60, TERM="xterm")
    assert output == "\x1b]9;hf/tests/tiny:Q4_K_M is here\x07\x07"


def test_short_command_does_not_notify() -> None:
    assert read_notification("hf/tests/tiny:Q4_K_M is here", 1, TERM="xterm") == ""


def test_dumb_terminals_and_pipes_get_no_notification() -> None:
    assert read_notification("done", 60, TERM="dumb") == ""
    piped = subprocess.run([sys.executable, "-c", NOTIFY, "done", "60"], capture_output=True, check=True)
    assert (piped.stdout, piped.stderr) == (b"", b"")


def test_untrusted_name_can_not_inject_a_control_sequence() -> None:
    output = read_notification("evil\x07\x1b]52;c;AAAA\x07", 60, TERM="xterm")
    assert output.count("\x1b") == 1
    assert output.index("\x07") == len(output) - 2
