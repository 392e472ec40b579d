"""Render lockfiles, their differences, syncs and exports. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli.format import count_things
from llm_hf_models.cli.layout import Column, format_table
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.lockfiles.types import (
        ExportResult,
        LockChange,
        LockDiff,
        LockResult,
        SyncPlan,
        SyncResult,
        SyncStep,
    )

_STEPS = {
    "none": "matches",
    "hash": "verify",
    "set": "set names and options",
}
_DONE = {
    "download": "downloaded",
    "copy": "copied",
    "link": "linked",
    "attach": "attached",
    "set": "names and options set",
    "hash": "verified",
}
MAX_VALUE_CHARS = 70


def render_lock_result(done: LockResult) -> str:
    """Return a line about a written lockfile."""
    where = f" in {done.path}" if done.path else ""
    lines = [f"{count_things(done.models, 'model')} ({format_size(done.size_bytes)}) locked{where}."]
    lines += [f"Signed: {done.signature}"] if done.signature else []
    return "\n".join(lines)


def list_warnings(done: LockResult | ExportResult) -> list[str]:
    """Return the warnings about a written lockfile, and the models that it lacks."""
    warnings = getattr(done, "warnings", ())
    return [*(f"Warning: {line}." for line in warnings), *(f"Left out: {line}." for line in done.left_out)]


def render_diff(diff: LockDiff) -> str:
    """Return the changes of each model, with the old values after - and the new ones after +."""
    lines, current = [], None
    for change in diff.changes:
        if change.id != current:
            lines.append(change.id)
            current = change.id
        lines += _render_change(change)
    return "\n".join(lines)


def _render_change(change: LockChange) -> list[str]:
    shown = [(sign, value) for sign, value in (("-", change.before), ("+", change.after)) if value is not None]
    return [f"  {sign} {_shorten(change.field)}: {_shorten(value)}" for sign, value in shown]


def _shorten(value: str) -> str:
    line = clean_text(value, len(value))  # a template may have control characters
    return line if len(line) <= MAX_VALUE_CHARS else f"{line[:MAX_VALUE_CHARS]}… ({len(value)} characters)"


def render_sync_plan(plan: SyncPlan, max_width: int | None) -> str:
    """Return a table with what a sync does about each model, the totals, and the reasons to ask a person."""
    rows = [[step.id, _describe_step(step), _explain_step(step)] for step in plan.steps if step.action != "none"]
    rows += [[removal.id, "remove", f"frees {format_size(removal.freed_bytes)}"] for removal in plan.removals]
    columns = [Column("MODEL", min_width=24, keep_end=True), Column("ACTION"), Column("WHY", wrap=True, min_width=20)]
    table = [format_table(columns, rows, max_width=max_width)] if rows else []
    matching = sum(step.action == "none" for step in plan.steps)
    lines = [f"{matching} of {len(plan.steps)} models match the lockfile."]
    lines += [f"To download: {format_size(plan.fetch_bytes)}."] if plan.fetch_bytes else []
    lines += [f"Not in the lockfile: {', '.join(plan.unlisted)}."] if plan.unlisted else []
    return "\n".join([*table, *lines, *plan.concerns])


def _describe_step(step: SyncStep) -> str:
    text = _STEPS.get(step.action, step.action)
    return f"{text} {format_size(step.fetch_bytes)}" if step.action == "download" else text


def _explain_step(step: SyncStep) -> str:
    if step.problem:
        return " ".join(part for part in (step.problem, step.hint) if part)
    fields = list(dict.fromkeys(change.field for change in step.changes if change.field != "model"))
    return ". ".join(part for part in (step.reason, f"differs: {', '.join(fields)}" if fields else "") if part)


def render_sync_result(done: SyncResult) -> str:
    """Return a line for each model that was changed, removed or kept in spite of --prune."""
    lines = [f"{model.id}: {_DONE[model.action]}" for model in done.models if model.done and model.action != "none"]
    lines += [f"{removal.id}: removed" for removal in done.removed]
    lines += [f"{model_id}: kept, because a model of the lockfile failed" for model_id in done.not_removed]
    synced = sum(model.done for model in done.models)
    return "\n".join([*lines, f"{synced} of {len(done.models)} models match the lockfile."])


def render_export(done: ExportResult, *, dry_run: bool) -> str:
    """Return a line about an exported folder."""
    text = f"{count_things(done.models, 'model')}, {count_things(done.files, 'file')} in {done.folder}"
    return f"{text}, {format_size(done.copied_bytes)} {'to copy' if dry_run else 'copied now'}."


def list_questions(plan: SyncPlan) -> Sequence[str]:
    """Return the reasons to ask a person before a plan is carried out."""
    removals = (
        f"{removal.id} is not in the lockfile. Removing it frees {format_size(removal.freed_bytes)}."
        for removal in plan.removals
    )
    return (*plan.concerns, *removals)
