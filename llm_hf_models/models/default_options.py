"""How models run, as a person arranges it: kept options, where defaults come from, servers elsewhere, their health.

Starts no engine and sends no prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError
from llm_hf_models.gguf.facts import apply_template
from llm_hf_models.gguf.template_audit import audit_template
from llm_hf_models.inference import options as inference_options
from llm_hf_models.inference.model_endpoint import check_applicable, list_defaults
from llm_hf_models.library.records import (
    TEMPLATE,
    LocalModel,
    ModelDefault,
)
from llm_hf_models.system import machine

HEALTH_SECONDS = 2.0  # for all servers together: `llm hf list` waits for them
ATTACH_SECONDS = 10.0
MAX_LISTED_MODELS = 8  # models of a server in a message
_ENGINE_KEYS = ("context", "keep_alive", "gpu_layers", "threads")


# Options


def set_options(context: Context, name: str, values: Mapping[str, Any], unset: Collection[str] = ()) -> LocalModel:
    """Keeps options for a model, all of them or none. They hold where a prompt doesn't give its own.

    Args:
        context: the library.
        name: the model.
        values: by name, as typed or as text; `template` is the template itself.
        unset: options to go back on.

    Raises:
        UnknownModelError: no such model.
        BadInputError: an option is unknown, out of range, not for this model, not set, or both set and unset.
    """
    if both := sorted(set(values) & set(unset)):
        raise BadInputError(f"Option {both[0][:60]!r} can't be both set and unset", hint="Leave one of the two out.")
    with context.open_library() as db, db.transaction():
        model = db.find_model(name)
        given = inference_options.validate_for_model(
            values, model.model_id, embedding=model.facts.kind == "embedding", remote=model.endpoint is not None
        )
        own = model.user_options
        for key in unset:
            if key not in own:
                raise BadInputError(
                    f"Option {key[:60]!r} is not set for {model.model_id}",
                    hint=f"It has {', '.join(sorted(own))}." if own else "None is.",
                )
        if TEMPLATE in given:
            _refuse_template(given[TEMPLATE])
        check_applicable(replace(model, facts=apply_template(model.facts, given.get(TEMPLATE))), given)
        kept = {key: value for key, value in model.options.items() if key not in unset}
        db.set_options(model.model_id, {**kept, **given})
        return db.get_model(model.model_id)


def _refuse_template(template: str) -> None:
    for finding in audit_template(template, TEMPLATE):
        if finding.severity == "error":
            raise BadInputError(f"Option 'template': {finding.message}", cause=finding.code)
        if finding.code == "template-syntax":  # of a file's own only a warning: there the engine has the last word
            raise BadInputError(f"Option 'template' can't be read: {finding.message}", cause=finding.where)


def list_effective_defaults(model: LocalModel) -> tuple[ModelDefault, ...]:
    """Every default that holds for a model now, with where it comes from; what is llama.cpp's own is left out.

    Raises:
        BadInputError: what is kept for it, or a setting, is none.
    """
    found: dict[str, ModelDefault] = {}
    if model.endpoint is None:
        found |= {default.key: default for default in _iter_engine_defaults(model)}
    for source, layer in list_defaults(model):
        found |= {key: ModelDefault(key, value, source) for key, value in layer.items()}
    return tuple(found.values())


def _iter_engine_defaults(model: LocalModel) -> Iterator[ModelDefault]:
    """What the settings say of how an engine is loaded, as it comes out for this model."""
    now = settings.load()
    most = model.facts.context_length
    for key in _ENGINE_KEYS:
        value, source = getattr(now, key), f"setting ({settings.find_source(key)})"
        if key == "context" and most and not 0 < value <= most:
            value, source = most, "header"
        if key == "threads" and value == 0:
            value, source = machine.default_threads(), "this machine"
        yield ModelDefault(key, value, source)
