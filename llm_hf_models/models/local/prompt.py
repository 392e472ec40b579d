"""Send one short prompt to a local model and return the complete response (conversations: llm_plugin/models.py)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, InterruptedByUserError
from llm_hf_models.inference.model_endpoint import ensure_endpoint, record_use, resolve_options
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol.openai_protocol import Finish, Piece, Turn
from llm_hf_models.inference.protocol.options import DEFAULT_LOOP_LIMIT, build_request_fields, validate_options
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
    """Send one prompt to a model, with an engine that is started as llm would start it.

    Setting `stop` ends the engine's work on the prompt.

    Raises:
        UnknownModelError: The model does not exist.
        BadInputError: The prompt or an option is invalid, or the model can't be prompted.
        EngineError: The engine failed.
        MissingFileError: A file of the model no longer exists.
        FileChangedError: A file of the model was modified after verification.
        InterruptedByUserError: `stop` was set.
    """
    if not text.strip() or len(text) > MAX_PROMPT_CHARS:
        raise BadInputError(f"A prompt must have 1 to {MAX_PROMPT_CHARS:,} characters")
    notes: list[str] = []
    with context.open_database() as db:
        model = db.find_model(name)
        if model.facts.kind in ("embedding", "reranker") and not model.endpoint:
            article = "an" if model.facts.kind == "embedding" else "a"
            raise BadInputError(f"{model.model_id} is {article} {model.facts.kind} model and can't be prompted")
        merged, default_system = resolve_options(model, validate_options(options, "this prompt").items())
        connect = partial(ensure_endpoint, model, merged, db, notes.append)
        endpoint = replace(connect(), can_grow_context=False)  # so that no error advises `-o context`: there is no `-o`
        output: dict[str, list[str]] = {"text": [], "reasoning": []}
        end = Finish(None)
        turn = _build_turn(model, text, system or default_system, merged)
        with closing(inference_client.stream_completion(endpoint, turn, reconnect=connect)) as items:
            for item in items:
                if stop.is_set():
                    raise InterruptedByUserError("The prompt was stopped")
                if isinstance(item, Finish):
                    end = item
                elif isinstance(item, Piece):
                    output[item.kind].append(item.text)
        record_use(model.model_id, endpoint, db, end.tokens_per_second)
    return PromptResult(
        id=model.model_id,
        text="".join(output["text"]),
        reasoning="".join(output["reasoning"]),
        finish_reason=end.reason,
        input_tokens=end.input_tokens,
        output_tokens=end.output_tokens,
        tokens_per_second=end.tokens_per_second,
        load_seconds=endpoint.load_seconds,
        context=endpoint.context,
        notes=tuple(notes),
    )


def _build_turn(model: LocalModel, text: str, system: str | None, options: Mapping[str, Any]) -> Turn:
    fields, loop_limit = build_request_fields(options), options.get("loop_limit", DEFAULT_LOOP_LIMIT)
    wants_object = bool(options.get("json_object"))
    if model.facts.kind == "base":
        fields |= {"json_schema": {"type": "object"}} if wants_object else {}
        return Turn((), fields, raw=True, prompt=f"{system}\n{text}" if system else text, loop_limit=loop_limit)
    head = [{"role": "system", "content": system}] if system else []
    messages = [*head, {"role": "user", "content": text}]
    response_format = {"type": "json_object"} if wants_object else None
    return Turn(messages, fields, response_format=response_format, loop_limit=loop_limit)
