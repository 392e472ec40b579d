"""Apply a command to each of the names that the user gave, and print the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.output import ErrorReport
from llm_hf_models.errors import HfModelsError, InterruptedByUserError

if TYPE_CHECKING:
    from llm_hf_models.service import Library

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class NamedError:
    """The error of one of the names that a command was given."""

    name: str | None  # as the user gave it; None for an error that ended the command
    error: ErrorReport


@dataclass(frozen=True)
class Results:
    """The output with `--json` of a command that takes several names, even if it was given one."""

    results: tuple[object, ...]
    errors: tuple[NamedError, ...] = ()


def use_each(
    items: Sequence[T],
    use: Callable[[T], R],
    show: Callable[[R], None],
    *,
    as_json: bool,
    get_name: Callable[[T], str] = str,
    finish: Callable[[Sequence[R]], None] | None = None,
) -> list[R]:
    """Apply a function to each item, and show each result. If one of several items fails, the others are still used.

    The errors are printed, in JSON beside the results. After the last item, the command then ends with the exit code of
    the first error.

    Args:
        items: The names that the user gave, or what was planned for them.
        use: Applied to each item. A result that is None is left out.
        show: Shows a result to the user, unless the results are printed as JSON.
        as_json: Print JSON.
        get_name: Returns the name of an item in an error.
        finish: Called with the results before they are printed as JSON.

    Returns:
        The results of the items that did not fail.

    Raises:
        HfModelsError: the only item failed, or the command was interrupted and does not print JSON.
    """
    results: list[R] = []
    failures: list[tuple[str | None, HfModelsError]] = []
    try:
        for item in items:
            try:
                result = use(item)
            except HfModelsError as error:
                if len(items) == 1 or isinstance(error, InterruptedByUserError):
                    raise
                failures.append((get_name(item), error))
                if not as_json:
                    output.print_error(error)
                continue
            _add(result, results, None if as_json else show)
        if finish:
            finish(results)
    except HfModelsError as error:
        if not as_json or (len(items) == 1 and not results):
            raise
        failures.append((None, error))
    if as_json:
        errors = tuple(NamedError(name, output.describe_error(error)) for name, error in failures)
        output.print_json(Results(tuple(results), errors))
    if failures:
        raise click.exceptions.Exit(_choose_exit_code([error for _, error in failures]))
    return results


def _add(result: R, results: list[R], show: Callable[[R], None] | None) -> None:
    if result is not None:
        results.append(result)
        if show:
            show(result)


def _choose_exit_code(errors: Sequence[HfModelsError]) -> int:
    """Return the exit code of an interruption, which is the last error, or else that of the first error."""
    return (errors[-1] if isinstance(errors[-1], InterruptedByUserError) else errors[0]).exit_code


def note_missing_members(library: Library, collection: str) -> None:
    """Print a note if models of a collection are not on this machine."""
    members = library.list_collection_members(collection)
    missing = sum(member.id is None for member in members)
    if missing:
        output.note(
            f"{missing} of {len(members)} models of {collection} are not on this machine: "
            f"llm hf pull --collection {collection}"
        )
    elif not members:
        output.note(f"The collection {collection} has no models.")


def list_local_members(library: Library, collection: str, *, with_files: bool = False) -> tuple[str, ...]:
    """Return the ids of the models of a collection that are on this machine. A note says how many are not.

    Args:
        library: The library.
        collection: The name of the collection.
        with_files: Leave out models on remote endpoints.
    """
    models = library.list(collection=collection)
    note_missing_members(library, collection)
    return tuple(model.id for model in models if not (with_files and model.endpoint))


def emit_in_parts(render: Callable[[R], str]) -> Callable[[R], None]:
    """Return a function that prints the rendered results, with an empty line between two of them."""
    is_first = True

    def emit(result: R) -> None:
        nonlocal is_first
        output.emit(("" if is_first else "\n") + render(result))
        is_first = False

    return emit
