"""Render disk usage and the plans that free disk space. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_table
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.disk_space.types import Deduplication, DiskUsage, Pruning, UsageRow

MAX_LINE_CHARS = 1000


def render_usage(usage: DiskUsage, max_width: int | None) -> str:
    """Return a table of the disk usage, and the sums, in which shared data counts once."""
    columns = [
        Column("SIZE", right=True),
        Column("SHARED", 1, right=True),
        Column("WHAT"),
        Column("NAME", min_width=24),
    ]
    rows = [
        [
            format_size(row.size_bytes),
            format_size(row.shared_bytes) if row.shared_bytes else "",
            _name_kind(row),
            row.name,
        ]
        for row in usage.rows
    ]
    lines = [format_table(columns, rows, max_width=max_width)] if rows else []
    shared = f", {format_size(usage.shared_bytes)} of which several rows share" if usage.shared_bytes else ""
    free = format_size(usage.disk_free_bytes)
    lines.append(f"{format_size(usage.size_bytes)} in all{shared}. {free} free on this disk.")
    return "\n".join(lines)


def render_unreadable(folders: Sequence[str]) -> str:
    """Return a line for each folder whose files are missing in the figures."""
    return "\n".join(clean_text(f"Not readable: {folder}", MAX_LINE_CHARS) for folder in folders)


def _name_kind(row: UsageRow) -> str:
    return row.kind if row.is_registered or row.kind not in ("repo", "collection") else f"{row.kind}, not registered"


def render_pruning(plan: Pruning, max_width: int | None) -> str:
    """Return a table of the models with the reasons to remove them, those that are kept, and the freed space."""
    lines = []
    if plan.models:
        columns = [
            Column("MODEL", min_width=24, keep_end=True),
            Column("SIZE", 2, right=True),
            Column("FREES", right=True),
            Column("USED", 1, right=True),
            Column("REASON", below=True),
        ]
        rows = [
            [
                each.id, format_size(each.size_bytes), format_size(each.freed_bytes),
                cli_format.format_age(each.last_used) or "never", ", ".join(each.reasons),
            ]
            for each in plan.models
        ]  # fmt: skip
        lines.append(format_table(columns, rows, max_width=max_width))
    lines += [clean_text(f"Kept {each.id}: {each.reason}.") for each in plan.kept]
    if not plan.models:
        return "\n".join((*lines, "No model is removed."))
    count = f"{len(plan.models)} {'model' if len(plan.models) == 1 else 'models'}"
    verbs = ("Removed", "Freed") if plan.done else ("Would remove", "Would free")
    lines.append(f"{verbs[0]} {count}. {verbs[1]} {format_size(plan.freed_bytes)}.")
    return "\n".join(lines)


def render_deduplication(found: Deduplication, max_width: int | None) -> str:
    """Return a table of the files that are linked, those that are skipped, and the freed space."""
    lines = []
    if found.files:
        columns = [Column("SIZE", right=True), Column("FILE", below=True), Column("SAME AS", below=True)]
        rows = [[format_size(each.size_bytes), each.replaced, each.kept] for each in found.files]
        lines.append(format_table(columns, rows, max_width=max_width))
    lines += [clean_text(f"Skipped {each.path}: {each.reason}.", MAX_LINE_CHARS) for each in found.skipped]
    count = f"{len(found.files)} {'file' if len(found.files) == 1 else 'files'}"
    verbs = ("Linked", "Freed") if found.done else ("Would link", "Would free")
    lines.append(f"{verbs[0]} {count}. {verbs[1]} {format_size(found.freed_bytes)}.")
    return "\n".join(lines)
