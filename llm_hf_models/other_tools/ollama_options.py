"""Convert Ollama's parameters to options of `llm hf set`.

The names and types are those of Ollama's `api/types.go` (Options, Runner) and of its documentation of Modelfiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_hf_models.errors import BadInputError
from llm_hf_models.inference.protocol.options import validate_stored_options
from llm_hf_models.system.text import quote_label

MAX_NOTES = 40
_NAMES = {
    "num_ctx": "context",
    "num_predict": "max_tokens",
    "num_thread": "threads",
    "num_gpu": "gpu_layers",
    **{
        name: name
        for name in (
            "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed",
            "stop", "mirostat", "mirostat_tau", "mirostat_eta",
        )
    },
}  # fmt: skip
_IS_DEFAULT = {"num_predict": (-1, -2, "-1", "-2"), "num_thread": (0, "0"), "num_gpu": (-1, "-1")}


def convert_parameters(parameters: Mapping[str, object]) -> tuple[dict[str, Any], list[str]]:
    """Return the options for these parameters, and a note for each parameter that can't be taken over.

    Args:
        parameters: the values by Ollama's names, as JSON values or as the text of a Modelfile.
    """
    options: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in list(parameters.items())[:MAX_NOTES]:
        if value in _IS_DEFAULT.get(name, ()) or value is None:
            continue
        option = _NAMES.get(name)
        if option is None:
            notes.append(f"parameter {quote_label(name)} has no counterpart")
            continue
        try:
            options |= validate_stored_options({option: _unwrap(value)}, "the model")
        except BadInputError as error:
            notes.append(f"parameter {name}: {error.message.rpartition('the model: ')[2]}")
    if len(parameters) > MAX_NOTES:
        notes.append(f"{len(parameters) - MAX_NOTES} more parameters")
    return options, notes


def _unwrap(value: object) -> object:
    """Return a list of one text as that text."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
