"""OpenAI's protocol: build request bodies and parse responses as they arrive. Opens no connections."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from llm_hf_models.errors import EngineLostError, EngineRequestError
from llm_hf_models.system.text import clean_text

MAX_LINE_BYTES = 16 * 2**20  # of one event; an unstreamed response is a single line
MAX_ERROR_CHARS = 500
MODALITIES = ("image", "audio")  # input other than text that this package can send
NOT_FOUND = 404


@dataclass(frozen=True)
class Turn:
    """The content of one request: messages in OpenAI's format, and options named as in llama.cpp's server."""

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)  # temperature, max_tokens, seed, stop …
    tools: Sequence[Mapping[str, Any]] = ()
    response_format: Mapping[str, Any] | None = None
    stream: bool = True
    raw: bool = False  # complete `prompt` without a chat template, for a base model
    prompt: str = ""


@dataclass(frozen=True)
class Piece:
    """One piece of a streamed completion."""

    kind: Literal["text", "reasoning", "tool_name", "tool_args"]
    text: str
    index: int = 0  # number of the tool call
    call_id: str | None = None


@dataclass(frozen=True)
class Finish:
    """The end of a completion: its finish reason, token counts and speeds."""

    reason: str | None  # stop, length, tool_calls
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_per_second: float | None = None
    tokens_per_second: float | None = None
    model: str | None = None


@dataclass(frozen=True)
class ServedModel:
    """One model in a server's list. `modalities` lists the input other than text that it accepts; None if unknown."""

    name: str
    modalities: tuple[str, ...] | None = None
    aliases: tuple[str, ...] = ()

    def has_name(self, name: str) -> bool:
        """Return whether a request can use this name for the model."""
        return name in (self.name, *self.aliases)


class _Function(BaseModel):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None  # some servers send the object itself


class _ToolCall(BaseModel):
    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None  # llama.cpp, SGLang, DeepSeek
    reasoning: Any = None  # vLLM's and OpenRouter's name for it
    tool_calls: list[_ToolCall] | None = None


class _Choice(BaseModel):
    delta: _Message | None = None  # in a stream
    message: _Message | None = None  # in an unstreamed response
    text: str | None = None  # in a raw completion
    finish_reason: str | None = None


