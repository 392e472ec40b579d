"""Apply a command to each of the names that the user gave, and print the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from llm_hf_models.cli import output
from llm_hf_models.errors import HfModelsError, InterruptedByUserError

T = TypeVar("T")
R = TypeVar("R")


def use_each(
    items: Sequence[T],
    use: Callable[[T], R],
    show: Callable[[R], None],
    *,
    as_json: bool,
    is_list: bool | None = None,
) -> list[R]:
    """Apply a function to each item, and show each result. If one of several items fails, the others are still used.

    The errors are printed. After the last item, the command then ends with the exit code of the first error.

    Args:
        items: The names that the user gave, or what was planned for them.
        use: Applied to each item.
        show: Shows a result to the user, unless the results are printed as JSON.
        as_json: Print JSON: the result of a single item, or a list of the results of several.
        is_list: Whether the JSON is a list; None decides by the number of items.

    Returns:
        The results of the items that did not fail.
    """
    results: list[R] = []
    code = 0
    is_list = len(items) > 1 if is_list is None else is_list
    try:
        for item in items:
            try:
                result = use(item)
            except HfModelsError as error:
                if len(items) == 1 or isinstance(error, InterruptedByUserError):
                    raise
                code = code or error.exit_code
                output.print_error(error)
                continue
            results.append(result)
            if not as_json:
                show(result)
    finally:  # after an interruption too, the results so far are printed
        if as_json and (results or is_list):
            output.print_json(results if is_list else results[0])
    if code:
        raise click.exceptions.Exit(code)
    return results


def emit_in_parts(render: Callable[[R], str]) -> Callable[[R], None]:
    """Return a function that prints the rendered results, with an empty line between two of them."""
    is_first = True

    def emit(result: R) -> None:
        nonlocal is_first
        output.emit(("" if is_first else "\n") + render(result))
        is_first = False

    return emit
