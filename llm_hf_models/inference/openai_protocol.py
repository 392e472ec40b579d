"""OpenAI's protocol as bytes and values: requests, and the pieces of an answer as they arrive. Opens no connection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from llm_hf_models.errors import EngineLostError, EngineRequestError
from llm_hf_models.system.text import clean_text

MAX_LINE_BYTES = 16 * 2**20  # one event; a whole answer in one piece stands on one line
MAX_ERROR_CHARS = 500
MODALITIES = ("image", "audio")  # what we can send beside text
NOT_FOUND = 404


@dataclass(frozen=True)
class Turn:
    """What is asked: messages in OpenAI's form, and the request's other fields as llama.cpp's server names them."""

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)  # temperature, max_tokens, seed, stop …
    tools: Sequence[Mapping[str, Any]] = ()
    response_format: Mapping[str, Any] | None = None
    stream: bool = True
    raw: bool = False  # complete `prompt` text without a chat template (a base model)
    prompt: str = ""


@dataclass(frozen=True)
class Piece:
    """One piece of an answer as it streams."""

    kind: Literal["text", "reasoning", "tool_name", "tool_args"]
    text: str
    index: int = 0  # of the tool call
    call_id: str | None = None


@dataclass(frozen=True)
class Finish:
    """How a turn ended. Token counts; times in seconds."""

    reason: str | None  # stop, length, tool_calls
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_per_second: float | None = None
    tokens_per_second: float | None = None
    model: str | None = None


@dataclass(frozen=True)
class ServedModel:
    """One model of a server's list. `modalities`: what it takes beside text, as the server says; None says nothing."""

    name: str
    modalities: tuple[str, ...] | None = None
    aliases: tuple[str, ...] = ()

    def has_name(self, name: str) -> bool:
        """Whether the server says that it knows it by that name."""
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
    reasoning: Any = None  # the same as vLLM and OpenRouter say it
    tool_calls: list[_ToolCall] | None = None


class _Choice(BaseModel):
    delta: _Message | None = None  # of a stream
    message: _Message | None = None  # of an answer in one piece
    text: str | None = None  # of a raw completion
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
    """One event of a stream, or a whole answer: they differ in `delta` or `message`."""

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
    aliases: Any = None  # llama.cpp: further names that a request may use


class _Models(BaseModel):
    data: list[_Model]


def get_request_path(turn: Turn) -> str:
    """Where a turn is sent, below the endpoint's base URL."""
    return "/v1/completions" if turn.raw else "/v1/chat/completions"


def build_request_body(turn: Turn, *, model: str | None, local_engine: bool) -> dict[str, Any]:
    """A turn as JSON. `local_engine`: a llama.cpp server of ours, which takes more than OpenAI's protocol has."""
    body: dict[str, Any] = dict(turn.options)
    if turn.raw:
        body["prompt"] = turn.prompt
    else:
        body["messages"] = list(turn.messages)
    if model:
        body["model"] = model
    if not local_engine and "repeat_penalty" in body:
        body["repetition_penalty"] = body["repeat_penalty"]  # its name with vLLM, SGLang and TGI
    if turn.tools:
        body["tools"] = list(turn.tools)
    if turn.response_format is not None:
        body["response_format"] = turn.response_format
    # Ours streams even where one piece is asked for: so it can be cancelled, and its silence means something.
    body["stream"] = turn.stream or local_engine
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
        if local_engine:
            # Without something to send, llama.cpp doesn't notice while it reads a prompt that the client has gone.
            body["return_progress"] = True
    return body


def build_embeddings_body(texts: Sequence[str], *, model: str | None) -> dict[str, Any]:
    """A request for vectors as JSON."""
    return {"input": list(texts), "encoding_format": "float"} | ({"model": model} if model else {})