class _CachedTokens(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None


class _Timings(BaseModel):
    prompt_per_second: float | None = None
    predicted_per_second: float | None = None


class _Chunk(BaseModel):
    """One event of a stream (its choices have a `delta`) or an unstreamed response (they have a `message`)."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    model: str | None = None
    error: dict[str, Any] | str | None = None


class _Embedding(BaseModel):
    index: int
    embedding: list[float]


class _Embeddings(BaseModel):
    data: list[_Embedding]


class _Architecture(BaseModel):
    input_modalities: list[str] = []


class _Model(BaseModel):
    id: str
    architecture: Any = None  # llama.cpp and OpenRouter put `input_modalities` here
    aliases: Any = None  # llama.cpp: other names that a request may use


class _Models(BaseModel):
    data: list[_Model]


def get_request_path(turn: Turn) -> str:
    """Return the path for a turn's request, below the endpoint's base URL."""
    return "/v1/completions" if turn.raw else "/v1/chat/completions"


def build_request_body(turn: Turn, *, model: str | None, local_engine: bool) -> dict[str, Any]:
    """Return the JSON body of a turn's request.

    Args:
        turn: The messages and options.
        model: The model's name on the server, None to leave it out.
        local_engine: Whether the server is a llama.cpp engine that this package started. It takes more fields than
            OpenAI's protocol has.
    """
    body: dict[str, Any] = dict(turn.options)
    if turn.raw:
        body["prompt"] = turn.prompt
    else:
        body["messages"] = list(turn.messages)
    if model:
        body["model"] = model
    if not local_engine and "repeat_penalty" in body:
        body["repetition_penalty"] = body["repeat_penalty"]  # its name in vLLM, SGLang and TGI
    if turn.tools:
        body["tools"] = list(turn.tools)
    if turn.response_format is not None:
        body["response_format"] = turn.response_format
    # A local engine always streams: the request can be cancelled, and the read timeout detects a stalled engine.
    body["stream"] = turn.stream or local_engine
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
        if local_engine:
            # While llama.cpp processes a prompt, it notices a closed connection only when it sends something.
            body["return_progress"] = True
    return body


def build_embeddings_body(texts: Sequence[str | list[int]], *, model: str | None) -> dict[str, Any]:
    """Return the JSON body of a request for embeddings."""
    return {"input": list(texts), "encoding_format": "float"} | ({"model": model} if model else {})


class ResponseParser:
    """Parses the bytes of a response into pieces, strictly.

    A stream consists of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). Each
    event is one JSON value, and `[DONE]` ends the stream. An unstreamed response is parsed too, because some servers
    send one even if a stream was requested.
    """

    def __init__(self, *, stream: bool, can_grow_context: bool = False) -> None:
        """Start with no data.

        Args:
            stream: Whether the response's content type is a stream.
            can_grow_context: Whether the engine can be restarted with a larger context, for the hint of an error.
        """
        self._stream, self._can_grow_context = stream, can_grow_context
        self._buffer = bytearray()
        self._reason: str | None = None
        self._last = _Chunk()  # the most recent usage, timings and model
        self._done = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Yield the pieces that these bytes complete.

        Raises:
            EngineRequestError: The server reported an error.
            EngineLostError: The response is not in OpenAI's protocol.
        """
        self._buffer += data
        if self._stream:
            while (end := self._buffer.find(b"\n")) >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                yield from self._parse_line(line.rstrip(b"\r"))
        if len(self._buffer) > MAX_LINE_BYTES:
            raise build_protocol_error("an event without an end")

    def end(self) -> Iterator[Piece | Finish]:
        """Yield the remaining pieces after the response has ended; the last item is the Finish.

        Raises:
            EngineLostError: The response ended before the completion was finished.
        """
        if not self._stream:
            yield from self._parse_chunk(bytes(self._buffer))
            self._done = True
        if not self._done and self._reason is None:
            raise EngineLostError("The engine closed the connection before the response was complete")
        usage = self._last.usage or _Usage()
        timings = self._last.timings or _Timings()
        yield Finish(
            reason=self._reason,
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cached_tokens=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None,
            prompt_per_second=timings.prompt_per_second,
            tokens_per_second=timings.predicted_per_second,
            model=self._last.model,
        )

    def _parse_line(self, line: bytes) -> Iterator[Piece]:
        field_name, _, value = line.partition(b":")
        if field_name != b"data" or self._done:
            return  # a blank line, a comment such as `: ping`, `event:`, `id:` or `retry:`
        value = value.strip()
        if value == b"[DONE]":
            self._done = True
        else:
            yield from self._parse_chunk(value)

    def _parse_chunk(self, data: bytes) -> Iterator[Piece]:
        chunk = _parse_json(_Chunk, data)
        if chunk.error is not None:
            raise build_request_error(chunk.error, can_grow_context=self._can_grow_context)
        self._last = _Chunk(
            usage=chunk.usage or self._last.usage,
            timings=chunk.timings or self._last.timings,
            model=chunk.model or self._last.model,
        )
        for choice in chunk.choices[:1]:
            self._reason = choice.finish_reason or self._reason
            yield from _extract_pieces(choice)


def _extract_pieces(choice: _Choice) -> Iterator[Piece]:
    message = choice.delta or choice.message or _Message()
    reasoning = message.reasoning_content or message.reasoning
    if reasoning and isinstance(reasoning, str):
        yield Piece("reasoning", reasoning)
    if text := choice.text or message.content:
        yield Piece("text", text)
    for position, call in enumerate(message.tool_calls or ()):
        index = position if call.index is None else call.index
        if call.function.name:
            yield Piece("tool_name", call.function.name, index, call.id)
        arguments = call.function.arguments
        if arguments:
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            yield Piece("tool_args", text, index, call.id)


def parse_embeddings(data: bytes, count: int) -> list[list[float]]:
    """Return the vectors of an embeddings response, in the order of the texts.

    Args:
        data: The response's body.
        count: The number of texts in the request.

    Raises:
        EngineLostError: The number of vectors differs from `count`, or the response is not in OpenAI's protocol.
    """
    vectors = {item.index: item.embedding for item in _parse_json(_Embeddings, data).data}
    if vectors.keys() != set(range(count)):
        raise build_protocol_error(f"{len(vectors)} vectors for {count} texts")
    return [vectors[index] for index in range(count)]


