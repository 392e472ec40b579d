"""Write JSON, text and errors to stdout and stderr. The views decide which values to show."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

import click

from llm_hf_models.cli.layout import wrap_words
from llm_hf_models.errors import HfModelsError, InterruptedByUserError, StorageError
from llm_hf_models.redaction import redact
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.status_line import StatusLine
from llm_hf_models.system.text import clean_text, is_hidden

MAX_ERROR_CHARS = 4000
MAX_CARD_CHARS = 200_000
SHORT_SECONDS = 0.5  # work of this length needs no note
NOTIFY_SECONDS = 20.0  # after this time the user may have switched to another window
MAX_NOTICE_CHARS = 200
DEFAULT_WIDTH = 80  # columns of a terminal that does not report its size
CLOSED_PIPE_EXIT = 141  # 128 + SIGPIPE, as shells report it
DELETE = "\x7f"  # the one control character that JSON does not escape in ASCII text
QUIET_KEY = "llm_hf_models.quiet"  # of click's context: whether the user gave -q
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
    """Print a note on stderr, wrapped at words, unless the command is quiet. If it can't be written, ignore that."""
    if not is_quiet():
        alert(text)


def alert(text: str) -> None:
    """Print an error, or a text that a question refers to, on stderr, even if the command is quiet."""
    waiting_note.cancel()
    _write_note(text)


def is_quiet() -> bool:
    """Return whether the user gave -q to the command that this thread runs."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(QUIET_KEY))


def _write_note(text: str) -> None:
    with suppress(OSError):
        wrapped = wrap_words(text, get_width(sys.stderr))
        click.echo(_replace_unencodable(wrapped, sys.stderr), err=True, color=has_colour(sys.stderr))


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


def get_width(stream: TextIO | None = None) -> int | None:
    """Return the width in columns (COLUMNS or the terminal's), or None (no limit) if the stream is not a terminal.

    Args:
        stream: stdout if None.
    """
    stream = stream or sys.stdout
    if os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    if not is_terminal(stream):
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_WIDTH
    except OSError:
        return DEFAULT_WIDTH


class OutputError(StorageError):
    """Standard output could not be written."""


def print_error(error: HfModelsError, *, as_json: bool = False) -> int:
    """Print an error on stderr, or as JSON on stdout. Return the exit code.

    Args:
        error: the error. Its message, cause and hint are separate lines, those of an interruption are one line.
        as_json: print one line of JSON on stdout instead, and nothing on stderr.
    """
    if as_json and not isinstance(error, OutputError):
        try:
            print_json({"error": describe_error(error)}, indent=None)
        except OutputError:
            pass  # a person can still read the error on stderr
        else:
            return error.exit_code
    if isinstance(error, InterruptedByUserError):
        alert(_clean_lines(". ".join(part for part in (error.message, error.hint) if part)))
        return error.exit_code
    alert(click.style("Error: ", fg="red", bold=True) + _clean_lines(error.message))
    for part in (error.cause, error.hint):
        if part:
            alert(_clean_lines(part))
    return error.exit_code


@dataclass(frozen=True)
class ErrorReport:
    """An error of a command with `--json`."""

    code: str  # the name of the exception, such as `repo_not_found`
    message: str
    cause: str | None
    hint: str | None  # what to do next, usually a command


def describe_error(error: HfModelsError) -> ErrorReport:
    """Return an error with the text that a terminal shows."""
    message, cause, hint = (_clean_lines(part) if part else None for part in (error.message, error.cause, error.hint))
    return ErrorReport(error.get_name(), message or "", cause, hint)


def _clean_lines(text: str) -> str:
    return clean_text(text, MAX_ERROR_CHARS, keep_lines=True).rstrip()


# Text


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
