"""Write JSON, tables, text and errors to stdout and stderr. The views decide which values to show."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import threading
import time
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

import click

from llm_hf_models.errors import HfModelsError, InterruptedByUserError, StorageError
from llm_hf_models.redaction import redact
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.status_line import StatusLine
from llm_hf_models.system.text import clean_text, is_hidden

GAP = "  "
MAX_ERROR_CHARS = 4000
MAX_CARD_CHARS = 200_000
MIN_TEXT_WIDTH = 20
SHORT_SECONDS = 0.5  # work of this length needs no note
NOTIFY_SECONDS = 20.0  # after this time the user may have switched to another window
MAX_NOTICE_CHARS = 200
CLOSED_PIPE_EXIT = 141  # 128 + SIGPIPE, as shells report it
DELETE = "\x7f"  # the one control character that JSON does not escape in ASCII text
INTERRUPTED = "Interrupted; run the same command to continue."


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON on stdout. Hidden characters and those that stdout can't encode are escaped.

    Args:
        value: a value that `to_json` converts.
        indent: spaces per level; None prints a single line.
    """
    ascii_only = not _get_encoding(sys.stdout).lower().startswith("utf")
    text = json.dumps(to_json(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    # A foreign name may contain characters that reverse a terminal's text. Escaping them does not change the value.
    emit(text if text.isascii() and DELETE not in text else "".join(map(_escape_hidden, text)))


def _escape_hidden(char: str) -> str:
    return json.dumps(char)[1:-1] if char != "\n" and is_hidden(char) else char


# stdout and stderr


def emit(text: str) -> None:
    """Print data on stdout.

    Raises:
        OutputError: stdout can't be written, for example because it is a file on a full disk.
        click.exceptions.Exit: the reader has closed the pipe.
    """
    waiting_note.cancel()
    try:
        click.echo(_replace_unencodable(redact(text), sys.stdout), color=has_colour(sys.stdout))
    except BrokenPipeError:
        _discard_stdout()
        raise click.exceptions.Exit(CLOSED_PIPE_EXIT) from None
    except OSError as error:
        _discard_stdout()
        raise OutputError("Can't write to standard output", cause=error.strerror) from None


def _discard_stdout() -> None:
    """Redirect stdout to the null device, because Python flushes it at exit and would print a traceback."""
    with open(os.devnull, "w", encoding="utf-8") as null:  # noqa: PTH123
        os.dup2(null.fileno(), 1)


def note(text: str) -> None:
    """Print a note for the user on stderr. If stderr can't be written, ignore that."""
    waiting_note.cancel()
    _write_note(text)


def _write_note(text: str) -> None:
    with suppress(OSError):
        click.echo(_replace_unencodable(text, sys.stderr), err=True, color=has_colour(sys.stderr))


class _WaitingNote:
    """A note on the terminal that says what the command is waiting for. Any other output or prompt cancels it."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._line = StatusLine()
        self._first_update: float | None = None

    def start(self, text: str, seconds: float) -> None:
        """Print the note after some seconds, unless it is cancelled before or stderr is not a terminal."""
        if is_terminal(sys.stderr):
            self._timer = threading.Timer(seconds, _write_note, [text])
            self._timer.daemon = True
            self._timer.start()

    def update(self, text: str) -> None:
        """Show a text in place of the note. It replaces the previous one, and short work shows none."""
        now = time.monotonic()
        self._first_update = self._first_update or now
        if now - self._first_update >= SHORT_SECONDS:
            self._stop_timer()
            self._line.show(text)

    def cancel(self) -> None:
        """Don't print the note, and erase an updated text. If the note is being printed, return when it is complete."""
        self._stop_timer()
        self._line.clear()
        self._first_update = None

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            timer.join()


waiting_note = _WaitingNote()


def notify(text: str, seconds: float) -> None:
    """Notify the user that long work has ended, with a bell and a desktop notification (OSC 9).

    OSC 9 comes from iTerm2; terminals without notifications ignore it. Nothing is sent if stderr is not a terminal.

    Args:
        text: the notification.
        seconds: duration of the work.
    """
    if seconds >= NOTIFY_SECONDS and is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        sys.stderr.write(f"\x1b]9;{_replace_unencodable(clean_text(text, MAX_NOTICE_CHARS), sys.stderr)}\x07\x07")
        sys.stderr.flush()


def _replace_unencodable(text: str, stream: TextIO | None) -> str:
    """Replace characters that the stream can't encode with `?`, so that a Chinese name doesn't end a command."""
    encoding = _get_encoding(stream)
    return text.encode(encoding, "replace").decode(encoding)


def _get_encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def has_colour(stream: TextIO | None) -> bool:
    """Return whether the stream is a terminal with colour and the user has not set NO_COLOR (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether the stream is a terminal. `stream` is None if Python was started without it."""
    return stream is not None and not stream.closed and stream.isatty()


def get_width() -> int | None:
    """Return the width in columns (COLUMNS or the terminal's), or None (no limit) if stdout is not a terminal."""
    if is_terminal(sys.stdout) or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    return None


class OutputError(StorageError):
    """Standard output could not be written."""


def print_error(error: HfModelsError, *, as_json: bool = False, done: Sequence[object] | None = None) -> int:
    """Print an error on stderr, or as JSON on stdout. Return the exit code.

    Args:
        error: the error. Its message, cause and hint are separate lines, those of an interruption are one line.
        as_json: print one line of JSON on stdout instead, and nothing on stderr.
        done: in JSON, the results of a command that had completed a part of its work.
    """
    if as_json and not isinstance(error, OutputError):
        try:
            print_json({"error": describe_error(error), **({"done": done} if done else {})}, indent=None)
        except OutputError:
            pass  # a person can still read the error on stderr
        else:
            return error.exit_code
    if isinstance(error, InterruptedByUserError):
        note(_clean_lines(". ".join(part for part in (error.message, error.hint) if part)))
        return error.exit_code
    note(click.style("Error: ", fg="red", bold=True) + _clean_lines(error.message))
    for part in (error.cause, error.hint):
        if part:
            note(_clean_lines(part))
    return error.exit_code


@contextmanager
def keep_results(done: Sequence[object], *, as_json: bool) -> Iterator[None]:
    """If a block fails and the command prints JSON, print the results of its completed part together with the error.

    Raises:
        click.exceptions.Exit: the error was printed.
    """
    try:
        yield
    except HfModelsError as error:
        if not as_json:
            raise
        raise click.exceptions.Exit(print_error(error, as_json=True, done=done)) from None


def describe_error(error: HfModelsError) -> dict[str, str | None]:
    """Return the parts of an error as JSON values, with the text that a terminal shows."""
    parts = {"message": error.message, "cause": error.cause, "hint": error.hint}
    return {"code": error.get_name(), **{name: _clean_lines(part) if part else None for name, part in parts.items()}}


def _clean_lines(text: str) -> str:
    return clean_text(text, MAX_ERROR_CHARS, keep_lines=True).rstrip()


# Tables and text


@dataclass(frozen=True)
class Column:
    """One column of a table.

    On a narrow terminal, the column with the highest `rank` is dropped first; rank 0 always stays. A column with
    `min_width` is narrowed, to that many cells at least, if that makes enough room. With `wrap`, its text then
    continues on the next line instead of being cut.
    """

    title: str
    rank: int = 0
    right: bool = False
    min_width: int = 0
    wrap: bool = False


def format_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, max_width: int | None, bold: Collection[int] = ()
) -> str:
    """Return rows below their titles, aligned with spaces. Empty columns with a rank above 0 are left out.

    Args:
        columns: titles and widths.
        rows: cells in the order of `columns`, each a single line.
        max_width: maximum width in terminal cells; None means no limit.
        bold: indices of rows in bold.
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
    """Return a row as one or more lines of cells. Long text continues below if its column wraps."""
    parts = [
        (columns[at].wrap and textwrap.wrap(cell, size)) or [cell]
        for cell, (at, size) in zip(row, widths.items(), strict=True)
    ]
    return [[cell[line] if line < len(cell) else "" for cell in parts] for line in range(max(map(len, parts)))]


def _fit_widths(columns: Sequence[Column], widths: dict[int, int], max_width: int | None) -> dict[int, int]:
    """Return column widths that fit, after narrowing or dropping the columns with the highest rank."""
    if max_width is None:
        return widths
    widths = dict(widths)
    for at in sorted(widths, key=lambda at: -columns[at].rank):
        surplus = sum(widths.values()) + len(GAP) * (len(widths) - 1) - max_width
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
    """Return a text's width in terminal cells: two for wide characters, none for combining ones (Unicode annex 11)."""
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
    """Return labelled facts, one below the other. Empty values are left out; long values continue below."""
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


def _wrap_text(text: str, head: str, max_width: int | None) -> Iterable[tuple[int, str]]:
    if max_width is None:
        return [(0, text)]
    room = max(MIN_TEXT_WIDTH, max_width - len(head))
    return enumerate(textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""])


def render_markdown(text: str, *, max_width: int | None) -> str:
    """Return a model card without control characters, laid out for a terminal, or as Markdown without a width."""
    cleaned = clean_text(text, MAX_CARD_CHARS, keep_lines=True).strip()
    if max_width is None:
        return cleaned
    from rich.console import Console
    from rich.markdown import Markdown

    colour = has_colour(sys.stdout)
    # With a height too, rich doesn't read COLUMNS, on whose invalid values it would fail.
    console = Console(width=max_width, height=1, force_terminal=colour, no_color=not colour, highlight=False)
    with console.capture() as capture:
        # Links are written out, so that the user sees their targets.
        console.print(Markdown(cleaned, hyperlinks=False))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
