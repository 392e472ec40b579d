"""What a tool answers: structure for programs, text for models, pages of bounded size, errors with the next step.

The structure is the service's value as `llm hf … --json` prints it; where that is a list, it stands in a field.
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

MAX_PAGE_CHARS = 8000  # of a page of rows as JSON, so that a whole answer stays below 10,000
MAX_TEXT_CHARS = 6000
MAX_ERROR_CHARS = 2000
NO_TOKENS = "No tool takes or shows a token."

T = TypeVar("T")

# What a hint tells a person to type, as what an agent calls.
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
# What an agent does instead of what the hint says.
_NEXT_STEP = {
    UnsafeFileError: "choose another quantization or repo; only the person can fetch such a file, outside this server.",
    RepoNotFoundError: "search_models finds its exact name; if it is private, ask the person to run `llm hf login`.",
    InvalidGgufError: "choose another quantization or repo; nothing here mends such a file.",
}
_COMMAND = re.compile(r"`?\bllm hf ([a-z]+)\b((?: [^`\s;,]*[^`\s.;,])*)`?")


async def call(function: Callable[..., T], *arguments: object, **named: object) -> T:
    """Runs a verb of the service in a thread; a call that is given up goes on there and is not waited for.

    Raises:
        ToolError: for every error of ours.
    """
    with translate_errors():
        return await anyio.to_thread.run_sync(partial(function, *arguments, **named), abandon_on_cancel=True)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turns errors of ours into what a model reads."""
    try:
        yield
    except HfModelsError as error:
        raise ToolError(format_error(error)) from error


def format_error(error: HfModelsError) -> str:
    """Message, cause, and the next step as an agent can take it."""
    message = error.message if error.message.endswith(("?", "!")) else error.message.rstrip(".") + "."
    parts = [message, error.cause, _suggest_next_step(error)]
    return clean_text("\n".join(part for part in parts if part), MAX_ERROR_CHARS, keep_lines=True)


def _suggest_next_step(error: HfModelsError) -> str | None:
    if isinstance(error, TokenMissingError | TokenInvalidError):
        hint = (error.hint or "").rstrip(".")
        command = replace_commands(hint)
        return f"Next: {command if command != hint else f'ask the person to mend it. {hint}'}. {NO_TOKENS}"
    if isinstance(error, GatedRepoError):
        return f"Next: a person must accept the licence first. {error.hint or ''}"
    if known := next((step for kind, step in _NEXT_STEP.items() if isinstance(error, kind)), None):
        return f"Next: {known}"
    if isinstance(error, ConsentError):
        return error.hint
    if isinstance(error, PolicyError):
        return f"Next: only the operator of this server can change that ({error.hint}). Choose something else."
    return f"Next: {replace_commands(error.hint)}" if error.hint else None


def replace_commands(hint: str) -> str:
    """A person's commands in it as the tools that an agent has for them."""
    return _COMMAND.sub(_replace_command, hint)


def _replace_command(match: re.Match[str]) -> str:
    verb, words = match[1], match[2].split()
    tool = _TOOL_FOR.get(verb)
    if tool is None:
        return f"ask the person to run `{' '.join(['llm hf', verb, *words])}`"
    if verb == "alias" and words[:1] == ["--remove"]:
        return f"{tool}(name={words[-1]!r}, remove=[{words[-1]!r}])"
    named = " ".join(takewhile(lambda word: not word.startswith("-"), words))
    arguments = [repr(named)] if named else []
    arguments += ["files=true"] if "--files" in words else []
    return f"{tool}({', '.join(arguments)})" if arguments else tool


def build_result(value: object, text: str) -> CallToolResult:
    """A value of the service, and what a model should read of it."""
    return CallToolResult(
        content=[TextContent(type="text", text=clean_text(text, MAX_TEXT_CHARS, keep_lines=True))],
        structured_content=to_json(value),
    )


# Pages


def select_page(
    items: Sequence[T], cursor: str | None, *, limit: int, room: int = MAX_PAGE_CHARS
) -> tuple[tuple[T, ...], str | None]:
    """The rows from a cursor on that fit into one answer, at least one; and the cursor of the next, if there are more.

    Raises:
        ToolError: a cursor that no answer gave.
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
    """A cursor, opaque to who gets it."""
    return base64.urlsafe_b64encode(f"after:{offset}".encode()).decode()


def decode_cursor(cursor: str | None) -> int:
    """How many rows came before.

    Raises:
        ToolError: a cursor that no answer gave.
    """
    if not cursor:
        return 0
    try:
        word, _, number = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
    except (binascii.Error, ValueError):
        word, number = "", ""
    if word != "after" or not number.isascii() or not number.isdigit() or len(number) > 6:  # noqa: PLR2004
        raise ToolError("That is no cursor of this tool. Leave it out to start with the first page.")
    return int(number)
