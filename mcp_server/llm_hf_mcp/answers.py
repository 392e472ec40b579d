"""Build tool results: JSON for programs, text for models, pages of limited size, errors with the next step.

The JSON has the fields that `llm hf … --json` prints, with clean and limited text. A list becomes a field of an object.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any, TypeVar

import anyio.to_thread
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent

from llm_hf_mcp import hidden_tools
from llm_hf_mcp.foreign_text import MAX_ANSWER_CHARS, Cleaner, fence, limit_structure, measure
from llm_hf_mcp.time_limit import CALL_SECONDS, count_seconds_left
from llm_hf_mcp.verbosity import Level, shorten_answer, shorten_row
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
MAX_FOREIGN_CHARS = 6000
MAX_ERROR_CHARS = 2500
MAX_ERROR_PART_CHARS = 600
MAX_CAUSE_CHARS = 900
RESERVED_CHARS = 1200  # for warnings, the next step and labels
NO_TOKENS = "No tool accepts or shows a token."

T = TypeVar("T")

# The tool that corresponds to each `llm hf` command in a hint.
_TOOL_FOR = {
    "search": "hf_search_models",
    "info": "hf_get_model",
    "pull": "hf_download_model",
    "downloads": "hf_get_downloads",
    "list": "hf_list_models",
    "show": "hf_list_models",
    "verify": "hf_verify_model",
    "test": "hf_verify_model",
    "rm": "hf_delete_model",
    "du": "hf_get_disk_usage",
    "prune": "hf_prune_models",
    "lock": "hf_lock_models",
    "sync": "hf_sync_lockfile",
    "alias": "hf_edit_aliases",
    "import": "hf_import_model",
    "outdated": "hf_list_models",
    "update": "hf_update_model",
    "status": "hf_status",
}
# The next step for an agent, if the hint is only for a user at a terminal.
_NEXT_STEP = {
    UnsafeFileError: "choose another quantization or repo. Only the user can download this file, outside this server.",
    RepoNotFoundError: "find the exact name with hf_search_models. If private, ask the user to run `llm hf login`.",
    InvalidGgufError: "choose another quantization or repo. No tool can repair this file.",
}
_COMMAND = re.compile(r"`?\bllm hf ([a-z]+)\b((?: [^`\s;,]*[^`\s.;,])*)`?")


async def call(function: Callable[..., T], *arguments: object, **named: object) -> T:
    """Call a method of the service in a thread. If the call is cancelled, the thread continues in the background.

    Raises:
        ToolError: The method raised an HfModelsError, or did not end in the time left for the request.
    """
    with translate_errors():
        return await run_in_time(partial(function, *arguments, **named))


async def run_in_time(work: Callable[[], T]) -> T:
    """Run a function in a thread, in the time left for the request.

    Raises:
        OutOfTimeError: The function did not end in time. Its thread continues in the background.
    """
    with anyio.move_on_after(count_seconds_left()):
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    raise OutOfTimeError(
        f"There was no result within {CALL_SECONDS:.0f} s: the Hub, the disk or this machine is slow",
        hint="Next: call again later. The work may continue in the background; if it is a change, see its result with "
        "hf_get_downloads or hf_list_models first.",
    )


class OutOfTimeError(HfModelsError):
    """The work did not end in the time that hosts wait for an answer."""


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate HfModelsErrors into ToolErrors, with a text for models."""
    try:
        yield
    except HfModelsError as error:
        raise ToolError(format_error(error)) from error


def format_error(error: HfModelsError) -> str:
    """Return the message, the cause, and a next step that an agent can take.

    A cause may quote a server or a file, so it is fenced. The message and the next step are one line each, because a
    file's name in them could otherwise add a line of its own.
    """
    message = error.message if error.message.endswith(("?", "!")) else error.message.rstrip(".") + "."
    cause = clean_text(error.cause, MAX_CAUSE_CHARS, keep_lines=True) if error.cause else None
    parts = [
        hidden_tools.remove_from_lines(clean_text(message, MAX_ERROR_PART_CHARS)),
        fence(hidden_tools.remove_from_lines(cause), "the cause") if cause else None,
        hidden_tools.remove_from_lines(clean_text(_suggest_next_step(error) or "", MAX_ERROR_PART_CHARS)),
    ]
    return "\n".join(part for part in parts if part)


def _suggest_next_step(error: HfModelsError) -> str | None:
    if isinstance(error, TokenMissingError | TokenInvalidError):
        hint = (error.hint or "").rstrip(".")
        command = replace_commands(hint)
        return f"Next: {command if command != hint else f'ask the user to fix it. {hint}'}. {NO_TOKENS}"
    if isinstance(error, GatedRepoError):
        return f"Next: ask the user to accept the licence first. {error.hint or ''}"
    if known := next((step for kind, step in _NEXT_STEP.items() if isinstance(error, kind)), None):
        return f"Next: {known}"
    if isinstance(error, ConsentError | OutOfTimeError):
        return error.hint
    if isinstance(error, PolicyError):
        return f"Next: request what the policy allows. Only the operator of this server can change it ({error.hint})."
    return f"Next: {replace_commands(error.hint)}" if error.hint else None


