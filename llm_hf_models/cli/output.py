"""How anything reaches a person or a script: JSON, tables, text, errors. Not for what values mean."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

import click

from llm_hf_models.errors import HfModelsError, InterruptedByUserError, StorageError
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.text import clean_text, is_hidden

GAP = "  "
MAX_ERROR_CHARS = 4000
MAX_CARD_CHARS = 200_000
MIN_TEXT_WIDTH = 20
NOTIFY_SECONDS = 20.0  # after so long a person looks elsewhere
MAX_NOTICE_CHARS = 200
CLOSED_PIPE_EXIT = 141  # what a shell reports for a program that SIGPIPE ended
INTERRUPTED = "Interrupted; run the same command to continue."


def print_json(value: object, *, indent: int | None = 2) -> None:
    """The value on stdout, as JSON; what stdout's encoding may not have, or nobody can see, is escaped.

    Args:
        value: what `to_json` knows.
        indent: spaces; None puts all on one line.
    """
    plain = not _get_encoding(sys.stdout).lower().startswith("utf")
    text = json.dumps(to_json(value), indent=indent, ensure_ascii=plain, allow_nan=False)
    # A name from outside may hold what turns a terminal's text around; escaped it is the same name.
    emit(text if text.isascii() else "".join(map(_escape_hidden, text)))


def _escape_hidden(char: str) -> str:
    return json.dumps(char)[1:-1] if char != "\n" and is_hidden(char) else char


# The two streams


def emit(text: str) -> None:
    """Data: to stdout. A reader that has gone ends the command quietly.

    Raises:
        StorageError: it can't be written, to a file on a full disk, say.
        click.exceptions.Exit: nobody reads it any more.
    """
    try:
        click.echo(_replace_unencodable(text, sys.stdout), color=has_colour(sys.stdout))
    except BrokenPipeError:
        _discard_stdout()
        raise click.exceptions.Exit(CLOSED_PIPE_EXIT) from None
    except OSError as error:
        _discard_stdout()
        raise StorageError("What was asked for can't be written to standard output", cause=error.strerror) from None


def _discard_stdout() -> None:
    """Python flushes stdout once more when it exits: into nothing, rather than into a traceback."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)


def note(text: str) -> None:
    """Words for a person: to stderr. Where they can't be written, the work they are about goes on all the same."""
    with suppress(OSError):
        click.echo(_replace_unencodable(text, sys.stderr), err=True, color=has_colour(sys.stderr))


def notify(text: str, seconds: float) -> None:
    """Calls a person back to a terminal where something has ended that took long: a bell, and the words as OSC 9.

    OSC 9 is iTerm2's; terminals that show no notification ignore it. Nothing is sent where stderr is no terminal.

    Args:
        text: what has ended.
        seconds: how long it took.
    """
    if seconds >= NOTIFY_SECONDS and is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        sys.stderr.write(f"\x1b]9;{_replace_unencodable(clean_text(text, MAX_NOTICE_CHARS), sys.stderr)}\x07\x07")
        sys.stderr.flush()


def _replace_unencodable(text: str, stream: TextIO | None) -> str:
    """The text with `?` for what this stream's encoding has not: a name in Chinese must not end a command."""
    encoding = _get_encoding(stream)
    return text.encode(encoding, "replace").decode(encoding)


def _get_encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def has_colour(stream: TextIO | None) -> bool:
    """Whether colour may go there: a terminal that has it, and nobody who declined (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at this stream now; None is what Python has where it was started without one."""
    return stream is not None and not stream.closed and stream.isatty()


def get_width() -> int | None:
    """Columns that text may take: COLUMNS or the terminal's. None where stdout is no terminal: nothing is cut there."""
    if is_terminal(sys.stdout) or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    return None


def print_error(error: HfModelsError | KeyboardInterrupt) -> int:
    """What went wrong, why and what to do on stderr, a line each; an interruption is one. Gives the exit code."""
    if isinstance(error, KeyboardInterrupt):
        note(INTERRUPTED)
        return InterruptedByUserError.exit_code
    if isinstance(error, InterruptedByUserError):
        note(_clean_lines(". ".join(part for part in (error.message, error.hint) if part)))
        return error.exit_code
    note(click.style("Error: ", fg="red", bold=True) + _clean_lines(error.message))
    for part in (error.cause, error.hint):
        if part:
            note(_clean_lines(part))
    return error.exit_code


def _clean_lines(text: str) -> str:
    return clean_text(text, MAX_ERROR_CHARS, keep_lines=True).rstrip()


