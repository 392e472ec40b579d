"""Remove the names of tools that this server does not offer from its texts, and name the user's commands instead.

A process has one server, and its tools are chosen once, when it is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HiddenTool:
    """A tool that is not offered."""

    title: str  # what it does, in the imperative
    command: str  # the user's command that does the same
    reason: str  # such as "The setting agent_read_only is on."


_hidden: dict[str, HiddenTool] = {}


def set_hidden(tools: Mapping[str, HiddenTool]) -> None:
    """Set the tools that are not offered, by name."""
    global _hidden  # noqa: PLW0603 - set once, when the server is built
    _hidden = dict(tools)


def is_hidden(name: str) -> bool:
    """Return whether a tool is not offered."""
    return name in _hidden


def explain(name: str) -> str:
    """Return why a tool is not offered, and the user's command that does the same."""
    tool = _hidden[name]
    why = f"Unknown tool: {name} is not offered by this server. {tool.reason}"
    return f"{why}\nNext: ask the user to run `{tool.command}`."


def list_commands() -> str:
    """Return a sentence with the user's commands for what this server does not offer; empty if it offers everything."""
    commands = [f"{tool.title[0].lower()}{tool.title[1:]} (`{tool.command}`)" for tool in _hidden.values()]
    return f"Not offered by this server, only as commands of the user: {', '.join(commands)}." if commands else ""


def remove_from_prose(text: str) -> str:
    """Remove the sentences that name a hidden tool. A sentence may continue in the next line."""
    return _remove(text, r"((?<=[.!?])\s+|\n\n+)")


def remove_from_lines(text: str) -> str:
    """Remove the sentences that name a hidden tool. A sentence ends with its line at the latest."""
    return _remove(text, r"((?<=[.!?])[ \t]+|\n+)")


def _remove(text: str, separators: str) -> str:
    if not _hidden:
        return text
    # A name without an underscore may also be an ordinary word.
    forms = [rf"{name}\b" if "_" in name else rf"{name}\(" for name in sorted(_hidden)]
    named = re.compile(rf"\b(?:{'|'.join(forms)})")
    if not named.search(text):
        return text
    parts = re.split(separators, text)  # sentences, each followed by its separator
    kept = [
        sentence + separator
        for sentence, separator in zip(parts[::2], [*parts[1::2], ""], strict=True)
        if not named.search(sentence)
    ]
    return "".join(kept).strip()
