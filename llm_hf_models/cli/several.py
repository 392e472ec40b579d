"""Apply a command to each of the names that the user gave, and print the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from llm_hf_models.cli import output
from llm_hf_models.errors import HfModelsError, InterruptedByUserError

if TYPE_CHECKING:
    from llm_hf_models.service import Library

T = TypeVar("T")
R = TypeVar("R")


def use_each(
    items: Sequence[T],
    use: Callable[[T], R],
    show: Callable[[R], None],
    *,
    as_json: bool,
    is_list: bool | None = None,
    finish: Callable[[list[R]], None] | None = None,
) -> list[R]:
    """Apply a function to each item, and show each result. If one of several items fails, the others are still used.

    The errors are printed; as JSON, the first one is, with the results of the other items. After the last item, the
    command then ends with the exit code of the first error.

    Args:
        items: The names that the user gave, or what was planned for them.
        use: Applied to each item.
        show: Shows a result to the user, unless the results are printed as JSON.
        as_json: Print JSON: the result of a single item, or a list of the results of several.
        is_list: Whether the JSON is a list; None decides by the number of items.
        finish: Called with the results before they are printed as JSON.

    Returns:
        The results of the items that did not fail.
    """
    results: list[R] = []
    is_list = len(items) > 1 if is_list is None else is_list
    with output.keep_results(results, as_json=as_json):
        failures = _use_all(items, use, results, None if as_json else show)
        if finish:
            finish(results)
        if failures and as_json:
            raise failures[0]
    if as_json:
        output.print_json(results if is_list else results[0])
    if failures:
        raise click.exceptions.Exit(failures[0].exit_code)
    return results


def _use_all(
    items: Sequence[T], use: Callable[[T], R], results: list[R], show: Callable[[R], None] | None
) -> list[HfModelsError]:
    """Add the results of the items to `results`. Return the errors, which are printed, except for the first in JSON."""
    failures: list[HfModelsError] = []
    for item in items:
        try:
            result = use(item)
        except HfModelsError as error:
            if len(items) == 1 or isinstance(error, InterruptedByUserError):
                raise
            failures.append(error)
            if show or len(failures) > 1:
                output.print_error(error)
            continue
        results.append(result)
        if show:
            show(result)
    return failures


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
    return tuple(model.model_id for model in models if not (with_files and model.endpoint))


def emit_in_parts(render: Callable[[R], str]) -> Callable[[R], None]:
    """Return a function that prints the rendered results, with an empty line between two of them."""
    is_first = True

    def emit(result: R) -> None:
        nonlocal is_first
        output.emit(("" if is_first else "\n") + render(result))
        is_first = False

    return emit
