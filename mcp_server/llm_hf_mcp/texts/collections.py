"""Render collections as text for agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_hf_mcp.answers import Report
from llm_hf_mcp.texts.parts import format_totals
from llm_hf_models.system.text import quote_label

if TYPE_CHECKING:
    from llm_hf_mcp.results import EditCollectionResult, ListCollectionsResult
    from llm_hf_models.models.collections.types import CollectionMember, CollectionSummary

MISSING_STEP = "hf_download_model(ref) for a model that is not on this machine."


def format_collections(page: ListCollectionsResult) -> Report:
    """Return a list of collections."""
    lines = [*map(_format_summary, page.collections), format_totals(page.totals) or "No collections yet."]
    step = "hf_list_collections(name) for the models of one." if page.collections else None
    return Report("\n".join(lines), _suggest_next_page(page.next_cursor) or step)


def format_collection(page: ListCollectionsResult) -> Report:
    """Return one collection with its models."""
    lines = [*map(_format_summary, page.collections)]
    lines += [f"contains {quote_label(each.name)}" for each in page.contains]
    lines += [*map(_format_member, page.members), format_totals(page.totals) or "It has no models."]
    step = MISSING_STEP if any(member.id is None for member in page.members) else None
    return Report("\n".join(lines), _suggest_next_page(page.next_cursor) or step)


def format_edit(done: EditCollectionResult) -> Report:
    """Return a collection after a change."""
    if done.deletion:
        names = ", ".join(map(quote_label, done.deletion.collections))
        return Report(f"Deleted the collections: {names}. Their models are kept.")
    lines = [f"Collection {quote_label(done.collection)}:", *map(_format_member, done.members)]
    lines += [f"skipped {item.kind} {quote_label(item.id)}: {item.why}" for item in done.skipped]
    lines += [format_totals(done.totals) or "It has no models."]
    step = MISSING_STEP if any(member.id is None for member in done.members) else None
    return Report("\n".join(lines), step, done.messages)


def _suggest_next_page(cursor: str | None) -> str | None:
    return f"call again with cursor={cursor!r} for the next page." if cursor else None


def _format_summary(row: CollectionSummary) -> str:
    return f"{quote_label(row.name)}: {row.models} models, {row.local_models} on this machine"


def _format_member(member: CollectionMember) -> str:
    role = f", role {member.collection}/{member.role}" if member.role else ""
    place = "on this machine" if member.id else "not on this machine"
    return f"- {quote_label(member.id or member.ref)} ({place}{role})"
