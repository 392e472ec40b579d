"""The names that llm gives to models of other plugins: a face, since it has to ask llm.

`python -m llm_hf_models.llm_plugin.names KIND` prints them as JSON, for who may not import llm (models/names.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

OWN_MODULE = "llm_hf_models.llm_plugin.models"


def list_taken_names(kind: str) -> dict[str, str]:
    """Every id and alias that is another plugin's, and whose; of embedding models or of all others.

    Where llm can't tell (another plugin fails, or its aliases.json is broken) there are none.
    """
    import llm

    try:
        asked = llm.get_embedding_models_with_aliases if kind == "embedding" else llm.get_models_with_aliases
        return {name: str(model) for name, model in find_other_plugins_names(asked()).items()}
    except Exception:  # noqa: BLE001 - whatever another plugin does, a name can still be given
        return {}


def find_other_plugins_names(registered: Iterable[Any]) -> dict[str, Any]:
    """The same of what plugins have registered with llm: each name with its model."""
    found: dict[str, Any] = {}
    for one in registered:
        model = one.model or one.async_model
        if type(model).__module__ != OWN_MODULE:
            found |= dict.fromkeys((model.model_id, *one.aliases), model)
    return found


if __name__ == "__main__":
    print(json.dumps(list_taken_names(sys.argv[1])))  # noqa: T201 - read by free_names
