"""OpenAI's protocol: build request bodies, parse lists of models and embeddings, and explain errors.

It opens no connections. `response_parser` parses the response to a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from llm_hf_models.errors import EngineLostError, EngineRequestError, TemplateRefusedError
from llm_hf_models.system.text import clean_text

MAX_ERROR_CHARS = 500
MODALITIES = ("image", "audio")  # input other than text that this package can send
NOT_FOUND = 404
LOOP = "loop"  # the finish reason of a response that repeated the same text

# The error of a chat template in llama.cpp, vLLM, TGI and LM Studio. vLLM returns only the template's own text.
_TEMPLATE_ERROR = re.compile(
    r"jinja(?:2\.| (?:exception|template|error))|(?:chat|this) template|template error|raise_exception"
    r"|roles must alternate|roles are supported|system role not supported|tool call ids?\b",
    re.IGNORECASE,
)
# llama.cpp reports a schema that it can't turn into a grammar as an error of the template's parser.
_SCHEMA_ERROR = re.compile(r"JSON schema error at (?P<where>#\S*): (?P<problem>.*)", re.DOTALL)
_BEFORE_REFUSAL = re.compile(r".*(?:Jinja Exception|Template error|TemplateError): +", re.IGNORECASE | re.DOTALL)


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
    loop_limit: int = 0  # stop after this many repeated tokens; 0 never stops


@dataclass(frozen=True)
class Piece:
    """A piece of a streamed completion's text."""

    kind: Literal["text", "reasoning"]
    text: str


@dataclass(frozen=True)
class Finish:
    """The end of a completion: its finish reason, token counts and speeds."""

    reason: str | None  # stop, length, tool_calls; LOOP if this package stopped it
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


def parse_embeddings(data: bytes, count: int) -> list[list[float]]:
    """Return the vectors of an embeddings response, in the order of the texts.

    Args:
        data: The response's body.
        count: The number of texts in the request.

    Raises:
        EngineLostError: The number of vectors differs from `count`, or the response is not in OpenAI's protocol.
    """
    vectors = {item.index: item.embedding for item in parse_json(_Embeddings, data).data}
    if vectors.keys() != set(range(count)):
        raise build_protocol_error(f"{len(vectors)} vectors for {count} texts")
    return [vectors[index] for index in range(count)]


def parse_served_models(data: bytes) -> list[ServedModel]:
    """Return the models of a `/v1/models` response, with control characters removed from their names.

    Raises:
        EngineLostError: The response is not in OpenAI's protocol.
    """
    models = parse_json(_Models, data).data
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


def parse_json(kind: type[Any], data: bytes) -> Any:  # noqa: ANN401 - an instance of `kind`
    """Return JSON as an instance of a pydantic model.

    Raises:
        EngineLostError: The JSON does not fit the model.
    """
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
    is_refusal = _find_template_refusal(_extract_message(error)) is not None
    if url is not None and not is_refusal and (status == NOT_FOUND or not isinstance(error, (dict, str))):
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


def format_count_if_known(value: object) -> str:
    """Return a count that a server may have left out."""
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"


def _explain_error(error: object, status: int | None, *, can_grow_context: bool) -> EngineRequestError:
    """Return an exception with the server's message, or with a clearer one for a prompt that exceeds the context."""
    if isinstance(error, dict) and error.get("type") == "exceed_context_size_error":
        prompt, context = (format_count_if_known(error.get(name)) for name in ("n_prompt_tokens", "n_ctx"))
        return EngineRequestError(
            f"The prompt has {prompt} tokens; the context holds {context}",
            hint=("Set a larger context with -o context N, or shorten" if can_grow_context else "Shorten")
            + " the prompt.",
        )
    message = _extract_message(error)
    if schema_error := _SCHEMA_ERROR.search(message):
        return EngineRequestError(
            "The engine can't use the JSON schema of the response or of a tool",
            cause=f"{schema_error['where']}: {schema_error['problem']}",
            hint="Correct or remove that part of the schema.",
        )
    if refusal := _find_template_refusal(message):
        return TemplateRefusedError("The chat template refused the conversation", cause=refusal)
    return EngineRequestError(
        message or "The endpoint refused the request", cause=f"HTTP {status}" if status and not message else None
    )


def _find_template_refusal(message: str) -> str | None:
    """Return the message of a chat template that raised an error; None if the error has another reason."""
    if not _TEMPLATE_ERROR.search(message) or _SCHEMA_ERROR.search(message):
        return None
    return _BEFORE_REFUSAL.sub("", message) or message


def _extract_message(error: object) -> str:
    """Return the text of a server's `error`, `detail` or `message` value, cleaned for display."""
    message = error.get("message", "") if isinstance(error, dict) else error
    return clean_text(message if isinstance(message, str) else json.dumps(message), MAX_ERROR_CHARS) if message else ""
