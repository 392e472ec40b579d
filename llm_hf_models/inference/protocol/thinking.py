"""Check options that switch reasoning on or off, against the variables that the model's chat template reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_hf_models.errors import BadInputError, VerificationError
from llm_hf_models.inference.protocol.options import REASONING_EFFORT, THINK, THINK_VARIABLES
from llm_hf_models.library.records import LocalModel


def check_thinking_options(model: LocalModel, options: Mapping[str, Any]) -> None:
    """Raise an error if the chat template of a local model does not read the variable that an option sets.

    `think off` and a number of tokens need no variable, because llama.cpp limits the tokens of the reasoning itself.

    Raises:
        BadInputError: The option has no effect on this model.
    """
    given = {key: value for key, value in options.items() if key in (THINK, *THINK_VARIABLES, REASONING_EFFORT)}
    think = given.pop(THINK, "off")
    if model.endpoint is not None or (think == "off" and not given):
        return
    variables = read_template_variables(model)
    if variables is None:
        return
    switches = [name for name in THINK_VARIABLES if name in variables]
    if think == "on" and not switches:
        raise _build_error(model, THINK, "has no switch for reasoning", variables)
    if think not in ("on", "off") and not (switches or model.facts.reasoning):
        raise _build_error(model, THINK, "does not support reasoning", variables)
    for key, value in given.items():
        turns_off = key == REASONING_EFFORT and value == "none"  # llama.cpp sets enable_thinking for it
        if key not in variables and not (turns_off and switches):
            raise _build_error(model, key, f"does not read the variable {key}", variables)


def _build_error(model: LocalModel, key: str, problem: str, variables: frozenset[str]) -> BadInputError:
    supported = [THINK] if variables & set(THINK_VARIABLES) else []
    supported += [name for name in (*THINK_VARIABLES, REASONING_EFFORT) if name in variables]
    if supported:
        hint = f"It supports these options: {', '.join(supported)}."
    elif model.facts.reasoning:
        hint = "The model decides itself whether it reasons. -o think off turns its reasoning off."
    else:
        hint = None
    return BadInputError(f"Option {key!r}: the chat template of {model.model_id} {problem}", hint=hint)


def read_template_variables(model: LocalModel) -> frozenset[str] | None:
    """Return which variables for reasoning a local model's chat template reads. None if its file can't be read."""
    from llm_hf_models.gguf.template_ast import find_template_inputs

    templates = [model.user_template] if model.user_template else _read_header_templates(model)
    if templates is None:
        return None
    names = (*THINK_VARIABLES, REASONING_EFFORT)
    return frozenset(name for template in templates for name in find_template_inputs(template, names))


def _read_header_templates(model: LocalModel) -> list[str] | None:
    from llm_hf_models.gguf.facts import TOOL_TEMPLATE_KEY
    from llm_hf_models.gguf.header import read_header

    path = next((Path(file.location) for file in model.files if file.role == "weights"), None)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            header = read_header(file, file_bytes=path.stat().st_size)
    except (OSError, VerificationError):
        return None  # starting the engine reports it
    templates = (header.chat_template, header.metadata.get(TOOL_TEMPLATE_KEY))
    return [template for template in templates if isinstance(template, str)]
