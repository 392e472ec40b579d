"""Store the default options of models, and list the defaults that apply, with their sources."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError
from llm_hf_models.gguf.facts import apply_template
from llm_hf_models.gguf.template_audit import audit_template
from llm_hf_models.inference.model_endpoint import check_applicable, list_defaults
from llm_hf_models.inference.protocol import options as inference_options
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import (
    KIND,
    TEMPLATE,
    LocalModel,
    ModelDefault,
)
from llm_hf_models.models.types import SamplingValue
from llm_hf_models.system import machine

_ENGINE_KEYS = ("context", "keep_alive", "gpu_layers", "threads")


def set_options(context: Context, name: str, values: Mapping[str, Any], unset: Collection[str] = ()) -> LocalModel:
    """Store default options of a model, all of them or none. A prompt's own options take precedence.

    Args:
        context: The context with the library.
        name: The model.
        values: The options by name, typed or as text. The value of `template` is the template itself.
        unset: The options to reset to their defaults.

    Raises:
        UnknownModelError: The model does not exist.
        BadInputError: An option is unknown, out of range, not for this model, not set, or both set and unset.
    """
    with context.open_database() as db:
        return change_options(db, name, values, unset)


def change_options(db: Database, name: str, values: Mapping[str, Any], unset: Collection[str] = ()) -> LocalModel:
    """Store default options of a model in an open library, as `set_options` does."""
    if both := sorted(set(values) & set(unset)):
        raise BadInputError(f"Option {both[0][:60]!r} can't be both set and unset", hint="Use only one of them.")
    with db.transaction():
        model = db.find_model(name)
        kind = values.get(KIND) or model.facts.kind
        new_options = inference_options.validate_for_model(
            values, model.model_id, embedding=kind == "embedding", remote=model.endpoint is not None
        )
        user_options = model.user_options
        for key in unset:
            if key not in user_options:
                raise BadInputError(
                    f"Option {key[:60]!r} is not set for {model.model_id}",
                    hint=f"It has: {', '.join(sorted(user_options))}." if user_options else "It has no options.",
                )
        if TEMPLATE in new_options:
            _refuse_invalid_template(new_options[TEMPLATE])
        remaining = {key: value for key, value in model.options.items() if key not in unset}
        options = inference_options.combine_layers(remaining, new_options)
        facts = apply_template(model.facts, new_options.get(TEMPLATE))
        check_applicable(replace(model, facts=facts, options=options), new_options)
        db.set_options(model.model_id, options)
        return db.get_model(model.model_id)


def _refuse_invalid_template(template: str) -> None:
    for finding in audit_template(template, TEMPLATE):
        if finding.severity == "error":
            raise BadInputError(f"Option 'template': {finding.message}", cause=finding.code)
        if finding.code == "template-syntax":  # for the template in a file, this is only a warning
            raise BadInputError(f"Option 'template' can't be read: {finding.message}", cause=finding.where)


def list_effective_defaults(model: LocalModel) -> tuple[ModelDefault, ...]:
    """List every default that applies to a model now, with its source. The defaults of llama.cpp are left out.

    Raises:
        BadInputError: A stored option or a setting is invalid.
    """
    defaults: dict[str, ModelDefault] = {}
    if model.endpoint is None:
        defaults |= {default.key: default for default in _iter_engine_defaults(model)}
    for source, layer in list_defaults(model):
        defaults |= {key: ModelDefault(key, value, source) for key, value in layer.items()}
    return tuple(defaults.values())


def list_sampling(model: LocalModel) -> tuple[SamplingValue, ...]:
    """List every sampling value in force for a model, with its source and range.

    The defaults of a remote server are unknown and left out.

    Raises:
        BadInputError: A stored option is invalid.
    """
    if model.facts.kind not in ("chat", "base"):
        return ()
    own = inference_options.SAMPLING_DEFAULTS
    values = {key: (value, "default") for key, value in own.items() if model.endpoint is None or key == "loop_limit"}
    for source, layer in list_defaults(model):
        values |= {key: (layer[key], source) for key in own if key in layer}
    ranges = {key: inference_options.get_range(key) for key in values}
    return tuple(SamplingValue(key, *values[key], *ranges[key]) for key in own if key in values)


def _iter_engine_defaults(model: LocalModel) -> Iterator[ModelDefault]:
    """Yield the engine settings with the values that apply to this model."""
    now = settings.load()
    max_context = model.facts.context_length
    for key in _ENGINE_KEYS:
        value, source = getattr(now, key), f"setting ({settings.find_source(key)})"
        if key == "context" and max_context and not 0 < value <= max_context:
            value, source = max_context, "header"
        if key == "threads" and value == 0:
            value, source = machine.choose_thread_count(), "this machine"
        yield ModelDefault(key, value, source)
