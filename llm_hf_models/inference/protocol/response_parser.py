"""Parse the response to a prompt as it arrives: a stream of OpenAI's protocol, or a response in one piece.

Servers differ in the fields that they send. A field with an unexpected value is ignored, unless it is the content.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from llm_hf_models.errors import EngineLostError
from llm_hf_models.inference.protocol.openai_protocol import (
    Finish,
    Piece,
    build_protocol_error,
    build_request_error,
    parse_json,
)
from llm_hf_models.inference.protocol.tool_calls import ToolCall, ToolCallAssembler
from llm_hf_models.system.text import clean_text

MAX_LINE_BYTES = 16 * 2**20  # of one event; an unstreamed response is a single line
_MAX_QUOTED_BYTES = 1000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EVENT_FIELDS = (b":", b"data", b"event", b"id", b"retry")
_CUT_REASONS = frozenset({"length", "max_tokens", "max_length", "model_length", "token_limit"})


def _read_number(value: object) -> object:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _read_count(value: object) -> object:
    return int(value) if isinstance(value, (int, float)) and _read_number(value) is not None else None


def _read_text(value: object) -> object:
    return value if isinstance(value, str) else None


def _read_object(value: object) -> object:
    return value if isinstance(value, dict) else None


_Text = Annotated[str | None, BeforeValidator(_read_text)]
_Number = Annotated[float | None, BeforeValidator(_read_number)]
_Count = Annotated[int | None, BeforeValidator(_read_count)]


class _Message(BaseModel):
    content: Any = None  # text; Mistral's servers send a list of parts
    reasoning_content: Any = None  # llama.cpp, SGLang, DeepSeek
    reasoning: Any = None  # vLLM's and OpenRouter's name for it
    tool_calls: Any = None
    function_call: Any = None  # the earlier form, with one call at most


class _Choice(BaseModel):
    delta: _Message | None = None  # in a stream
    message: _Message | None = None  # in an unstreamed response
    text: str | None = None  # in a raw completion
    finish_reason: _Text = None
    error: Any = None  # OpenRouter


class _CachedTokens(BaseModel):
    cached_tokens: _Count = None


class _Usage(BaseModel):
    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: Annotated[_CachedTokens | None, BeforeValidator(_read_object)] = None


class _Timings(BaseModel):
    prompt_per_second: _Number = None
    predicted_per_second: _Number = None


class _Chunk(BaseModel):
    """One event of a stream (its choices have a `delta`) or an unstreamed response (they have a `message`)."""

    choices: list[_Choice] | None = None
    usage: Annotated[_Usage | None, BeforeValidator(_read_object)] = None
    timings: Annotated[_Timings | None, BeforeValidator(_read_object)] = None
    model: _Text = None
    error: Any = None
    object: Any = None
    message: Any = None  # vLLM's errors have it, with the object "error"


class ResponseParser:
    """Parses the bytes of a response into pieces.

    A stream consists of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). Each
    event is one JSON value, and `[DONE]` ends the stream. An unstreamed response is a JSON object. Servers may send
    either for any request, and with any content type, so the first byte decides.
    """

    def __init__(self, *, can_grow_context: bool = False) -> None:
        """Start with no data.

        Args:
            can_grow_context: Whether the engine can be restarted with a larger context, for the hint of an error.
        """
        self._can_grow_context = can_grow_context
        self._is_stream: bool | None = None  # None before the first byte
        self._begin = b""  # of a stream, until its first event
        self._buffer = bytearray()
        self._reason: str | None = None
        self._usage, self._timings = _Usage(), _Timings()  # the most recent ones
        self._model: str | None = None
        self._calls = ToolCallAssembler()
        self._done = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yield the pieces that these bytes complete.

        Raises:
            EngineRequestError: The server reported an error.
            EngineLostError: The response is not in OpenAI's protocol.
        """
        self._buffer += data
        if self._is_stream is None and (begin := self._buffer.removeprefix(_BYTE_ORDER_MARK).lstrip()):
            self._buffer, self._is_stream, self._begin = begin, not begin.startswith(b"{"), bytes(begin)
        if self._is_stream:
            while (end := self._buffer.find(b"\n")) >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                yield from self._parse_line(line)
        if len(self._buffer) > MAX_LINE_BYTES:
            raise build_protocol_error("an event without an end")

    def end(self) -> Iterator[Piece | ToolCall | Finish]:
        """Yield the remaining pieces and the tool calls after the response has ended; the last item is the Finish.

        Raises:
            EngineRequestError: The server reported an error.
            EngineLostError: The response ended before the completion was finished, or is not in OpenAI's protocol.
        """
        if self._is_stream:
            yield from self._end_stream()
        elif self._is_stream is not None:
            yield from self._parse_chunk(bytes(self._buffer))
            self._done = True
        if not self._done and self._reason is None:
            raise EngineLostError("The engine closed the connection before the response was complete")
        yield from self._calls.get_calls()
        details = self._usage.prompt_tokens_details
        yield Finish(
            reason=self._reason,
            input_tokens=self._usage.prompt_tokens,
            output_tokens=self._usage.completion_tokens,
            cached_tokens=details.cached_tokens if details else None,
            prompt_per_second=self._timings.prompt_per_second,
            tokens_per_second=self._timings.predicted_per_second,
            model=self._model,
        )

    def _end_stream(self) -> Iterator[Piece]:
        """Parse a last line without a line break. It is ignored if the connection broke within it."""
        with contextlib.suppress(EngineLostError):
            yield from self._parse_line(bytes(self._buffer))
        if self._begin and not self._begin.startswith(_EVENT_FIELDS):
            raise build_protocol_error(clean_text(self._begin[:_MAX_QUOTED_BYTES].decode("utf-8", "replace"), 120))

    def _parse_line(self, line: bytes) -> Iterator[Piece]:
        field_name, _, value = line.partition(b":")
        value = value.strip()
        if field_name != b"data" or not value or self._done:
            return  # a blank line, a comment such as `: ping`, `event:`, `id:` or `retry:`
        self._begin = b""
        if value == b"[DONE]":
            self._done = True
        else:
            yield from self._parse_chunk(value)

    def _parse_chunk(self, data: bytes) -> Iterator[Piece]:
        chunk: _Chunk = parse_json(_Chunk, data)
        error = chunk.error or (chunk.message if chunk.object == "error" else None)
        for choice in (chunk.choices or ())[:1]:
            error = error or choice.error
        if error:
            raise build_request_error(error, can_grow_context=self._can_grow_context)
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        self._model = chunk.model or self._model
        for choice in (chunk.choices or ())[:1]:
            self._reason = _parse_reason(choice.finish_reason) or self._reason
            yield from self._extract_pieces(choice)

    def _extract_pieces(self, choice: _Choice) -> Iterator[Piece]:
        message = choice.delta or choice.message or _Message()
        thoughts, text = _split_content(message.content)
        reasoning = message.reasoning_content or message.reasoning
        if reasoning and isinstance(reasoning, str):
            yield Piece("reasoning", reasoning)
        elif thoughts:
            yield Piece("reasoning", thoughts)
        if text := choice.text or text:
            yield Piece("text", text)
        calls = message.tool_calls or message.function_call
        if choice.delta is not None:
            self._calls.add_deltas(calls)
        else:
            self._calls.add_complete_calls(calls)


def _parse_reason(reason: str | None) -> str | None:
    """Return a finish reason, with one name for a response that was cut off."""
    return "length" if reason and reason.lower() in _CUT_REASONS else reason or None


def _split_content(content: object) -> tuple[str, str]:
    """Return the reasoning and the text of a message's content, which is text or a list of parts."""
    if isinstance(content, str):
        return "", content
    thoughts, text = "", ""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text += part["text"]
        elif isinstance(part, dict) and "thinking" in part:
            thoughts += "".join(_split_content(part["thinking"]))
    return thoughts, text
