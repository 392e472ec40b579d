"""What an agent gives a tool: what the tool does not know is refused, and what is wrong is said in words. Runs nothing.

The SDK ignores arguments that a tool has not, and shows pydantic's own report of those that don't fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llm_hf_models.system.text import clean_text, suggest_word

MAX_ERRORS = 5  # of what is wrong
MAX_NAME_CHARS = 60
_UNKNOWN = "extra_forbidden"  # as pydantic calls it


def forbid_extra_arguments(tool: Tool) -> Tool:
    """The tool, whose schema says that it takes its own arguments and no others."""
    tool.parameters = {**tool.parameters, "additionalProperties": False}
    return tool


def check_arguments(tool: Tool, arguments: dict[str, Any]) -> None:
    """Checks what an agent gives a tool.

    Raises:
        ToolError: an argument is missing, unknown or not what the tool takes.
    """
    if wrong := list(_find_errors(tool, arguments)):
        raise ToolError(_format_errors(tool, wrong[:MAX_ERRORS]))


def _find_errors(tool: Tool, arguments: dict[str, Any]) -> Iterator[ErrorDetails]:
    try:
        tool.fn_metadata.validate_arguments(arguments)
    except ValidationError as wrong:
        yield from wrong.errors(include_url=False, include_context=False, include_input=False)
    for name in arguments:
        if name not in tool.parameters["properties"]:
            yield ErrorDetails(type=_UNKNOWN, loc=(name,), msg="", input=None)


def _format_errors(tool: Tool, errors: Sequence[ErrorDetails]) -> str:
    """What is wrong with the arguments; where that is a name, also which there are."""
    text = f"{tool.name}: {'; '.join(map(_format_error, errors))}."
    if not any(error["type"] in ("missing", _UNKNOWN) for error in errors):
        return text
    known, needed = tool.parameters["properties"], tool.parameters.get("required", ())
    guesses = [suggest_word(_get_argument_name(error), known) for error in errors if error["type"] == _UNKNOWN]
    takes = ", ".join(f"{name} (needed)" if name in needed else name for name in known)
    return f"{text} {''.join(guesses)}It takes {takes}."


def _format_error(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return f"the argument {_get_argument_name(error)!r} is missing"
    if error["type"] == _UNKNOWN:
        return f"there is no argument {_get_argument_name(error)!r}"
    return f"{_get_argument_name(error)}: {clean_text(error['msg'])}"


def _get_argument_name(error: ErrorDetails) -> str:
    return clean_text(".".join(str(part) for part in error["loc"]), MAX_NAME_CHARS)
