"""Provide the lazy command group, the service, prompts and interrupt handling for all commands."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output, usage_errors
from llm_hf_models.errors import BadInputError, HfModelsError, InterruptedByUserError, StorageError, UsageError
from llm_hf_models.redaction import redact_stderr
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from llm_hf_models.service import Library

SLOW_SECONDS = 3.0  # without any output, before a note says that the command waits for the Hub
WANTS_JSON = "llm_hf_models.wants_json"  # a key of click's `Context.meta`
NO_TERMINAL_HINT = "Without a terminal, set LLM_HF_PASSPHRASE, or HF_TOKEN, which needs no passphrase."


class LazyCommands(MutableMapping[str, click.Command]):
    """Commands by name, each imported on first use, so that one command doesn't load the modules of all."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """Take a mapping of command names to `module:attribute`."""
        self._places = dict(places)
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module, _, attribute = self._places[name].partition(":")
            self._loaded[name] = getattr(import_module(f"llm_hf_models.cli.commands.{module}"), attribute)
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._places[name], self._loaded[name] = "", command

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class HfGroup(click.Group):
    """A group that lists its commands in sections and turns errors into messages and an exit code."""

    def __init__(self, *, sections: Mapping[str, str], **attributes: object) -> None:
        """Take section titles with their commands, `module:command` separated by spaces, in the order of the help."""
        places = {
            place.partition(":")[2].rstrip("_"): place for members in sections.values() for place in members.split()
        }
        super().__init__(commands=LazyCommands(places), **attributes)  # type: ignore[arg-type]
        self.sections = {
            title: [name for name, place in places.items() if place in members.split()]
            for title, members in sections.items()
        }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order of the sections."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write each section with its commands. All summaries start in the same column."""
        names = max(len(name) for name in self.commands)
        for title, members in self.sections.items():
            with formatter.section(title):
                rows = [
                    (name.ljust(names), self.commands[name].get_short_help_str(formatter.width)) for name in members
                ]
                formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words up to the name of the command. Note whether the command prints JSON."""
        wants_json = "--json" in args[: args.index("--")] if "--" in args else "--json" in args
        ctx.meta[WANTS_JSON] = wants_json and not ctx.resilient_parsing  # completion only parses, and prints nothing
        with _print_errors(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command and print an HfModelsError without a traceback. Any other exception is a bug and propagates."""
        redact_stderr()
        with _print_errors(ctx):
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name. The error for an unknown one suggests another."""
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(usage_errors.explain_unknown_command(args[0], self.commands), ctx)
        return super().resolve_command(ctx, args)


@contextmanager
def _print_errors(ctx: click.Context) -> Iterator[None]:
    """Print the errors that are raised in a block. With `--json`, those of click are printed as JSON as well."""
    wants_json = bool(ctx.meta.get(WANTS_JSON))
    try:
        yield
    except HfModelsError as error:
        failure = error
    except KeyboardInterrupt:
        failure = InterruptedByUserError(output.INTERRUPTED)
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding() or error.encoding == "utf-8":
            raise
        failure = StorageError(
            f"File names have the encoding {error.encoding} here, which lacks a character of a stored file's name",
            hint="Set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8.",
        )
    except click.UsageError as error:
        if not wants_json:
            raise usage_errors.wrap_message(error) from None
        command = error.ctx.command_path if error.ctx else ctx.command_path
        failure = UsageError(error.format_message(), hint=f"See `{command} --help`.")
    else:
        return
    raise click.exceptions.Exit(output.print_error(failure, as_json=wants_json)) from None


def open_library(*, uses_hub: bool = False) -> Library:
    """Return the service. It is imported on first use, so that help and usage errors stay fast.

    Args:
        uses_hub: Whether the command needs an answer of the Hub. If it then prints nothing for SLOW_SECONDS, a note on
            the terminal names the Hub, unless the command is quiet. While a header is read, a line has its bytes.
    """
    from llm_hf_models.service import Library

    context = click.get_current_context(silent=True)
    quiet = output.is_quiet()
    library = Library(
        requested_by="cli",
        ask_passphrase=functools.cache(ask_passphrase),  # the user types the passphrase once
        notify=ignore_text if quiet else output.note,
        show_activity=None if quiet else output.waiting_note.update,
    )
    if uses_hub and context and not quiet and (host := library.get_hub_host()):
        output.waiting_note.start(f"Waiting for {clean_text(host)}…", SLOW_SECONDS)
        context.call_on_close(output.waiting_note.cancel)
    return library


def ignore_text(_text: str) -> None:
    """Show nothing. The library still waits for a retry, as it does with a function that shows notes."""


def ask_passphrase() -> str | None:
    """Ask for the passphrase of the encrypted token file. Return None, with a note, if no input is given."""
    try:
        return ask_hidden("Passphrase of the token file", hint=NO_TERMINAL_HINT)
    except BadInputError as error:
        output.alert(f"{error.message}. Continuing without the stored token. {error.hint}")
        return None


def ask_hidden(question: str, *, hint: str, twice: bool = False) -> str:
    """Return a secret that the user types; the terminal doesn't echo it.

    Args:
        question: the prompt.
        hint: how to supply the secret without a terminal.
        twice: prompt a second time to catch typing errors.

    Raises:
        BadInputError: no input was given.
    """
    from getpass import GetPassWarning

    output.waiting_note.cancel()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)  # raised if getpass can't turn off the echo
            answer: str = click.prompt(f"{question} (not shown)", hide_input=True, confirmation_prompt=twice, err=True)
    except (click.Abort, GetPassWarning) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # click raises Abort for Ctrl-C too
            raise KeyboardInterrupt from None
        raise BadInputError(f"{question}: no input was given", hint=hint) from None
    return answer


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, so that work stops at a point where it can be resumed.

    The second Ctrl-C raises KeyboardInterrupt. The first SIGTERM sets the event too and ends the process once the
    enclosed code has finished.
    """
    stop = threading.Event()
    terminated = False

    def request_stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal terminated
        terminated |= number == signal.SIGTERM
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    ignored = signal.getsignal(signal.SIGTERM) in (signal.SIG_IGN, None)
    signals = [signal.SIGINT] if ignored else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, request_stop) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if terminated:
            signal.raise_signal(signal.SIGTERM)


def format_examples(*lines: str) -> str:
    r"""Return an epilog that lists example commands, one per line (`\b` keeps click from wrapping them)."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
