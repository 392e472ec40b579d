"""Embed texts one request at a time, and explain or shorten the ones that a model can't embed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

from llm_hf_models.errors import BadInputError, EngineRequestError
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.protocol import client
from llm_hf_models.inference.protocol.endpoint_requests import Reconnect
from llm_hf_models.system.text import clean_text

MAX_SHOWN_CHARS = 60
MAX_LISTED = 5

Tokens: TypeAlias = list[int]
Item: TypeAlias = str | Tokens  # one thing to embed


@dataclass(frozen=True)
class LongItem:
    """An item that has more tokens than its model can embed."""

    index: int
    tokens: int
    limit: int


def embed_texts(
    endpoint: Endpoint, texts: Sequence[str], *, start: int = 0, truncate: bool, reconnect: Reconnect | None = None
) -> Iterator[list[float]]:
    """Yield a vector for each text, in one request. Before an error, yield those of the texts before it.

    Args:
        endpoint: The model's endpoint.
        texts: The texts.
        start: The number of texts before them, for error messages.
        truncate: Cut texts that are longer than the context, if the engine is local.
        reconnect: As for `client.stream_completion`.

    Raises:
        BadInputError: A text is empty.
        EngineRequestError: A text is too long, or the server returned an error.
    """
    usable = list(takewhile(str.strip, texts))
    try:
        yield from client.embed(endpoint, usable, reconnect=reconnect)
    except EngineRequestError as error:
        long = find_long_items(endpoint, usable)
        if not long:
            raise explain_pooling(error, endpoint) from None
        if not truncate:
            yield from client.embed(endpoint, usable[: long[0].index])
            raise _make_length_error(endpoint, usable, start, long) from None
        yield from client.embed(endpoint, shorten_items(endpoint, usable, long))
    if len(usable) < len(texts):
        raise BadInputError(
            f"Text {start + len(usable) + 1} is empty",
            cause=f"It comes after {_quote(usable[-1])}." if usable else None,
            hint="Remove it: an empty text has no meaning to embed.",
        )


def _make_length_error(
    endpoint: Endpoint, texts: Sequence[str], start: int, long: Sequence[LongItem]
) -> EngineRequestError:
    first = long[0]
    more = f" and {len(long) - 1} more" if len(long) > 1 else ""
    sizes = [f"text {start + item.index + 1} has {item.tokens:,}" for item in long[:MAX_LISTED]]
    options = ["shorten it", f"cut long texts with `llm hf set {endpoint.model} truncate on`"]
    if endpoint.can_grow_context:
        options.insert(1, f"set a larger context with `llm hf set {endpoint.model} context N`")
    return EngineRequestError(
        f"Text {start + first.index + 1}{more} is too long for {endpoint.model}: {_quote(texts[first.index])}",
        cause=f"The model accepts {first.limit:,} tokens; {', '.join(sizes)}.",
        hint=f"To embed it, {', or '.join(options)}.",
    )


def explain_pooling(error: EngineRequestError, endpoint: Endpoint) -> EngineRequestError:
    """Return an error of a local engine, with a hint if the model's pooling is unknown."""
    if endpoint.fingerprint is None or "ooling type" not in error.message:
        return error
    explained = EngineRequestError(
        f"The header of {endpoint.model} has no pooling type, which embeddings need",
        cause=error.message,
        hint=f"Its model card names it. Set it: llm hf set {endpoint.model} pooling mean (or cls, or last)",
    )
    explained.status = error.status
    return explained


def find_long_items(endpoint: Endpoint, items: Sequence[Item]) -> list[LongItem]:
    """Return the items that have more tokens than a local engine can embed; empty for a remote endpoint."""
    limit = endpoint.context
    if endpoint.fingerprint is None or limit is None:
        return []
    sizes = [len(item) if isinstance(item, list) else len(_tokenize(endpoint, item)) for item in items]
    return [LongItem(index, size, limit) for index, size in enumerate(sizes) if size > limit]


def shorten_items(endpoint: Endpoint, items: Sequence[Item], long: Sequence[LongItem]) -> list[Item]:
    """Return all items as tokens, with the long ones cut to the context."""
    limits = {item.index: item.limit for item in long}
    tokens = [item if isinstance(item, list) else _tokenize(endpoint, item) for item in items]
    return [
        _cut(endpoint, items[index], every, limits[index]) if index in limits else every
        for index, every in enumerate(tokens)
    ]


def _cut(endpoint: Endpoint, item: Item, tokens: Tokens, limit: int) -> Tokens:
    """Return the first tokens of a text, with the special tokens at its end, such as a separator."""
    plain = tokens if isinstance(item, list) else _tokenize(endpoint, item, special=False)
    added = len(tokens) - len(plain)
    before = next((at for at in range(added + 1) if tokens[at : at + len(plain)] == plain), 0)
    after = tokens[before + len(plain) :]
    return [*tokens[: limit - len(after)], *after]


def _tokenize(endpoint: Endpoint, text: str, *, special: bool = True) -> Tokens:
    found = client.request_json(endpoint, "/tokenize", {"content": text, "add_special": special})
    return list(found["tokens"])


def _quote(text: str) -> str:
    return repr(clean_text(text[:MAX_SHOWN_CHARS])) + ("…" if len(text) > MAX_SHOWN_CHARS else "")
