"""Lay out tables, labelled facts and prose for a width in terminal cells."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import click

from llm_hf_models.system.text import clean_text

GAP = "  "
INDENT = "    "  # of text below a row
MAX_CELL_CHARS = 4000
MIN_TEXT_WIDTH = 20
TAIL_SHARE = 3  # a text that is cut in the middle keeps the last third


@dataclass(frozen=True)
class Column:
    """One column of a table.

    If a table is too wide, columns with `extra` are left out first, until the others are as wide as their text. Then
    the other columns are left out in the order of their rank, the highest first, until the rest fits at its minimum
    widths. Rank 0 always stays.
    """

    title: str
    rank: int = 0
    right: bool = False
    min_width: int = 0  # cells to which the column may be narrowed; 0 keeps it as wide as its text
    wrap: bool = False  # long text continues on the next line instead of being cut
    keep_end: bool = False  # long text is cut in the middle, as the end of an id or of a path matters
    extra: bool = False  # never the reason for cutting another column
    below: bool = False  # if there is no room beside the other columns, the text is on lines of its own below the row


def format_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, max_width: int | None, bold: Collection[int] = ()
) -> str:
    """Return rows below their titles, aligned with spaces. Empty columns with a rank above 0 are left out.

    Args:
        columns: titles and widths.
        rows: cells in the order of `columns`, each a single line.
        max_width: maximum width in terminal cells; None means no limit. Only a word below a row may be longer.
        bold: indices of rows in bold.
    """
    cleaned = _CleanedCells()
    cells = [[cleaned[cell] for cell in row] for row in rows]
    natural = [max(map(count_cells, {row[at] for row in cells}), default=0) for at in range(len(columns))]
    kept = [at for at in range(len(columns)) if natural[at] or not columns[at].rank or not rows]
    widths = _fit_widths(columns, {at: max(natural[at], count_cells(columns[at].title)) for at in kept}, max_width)
    below = [at for at in kept if columns[at].below and at not in widths]
    lines = [click.style(_format_line([columns[at].title for at in widths], columns, widths), bold=True)]
    for number, row in enumerate(cells):
        parts = [_format_line(part, columns, widths) for part in _wrap_row([row[at] for at in widths], columns, widths)]
        parts += [wrap_words(INDENT + row[at], max_width) for at in below if row[at]]
        lines += [click.style(part, bold=True) if number in bold else part for part in parts]
    return "\n".join(lines)


class _CleanedCells(dict[str, str]):
    """The cells of a table without hidden characters. Many cells of a long table have the same text."""

    def __missing__(self, cell: str) -> str:
        self[cell] = cleaned = clean_text(cell, MAX_CELL_CHARS)
        return cleaned


def _wrap_row(row: Sequence[str], columns: Sequence[Column], widths: Mapping[int, int]) -> list[list[str]]:
    """Return a row as one or more lines of cells. Long text continues below if its column wraps."""
    if not any(columns[at].wrap for at in widths):
        return [list(row)]
    parts = [
        (columns[at].wrap and textwrap.wrap(cell, size)) or [cell]
        for cell, (at, size) in zip(row, widths.items(), strict=True)
    ]
    return [[cell[line] if line < len(cell) else "" for cell in parts] for line in range(max(map(len, parts)))]


def _fit_widths(columns: Sequence[Column], natural: dict[int, int], max_width: int | None) -> dict[int, int]:
    """Return the widths of the columns that are shown side by side."""
    if max_width is None:
        return natural
    widths, least = dict(natural), {at: min(columns[at].min_width or size, size) for at, size in natural.items()}
    by_rank = sorted(natural, key=lambda at: (-columns[at].rank, -at))
    for at in by_rank:
        if columns[at].below and _add_gaps(least, widths) > max_width:
            del widths[at]
    for at in by_rank:
        reduced = {one: least[one] if columns[one].extra or columns[one].below else widths[one] for one in widths}
        if columns[at].extra and at in widths and _add_gaps(reduced, widths) > max_width:
            del widths[at]
    for at in by_rank:
        if columns[at].rank and at in widths and _add_gaps(least, widths) > max_width:
            del widths[at]
    for at in by_rank:
        if at in widths and columns[at].min_width:
            surplus = _add_gaps(widths, widths) - max_width
            widths[at] = max(least[at], widths[at] - max(0, surplus))
    return widths


def _add_gaps(sizes: Mapping[int, int], shown: Collection[int]) -> int:
    """Return the width of a table with these columns."""
    return sum(sizes[at] for at in shown) + len(GAP) * (len(shown) - 1)


def _format_line(cells: Sequence[str], columns: Sequence[Column], widths: Mapping[int, int]) -> str:
    return GAP.join(
        [_fit_cell(cell, columns[at], size) for cell, (at, size) in zip(cells, widths.items(), strict=True)]
    ).rstrip()


def _fit_cell(cell: str, column: Column, size: int) -> str:
    """Return a cell that is as wide as its column."""
    if len(cell) <= size and cell.isascii():
        return cell.rjust(size) if column.right else cell.ljust(size)
    text = _cut_cell(cell, size, keep_end=column.keep_end)
    gap = " " * (size - count_cells(text))
    return gap + text if column.right else text + gap


def count_cells(text: str) -> int:
    """Return a text's width in terminal cells: two for wide characters, none for combining ones (Unicode annex 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _cut_cell(text: str, size: int, *, keep_end: bool) -> str:
    if count_cells(text) <= size:
        return text
    end = text[-(size // TAIL_SHARE) :] if keep_end and size >= TAIL_SHARE else ""
    while end and count_cells(end) > size // TAIL_SHARE:
        end = end[1:]
    while count_cells(text) > size - 1 - count_cells(end):
        text = text[:-1]
    return f"{text}…{end}"


def format_fields(pairs: Sequence[tuple[str, str | None]], *, max_width: int | None) -> str:
    """Return labelled facts, one below the other. Empty values are left out; long values continue below."""
    shown = [(label, value) for label, value in pairs if value]
    label_width = max([count_cells(label) for label, _ in shown], default=0)
    width = None if max_width is None else max(max_width, label_width + len(GAP) + MIN_TEXT_WIDTH)
    lines = []
    for label, value in shown:
        head = label + " " * (label_width - count_cells(label)) + GAP
        for text in clean_text(value, MAX_CELL_CHARS, keep_lines=True).splitlines():
            lines.append(wrap_words(head + text, width, indent=" " * len(head)))
            head = " " * len(head)
    return "\n".join(lines)


# A number and its unit are one word: `16.7 MB/s`.
_WORD = re.compile(r"( *)((?:[^ ]*\d (?=(?:[kMGTP]?B|s|min|h|d)\b))?[^ ]+)")


def wrap_words(text: str, max_width: int | None, *, indent: str | None = None) -> str:
    """Break lines at spaces so that they fit, with the indentation of the line. A longer word is not broken.

    Args:
        text: one or more lines, which may contain colour sequences.
        max_width: maximum width in terminal cells; None means no limit.
        indent: indentation of continued lines instead of the line's own.
    """
    if max_width is None:
        return text
    return "\n".join(part for line in text.split("\n") for part in _break_line(line, max_width, indent))


def _break_line(line: str, max_width: int, indent: str | None) -> list[str]:
    start = re.match(r" *", line)
    hanging = (start[0] if start else "") if indent is None else indent
    parts, current, is_empty = [], "", True
    for gap, word in _WORD.findall(line):
        longer = current + gap + word
        if is_empty or _count_shown(longer) <= max_width:
            current = longer
        else:
            parts.append(current)
            current = (hanging if _count_shown(hanging + word) <= max_width else min(hanging, INDENT)) + word
        is_empty = False
    return [*parts, current]


def _count_shown(text: str) -> int:
    return count_cells(click.unstyle(text))
