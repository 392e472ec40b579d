"""Draw a terminal as an SVG, from the output of real commands, for README's picture. Runs nothing by itself."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 100
ROWS = 50
# A control sequence that is applied (cursor up, erase below or in a line, colours), a skipped one, or one character.
_TOKEN = re.compile(
    r"\x1b\[(?P<number>\d*)(?P<move>[AJK])|\x1b\[(?P<style>[\d;]*)m|\x1b\[[?\d;]*[A-Za-z]|(?P<char>.)", re.DOTALL
)

Row = list[tuple[str, str]]  # (style, character)


def run_in_terminal(command: Sequence[str], environment: Mapping[str, str], columns: int = COLUMNS) -> tuple[int, str]:
    """Run a command in a terminal of its own, with colours and bars. Return its exit code and screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    environment = {**environment, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(ROWS)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment) as running:
        os.close(theirs)
        output = _read_all(ours)
    os.close(ours)
    return running.returncode, render_screen(output)


def _read_all(terminal: int) -> str:
    blocks = []
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:  # Linux reports the closed other side of a terminal as an I/O error
            break
        if not block:
            break
        blocks.append(block)
    return b"".join(blocks).decode(errors="replace")


def render_screen(output: str) -> str:
    """Return the screen after `said`: redrawn lines once, colours kept as escape sequences."""
    rows: list[Row] = [[]]
    at, column, style = 0, 0, ""
    for token in _TOKEN.finditer(output):
        if token["char"] == "\n":
            at, column = at + 1, 0
            rows += [[] for _ in range(at - len(rows) + 1)]
        elif token["char"] == "\r":
            column = 0
        elif token["char"]:
            row = rows[at]
            row += [("", " ")] * (column + 1 - len(row))
            row[column] = (style, token["char"])
            column += 1
        elif token["move"] == "A":
            at = max(0, at - int(token["number"] or 1))
        elif token["move"] == "K":
            rows[at] = [] if token["number"] == "2" else rows[at][:column]
        elif token["move"] == "J":
            rows[at:] = [rows[at][:column]]
        elif token["style"] is not None:
            style = "" if token["style"] in ("", "0") else f"{style}\x1b[{token['style']}m"
    return "\n".join(map(_paint, rows)).rstrip() + "\n"


def _paint(row: Row) -> str:
    line, current = "", ""
    for style, char in row:
        if style != current:
            line, current = f"{line}\x1b[0m{style}", style
        line += char
    return (f"{line}\x1b[0m" if current else line).rstrip()


def draw(captured: Sequence[tuple[str, str]], path: Path, title: str = "llm hf", columns: int = COLUMNS) -> None:
    """Write the picture of a terminal in which these commands were run.

    Args:
        captured: Pairs of command line and output, as a terminal received it.
        path: The SVG to write.
        title: Title of the window.
        columns: Width of the terminal.
    """
    console = Console(record=True, width=columns, file=io.StringIO(), highlight=False)
    for number, (line, output) in enumerate(captured):
        if number:
            console.print()
        console.print(Text.assemble(("$ ", "bold green"), (line, "bold")), soft_wrap=True)
        if shown := render_screen(output).rstrip("\n"):
            console.print(Text.from_ansi(shown), soft_wrap=True)
    svg = console.export_svg(title=title, unique_id="terminal")
    # A picture in a README may not fetch fonts: any monospaced one will do, because each text's length is given.
    path.write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")
