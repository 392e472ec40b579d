"""Render facts that lists have in common: totals, updates, freed space, dates."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_mcp.results import Lists
    from llm_hf_models.models.repos.types import SearchResult, VariantInfo
    from llm_hf_models.models.types import LocalModelView


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
