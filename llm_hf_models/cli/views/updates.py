"""Render what changed on the Hub, what an update does, and what it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_table
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PullPlan
    from llm_hf_models.updates.types import OutdatedModel, OutdatedModels, PlannedUpdate, UpdatedModel, UpdatePlan

MAX_FILES = 4
_WORDS = {
    "card": "only the card changed",
    "other files": "only other files changed",
    "removed": "removed from the repo",
    "unavailable": "private or deleted",
}


def render_outdated(found: OutdatedModels, max_width: int | None) -> str:
    """Return a table of models and what changed on the Hub."""
    columns = [
        Column("ID", min_width=24, keep_end=True),
        Column("STATUS"),
        Column("FETCH", 1, right=True),
        Column("COMMITS", 3, extra=True),
        Column("NOTE", 2, below=True),
    ]
    rows = [
        [
            row.id,
            _WORDS.get(row.status, row.status) + (" (pinned)" if row.pinned and row.status != "pinned" else ""),
            format_size(row.fetch_bytes) if row.status == "new files" else "",
            _format_commits(row.commit, row.new_commit),
            _format_note(row, found.problem),
        ]
        for row in found.models
    ]
    return format_table(columns, rows, max_width=max_width)


def render_outdated_summary(found: OutdatedModels) -> str:
    """Return the number of models with new files and the next command, and why cached answers were used."""
    lines = (
        [f"The Hub was not asked: {found.problem}. The answers are those of earlier commands."] if found.problem else []
    )
    if found.outdated:
        pinned = sum(row.status == "new files" and row.pinned for row in found.models)
        update = " Update them: llm hf update --all" if found.outdated > pinned else ""
        skipped = f" {pinned} of them pinned, which updates skip." if pinned else ""
        lines.append(f"{cli_format.count_things(found.outdated, 'model')} with new files.{skipped}{update}")
    if found.unknown:
        lines.append(f"{cli_format.count_things(found.unknown, 'model')} could not be compared.")
    return "\n".join(lines)


def _format_commits(old: str | None, new: str | None) -> str:
    old, new = (commit[: cli_format.SHORT_COMMIT] if commit else "" for commit in (old, new))
    return f"{old} → {new}" if new and new != old else old


def _format_note(row: OutdatedModel, problem: str | None) -> str:
    """Return what the other columns don't show. A problem that concerns all rows is printed once, below the table."""
    renamed = f"the repo is now {row.renamed_to}" if row.renamed_to else None
    files = _list_files(row.files) if row.status in ("new files", "other files") else None
    return "; ".join(filter(None, (renamed, files, row.note if row.note != problem else None)))


def _list_files(files: Sequence[str]) -> str:
    more = f" and {len(files) - MAX_FILES} more" if len(files) > MAX_FILES else ""
    return ", ".join(files[:MAX_FILES]) + more


def render_update_plan(plan: UpdatePlan) -> str:
    """Return a line for each model, and the totals."""
    lines = [_format_planned(each) for each in plan.models]
    changed = [each for each in plan.models if each.action == "update"]
    if len(changed) > 1:
        lines.append(
            f"In all: {format_size(plan.fetch_bytes)} to download, {format_size(plan.disk_bytes)} of disk space needed "
            f"at first, {format_size(plan.freed_bytes)} freed afterwards."
        )
    if plan.problem:
        lines.append(f"The Hub was not asked: {plan.problem}.")
    return "\n".join(lines)


def _format_planned(each: PlannedUpdate) -> str:
    if each.action != "update":
        words = {"none": "", "skip": "skipped: ", "refuse": "not updated: "}
        return clean_text(f"{each.id}: {words[each.action]}{each.reason}" + (f". {each.hint}" if each.hint else ""))
    parts = [
        f"{format_size(each.fetch_bytes)} to download" if each.fetch_bytes else "nothing to download",
        f"{format_size(each.reused_bytes)} reused" if each.reused_bytes else None,
        "the old version is kept" if each.keep_old else None,
        f"{format_size(each.freed_bytes)} of the old version removed" if each.freed_bytes else None,
        f"the repo is now {each.renamed_to}" if each.renamed_to else None,
    ]
    commits = _format_commits(each.commit, each.new_commit)
    return clean_text(f"{each.id}: {commits}, {_WORDS.get(each.status, each.status)}: {_join(parts)}")


def _join(parts: Iterable[str | None]) -> str:
    return ", ".join(part for part in parts if part)


def render_updated(done: UpdatedModel) -> str:
    """Return the outcome of one model's update or rollback."""
    commits = _format_commits(done.previous_commit, done.commit)
    if done.outcome in ("updated", "rolled back"):
        text = f"{done.id}: {done.outcome}, {commits}" + (f". {done.message}" if done.message else "")
    else:
        text = f"{done.id}: {done.outcome}" + (f": {done.message}" if done.message != done.outcome else "")
    return clean_text(text, 1000) + (f"\n{done.hint}" if done.hint else "")


def render_rollback_plan(plan: PullPlan) -> str:
    """Return what a rollback does."""
    fetch = f"{format_size(plan.fetch_bytes)} to download again" if plan.fetch_bytes else "its files are here"
    kept = "the current version is kept" if plan.switch and plan.switch.keep_old else "the current version is removed"
    commit = plan.commit[: cli_format.SHORT_COMMIT]
    return clean_text(f"{plan.model_id}: back to {commit}: {fetch}; {kept}")
