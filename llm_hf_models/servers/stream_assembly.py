"""Split a stream into its events, and assemble them into one response for clients that did not request a stream.

Requests to a local engine always stream, because only then does the engine detect that the client disconnected. Chunks
and responses are OpenAI's (chat.completion.chunk, chat.completion, text_completion) with llama.cpp's additions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any

from llm_hf_models.errors import EngineLostError
from llm_hf_models.inference.protocol.openai_protocol import build_protocol_error, build_request_error
from llm_hf_models.inference.protocol.tool_calls import ToolCall, ToolCallAssembler

CONCATENATED_FIELDS = ("content", "reasoning_content", "reasoning", "text")
_STREAM_ONLY_FIELDS = ("choices", "object", "prompt_progress")


async def split_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield complete server-sent events, each with its final blank line, from chunks of any size."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk.replace(b"\r\n", b"\n")
        while (end := rest.find(b"\n\n")) >= 0:
            yield bytes(rest[: end + 2])
            del rest[: end + 2]
    if rest:
        yield bytes(rest)


def is_progress(event: bytes) -> bool:
    """Return whether an event reports only the progress of reading the prompt."""
    if b'"prompt_progress"' not in event:
        return False
    try:
        chunk = json.loads(event.strip().removeprefix(b"data:"))
    except ValueError:
        return False
    return isinstance(chunk, dict) and "prompt_progress" in chunk


async def assemble_response(events: AsyncIterator[bytes]) -> dict[str, Any]:
    """Return the complete response.

    Args:
        events: Complete server-sent events.

    Raises:
        EngineRequestError: The engine reported an error.
        EngineLostError: The stream ended early, or does not follow the protocol.
    """
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    calls: defaultdict[int, ToolCallAssembler] = defaultdict(ToolCallAssembler)
    kind = "chat.completion"
    async for event in events:
        name, _, data = event.strip().partition(b":")
        if name != b"data" or data.strip() == b"[DONE]":
            continue
        chunk = _parse_event(data)
        if chunk.get("error"):
            raise build_request_error(chunk["error"])
        kind = "text_completion" if chunk.get("object") == "text_completion" else kind
        whole |= {key: value for key, value in chunk.items() if key not in _STREAM_ONLY_FIELDS and value is not None}
        for part in chunk.get("choices") or ():
            index = part.get("index") or 0
            calls[index].add_deltas((part.get("delta") or {}).get("tool_calls"))
            _add_chunk(choices.setdefault(index, {}), part)
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        raise EngineLostError("The engine closed the connection before the response was complete")
    for index, assembler in calls.items():
        if found := assembler.get_calls():
            choices[index]["message"]["tool_calls"] = [_format_call(call) for call in found]
    return {**whole, "object": kind, "choices": [choices[index] for index in sorted(choices)]}


def _format_call(call: ToolCall) -> dict[str, Any]:
    call_id = {"id": call.call_id} if call.call_id else {}
    return {"type": "function", **call_id, "function": {"name": call.name, "arguments": call.arguments or "{}"}}


def _parse_event(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise build_protocol_error("an event that is not a JSON object")
    return chunk


def _add_chunk(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add one chunk's part of a choice to the choice."""
    choice.setdefault("index", part.get("index") or 0)
    choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
    if "text" in part:
        choice["text"] = choice.get("text", "") + (part["text"] or "")
    else:
        message = choice.setdefault("message", {"role": "assistant", "content": None})
        _merge_delta(message, part.get("delta") or {})
    for found in (part.get("logprobs") or {}).items():
        _extend_logprobs(choice.setdefault("logprobs", {}), *found)


def _merge_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for key, value in delta.items():
        if value is None or key == "tool_calls":
            continue
        if isinstance(value, Mapping):
            _merge_delta(message.setdefault(key, {}), value)
        elif key in CONCATENATED_FIELDS:
            message[key] = (message.get(key) or "") + value
        else:
            message[key] = value


def _extend_logprobs(logprobs: dict[str, Any], key: str, values: object) -> None:
    if isinstance(values, list):
        logprobs.setdefault(key, []).extend(values)
    else:
        logprobs[key] = values
