"""Prepare a model for a prompt: combine its options, check its files, and start its engine if needed."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_hf_models import settings
from llm_hf_models.errors import BadInputError, EngineStartError, MissingFileError
from llm_hf_models.inference import engine
from llm_hf_models.inference.engine import Endpoint, EngineSpec, Notify
from llm_hf_models.inference.model_files import check_files_unchanged
from llm_hf_models.inference.protocol import options as inference_options
from llm_hf_models.inference.protocol.chat_template import describe_template_commands
from llm_hf_models.inference.protocol.thinking import check_thinking_options
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import (
    ENDPOINT_KEY_ENV,
    ENDPOINT_KEY_NAME,
    ENDPOINT_MODEL,
    SYSTEM,
    TEMPLATE,
    LocalModel,
)
from llm_hf_models.paths import user_dir
from llm_hf_models.redaction import remember

_TEMPLATE_PROBLEM = re.compile(r"chat[ _]template")  # in the errors of llama.cpp's log


def record_use(model_id: str, endpoint: Endpoint, db: Database, tokens_per_second: float | None = None) -> None:
    """Record in the library that a model and its engine were used now."""
    with db.transaction():
        db.touch_model(model_id)
        if endpoint.fingerprint is not None:
            db.touch_engine(endpoint.fingerprint, tokens_per_second)


def list_defaults(model: LocalModel) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the origin and the options of each layer of a model's defaults. A later layer overrides an earlier one.

    Raises:
        BadInputError: A stored option is unknown or out of range.
    """
    yield "generation_config.json", inference_options.convert_sampling(model.hub.get("generation_config") or {})
    yield "header", inference_options.convert_sampling(model.facts.sampling)
    yield "llm hf set", inference_options.validate_stored_options(model.user_options, model.model_id)


def resolve_options(
    model: LocalModel, explicit: Iterable[tuple[str, Any]], fields: Collection[str] = ()
) -> tuple[dict[str, Any], str | None]:
    """Combine the options for one prompt.

    The prompt's own options take precedence, then those stored for the model, then those that its makers recommend.

    Args:
        model: The model.
        explicit: The prompt's own options.
        fields: Other parts of the request, such as `tools`, that take precedence over stored options.

    Returns:
        The options by name, and the model's own system prompt.

    Raises:
        BadInputError: An option is unknown, out of range, or not supported by this model.
    """
    options: dict[str, Any] = {}
    for _, layer in list_defaults(model):
        options = inference_options.combine_layers(options, layer)
    system = options.pop(SYSTEM, None)
    options.pop(TEMPLATE, None)
    given = {key: value for key, value in explicit if value is not None}
    check_applicable(model, given)
    remaining = inference_options.drop_overridden(options, fields)
    return inference_options.combine_layers(remaining, given), system


def check_applicable(model: LocalModel, options: Mapping[str, Any]) -> None:
    """Raise an error if the model does not support an option, even though its value is in range.

    Raises:
        BadInputError: An option is not supported by this model.
    """
    check_thinking_options(model, options)
    maximum = model.facts.context_length
    if maximum and options.get("context", 0) > maximum:
        raise BadInputError(f"Option 'context': {model.model_id} supports at most {maximum:,} tokens")


def ensure_endpoint(
    model: LocalModel, options: Mapping[str, Any], db: Database, notify: Notify, *, key: str | None = None
) -> Endpoint:
    """Return a model's endpoint, starting its engine if needed.

    Args:
        model: The local model, or a model on a remote endpoint.
        options: All options of this prompt.
        db: The library that records engines.
        notify: Called with each message for the user.
        key: The key for a remote endpoint, instead of the stored one.

    Raises:
        MissingFileError, FileChangedError: A file of the model is missing or has changed.
        BadInputError: The model's remote endpoint needs a key that is not set.
        EngineError: The engine can't be started.
    """
    if model.endpoint is not None:
        return build_remote_endpoint(model, key)
    check_files_unchanged(model, db, notify)
    current = settings.load()
    spec = _build_spec(
        model,
        context=options.get("context", current.context),
        threads=options.get("threads", 0),
        gpu_layers=options.get("gpu_layers", current.gpu_layers),
        pooling=options.get("pooling") if model.facts.kind == "embedding" else None,
    )
    try:
        return engine.ensure_engine(
            spec, db, current, keep_alive=options.get("keep_alive", current.keep_alive), notify=notify
        )
    except EngineStartError as error:
        _explain_start_error(error, model, spec)
        raise


