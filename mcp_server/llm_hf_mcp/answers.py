"""Build tool results: JSON for programs, text for models, pages of limited size, errors with the next step.

The JSON is the service's value as `llm hf … --json` prints it. A list becomes a field of an object.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from typing import TypeVar

import anyio.to_thread
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent

from llm_hf_mcp import hidden_tools
from llm_hf_models.errors import (
    ConsentError,
    GatedRepoError,
    HfModelsError,
    InvalidGgufError,
    PolicyError,
    RepoNotFoundError,
    TokenInvalidError,
    TokenMissingError,
    UnsafeFileError,
)
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.text import clean_text

MAX_PAGE_CHARS = 8000  # for the rows of one page as JSON, so that a result has fewer than 10,000 characters
MAX_TEXT_CHARS = 6000
MAX_ERROR_CHARS = 2000
NO_TOKENS = "No tool accepts or shows a token."

T = TypeVar("T")

# The tool that corresponds to each `llm hf` command in a hint.
_TOOL_FOR = {
    "search": "search_models",
    "info": "get_model",
    "pull": "download_model",
    "downloads": "get_downloads",
    "list": "list_models",
    "show": "list_models",
    "verify": "verify_model",
    "test": "verify_model",
    "rm": "delete_model",
    "alias": "organise",
    "status": "status",
}
# The next step for an agent, if the hint is only for a user at a terminal.
_NEXT_STEP = {
    UnsafeFileError: "choose another quantization or repo. Only the user can download this file, outside this server.",
    RepoNotFoundError: "find the exact name with search_models. If it is private, ask the user to run `llm hf login`.",
    InvalidGgufError: "choose another quantization or repo. No tool can repair this file.",
}
_COMMAND = re.compile(r"`?\bllm hf ([a-z]+)\b((?: [^`\s;,]*[^`\s.;,])*)`?")


async def call(function: Callable[..., T], *arguments: object, **named: object) -> T:
    """Call a method of the service in a thread. If the call is cancelled, the thread continues in the background.

    Raises:
        ToolError: The method raised an HfModelsError.
    """
    with translate_errors():
        return await anyio.to_thread.run_sync(partial(function, *arguments, **named), abandon_on_cancel=True)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate HfModelsErrors into ToolErrors, with a text for models."""
    try:
        yield
    except HfModelsError as error:
        raise ToolError(format_error(error)) from error


def format_error(error: HfModelsError) -> str:
    """Return the message, the cause, and a next step that an agent can take."""
    message = error.message if error.message.endswith(("?", "!")) else error.message.rstrip(".") + "."
    parts = [message, error.cause, _suggest_next_step(error)]
    text = hidden_tools.remove_from_lines("\n".join(part for part in parts if part))
    return clean_text(text, MAX_ERROR_CHARS, keep_lines=True)


def _suggest_next_step(error: HfModelsError) -> str | None:
    if isinstance(error, TokenMissingError | TokenInvalidError):
        hint = (error.hint or "").rstrip(".")
        command = replace_commands(hint)
        return f"Next: {command if command != hint else f'ask the user to fix it. {hint}'}. {NO_TOKENS}"
    if isinstance(error, GatedRepoError):
        return f"Next: ask the user to accept the licence first. {error.hint or ''}"
    if known := next((step for kind, step in _NEXT_STEP.items() if isinstance(error, kind)), None):
        return f"Next: {known}"
    if isinstance(error, ConsentError):
        return error.hint
    if isinstance(error, PolicyError):
        return f"Next: choose another model. Only the operator of this server can change the policy ({error.hint})."
    return f"Next: {replace_commands(error.hint)}" if error.hint else None


def replace_commands(hint: str) -> str:
    """Return a hint with its `llm hf` commands replaced by the tools that correspond to them."""
    return _COMMAND.sub(_replace_command, hint)


def _replace_command(match: re.Match[str]) -> str:
    verb, words = match[1], match[2].split()
    tool = _TOOL_FOR.get(verb)
    if tool is None or hidden_tools.is_hidden(tool):
        return f"ask the user to run `{' '.join(['llm hf', verb, *words])}`"
    if verb == "alias" and words[:1] == ["--remove"]:
        return f"{tool}(name={words[-1]!r}, remove=[{words[-1]!r}])"
    named = " ".join(takewhile(lambda word: not word.startswith("-"), words))
    arguments = [repr(named)] if named else []
    arguments += ["files=true"] if "--files" in words else []
    return f"{tool}({', '.join(arguments)})" if arguments else tool


def build_result(value: object, text: str) -> CallToolResult:
    """Return a tool result with a value of the service as JSON, and a text for models."""
    shown = clean_text(hidden_tools.remove_from_lines(text), MAX_TEXT_CHARS, keep_lines=True)
    return CallToolResult(
        content=[TextContent(type="text", text=shown)],
        structured_content=to_json(value),
    )


# Pages


def select_page(
    items: Sequence[T], cursor: str | None, *, limit: int, room: int = MAX_PAGE_CHARS
) -> tuple[tuple[T, ...], str | None]:
    """Return one page of rows, and the cursor of the next page or None.

    A page has at least one row, and otherwise as many as its limits allow.

    Args:
        items: All rows.
        cursor: The cursor of the page; None for the first page.
        limit: Maximum number of rows.
        room: Maximum number of characters of the rows as JSON.

    Raises:
        ToolError: The cursor is not valid.
    """
    start, used = decode_cursor(cursor), 0
    taken: list[T] = []
    for item in items[start : start + limit]:
        used += len(json.dumps(to_json(item)))
        if taken and used > room:
            break
        taken.append(item)
    after = start + len(taken)
    return tuple(taken), encode_cursor(after) if after < len(items) and taken else None


def encode_cursor(offset: int) -> str:
    """Return an opaque cursor for a number of rows."""
    return base64.urlsafe_b64encode(f"after:{offset}".encode()).decode()


def decode_cursor(cursor: str | None) -> int:
    """Return the number of rows before a cursor.

    Raises:
        ToolError: The cursor is not valid.
    """
    if not cursor:
        return 0
    try:
        prefix, _, number = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
    except (binascii.Error, ValueError):
        prefix, number = "", ""
    if prefix != "after" or not number.isascii() or not number.isdigit() or len(number) > 6:  # noqa: PLR2004
        raise ToolError("The cursor is not valid. Omit it for the first page.")
    return int(number)
