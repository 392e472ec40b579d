"""Types and options that the commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import NO_TERMINAL_HINT, ask_hidden, open_library
from llm_hf_models.errors import BadInputError, HfModelsError, InterruptedByUserError
from llm_hf_models.system import units

F = TypeVar("F", bound=Callable[..., object])
MAX_RESULTS = 500
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def ask_new_passphrase() -> str:
    """A passphrase to encrypt the token with, typed twice."""
    question = "There is no keychain here. Passphrase to encrypt the token with"
    return ask_hidden(question, otherwise=NO_TERMINAL_HINT, twice=True)


def confirm(question: str, *, refused: str, hint: str) -> None:
    """Asks a person; ends the command where they don't agree.

    Args:
        question: what they are asked.
        refused: what then holds, such as `Nothing was removed`.
        hint: how to do without being asked.

    Raises:
        BadInputError: nobody answered.
        InterruptedByUserError: they pressed Ctrl-C.
        click.exceptions.Exit: they said no.
    """
    try:
        agreed = _ask_yes_no(question)
    except KeyboardInterrupt:
        output.note("")
        raise InterruptedByUserError(f"{refused}.") from None
    if agreed is None:
        output.note("")
        raise BadInputError(f"{refused}: nobody answered", hint=hint)
    if not agreed:
        output.note(f"{refused}.")
        raise click.exceptions.Exit(1)


def _ask_yes_no(question: str) -> bool | None:
    """What a person answered; None where nobody did, or nobody could: Python has no stdin where that was closed."""
    try:
        return click.confirm(question, err=True) if sys.stdin else None
    except (click.Abort, UnicodeDecodeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # to click it is the same as nobody being there
            raise KeyboardInterrupt from None
        return None


def confirm_removal(question: str) -> None:
    """The same before something is removed."""
    confirm(question, refused="Nothing was removed", hint="-y removes without asking.")


# What options take


class _NumberWithUnit(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """A number that a person writes with a unit."""

    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes or a count."""
        if isinstance(value, int):
            return value
        try:
            return self._parse(str(value))
        except BadInputError as error:
            self.fail(f"{error.message}. {error.hint}" if error.hint else f"{error.message}.", param, ctx)


SIZE = _NumberWithUnit("size", units.parse_size)
RATE = _NumberWithUnit("rate", units.parse_rate)
COUNT = _NumberWithUnit("count", units.parse_count)


class _CompletableName(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """A name of something that is known here, which a shell can complete."""

    def list_completions(self) -> list[CompletionItem]:
        """Every such name."""
        raise NotImplementedError

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Names that start with what was typed; none where the library can't be read."""
        try:
            return [item for item in self.list_completions() if item.value.casefold().startswith(incomplete.casefold())]
        except HfModelsError:
            return []


class LocalName(_CompletableName):
    """The name of a model on this machine: an id, an alias or a repo."""

    name = "name"

    def list_completions(self) -> list[CompletionItem]:
        """Ids and aliases."""
        return [CompletionItem(name) for model in open_library().list() for name in (*model.aliases, model.model_id)]


class SettingKey(_CompletableName):
    """The name of a setting."""

    name = "key"

    def list_completions(self) -> list[CompletionItem]:
        """Each with what it does."""
        return [CompletionItem(one.key, help=one.description) for one in open_library().settings()]


class _NonEmptyPath(click.Path):
    """A path to what may be there or not; the empty one, as of a variable that is not set, is none."""

    empty_message = ""  # what is said of it

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Its path."""
        if not os.fspath(value):
            self.fail(self.empty_message, param, ctx)
        return super().convert(value, param, ctx)


class Folder(_NonEmptyPath):
    """A folder."""

    empty_message = "An empty name is no folder; this one's is `.`."


class File(_NonEmptyPath):
    """A file."""

    empty_message = "An empty name is no file."


def json_option(command: F) -> F:
    """`--json`: the service's own value instead of text."""
    return click.option("as_json", "--json", is_flag=True, help="Print JSON.")(command)


def quiet_option(command: F) -> F:
    """`-q`: no progress and no notes."""
    return click.option("-q", "--quiet", is_flag=True, help="Show no progress and no notes.")(command)


def aliases_option(command: F) -> F:
    """`-a NAME`, as often as wanted."""
    return click.option(
        "aliases", "-a", "--alias", multiple=True, metavar="NAME", help="Another name for the model; repeatable."
    )(command)


def refresh_option(command: F) -> F:
    """`--refresh`: ask the Hub whatever the metadata cache holds."""
    return click.option("--refresh", is_flag=True, help="Ask the Hub even where a recent answer is kept.")(command)


def require_one_of(given: object, everything: bool, what: str = "NAME") -> None:
    """Checks that one thing or `--all` was given, and not both.

    Raises:
        click.UsageError: neither or both were.
    """
    if (given is None) != everything:
        raise click.UsageError(f"Give either {what} or --all.")