def _explain_start_error(error: EngineStartError, model: LocalModel, spec: EngineSpec) -> None:
    """Name the chat template or projector in an error if it prevented the start, and the command that replaces it."""
    is_custom = model.user_template is not None
    if _TEMPLATE_PROBLEM.search(error.cause or ""):
        error.message = f"llama.cpp can't use the chat template of {model.model_id}"
        error.hint = describe_template_commands(model.model_id, is_custom)
    elif error.hint is not None:
        return
    elif spec.mmproj_path and "mmproj" in (error.cause or ""):
        source = model.model_id.removeprefix("hf/") if model.place == "cache" else str(spec.model_path)
        again = f"llm hf {'pull' if model.place == 'cache' else 'import'} {shlex.quote(source)} --no-mmproj"
        error.hint = f"The projector {spec.mmproj_path.name} may belong to another model. Without it: {again}"
    elif is_custom:
        error.hint = f"It uses a custom template. To remove it: llm hf set {model.model_id} --unset template"


def build_remote_endpoint(model: LocalModel, key: str | None = None) -> Endpoint:
    """Return the endpoint of a model that runs on a remote endpoint.

    Args:
        model: The model.
        key: The key to send, instead of the stored one.

    Raises:
        BadInputError: The endpoint needs a key that is not set.
    """
    base_url = (model.endpoint or "").rstrip("/").removesuffix("/v1")
    key = key or _find_stored_key(model)
    remember(key)  # the server may repeat it
    return Endpoint(base_url, key=key, model=model.options.get(ENDPOINT_MODEL))


def _find_stored_key(model: LocalModel) -> str | None:
    """Return a remote endpoint's key from an environment variable or llm's keys, or None if it needs none."""
    variable, name = model.options.get(ENDPOINT_KEY_ENV), model.options.get(ENDPOINT_KEY_NAME)
    if variable is None and name is None:
        return None
    key = os.environ.get(variable) if variable else read_llm_keys().get(name or "")
    if not key:
        raise BadInputError(
            f"The key of {model.model_id} at {model.endpoint} is not set",
            hint=f"Set the environment variable {variable}." if variable else f"llm keys set {name}",
        )
    return key


def read_llm_keys() -> dict[str, str]:
    """Return the keys set by `llm keys set`, by name. They belong to llm: never change or show them.

    Raises:
        BadInputError: The keys file can't be read.
    """
    path = user_dir() / "keys.json"
    try:
        keys = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise BadInputError(f"Can't read llm's keys in {path}", cause=type(error).__name__) from None
    return {name: key for name, key in keys.items() if isinstance(key, str)} if isinstance(keys, dict) else {}


def _build_spec(model: LocalModel, *, context: int, threads: int, gpu_layers: int, pooling: str | None) -> EngineSpec:
    weights = [Path(file.location) for file in model.files if file.role == "weights"]
    if not weights:
        raise MissingFileError(f"{model.model_id} has no recorded weights", hint=f"llm hf rm {model.model_id}")
    mmproj = next((Path(file.location) for file in model.files if file.role == "mmproj"), None)
    return EngineSpec(
        model_id=model.model_id,
        model_path=weights[0],
        shard_paths=tuple(weights[1:]),
        mmproj_path=mmproj,
        facts=model.facts,
        context=context,
        gpu_layers=gpu_layers,
        threads=threads,
        chat_template=model.user_template,
        pooling=pooling,
    )
