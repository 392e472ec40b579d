"""Render collections. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_fields, format_table
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from llm_hf_models.models.collections.types import (
        CollectionDeletion,
        CollectionImport,
        CollectionMember,
        CollectionSummary,
        CollectionView,
        SkippedItem,
    )

MAX_REMEDIES = 5
MAX_REFS = 20
MISSING = "not on this machine"


def render_collections(found: Sequence[CollectionSummary], max_width: int | None) -> str:
    """Return a table of collections."""
    columns = [
        Column("COLLECTION", min_width=20, keep_end=True),
        Column("MODELS", 1, right=True),
        Column("ON THIS MACHINE", 2, right=True),
        Column("NOTE", 3, min_width=20),
        Column("SOURCE", 4, extra=True),
    ]
    rows = [[row.name, str(row.models), str(row.local_models), row.note, row.source or ""] for row in found]
    return format_table(columns, rows, max_width=max_width)


def render_collection(found: CollectionView, max_width: int | None) -> str:
    """Return a collection, the collections in it, and a table of its models."""
    inner = [each.name + (f" ({each.note})" if each.note else "") for each in found.collections]
    head = format_fields(
        [
            ("Collection", found.name),
            ("Note", found.note),
            ("Source", found.source),
            ("Created", cli_format.format_date(found.created)),
            ("Contains", "\n".join(inner)),
            ("Models", None if found.members else "none"),
        ],
        max_width=max_width,
    )
    if not found.members:
        return head
    columns = [
        Column("MODEL", min_width=24, keep_end=True),
        Column("ROLE", 1),
        Column("STATE", 2),
        Column("COLLECTION", 4, min_width=10, keep_end=True),
        Column("NOTE", 3, min_width=20, below=True),
    ]
    rows = [_make_member_row(found, member) for member in found.members]
    return f"{head}\n\n{format_table(columns, rows, max_width=max_width)}"


def _make_member_row(found: CollectionView, member: CollectionMember) -> list[str]:
    return [
        member.id or member.ref,
        member.role or "",
        "on this machine" if member.id else MISSING,
        member.collection if member.collection != found.name else "",
        member.note,
    ]


def render_remedies(found: CollectionView) -> str:
    """Return the commands that get the missing models, and the roles that mean other models, or an empty string."""
    missing = [member for member in found.members if not member.id]
    lines = [f"{each.ref} is {MISSING}: {each.fix or 'import or attach it again'}" for each in missing[:MAX_REMEDIES]]
    if len(missing) > 1:
        lines.append(f"Pull all {len(missing)} that are missing: llm hf pull --collection {found.name}")
    lines += [member.clash for member in found.members if member.clash]
    return "\n".join(clean_text(line) for line in lines)


def render_change(found: CollectionView, verb: str) -> str:
    """Return a line about a collection after a change."""
    local = sum(member.id is not None for member in found.members)
    models = cli_format.count_things(len(found.members), "model")
    return f"{verb} {found.name}: {models}, {local} on this machine." if found.members else f"{verb} {found.name}."


def render_deletion(found: CollectionDeletion) -> str:
    """Return what a deletion deletes, and what ends with it."""
    verb = "Deleted" if found.done else "Would delete"
    inner = len(found.collections) - 1
    lines = [f"{verb} {found.name}" + (f" and {cli_format.count_things(inner, 'collection')} in it" if inner else "")]
    lines += [f"  {name}" for name in found.collections if name != found.name]
    if found.roles:
        lines.append(f"No longer names of models: {', '.join(found.roles)}")
    if found.containers:
        lines.append(f"Removed from: {', '.join(found.containers)}")
    if found.models:
        lines.append(f"Its {cli_format.count_things(found.models, 'model')} stay as they are.")
    return "\n".join(lines)


def render_import(done: CollectionImport) -> str:
    """Return what an import adds, keeps and misses."""
    verb = "Would import" if not done.done else "Imported"
    title = f" ({done.title})" if done.title else ""
    lines = [f"{verb} {done.source}{title} as {done.name}: {cli_format.count_things(len(done.added), 'new model')}."]
    lines += [f"  {ref}" for ref in done.added[:MAX_REFS]]
    if len(done.added) > MAX_REFS:
        lines.append(f"  and {len(done.added) - MAX_REFS} more")
    if done.kept:
        lines.append(f"{cli_format.count_things(len(done.kept), 'model')} were in it before.")
    if done.missing:
        shown = ", ".join(done.missing[:MAX_REFS])
        lines.append(f"Not in the Hub's collection, and kept: {shown}")
    if done.collections:
        lines.append(f"Collections in it: {', '.join(done.collections)}")
    if done.done and done.added:
        lines.append(f"Download its models: llm hf pull --collection {done.name}")
    return "\n".join(clean_text(line, keep_lines=True) for line in lines)


def render_skipped(skipped: Sequence[SkippedItem]) -> str:
    """Return the items that were not imported, each with the reason."""
    lines = [f"Skipped {cli_format.count_things(len(skipped), 'item')}:"]
    lines += [f"  {item.id or 'an item without a name'}: {item.why}" for item in skipped[:MAX_REFS]]
    if len(skipped) > MAX_REFS:
        lines.append(f"  and {len(skipped) - MAX_REFS} more (--json lists them all)")
    return "\n".join(lines)
