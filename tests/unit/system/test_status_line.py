from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llm_hf_models.system.status_line import ERASE, StatusLine

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")


@contextmanager
def replace_stderr() -> Iterator[int]:
    """Connect standard error to a terminal, and yield its other end. (A fixture can't, because pytest replaces it.)"""
    ours, theirs = os.openpty()
    before = sys.stderr
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        sys.stderr = stream
        try:
            yield ours
        finally:
            sys.stderr = before
    os.close(ours)


def read_until(terminal: int, end: str) -> str:
    output = ""
    while end not in output:
        output += os.read(terminal, 1000).decode()
    return output


def end_output() -> None:
    sys.stderr.write("end")
    sys.stderr.flush()


def test_text_replaces_the_previous_one_and_is_erased() -> None:
    line = StatusLine()
    with replace_stderr() as terminal:
        line.show("one")
        line.show("two")
        line.clear()
        line.clear()
        end_output()
        assert read_until(terminal, "end") == f"{ERASE}one{ERASE}two{ERASE}end"


def test_elapsed_time_is_shown_until_the_work_ends() -> None:
    with replace_stderr() as terminal:
        with StatusLine().show_elapsed("Loading tiny…", after=0):
            assert read_until(terminal, "s").startswith(f"{ERASE}Loading tiny… 0")
        end_output()
        assert read_until(terminal, "end").endswith(f"{ERASE}end")


def test_short_work_shows_nothing() -> None:
    with replace_stderr() as terminal:
        with StatusLine().show_elapsed("Loading tiny…", after=60):
            pass
        end_output()
        assert read_until(terminal, "end") == "end"


def test_text_is_cut_to_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    with replace_stderr() as terminal:
        StatusLine().show("x" * 100)
        end_output()
        assert read_until(terminal, "end") == f"{ERASE}{'x' * 9}end"


def test_terminal_that_can_not_erase_a_line_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with replace_stderr() as terminal:
        StatusLine().show("text")
        end_output()
        assert read_until(terminal, "end") == "end"


def test_file_gets_no_status_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    line = StatusLine()
    line.show("text")
    line.clear()
    assert stream.getvalue() == ""
