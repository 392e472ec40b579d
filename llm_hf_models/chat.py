"""One turn over an endpoint in OpenAI's protocol: request, stream, usage; sync and async. Knows nothing of llm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_hf_models.engine import Endpoint


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


def answer(endpoint: Endpoint, turn: Turn) -> Iterator[Piece | Finish]:
    """Streams one answer; the last item is the Finish. Closing the iterator stops the engine's work on it.

    Raises:
        EngineRefusedError: it answered with an error: a wrong option, a prompt larger than the context.
        EngineLostError: it died or stopped answering.
    """
    raise NotImplementedError


def answer_async(endpoint: Endpoint, turn: Turn) -> AsyncIterator[Piece | Finish]:
    """The same for asyncio."""
    raise NotImplementedError


def embed(endpoint: Endpoint, texts: Sequence[str]) -> list[list[float]]:
    """One vector for each text.

    Raises:
        EngineRefusedError, EngineLostError
    """
    raise NotImplementedError
