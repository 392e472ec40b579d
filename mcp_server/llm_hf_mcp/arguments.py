"""Check the arguments of tool calls: refuse unknown arguments, and report errors in plain English.

The SDK ignores unknown arguments, and reports invalid values with pydantic's own messages. The schemas don't forbid
unknown arguments by `additionalProperties: false`, because Google's SDK rejects such a schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llm_hf_models.system.text import clean_text, suggest_word

MAX_ERRORS = 5  # in one message
MAX_NAME_CHARS = 60
_UNKNOWN = "extra_forbidden"  # pydantic's error type


def drop_nulls(tool: Tool, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without optional ones that are null, which some hosts send for unset arguments."""
    needed = tool.parameters.get("required", ())
    return {name: value for name, value in arguments.items() if value is not None or name in needed}


def check_arguments(tool: Tool, arguments: dict[str, Any]) -> None:
    """Check the arguments of a tool call.

    Raises:
        ToolError: An argument is missing, unknown or not valid.
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
    """Return a message for the errors. If an argument is missing or unknown, it also lists the tool's arguments."""
    text = f"{tool.name}: {'; '.join(map(_format_error, errors))}."
    if not any(error["type"] in ("missing", _UNKNOWN) for error in errors):
        return text
    known, needed = tool.parameters["properties"], tool.parameters.get("required", ())
    guesses = [suggest_word(_get_argument_name(error), known) for error in errors if error["type"] == _UNKNOWN]
    accepted = ", ".join(f"{name} (required)" if name in needed else name for name in known)
    return f"{text} {''.join(guesses)}It accepts {accepted}."


def _format_error(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return f"missing argument {_get_argument_name(error)!r}"
    if error["type"] == _UNKNOWN:
        return f"unknown argument {_get_argument_name(error)!r}"
    return f"{_get_argument_name(error)}: {clean_text(error['msg'])}"


def _get_argument_name(error: ErrorDetails) -> str:
    return clean_text(".".join(str(part) for part in error["loc"]), MAX_NAME_CHARS)
