"""Whether llm has a name for another plugin's model already. Asks llm through a face, or in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    NameTakenError,
)

LLM_NAMES_SECONDS = 30.0  # llm loads all its plugins for this


def refuse_taken_names(context: Context, names: Iterable[str], kind: str) -> None:
    """Refuses names that would not lead here: llm leaves a name to the plugin that has it already.

    Args:
        context: knows how llm is asked.
        names: what somebody wants to call a model.
        kind: of that model; llm names embedding models apart from all others.

    Raises:
        NameTakenError: one of them is another plugin's.
    """
    wanted = list(names)
    taken = (context.list_taken_names or _list_names_in_llm)(kind) if wanted else {}
    for name in wanted:
        if name in taken:
            raise NameTakenError(
                f"{name!r} is another model's name in llm already",
                cause=f"It is {taken[name]}: prompts would go there.",
                hint=f"Choose another name; `llm {'embed-models' if kind == 'embedding' else 'models'}` lists all.",
            )


def _list_names_in_llm(kind: str) -> Mapping[str, str]:
    """What llm says in a process of its own, for who may not import it; nothing where it doesn't answer."""
    command = [sys.executable, "-m", "llm_hf_models.llm_plugin.names", kind]
    with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        said = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LLM_NAMES_SECONDS, check=True
        ).stdout
        found = json.loads(said.splitlines()[-1])  # a plugin may have printed before
        return found if isinstance(found, dict) else {}
    return {}


def make_short_names(repo: str, quant: str) -> tuple[str, str]:
    """`Qwen3-0.6B` and `Qwen3-0.6B:Q4_K_M` for unsloth/Qwen3-0.6B-GGUF."""
    name = repo.rpartition("/")[2]
    for ending in ("-gguf", "_gguf", ".gguf"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
    return name, f"{name}:{quant}"
