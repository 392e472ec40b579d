"""Lay out progress bars for the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from llm_hf_models.cli.layout import count_cells
from llm_hf_models.cli.output import has_colour
from llm_hf_models.system.units import format_duration, format_size

MAX_LABEL_CELLS = 40
TAIL_CELLS = 20  # such as `00002-of-00004.gguf`
HEAD_CELLS = 5
PERCENT_CELLS = 5


@dataclass(frozen=True)
class BarLine:
    """One file or the total. Without a size, only the label is shown."""

    label: str
    done: int = 0
    size: int | None = None
    rate: float = 0.0  # bytes per second
    state: str = ""  # replaces the remaining time


@dataclass(frozen=True)
class BarStyle:
    """The characters of a bar, and the escape sequences around its two parts."""

    full: str
    empty: str
    full_colour: str = ""
    empty_colour: str = ""
    reset: str = ""


def choose_style(stream: TextIO) -> BarStyle:
    """Return the style for a terminal, with colours and thin lines if it has them."""
    full, empty = "━", "─"
    try:
        (full + empty).encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        full, empty = "#", "-"
    return BarStyle(full, empty, "\x1b[32m", "\x1b[2m", "\x1b[0m") if has_colour(stream) else BarStyle(full, empty)


@dataclass(frozen=True)
class _Level:
    """How much is shown. A narrow terminal gets a later level."""

    bar_cells: int  # the bar's minimum width; 0 for none
    has_size: bool = False
    has_done: bool = False
    has_rate: bool = True
    has_percent: bool = True


_LEVELS = (
    _Level(10, has_size=True, has_done=True),
    _Level(10, has_done=True),
    _Level(5),
    _Level(0),
    _Level(5, has_rate=False),
    _Level(0, has_rate=False),
    _Level(0, has_rate=False, has_percent=False),
)


def format_lines(lines: Sequence[BarLine], columns: int, style: BarStyle) -> list[str]:
    """Return the lines of the first level that fits, one cell narrower than the terminal."""
    width = max(1, columns - 1)
    label_cells = min(max([count_cells(line.label) for line in lines if line.size is not None], default=0),
                      MAX_LABEL_CELLS, max(1, width // 3))  # fmt: skip
    for level in _LEVELS:
        tails = [_format_tail(line, level) for line in lines]
        fixed = label_cells + (PERCENT_CELLS + 1) * level.has_percent + 1 + max(map(count_cells, tails), default=0) + 1
        bar_cells = width - fixed - 1 if level.bar_cells else 0
        if bar_cells >= level.bar_cells and fixed <= width:
            break
    return [
        _format_line(line, tail, label_cells, bar_cells, width, level, style)
        for line, tail in zip(lines, tails, strict=True)
    ]


def _format_tail(line: BarLine, level: _Level) -> str:
    if line.size is None:
        return ""
    parts = []
    if line.rate and level.has_rate:
        parts.append(f"{format_size(line.rate)}/s")
    if line.state:
        parts.append(line.state)
    elif line.rate:
        parts.append(f"{format_duration((line.size - line.done) / line.rate)} left")
    if level.has_done or not parts:
        parts.insert(0, format_size(line.done) + (f" of {format_size(line.size)}" if level.has_size else ""))
    return "  ".join(parts)


def _format_line(
    line: BarLine, tail: str, label_cells: int, bar_cells: int, width: int, level: _Level, style: BarStyle
) -> str:
    if line.size is None:
        return shorten(line.label, width)
    label = shorten(line.label, label_cells)
    label += " " * (label_cells - count_cells(label))
    share = min(1.0, line.done / line.size) if line.size else 1.0
    percent = f" {int(100 * share):>3} %" if level.has_percent else ""
    if not bar_cells:
        return shorten(f"{label}{percent}  {tail}", width)
    full = int(share * bar_cells)
    bar = (
        f"{style.full_colour}{style.full * full}{style.reset}"
        f"{style.empty_colour}{style.empty * (bar_cells - full)}{style.reset}"
    )
    return f"{label} {bar}{percent}  {tail}"


def shorten(text: str, cells: int) -> str:
    """Return a text without its middle if it is too long: a file's name ends with its quantization and shard."""
    if count_cells(text) <= cells:
        return text
    tail = max((cells - 1) // 2, min(TAIL_CELLS, cells - 1 - HEAD_CELLS), 0)
    head = max(0, cells - 1 - tail)
    while count_cells(shown := f"{text[:head]}…{text[len(text) - tail :]}") > cells and (head or tail):
        head, tail = max(0, head - 1), tail - (head == 0)
    return shown