class ResponseParser:
    """Turns the bytes of a response into pieces, strictly; knows nothing of connections.

    A stream is server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), one JSON value
    each, ended by `[DONE]`. A server that answers in one piece although a stream was asked for is understood too.
    """

    def __init__(self, *, stream: bool, may_grow: bool = False) -> None:
        """`stream` is what the server says it sends; `may_grow` whether a larger context can be asked for."""
        self._stream, self._may_grow = stream, may_grow
        self._rest = bytearray()
        self._reason: str | None = None
        self._last = _Chunk()  # usage, timings and model as they were said last
        self._done = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces that these bytes complete.

        Raises:
            EngineRefusedError: the server said an error.
            EngineLostError: what came is not the protocol.
        """
        self._rest += data
        if self._stream:
            while (end := self._rest.find(b"\n")) >= 0:
                line = bytes(self._rest[:end])
                del self._rest[: end + 1]
                yield from self._parse_line(line.rstrip(b"\r"))
        if len(self._rest) > MAX_LINE_BYTES:
            raise build_protocol_error("an event without an end")

    def end(self) -> Iterator[Piece | Finish]:
        """What is left when the response has ended; the last item is the Finish.

        Raises:
            EngineLostError: it ended in the middle.
        """
        if not self._stream:
            yield from self._parse_chunk(bytes(self._rest))
            self._done = True
        if not self._done and self._reason is None:
            raise EngineLostError("The answer broke off: the engine closed the connection in the middle")
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
            return  # a blank line, a comment (`: ping`), `event:`, `id:` or `retry:`
        value = value.strip()
        if value == b"[DONE]":
            self._done = True
        else:
            yield from self._parse_chunk(value)

    def _parse_chunk(self, data: bytes) -> Iterator[Piece]:
        chunk = _parse_json(_Chunk, data)
        if chunk.error is not None:
            raise build_refused_error(chunk.error, may_grow=self._may_grow)
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
            whole = arguments if isinstance(arguments, str) else json.dumps(arguments)
            yield Piece("tool_args", whole, index, call.id)


def parse_embeddings(data: bytes, count: int) -> list[list[float]]:
    """The vectors of an embeddings response, in the order of the texts.

    Raises:
        EngineRefusedError: the server said an error.
        EngineLostError: not as many as there were texts, or not the protocol.
    """
    found = {item.index: item.embedding for item in _parse_json(_Embeddings, data).data}
    if found.keys() != set(range(count)):
        raise build_protocol_error(f"{len(found)} vectors for {count} texts")
    return [found[index] for index in range(count)]


def parse_served_models(data: bytes) -> list[ServedModel]:
    """The models of a server's list, their names fit to be shown.

    Raises:
        EngineLostError: not the protocol.
    """
    found = _parse_json(_Models, data).data
    return [
        ServedModel(
            clean_text(one.id, MAX_ERROR_CHARS), _parse_modalities(one.architecture), _parse_aliases(one.aliases)
        )
        for one in found
    ]


def _parse_aliases(said: object) -> tuple[str, ...]:
    """A model's further names, of what a server put there."""
    return tuple(name for name in said if isinstance(name, str)) if isinstance(said, list) else ()


def _parse_modalities(architecture: object) -> tuple[str, ...] | None:
    """What a model takes beside text, of what we can send; None where its server says nothing that we understand."""
    try:
        said = _Architecture.model_validate(architecture).input_modalities
    except ValidationError:
        return None
    return tuple(kind for kind in MODALITIES if kind in said) if said else None


def _parse_json(kind: type[Any], data: bytes) -> Any:  # noqa: ANN401 - as its argument says
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise build_protocol_error(
            clean_text(data.decode("utf-8", "replace"), 120) or error.errors()[0]["msg"]
        ) from None


def build_protocol_error(what: str) -> EngineLostError:
    """The error for an answer that is not OpenAI's protocol."""
    return EngineLostError(
        "The endpoint's answer is not OpenAI's protocol", cause=what, hint="Check its address: `llm hf list` shows it."
    )


def build_response_error(
    status: int, data: bytes, url: str | None = None, *, may_grow: bool = False
) -> EngineRequestError:
    """The error for a response with a status from 300 on.

    Args:
        status: it.
        data: its body.
        url: what a server elsewhere was asked for.
        may_grow: whether a larger context can be asked for.
    """
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    said = body.get("error") or body.get("detail") or body.get("message") if isinstance(body, dict) else None
    if status in (401, 403):
        return EngineRequestError(
            "The endpoint did not accept the key",
            cause=_extract_message(said) or f"HTTP {status}",
            hint="Check it: `llm hf attach` takes it from --key-env VAR, or --key-name NAME of `llm keys`.",
        )
    if url is not None and (status == NOT_FOUND or not isinstance(said, (dict, str))):
        words = _extract_message(said) or (
            "" if data.lstrip()[:1] == b"<" else clean_text(data.decode("utf-8", "replace"))
        )
        found = EngineRequestError(
            f"{url} answered HTTP {status}",
            cause=words[:MAX_ERROR_CHARS] or None,
            hint="Check its address and the model's name there: `llm hf show NAME` has both.",
        )
    else:
        said = said if said is not None else {"message": data.decode("utf-8", "replace")}
        found = _explain_error(said, status, may_grow=may_grow)
    found.status = status
    return found


def build_refused_error(error: object, status: int | None = None, *, may_grow: bool = False) -> EngineRequestError:
    """The error for what a server said, in its words where ours don't know better; with its status, or its own code."""
    found = _explain_error(error, status, may_grow=may_grow)
    code = error.get("code") if isinstance(error, dict) else None
    found.status = status or (code if isinstance(code, int) else None)
    return found


def _explain_error(error: object, status: int | None, *, may_grow: bool) -> EngineRequestError:
    if isinstance(error, dict) and error.get("type") == "exceed_context_size_error":
        return EngineRequestError(
            f"The prompt has {error.get('n_prompt_tokens')} tokens; the context holds {error.get('n_ctx')}",
            hint=("Ask for a larger one with -o context N, or shorten" if may_grow else "Shorten") + " the prompt.",
        )
    words = _extract_message(error)
    return EngineRequestError(
        words or "The endpoint refused the request", cause=f"HTTP {status}" if status and not words else None
    )


def _extract_message(error: object) -> str:
    """What a server's `error`, `detail` or `message` says, fit to be shown."""
    said = error.get("message", "") if isinstance(error, dict) else error
    return clean_text(said if isinstance(said, str) else json.dumps(said), MAX_ERROR_CHARS) if said else ""