def parse_served_models(data: bytes) -> list[ServedModel]:
    """Return the models of a `/v1/models` response, with control characters removed from their names.

    Raises:
        EngineLostError: The response is not in OpenAI's protocol.
    """
    models = _parse_json(_Models, data).data
    return [
        ServedModel(
            clean_text(model.id, MAX_ERROR_CHARS),
            _parse_modalities(model.architecture),
            _parse_aliases(model.aliases),
        )
        for model in models
    ]


def _parse_aliases(value: object) -> tuple[str, ...]:
    """Return the strings in a server's `aliases` field; empty if it is not a list."""
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()


def _parse_modalities(architecture: object) -> tuple[str, ...] | None:
    """Return the input modalities that this package can send, other than text. None if the field can't be parsed."""
    try:
        modalities = _Architecture.model_validate(architecture).input_modalities
    except ValidationError:
        return None
    return tuple(kind for kind in MODALITIES if kind in modalities) if modalities else None


def _parse_json(kind: type[Any], data: bytes) -> Any:  # noqa: ANN401 - an instance of `kind`
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise build_protocol_error(
            clean_text(data.decode("utf-8", "replace"), 120) or error.errors()[0]["msg"]
        ) from None


def build_protocol_error(cause: str) -> EngineLostError:
    """Return the error for a response that is not in OpenAI's protocol."""
    return EngineLostError(
        "The endpoint's response is not in OpenAI's protocol",
        cause=cause,
        hint="Check the address, which `llm hf list` shows.",
    )


def build_response_error(
    status: int, data: bytes, url: str | None = None, *, can_grow_context: bool = False
) -> EngineRequestError:
    """Return the error for a response with status 300 or higher.

    Args:
        status: The HTTP status.
        data: The response's body.
        url: The request's URL, if the endpoint is remote.
        can_grow_context: Whether the engine can be restarted with a larger context.
    """
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    error = body.get("error") or body.get("detail") or body.get("message") if isinstance(body, dict) else None
    if status in (401, 403):
        return EngineRequestError(
            "The endpoint did not accept the key",
            cause=_extract_message(error) or f"HTTP {status}",
            hint="Set the key with `llm hf attach`: --key-env VAR, or --key-name NAME from `llm keys`.",
        )
    if url is not None and (status == NOT_FOUND or not isinstance(error, (dict, str))):
        message = _extract_message(error) or (
            "" if data.lstrip()[:1] == b"<" else clean_text(data.decode("utf-8", "replace"))
        )
        request_error = EngineRequestError(
            f"{url} returned HTTP {status}",
            cause=message[:MAX_ERROR_CHARS] or None,
            hint="Check the address and the model's name, which `llm hf show NAME` prints.",
        )
    else:
        error = error if error is not None else {"message": data.decode("utf-8", "replace")}
        request_error = _explain_error(error, status, can_grow_context=can_grow_context)
    request_error.status = status
    return request_error


def build_request_error(
    error: object, status: int | None = None, *, can_grow_context: bool = False
) -> EngineRequestError:
    """Return the exception for an `error` value in a response.

    Args:
        error: The JSON value of the response's `error` field.
        status: The HTTP status. If None, the error's own `code` is used.
        can_grow_context: Whether the engine can be restarted with a larger context.
    """
    request_error = _explain_error(error, status, can_grow_context=can_grow_context)
    code = error.get("code") if isinstance(error, dict) else None
    request_error.status = status or (code if isinstance(code, int) else None)
    return request_error


def _explain_error(error: object, status: int | None, *, can_grow_context: bool) -> EngineRequestError:
    """Return an exception with the server's message, or with a clearer one for a prompt that exceeds the context."""
    if isinstance(error, dict) and error.get("type") == "exceed_context_size_error":
        return EngineRequestError(
            f"The prompt has {error.get('n_prompt_tokens')} tokens; the context holds {error.get('n_ctx')}",
            hint=("Set a larger context with -o context N, or shorten" if can_grow_context else "Shorten")
            + " the prompt.",
        )
    message = _extract_message(error)
    return EngineRequestError(
        message or "The endpoint refused the request", cause=f"HTTP {status}" if status and not message else None
    )


def _extract_message(error: object) -> str:
    """Return the text of a server's `error`, `detail` or `message` value, cleaned for display."""
    message = error.get("message", "") if isinstance(error, dict) else error
    return clean_text(message if isinstance(message, str) else json.dumps(message), MAX_ERROR_CHARS) if message else ""
