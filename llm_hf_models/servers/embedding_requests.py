"""Check requests for embeddings, and explain or shorten inputs that are too long for the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_hf_models.errors import BadInputError, EngineRequestError
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.protocol.embeddings import Item, LongItem, explain_pooling, find_long_items, shorten_items
from llm_hf_models.library.records import LocalModel

MAX_LISTED = 5


def check_embedding_request(model: LocalModel, given: Mapping[str, Any]) -> None:
    """Check the input of a request, and the number of dimensions.

    Raises:
        BadInputError: A part of the input is empty or has another type, or the model has another number of dimensions.
    """
    for place, item in _list_items(given.get("input")):
        if not item or (isinstance(item, str) and not item.strip()):
            raise BadInputError(f"{place} is empty", hint="Remove it: an empty text has no meaning to embed.")
    wanted, width = given.get("dimensions"), model.facts.embedding_length
    if model.endpoint is None and wanted is not None and wanted != width:
        raise BadInputError(
            f"'dimensions' is {str(wanted)[:20]}, but {model.model_id} has {width}",
            hint="Send the request without 'dimensions'.",
        )


def _list_items(value: object) -> list[tuple[str, Item]]:
    """Return the things to embed, each with its place in the request.

    Raises:
        BadInputError: The input is not a text, a list of texts, a list of tokens, or a list of lists of tokens.
    """
    if isinstance(value, str) or (value and _are_tokens(value)):
        return [("input", value)]  # type: ignore[list-item]
    if isinstance(value, list) and value:
        texts = all(isinstance(item, str) for item in value)
        if texts or all(_are_tokens(item) for item in value):
            return [(f"input[{index}]", item) for index, item in enumerate(value)]
    raise BadInputError("'input' must be a text, a list of texts, a list of tokens, or a list of lists of tokens")


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def fit_embedding_request(
    endpoint: Endpoint, body: Mapping[str, Any], error: EngineRequestError, *, truncate: bool
) -> dict[str, Any]:
    """Return a request with shorter inputs, after a local engine refused the original one.

    Raises:
        EngineRequestError: The request can't be shortened. It is the engine's error, or names the inputs.
    """
    places, items = zip(*_list_items(body.get("input")), strict=True)
    long = find_long_items(endpoint, items)
    if not long:
        raise explain_pooling(error, endpoint) from None
    if not truncate:
        raise _make_length_error(endpoint, places, long) from None
    return {**body, "input": shorten_items(endpoint, items, long)}


def _make_length_error(endpoint: Endpoint, places: tuple[str, ...], long: list[LongItem]) -> EngineRequestError:
    sizes = ", ".join(f"{places[item.index]} has {item.tokens:,}" for item in long[:MAX_LISTED])
    error = EngineRequestError(
        f"{places[long[0].index]} is too long for {endpoint.model}",
        cause=f"The model accepts {long[0].limit:,} tokens; {sizes}.",
        hint=f"Shorten it, or let the server cut long texts: llm hf set {endpoint.model} truncate on",
    )
    error.status = 400
    return error
