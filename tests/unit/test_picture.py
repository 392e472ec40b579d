"""README's picture shows the output of a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("pty", reason="needs POSIX pseudo-terminals")

from tests.tools.picture import draw, render_screen, run_in_terminal

BARS = """
from contextlib import suppress
from llm_hf_models.cli.progress_bars import ProgressBars
from llm_hf_models.transfer.types import Event
bars = ProgressBars()
with suppress(KeyboardInterrupt), bars as show:
    for done in range(0, 901, 100):
        show(Event("progress", "model.gguf", done, 1000))
        bars.draw()
    raise KeyboardInterrupt
print("after")
"""


def test_redrawn_line_appears_once() -> None:
    assert render_screen("one 1 %\r\x1b[2Kone 99 %\nx\x1b[1A\rONE\n\n") == "ONE 99 %\nx\n"


def test_colours_are_kept_and_end_with_their_text() -> None:
    assert render_screen("\x1b[1m\x1b[32mok\x1b[0m done\n") == "\x1b[0m\x1b[1m\x1b[32mok\x1b[0m done\n"


def test_progress_bar_is_one_line_of_the_screen() -> None:
    code, shown = run_in_terminal([sys.executable, "-c", BARS], os.environ)
    assert code == 0
    lines = shown.splitlines()
    assert len(lines) == 2
    assert "model.gguf" in lines[0]
    assert "900 B of 1 kB" in lines[0]
    assert lines[1] == "after"


def test_picture_is_an_svg_without_external_resources(tmp_path: Path) -> None:
    path = tmp_path / "out.svg"
    draw([("llm hf list", "\x1b[1mID\x1b[0m\nhf/o/n:Q8_0\n"), ("llm hf rm n -y", "Freed 5 MB.\n")], path)
    picture = path.read_text(encoding="utf-8")
    ET.fromstring(picture)
    assert "url(http" not in picture
    text = picture.replace("&#160;", " ")
    for output in ("llm hf list", "hf/o/n:Q8_0", "Freed 5 MB."):
        assert output in text
