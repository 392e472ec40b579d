"""Define the options, parameter types and confirmation prompts that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import NO_TERMINAL_HINT, ask_hidden, open_library
from llm_hf_models.errors import BadInputError, DeclinedError, HfModelsError, InterruptedByUserError
from llm_hf_models.system import units

F = TypeVar("F", bound=Callable[..., object])
MAX_RESULTS = 500
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def ask_new_passphrase() -> str:
    """Ask twice for a new passphrase that encrypts the token."""
    question = "No keychain found. Passphrase to encrypt the token"
    return ask_hidden(question, hint=NO_TERMINAL_HINT, twice=True)


def confirm(question: str, *, refused: str, hint: str) -> None:
    """Ask the user to confirm, and end the command unless they agree.

    Args:
        question: the prompt.
        refused: the message if the user refuses, such as `Nothing was removed`.
        hint: how to skip the prompt.

    Raises:
        BadInputError: no answer was given.
        InterruptedByUserError: the user pressed Ctrl-C.
        DeclinedError: the user answered no.
    """
    try:
        agreed = _ask_yes_no(question)
    except KeyboardInterrupt:
        output.alert("")
        raise InterruptedByUserError(f"{refused}.") from None
    if agreed is None:
        output.alert("")
        raise BadInputError(f"{refused}: no answer was given", hint=hint)
    if not agreed:
        raise DeclinedError(f"{refused}.")


def _ask_yes_no(question: str) -> bool | None:
    """Return the user's answer, or None if there is none. `sys.stdin` is None if the process started without stdin."""
    output.waiting_note.cancel()
    try:
        return click.confirm(question, err=True) if sys.stdin else None
    except (click.Abort, UnicodeDecodeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # click raises Abort for Ctrl-C too
            raise KeyboardInterrupt from None
        return None


def confirm_removal(question: str) -> None:
    """Ask the user to confirm a removal, and end the command unless they agree."""
    confirm(question, refused="Nothing was removed", hint="Pass -y to remove without asking.")


# Parameter types


class _NumberWithUnit(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """A number with a unit, such as `5M`."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number of bytes or seconds, or the count."""
        if isinstance(value, int | float):
            return value
        try:
            return self._parse(str(value))
        except BadInputError as error:
            self.fail(f"{error.message}. {error.hint}" if error.hint else f"{error.message}.", param, ctx)


RATE = _NumberWithUnit("rate", units.parse_rate)
COUNT = _NumberWithUnit("count", units.parse_count)
SIZE = _NumberWithUnit("size", units.parse_file_size)
AGE = _NumberWithUnit("time", units.parse_age)


class _CompletableName(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.4
    """A name that the shell can complete from the library."""

    def list_completions(self) -> list[CompletionItem]:
        """Return all names, in the form that click completes."""
        raise NotImplementedError

    def expects_name(self, ctx: click.Context, param: click.Parameter) -> bool:  # noqa: ARG002
        """Return whether the incomplete word is a name."""
        return True

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that start with `incomplete`, or none if the library can't be read."""
        if not self.expects_name(ctx, param):
            return []
        try:
            return [item for item in self.list_completions() if item.value.casefold().startswith(incomplete.casefold())]
        except HfModelsError:
            return []


class LocalName(_CompletableName):
    """The name of a local model: its id, an alias or its repo."""

    name = "name"

    def list_completions(self) -> list[CompletionItem]:
        """Return all aliases, model ids, and ids without `hf/`."""
        return [
            CompletionItem(name)
            for model in open_library().list_summaries()
            for name in dict.fromkeys((*model.aliases, model.id, model.id.removeprefix("hf/")))
        ]


class CollectionName(_CompletableName):
    """The name of a collection."""

    name = "collection"

    def list_completions(self) -> list[CompletionItem]:
        """Return the names of all collections with their notes."""
        return [CompletionItem(row.name, help=row.note) for row in open_library().list_collections()]


class MemberName(LocalName):
    """The name of a local model or of a collection, or a ref."""

    def list_completions(self) -> list[CompletionItem]:
        """Return the names of the local models and of the collections."""
        return [*super().list_completions(), *CollectionName().list_completions()]


class SettingKey(_CompletableName):
    """The name of a setting."""

    name = "key"

    def list_completions(self) -> list[CompletionItem]:
        """Return all settings with their descriptions."""
        return [CompletionItem(one.key, help=one.description) for one in open_library().settings()]


class OptionKey(_CompletableName):
    """The name of an option that `llm hf set` stores."""

    name = "key"

    def list_completions(self) -> list[CompletionItem]:
        """Return all options with their descriptions."""
        return [CompletionItem(key, help=text) for key, text in open_library().list_options().items()]


class OptionPair(OptionKey):
    """The name of an option, or its value after it."""

    def expects_name(self, ctx: click.Context, param: click.Parameter) -> bool:
        """Return whether each option before the incomplete word has its value."""
        return len(ctx.params.get(param.name or "") or ()) % 2 == 0


class DownloadId(_CompletableName):
    """The id of a download."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Return the id as a number."""
        return int(click.INT.convert(value, param, ctx))

    def list_completions(self) -> list[CompletionItem]:
        """Return the ids of all downloads with their refs and states."""
        rows = open_library().downloads(include_finished=True)
        return [CompletionItem(str(row.id), help=f"{row.ref}, {row.state}") for row in rows]


class WatchedDownloadId(DownloadId):
    """The id of a download, as text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # type: ignore[override]  # noqa: ANN401, ARG002
        """Return the text, which the command checks."""
        return str(value)


class _NonEmptyPath(click.Path):
    """A path that need not exist. An empty path, such as that of an unset shell variable, is refused."""

    empty_message = ""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path, or fail if it is empty."""
        if not os.fspath(value):
            self.fail(self.empty_message, param, ctx)
        return super().convert(value, param, ctx)


class Folder(_NonEmptyPath):
    """A folder."""

    empty_message = "The folder's name is empty. Write `.` for the current folder."


class File(_NonEmptyPath):
    """A file."""

    empty_message = "The file's name is empty."


def json_option(command: F) -> F:
    """Add `--json`, which prints the service's result as JSON."""
    return click.option("as_json", "--json", is_flag=True, help="Print JSON.")(command)


def quiet_option(text: str = "Hide progress and notes.", *, is_passed: bool = False) -> Callable[[F], F]:
    """Add `-q`, which silences `output.note` and the notes of the library.

    Args:
        text: The help text.
        is_passed: Pass `quiet` to the command, for example because it then prints only ids.
    """

    def store(ctx: click.Context, param: click.Parameter, value: bool) -> bool:  # noqa: ARG001
        ctx.meta[output.QUIET_KEY] = value
        return value

    return click.option("-q", "--quiet", is_flag=True, help=text, callback=store, expose_value=is_passed)


def dry_run_option(command: F) -> F:
    """Add `--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Show the result without changing anything.")(command)


def yes_option(command: F) -> F:
    """Add `-y`, which skips a question."""
    return click.option("-y", "--yes", is_flag=True, help="Don't ask for confirmation.")(command)


def aliases_option(command: F) -> F:
    """Add `-a NAME`, which can be repeated."""
    return click.option(
        "aliases", "-a", "--alias", multiple=True, metavar="NAME", help="Additional name for the model; repeatable."
    )(command)


def refresh_option(command: F) -> F:
    """Add `--refresh`, which bypasses the metadata cache."""
    return click.option("--refresh", is_flag=True, help="Request new data from the Hub instead of using the cache.")(
        command
    )


def listen_options(port: int) -> Callable[[F], F]:
    """Add `--host` and `--port`, with a default port."""
    address = click.option(
        "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on."
    )
    number = click.option(
        "--port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        default=port,
        show_default=True,
        help="Port to listen on; 0 chooses a free one.",
    )
    return lambda command: address(number(command))


def kind_options(command: F) -> F:
    """Add `--kind` and `--pooling`, which are stored as the model's options."""
    kind = click.option(
        "--kind",
        type=click.Choice(["chat", "base", "embedding"]),
        help="Kind of model, if its header doesn't tell it; `llm hf set` can change it.",
    )
    pooling = click.option(
        "--pooling",
        type=click.Choice(["mean", "cls", "last"]),
        help="Pooling of an embedding model, if its header doesn't tell it.",
    )
    return kind(pooling(command))


def collection_option(text: str) -> Callable[[F], F]:
    """Add `--collection NAME`."""
    return click.option("--collection", type=CollectionName(), metavar="NAME", help=text)


def require_one_of(given: object, everything: bool, what: str = "NAME") -> None:
    """Check that the user gave either an argument or `--all`.

    Raises:
        click.UsageError: the user gave neither or both.
    """
    if (given is None) != everything:
        raise click.UsageError(f"Give either {what} or --all.")


def require_names(names: Sequence[str], collection: str | None, what: str, *, everything: bool = False) -> None:
    """Check that the user gave either names, or `--collection`, or another option that selects models.

    Raises:
        click.UsageError: the user gave none of these, or several.
    """
    if [bool(names), collection is not None, everything].count(True) != 1:
        raise click.UsageError(f"Give either {what}.")
