"""The framework of the commands: the lazy group, the service, questions to the person and interrupts."""

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

from llm_hf_models.cli import output
from llm_hf_models.errors import BadInputError, HfModelsError
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from llm_hf_models.service import Library

SLOW_SECONDS = 1.0  # before a person is told whom we wait for
NO_TERMINAL_HINT = "LLM_HF_PASSPHRASE in the environment gives it where nobody can type; HF_TOKEN needs none."


class LazyCommands(MutableMapping[str, click.Command]):
    """Commands that are imported when they are asked for: one must not cost what all of them do."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """`places` is name -> `module:attribute`."""
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
    """A group whose commands stand in sections, and whose errors become lines and an exit code."""

    def __init__(self, *, sections: Mapping[str, str], **attributes: object) -> None:
        """`sections` is title -> where its commands stand, `module:command`, in the order of the help."""
        places = {
            place.partition(":")[2].rstrip("_"): place for members in sections.values() for place in members.split()
        }
        super().__init__(commands=LazyCommands(places), **attributes)  # type: ignore[arg-type]
        self.sections = {
            title: [name for name, place in places.items() if place in members.split()]
            for title, members in sections.items()
        }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of the sections."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Each section with its commands; all summaries start in the same column."""
        names = max(len(name) for name in self.commands)
        for title, members in self.sections.items():
            with formatter.section(title):
                rows = [
                    (name.ljust(names), self.commands[name].get_short_help_str(formatter.width)) for name in members
                ]
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        """Runs a command; what we raise on purpose never becomes a traceback, anything else is a bug and does."""
        try:
            return super().invoke(ctx)
        except (HfModelsError, KeyboardInterrupt) as error:
            raise click.exceptions.Exit(output.print_error(error)) from None


def open_library() -> Library:
    """The one that does the work. Imported here, so that help and mistyped options cost nothing."""
    from llm_hf_models.llm_plugin import names as llm_plugin_names
    from llm_hf_models.service import Library

    # One command needs the token more than once, a person types the passphrase once.
    return Library(
        requested_by="cli",
        ask_passphrase=functools.cache(ask_passphrase),
        notify=output.note,
        during_request=WaitingNotice().show_if_slow,
        list_taken_names=llm_plugin_names.list_taken_names,
    )


class WaitingNotice:
    """Says once to a person at a terminal whom a command waits for, when an answer is not there within a second."""

    def __init__(self) -> None:
        """Nobody is told where stderr is no terminal, or the command is to be quiet."""
        context = click.get_current_context(silent=True)
        quiet = context is not None and context.params.get("quiet")
        self._is_due = output.is_terminal(sys.stderr) and not quiet
        self._lock = threading.Lock()  # several questions may be on their way

    @contextmanager
    def show_if_slow(self, host: str) -> Iterator[None]:
        """Around a question to that host."""
        if not self._is_due:
            yield
            return
        timer = threading.Timer(SLOW_SECONDS, self._show, [host])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # the answer comes after the words, never amid them

    def _show(self, host: str) -> None:
        with self._lock:
            if self._is_due:
                output.note(f"Waiting for {clean_text(host)}…")
            self._is_due = False


def ask_passphrase() -> str | None:
    """The passphrase of the encrypted token file, not shown while it is typed; None, and a note, where nobody does."""
    try:
        return ask_hidden("Passphrase of the token file", otherwise=NO_TERMINAL_HINT)
    except BadInputError as error:
        output.note(f"{error.message}. Going on without that token. {error.hint}")
        return None


def ask_hidden(question: str, *, otherwise: str, twice: bool = False) -> str:
    """What a person types without its being shown.

    Args:
        question: what they are asked for.
        otherwise: what can be done instead, where nobody is there to type it unseen.
        twice: ask again, so that it is what they meant.

    Raises:
        BadInputError: nobody typed it.
    """
    from getpass import GetPassWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)  # raised where it would be shown: there is no terminal
            answer: str = click.prompt(f"{question} (not shown)", hide_input=True, confirmation_prompt=twice, err=True)
    except (click.Abort, GetPassWarning) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # to click it is the same as nobody being there
            raise KeyboardInterrupt from None
        raise BadInputError(f"{question}: nobody typed it", hint=otherwise) from None
    return answer


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that work ends where it can be continued; the second ends it at once.

    So does the first SIGTERM, by which the process ends all the same once that is done.
    """
    stop = threading.Event()
    terminated = False

    def ask_to_stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal terminated
        terminated |= number == signal.SIGTERM
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    ignored = signal.getsignal(signal.SIGTERM) in (signal.SIG_IGN, None)
    heard = [signal.SIGINT] if ignored else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, ask_to_stop) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if terminated:
            signal.raise_signal(signal.SIGTERM)


def examples(*lines: str) -> str:
    r"""An epilog with commands to copy, each on its line (`\b` keeps click from wrapping them)."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
