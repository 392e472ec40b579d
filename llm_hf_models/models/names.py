"""Check that names of models are free in llm, and make short names for models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress

from llm_hf_models import paths
from llm_hf_models.errors import NameTakenError
from llm_hf_models.library.records import LocalModel

# The files in llm's folder that name its default models, and the commands that write them.
_LLM_DEFAULTS = {
    "default_model.txt": "llm models default NAME",
    "default_embedding_model.txt": "llm embed-models default NAME",
}
LLM_NAMES_SECONDS = 30.0  # timeout for listing the names, for which llm loads all its plugins


def refuse_taken_names(names: Iterable[str], kind: str) -> None:
    """Raise an error for names that another plugin's model has in llm, because llm would use that model.

    Args:
        names: The names for a model. If there are any, llm is started, which takes about a second.
        kind: The kind of that model. In llm, embedding models have their own names.

    Raises:
        NameTakenError: A model of another plugin has one of the names.
    """
    requested = list(names)
    taken = list_names_in_llm(kind) if requested else {}
    for name in requested:
        if name in taken:
            command = f"llm {'embed-models' if kind == 'embedding' else 'models'}"
            raise NameTakenError(
                f"Another model in llm already has the name {name!r}",
                cause=f"The model is {taken[name]}, and llm would send prompts to it.",
                hint=f"Choose another name. List the taken names with `{command}`.",
            )


def list_names_in_llm(kind: str) -> Mapping[str, str]:
    """Return the names of other plugins' models in llm, each with its model's id; empty if that fails.

    Another process lists them, because this one may not import llm.
    """
    command = [sys.executable, "-m", "llm_hf_models.llm_plugin.names", kind]
    with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        output = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LLM_NAMES_SECONDS, check=True
        ).stdout
        taken = json.loads(output.splitlines()[-1])  # other plugins may print lines before it
        return taken if isinstance(taken, dict) else {}
    return {}


def suggest_new_default(names: Iterable[str]) -> str | None:
    """Return the command that chooses another default model of llm, if one of a model's names is llm's default.

    Args:
        names: The id and the aliases of the model.
    """
    wanted = {name.casefold() for name in names}
    for file, command in _LLM_DEFAULTS.items():
        with suppress(OSError, ValueError):
            if (paths.user_dir() / file).read_text("utf-8").strip().casefold() in wanted:
                return command
    return None


def explain_taken_aliases(models: Iterable[LocalModel], names: Iterable[str], model_id: str | None) -> dict[str, str]:
    """Return the names that are aliases of other local models than `model_id`, each with the reason."""
    owners = {alias.casefold(): model.model_id for model in models for alias in model.aliases}
    return {
        name: f"is already an alias of {owners[name.casefold()]}"
        for name in names
        if owners.get(name.casefold(), model_id) != model_id
    }


def make_short_names(repo: str, quant: str) -> tuple[str, str]:
    """Return the short names of a model: `Qwen3-0.6B` and `Qwen3-0.6B:Q4_K_M` for unsloth/Qwen3-0.6B-GGUF."""
    name = repo.rpartition("/")[2]
    for ending in ("-gguf", "_gguf", ".gguf"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
    return name, f"{name}:{quant}"
