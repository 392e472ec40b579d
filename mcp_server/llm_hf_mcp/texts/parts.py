"""Render parts that several texts for agents have in common: totals, updates, freed space, dates, quotations."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_mcp.results import Lists
    from llm_hf_models.models.repos.types import SearchResult, VariantInfo
    from llm_hf_models.models.types import LocalModelView

MAX_QUOTE_CHARS = 300
NO_MORE_ROWS = "There are no more rows. Omit the cursor for the first page."


def format_totals(totals: Lists) -> str | None:
    """Return the number of rows shown and in all, and their size, for each list that is not empty."""
    parts = [
        (f"{one.shown} {name}, and there are more" if one.total is None else f"{one.shown} of {one.total:,} {name}")
        + (f", {format_size(one.size_bytes)} in all" if one.size_bytes else "")
        for name, one in totals.items()
        if one.total != 0
    ]
    return f"{'; '.join(parts)}." if parts else None


def format_freed(found: LocalModelView) -> str | None:
    """Return the space that deleting a model frees, if that is not its size."""
    if found.freed_bytes in (None, found.size_bytes) or not found.files:
        return None
    return f"deleting it frees {format_size(found.freed_bytes or 0)}"


def format_update(found: LocalModelView | VariantInfo | SearchResult) -> str | None:
    """Return whether a local model has an update, and if that is unknown, the reason."""
    if found.update_available is None:
        return f"update unknown ({found.update_note})" if found.update_note else None
    return "UPDATE AVAILABLE" if found.update_available else "up to date"


def format_date(at: float) -> str:
    """Return the day of a time."""
    return time.strftime("%Y-%m-%d", time.localtime(at))


def join_lines(*lines: str | None) -> str:
    """Return the lines that are not empty, each cleaned, unless it is a text of several lines."""
    return "\n".join(clean_text(line, 600) if "\n" not in line else line for line in lines if line)


def join_parts(parts: Iterable[str | None]) -> str:
    """Return the parts that are not empty, with commas between them."""
    return ", ".join(part for part in parts if part)


def quote(text: str) -> str:
    """Return a text that may quote others, in quotes and shortened."""
    return json.dumps(clean_text(text, MAX_QUOTE_CHARS), ensure_ascii=False)


def suggest_next_page(cursor: str | None) -> str | None:
    """Return how to call for the next page, if there is one."""
    return f"there are more rows: call again with cursor={cursor!r}." if cursor else None
