"""Remove the names of tools that this server does not offer from its texts, for example on a read-only server.

A process has one server, and its tools are chosen once, when it is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_hidden: frozenset[str] = frozenset()


def set_hidden(names: Iterable[str]) -> None:
    """Set the names of the tools that are not offered."""
    global _hidden  # noqa: PLW0603 - set once, when the server is built
    _hidden = frozenset(names)


def is_hidden(name: str) -> bool:
    """Return whether a tool is not offered."""
    return name in _hidden


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
