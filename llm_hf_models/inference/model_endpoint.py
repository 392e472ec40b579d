"""From a local model to an endpoint that answers: its options, whether it may run, its engine. Asks it nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_hf_models import settings
from llm_hf_models.errors import BadInputError, EngineStartError, FileChangedError, MissingFileError
from llm_hf_models.inference import engine
from llm_hf_models.inference import options as inference_options
from llm_hf_models.inference.engine import Endpoint, EngineSpec, Notice
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


def record_use(model_id: str, endpoint: Endpoint, db: Database, tokens_per_second: float | None = None) -> None:
    """Notes in the library that a model, and its engine, were used now."""
    with db.transaction():
        db.touch_model(model_id)
        if endpoint.fingerprint is not None:
            db.touch_engine(endpoint.fingerprint, tokens_per_second)


def list_defaults(model: LocalModel) -> Iterator[tuple[str, dict[str, Any]]]:
    """A model's defaults, layer by layer: where from, and which. A later layer goes before an earlier one.

    Raises:
        BadInputError: what is kept is unknown or out of range.
    """
    yield "generation_config.json", inference_options.convert_sampling(model.hub.get("generation_config") or {})
    yield "header", inference_options.convert_sampling(model.facts.sampling)
    yield "llm hf set", inference_options.validate_stored_options(model.user_options, model.model_id)


def resolve_options(model: LocalModel, explicit: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], str | None]:
    """What holds for one prompt: its own options, then the person's for this model, then what its makers recommend.

    Returns:
        The options by name, and the model's own system prompt.

    Raises:
        BadInputError: one of them is unknown, out of range, or not for this model.
    """
    options: dict[str, Any] = {}
    for _, layer in list_defaults(model):
        options |= layer
    system = options.pop(SYSTEM, None)
    options.pop(TEMPLATE, None)
    given = {key: value for key, value in explicit if value is not None}
    check_applicable(model, given)
    return {**options, **given}, system


def check_applicable(model: LocalModel, options: Mapping[str, Any]) -> None:
    """Whether options that are valid in themselves go with this model.

    Raises:
        BadInputError: one does not.
    """
    if options.get("think") not in (None, "off") and not (model.facts.reasoning or model.endpoint):
        raise BadInputError("Option 'think': this model's chat template has no reasoning")
    most = model.facts.context_length
    if most and options.get("context", 0) > most:
        raise BadInputError(f"Option 'context': {model.model_id} was made for at most {most} tokens")


def ensure_endpoint(
    model: LocalModel, options: Mapping[str, Any], db: Database, notice: Notice, *, key: str | None = None
) -> Endpoint:
    """Where a model answers, its engine started if need be.

    Args:
        model: which.
        options: all that hold for this prompt.
        db: where engines are recorded.
        notice: told what a person should know.
        key: for a server elsewhere, instead of the one that is kept for it.

    Raises:
        MissingFileError, FileChangedError: its files are not what was pulled.
        BadInputError: it is served elsewhere, with a key that is not set.
        EngineError: the engine can't be started.
    """
    if model.endpoint is not None:
        return build_remote_endpoint(model, key)
    _check_files_unchanged(model)
    now = settings.load()
    spec = _build_spec(
        model,
        context=options.get("context", now.context),
        threads=options.get("threads", 0),
        gpu_layers=options.get("gpu_layers", now.gpu_layers),
    )
    try:
        return engine.ensure_engine(spec, db, now, keep_alive=options.get("keep_alive", now.keep_alive), notice=notice)
    except EngineStartError as error:
        if spec.chat_template and error.hint is None:
            error.hint = f"It has a template of your own, which goes with: llm hf set {model.model_id} --unset template"
        raise


def build_remote_endpoint(model: LocalModel, key: str | None = None) -> Endpoint:
    """Where a model that is served elsewhere answers; `key` goes before the one that is kept for it.

    Raises:
        BadInputError: it wants a key that is not set.
    """
    base_url = (model.endpoint or "").rstrip("/").removesuffix("/v1")
    return Endpoint(base_url, key=key or _find_stored_key(model), model=model.options.get(ENDPOINT_MODEL))


def _find_stored_key(model: LocalModel) -> str | None:
    """The key for a server elsewhere: of a variable, or among llm's keys. None where it wants none."""
    variable, name = model.options.get(ENDPOINT_KEY_ENV), model.options.get(ENDPOINT_KEY_NAME)
    if variable is None and name is None:
        return None
    found = os.environ.get(variable) if variable else read_llm_keys().get(name or "")
    if not found:
        raise BadInputError(
            f"The key of {model.model_id} at {model.endpoint} is not set",
            hint=f"Put it into the environment variable {variable}." if variable else f"llm keys set {name}",
        )
    return found


def read_llm_keys() -> dict[str, str]:
    """The keys that `llm keys set` keeps, by name. They are llm's: read only, and shown to nobody.

    Raises:
        BadInputError: their file can't be read.
    """
    path = user_dir() / "keys.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise BadInputError(f"Can't read llm's keys in {path}", cause=type(error).__name__) from None
    return {name: key for name, key in found.items() if isinstance(key, str)} if isinstance(found, dict) else {}


def _check_files_unchanged(model: LocalModel) -> None:
    """Only the bytes that were recorded: the files are there, untouched since their digest was taken, which was right.

    One stat a file, as every prompt passes here.
    """
    ref = model.model_id.removeprefix("hf/")
    again = f"llm hf pull {ref}" if model.repo else f"Put the file back, or forget it: llm hf rm {model.model_id}"
    for file in model.files:
        look = file.compare_with_disk()
        if look == "missing":
            raise MissingFileError(f"{file.path} of {model.model_id} is gone", cause=file.location, hint=again)
        if look == "other size":
            raise FileChangedError(
                f"{file.path} of {model.model_id} has changed, and is not run",
                cause=f"It no longer has the {file.size} bytes that were recorded.",
                hint=f"llm hf verify {model.model_id}, or get it anew: {again}",
            )
        if look == "touched" and not model.has_digest_mismatch:
            raise FileChangedError(
                f"{file.path} of {model.model_id} was written to since its digest was taken, and is not run",
                cause="Its size is the same; its bytes may be others.",
                hint=f"This reads it, and lets it run if it is unchanged: llm hf verify {model.model_id}",
            )
    if model.has_digest_mismatch:
        raise FileChangedError(
            f"{model.model_id} is quarantined: its bytes are not those that were recorded",
            hint=f"llm hf verify {model.model_id}, or get it anew: {again}",
        )


def _build_spec(model: LocalModel, *, context: int, threads: int, gpu_layers: int) -> EngineSpec:
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
    )
