"""The model names that other llm plugins have registered.

`python -m llm_hf_models.llm_plugin.names KIND` prints them as JSON, for modules that may not import llm
(models/names.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from typing import Any

import click

_MODEL_OPTIONS = ("model_id", "model", "model_ids")  # the names of llm's parameters for a model
OWN_MODULE = "llm_hf_models.llm_plugin.models"  # defines this plugin's model classes


def list_taken_names(kind: str) -> dict[str, str]:
    """Return each id and alias of other plugins' models, mapped to the model's description.

    The result is empty if llm can't list its models, because another plugin fails or aliases.json is broken.

    Args:
        kind: `embedding` for embedding models, anything else for the other models.
    """
    import llm

    try:
        list_models = llm.get_embedding_models_with_aliases if kind == "embedding" else llm.get_models_with_aliases
        return {name: str(model) for name, model in find_other_plugins_names(list_models()).items()}
    except Exception:  # noqa: BLE001 - another plugin may raise anything, and pulls must still work
        return {}


def find_other_plugins_names(registered: Iterable[Any]) -> dict[str, Any]:
    """Return each id and alias of the registered models that are not from this plugin, mapped to the model."""
    found: dict[str, Any] = {}
    for entry in registered:
        model = entry.model or entry.async_model
        if type(model).__module__ != OWN_MODULE:
            found |= dict.fromkeys((model.model_id, *entry.aliases), model)
    return found


def find_requested_models(known: Container[str], report: Callable[[str], None]) -> dict[str, str]:
    """Return the names that this `llm` command gives its models, each mapped to the id of the local model it means.

    llm compares names exactly. This lets `llm -m` accept each spelling that `llm hf show` accepts. Names that are known
    or that no local model has are left out.

    Args:
        known: the names that llm knows already.
        report: shows a message to the user, because llm reports a name of several models as unknown.
    """
    command = click.get_current_context(silent=True)
    values = [command.params.get(option) for option in _MODEL_OPTIONS] if command else []
    listed = [each for value in values for each in (value if isinstance(value, tuple) else (value,))]
    names = [name for name in listed if isinstance(name, str) and name and name not in known]
    if not names:
        return {}
    from llm_hf_models.errors import AmbiguousNameError, HfModelsError, UnknownModelError
    from llm_hf_models.library.database import Database
    from llm_hf_models.paths import library_path

    found = {}
    with suppress(HfModelsError), Database(library_path(), in_memory=True) as db:
        for name in names:
            try:
                found[name] = db.find_model(name).model_id
            except AmbiguousNameError as error:
                report(str(error))
            except UnknownModelError:
                continue
    return found


if __name__ == "__main__":
    print(json.dumps(list_taken_names(sys.argv[1])))  # noqa: T201 - models/names.py reads it
