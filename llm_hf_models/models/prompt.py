"""A short prompt to a local model, answered in one piece: the proof that it works. Conversations:
llm_plugin/models.py.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, InterruptedByUserError
from llm_hf_models.inference import client as inference_client
from llm_hf_models.inference.model_endpoint import ensure_endpoint, record_use, resolve_options
from llm_hf_models.inference.openai_protocol import Finish, Turn
from llm_hf_models.inference.options import build_request_fields, validate_options
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.types import PromptResult

MAX_PROMPT_CHARS = 20_000


def prompt(
    context: Context,
    name: str,
    text: str,
    *,
    system: str | None,
    options: Mapping[str, Any],
    stop: threading.Event,
) -> PromptResult:
    """One turn, started and loaded as llm would. Setting `stop` ends the engine's work on it.

    Raises:
        UnknownModelError, BadInputError, EngineError
        MissingFileError, FileChangedError: the model's files are not what was pulled.
        InterruptedByUserError: `stop` was set.
    """
    if not text.strip() or len(text) > MAX_PROMPT_CHARS:
        raise BadInputError(f"A prompt has 1 to {MAX_PROMPT_CHARS:,} characters")
    notes: list[str] = []
    with context.open_library() as db:
        model = db.find_model(name)
        if model.facts.kind in ("embedding", "reranker") and not model.endpoint:
            raise BadInputError(f"{model.model_id} is no model to talk to: it is of the kind {model.facts.kind}")
        merged, own_system = resolve_options(model, validate_options(options, "this prompt").items())
        endpoint = ensure_endpoint(model, merged, db, notes.append)
        said: dict[str, list[str]] = {"text": [], "reasoning": []}
        end = Finish(None)
        with closing(
            inference_client.stream_completion(endpoint, _build_turn(model, text, system or own_system, merged))
        ) as items:
            for item in items:
                if stop.is_set():
                    raise InterruptedByUserError("The prompt was stopped")
                if isinstance(item, Finish):
                    end = item
                elif item.kind in said:
                    said[item.kind].append(item.text)
        record_use(model.model_id, endpoint, db, end.tokens_per_second)
    return PromptResult(
        model_id=model.model_id,
        text="".join(said["text"]),
        reasoning="".join(said["reasoning"]),
        finish_reason=end.reason,
        input_tokens=end.input_tokens,
        output_tokens=end.output_tokens,
        tokens_per_second=end.tokens_per_second,
        load_seconds=endpoint.load_seconds,
        context=endpoint.context,
        notes=tuple(notes),
    )


def _build_turn(model: LocalModel, text: str, system: str | None, options: Mapping[str, Any]) -> Turn:
    fields = build_request_fields(options)
    if model.facts.kind == "base":
        return Turn((), fields, raw=True, prompt=f"{system}\n{text}" if system else text)
    head = [{"role": "system", "content": system}] if system else []
    return Turn([*head, {"role": "user", "content": text}], fields)