# Tables and text


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `rank` says how soon it gives way on a narrow terminal: the highest goes first, 0 stays. A column with `least` is
    cut down to that many cells before one is dropped whose rank is the same or lower; with `wrap` its text goes on
    below instead of being cut.
    """

    title: str
    rank: int = 0
    right: bool = False
    min_width: int = 0
    wrap: bool = False


def format_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, max_width: int | None, bold: Collection[int] = ()
) -> str:
    """Rows under their titles, aligned with spaces. Columns that may give way are left out where they are empty.

    Args:
        columns: titles and what may give way.
        rows: cells in the order of `columns`, one line each.
        max_width: cells that a line may take; None is no limit.
        bold: indices of rows to stress.
    """
    cells = [[clean_text(cell, MAX_ERROR_CHARS) for cell in row] for row in rows]
    natural = [max([count_cells(row[at]) for row in cells], default=0) for at in range(len(columns))]
    kept = [at for at in range(len(columns)) if natural[at] or not columns[at].rank or not rows]
    widths = _fit_widths(columns, {at: max(natural[at], count_cells(columns[at].title)) for at in kept}, max_width)
    lines = [click.style(_format_line([columns[at].title for at in widths], columns, widths), bold=True)]
    for number, row in enumerate(cells):
        for part in _wrap_row([row[at] for at in widths], columns, widths):
            line = _format_line(part, columns, widths)
            lines.append(click.style(line, bold=True) if number in bold else line)
    return "\n".join(lines)


def _wrap_row(row: Sequence[str], columns: Sequence[Column], widths: Mapping[int, int]) -> list[list[str]]:
    """A row as one or more lines of cells: what is too long goes on below where its column wraps."""
    parts = [
        (columns[at].wrap and textwrap.wrap(cell, size)) or [cell]
        for cell, (at, size) in zip(row, widths.items(), strict=True)
    ]
    return [[cell[line] if line < len(cell) else "" for cell in parts] for line in range(max(map(len, parts)))]


def _fit_widths(columns: Sequence[Column], widths: dict[int, int], limit: int | None) -> dict[int, int]:
    """Widths that fit into the limit, the least important columns dropped or cut first."""
    if limit is None:
        return widths
    widths = dict(widths)
    for at in sorted(widths, key=lambda at: -columns[at].rank):
        surplus = sum(widths.values()) + len(GAP) * (len(widths) - 1) - limit
        if surplus <= 0:
            break
        room = widths[at] - columns[at].min_width
        if columns[at].min_width and room >= surplus:
            widths[at] -= surplus
        elif columns[at].rank:
            del widths[at]
        elif columns[at].min_width:
            widths[at] = max(columns[at].min_width, widths[at] - surplus)
    return widths


def _format_line(cells: Sequence[str], columns: Sequence[Column], widths: Mapping[int, int]) -> str:
    parts = []
    for cell, (at, size) in zip(cells, widths.items(), strict=True):
        text = _cut_cell(cell, size)
        gap = " " * (size - count_cells(text))
        parts.append(gap + text if columns[at].right else text + gap)
    return GAP.join(parts).rstrip()


def count_cells(text: str) -> int:
    """Terminal cells that a text takes: wide characters take two, combining ones none (Unicode annex 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _cut_cell(text: str, size: int) -> str:
    if count_cells(text) <= size:
        return text
    while count_cells(text) > size - 1:
        text = text[:-1]
    return text + "…"


def format_fields(pairs: Sequence[tuple[str, str | None]], *, max_width: int | None) -> str:
    """Labelled facts under each other; what is None or empty is left out, what is long goes on under itself."""
    shown = [(label, value) for label, value in pairs if value]
    label_width = max([count_cells(label) for label, _ in shown], default=0)
    lines = []
    for label, value in shown:
        head = label + " " * (label_width - count_cells(label)) + GAP
        for text in clean_text(value, MAX_ERROR_CHARS, keep_lines=True).splitlines():
            lines += [
                head + part if at == 0 else " " * len(head) + part for at, part in _wrap_text(text, head, max_width)
            ]
            head = " " * len(head)
    return "\n".join(lines)


def _wrap_text(text: str, head: str, limit: int | None) -> Iterable[tuple[int, str]]:
    if limit is None:
        return [(0, text)]
    room = max(MIN_TEXT_WIDTH, limit - len(head))
    return enumerate(textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""])


def render_markdown(text: str, *, max_width: int | None) -> str:
    """A model card, made harmless: laid out for `max_width` columns, or as its own Markdown where there is no limit."""
    cleaned = clean_text(text, MAX_CARD_CHARS, keep_lines=True).strip()
    if max_width is None:
        return cleaned
    from rich.console import Console
    from rich.markdown import Markdown

    colour = has_colour(sys.stdout)
    # With a height given too, rich doesn't read COLUMNS, whose nonsense it would not survive.
    console = Console(width=max_width, height=1, force_terminal=colour, no_color=not colour, highlight=False)
    with console.capture() as capture:
        # Links are written out: a person sees where they lead.
        console.print(Markdown(cleaned, hyperlinks=False))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