def replace_commands(hint: str) -> str:
    """Return a hint with its `llm hf` commands replaced by the tools that correspond to them."""
    return _COMMAND.sub(_replace_command, hint)


def _replace_command(match: re.Match[str]) -> str:
    verb, words = match[1], match[2].split()
    tool = _TOOL_FOR.get(verb)
    if verb == "collection" or "--collection" in words[:-1]:
        tool, words = _find_collection_tool(verb, words)
    if tool is None or hidden_tools.is_hidden(tool):
        return f"ask the user to run `{' '.join(['llm hf', verb, *words])}`"
    if verb == "alias" and words[:1] == ["--remove"]:
        return f"{tool}(name={words[-1]!r}, remove=[{words[-1]!r}])"
    named = " ".join(takewhile(lambda word: not word.startswith("-"), words))
    arguments = [repr(named)] if named else []
    arguments += ["files=true"] if "--files" in words else []
    return f"{tool}({', '.join(arguments)})" if arguments else tool


def _find_collection_tool(verb: str, words: list[str]) -> tuple[str, list[str]]:
    """Return the tool for a command about a collection, and the name of the collection as its only argument."""
    if verb != "collection":
        return "hf_list_collections", words[words.index("--collection") + 1 :][:1]
    return ("hf_list_collections" if words[:1] in ([], ["list"], ["show"]) else "hf_edit_collection"), words[1:2]


@dataclass(frozen=True)
class Report:
    """A result as text for models. Others wrote the texts in `foreign`, each with its source."""

    text: str
    next_step: str | None = None
    warnings: tuple[str, ...] = ()
    foreign: tuple[tuple[str, str], ...] = ()


def build_result(value: T, render: Callable[[T], Report], level: Level = "full") -> CallToolResult:
    """Return a tool result with a value of the service as JSON, and a text for models.

    The text is rendered from the cleaned value. Both have the warnings and the next step. The rows of the JSON have the
    fields of a level.
    """
    cleaner = Cleaner()
    clean = cleaner.clean(value)
    report = _remove_hidden_tools(render(clean))
    answer = shorten_answer(convert_to_object(clean), level)
    warnings = [*report.warnings, *cleaner.list_warnings(answer)]
    structure: dict[str, Any] = {"next_step": report.next_step, "warnings": warnings, **answer}
    return CallToolResult(
        content=[TextContent(type="text", text=_format_report(report, warnings))], structured_content=structure
    )


def _remove_hidden_tools(report: Report) -> Report:
    remove = hidden_tools.remove_from_lines
    step = remove(report.next_step) if report.next_step else None
    return replace(
        report, text=remove(report.text), next_step=step or None, warnings=tuple(map(remove, report.warnings))
    )


def convert_to_object(value: object) -> dict[str, Any]:
    """Return a result as a JSON object."""
    found = to_json(value)
    if not isinstance(found, dict):
        raise TypeError(f"{type(value).__name__} is not an object in JSON")
    return found


def _format_report(report: Report, warnings: Sequence[str]) -> str:
    notes = [f"Warning: {warning}" for warning in warnings]
    notes += [f"Next: {report.next_step}"] if report.next_step else []
    last = "\n".join([*(clean_text(note, MAX_ERROR_PART_CHARS) for note in notes), *_fence_texts(report)])
    body = clean_text(report.text, MAX_ANSWER_CHARS - len(last) - 1, keep_lines=True)
    return f"{body}\n{last}".rstrip("\n")


def _fence_texts(report: Report) -> list[str]:
    room = (MAX_FOREIGN_CHARS + RESERVED_CHARS) // max(1, len(report.foreign))
    return [fence(clean_text(text, room, keep_lines=True), source) for source, text in report.foreign]


# Pages


def select_page(
    items: Sequence[T],
    cursor: str | None,
    *,
    limit: int,
    room: int = MAX_PAGE_CHARS,
    kind: str = "",
    level: Level = "full",
) -> tuple[tuple[T, ...], str | None]:
    """Return one page of rows, and the cursor of the next page or None.

    A page has at least one row, and otherwise as many as its limits allow.

    Args:
        items: All rows.
        cursor: The cursor of the page; None for the first page.
        limit: Maximum number of rows.
        room: Maximum number of characters of the rows as JSON, cleaned.
        kind: The name of the list in the answer.
        level: The fields of each row.

    Raises:
        ToolError: The cursor is not valid.
    """
    start, used = decode_cursor(cursor), 0
    taken: list[T] = []
    for item in items[start : start + limit]:
        row = to_json(Cleaner().clean(item))
        used += measure(shorten_row(kind, row, level) if isinstance(row, dict) else row) + 2
        if taken and used > room:
            break
        taken.append(item)
    after = start + len(taken)
    return tuple(taken), encode_cursor(after) if after < len(items) and taken else None


def measure_room(value: object, level: Level = "full", *, reserved: int = RESERVED_CHARS) -> int:
    """Return the room for rows in an answer that also contains a value, warnings, the next step and labels."""
    rest = limit_structure(shorten_answer(convert_to_object(value), level))
    return max(0, MAX_ANSWER_CHARS - reserved - measure(rest))


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
