"""Forward the events of a stream: with comments while the engine is silent, and with a check of the response.

The comments keep the connection open. Clients and proxies close one that is silent for too long, and reading a long
prompt on a slow machine, or loading a model, can take minutes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from llm_hf_models.errors import EngineRequestError, HfModelsError
from llm_hf_models.inference.protocol import json_schema
from llm_hf_models.servers.stream_assembly import is_progress

COMMENT_SECONDS = 5.0
COMMENT = b": waiting for the model\n\n"
_DONE = b"data: [DONE]"


async def add_comments(events: AsyncGenerator[bytes, None], seconds: float) -> AsyncGenerator[bytes, None]:
    """Yield events, and a comment each time the next event has not arrived after `seconds`."""
    pending: asyncio.Future[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending}, timeout=seconds)
            if not done:
                yield COMMENT
                continue
            received, pending = pending, None
            try:
                event = received.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration, HfModelsError):
                await pending


async def check_events(
    events: AsyncIterator[bytes], *, drop_progress: bool, schema: object
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream, and check the response at its end.

    Raises:
        EngineRequestError: The response does not match the schema.
    """
    checker = ResponseChecker(schema)
    async for event in events:
        if drop_progress and is_progress(event):
            continue
        if event.startswith(_DONE):
            checker.check()
        checker.add_event(event)
        yield event


class ResponseChecker:
    """Checks a response against the schema of its request. A response that was cut off is not checked."""

    def __init__(self, schema: object) -> None:
        """Start with an empty response. `schema` is None if there is nothing to check."""
        self._schema = schema
        self._texts: dict[int, list[str]] = {}
        self._ended: set[int] = set()

    def add_event(self, event: bytes) -> None:
        """Add one event of a stream."""
        if self._schema is None or not event.startswith(b"data:") or event.startswith(_DONE):
            return
        with suppress(ValueError):
            chunk = json.loads(event.removeprefix(b"data:"))
            self.add_choices(chunk.get("choices") if isinstance(chunk, Mapping) else None)

    def add_choices(self, choices: Any) -> None:  # noqa: ANN401 - any JSON value
        """Add the choices of a chunk or of a complete response."""
        for choice in choices if isinstance(choices, list) else ():
            index = choice.get("index") or 0
            message = choice.get("delta") or choice.get("message") or {}
            text = choice.get("text") or message.get("content")
            self._texts.setdefault(index, []).append(text if isinstance(text, str) else "")
            if choice.get("finish_reason") == "stop":
                self._ended.add(index)

    def check(self) -> None:
        """Check the complete response.

        Raises:
            EngineRequestError: It does not match the schema.
        """
        for index in sorted(self._ended) if self._schema is not None else ():
            text = "".join(self._texts[index])
            try:
                mismatch = json_schema.find_mismatch(self._schema, json.loads(text))
            except ValueError:
                mismatch = "It is not valid JSON."
            if mismatch:
                raise EngineRequestError(
                    "The response does not match the schema",
                    cause=mismatch,
                    hint="Send the request again, or replace that part of the schema.",
                )
