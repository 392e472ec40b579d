"""The row of a pull: opened with its plan, found again, read back. Carries nothing out (downloads/pull.py)."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from llm_hf_models.context import Context
from llm_hf_models.downloads.types import PullPlan
from llm_hf_models.errors import LibraryError
from llm_hf_models.library.download_records import UNFINISHED_STATES, Download
from llm_hf_models.library.downloads import DownloadTables

_PLAN_ADAPTER: TypeAdapter[PullPlan] = TypeAdapter(PullPlan)


def open_row(
    context: Context, db: DownloadTables, plan: PullPlan, *, background: bool, on_done: str | None = None
) -> Download:
    """The row of this pull: the open one that an earlier attempt left, or a new one, queued."""
    with db.transaction():  # of two that ask at once, one finds the other's row
        row = find_open_row(context, db, plan)
        if row is not None:
            return _update_open_row(context, db, row, plan, background=background, on_done=on_done)
        return db.open_download(
            Download(
                id=0,
                ref=plan.ref,
                state="queued",
                repo=plan.repo,
                commit=plan.commit,
                quant=plan.quant,
                total_bytes=plan.total_bytes,
                done_bytes=plan.total_bytes - plan.fetch_bytes,
                requested_by=context.requested_by,
                background=background,
                on_done=on_done,
                plan=_serialize_plan(plan),
            )
        )


def find_open_row(context: Context, db: DownloadTables, plan: PullPlan) -> Download | None:
    """The row of a pull that is not over."""
    return next(
        (row for row in db.list_downloads(states=UNFINISHED_STATES, limit=-1) if _has_same_target(context, row, plan)),
        None,
    )


def _update_open_row(
    context: Context, db: DownloadTables, row: Download, plan: PullPlan, *, background: bool, on_done: str | None
) -> Download:
    """The open row with the newer plan. What somebody carries out now stays his: also what was asked of him before.

    One that waits in the background stays that of a worker, too, for when who pulls it now leaves.
    """
    background = row.background and (background or row.state == "queued")
    if row.is_owner_running(stale_seconds=context.stale_seconds()):
        background = row.background
        plan = replace(plan, aliases=tuple(dict.fromkeys((*load_plan(row).aliases, *plan.aliases))))
    changed = replace(row, plan=_serialize_plan(plan), background=background, on_done=on_done or row.on_done)
    db.update_download(row.id, plan=changed.plan, background=changed.background, on_done=changed.on_done)
    return changed


def _serialize_plan(plan: PullPlan) -> str:
    return _PLAN_ADAPTER.dump_json(plan).decode()


def _has_same_target(context: Context, row: Download, plan: PullPlan) -> bool:
    """Whether a row is of the pull that a plan plans: the same bytes to the same place, and no end in sight."""
    if (row.ref, row.commit, row.quant) != (plan.ref, plan.commit, plan.quant) or row.wanted == "cancel":
        return False
    kept = load_plan_if_readable(row)
    if kept is None:
        return False
    if not is_for_cache(derive_context(context, plan), kept):
        return False
    return (kept.options.to, kept.mmproj) == (plan.options.to, plan.mmproj)


def is_for_cache(context: Context, plan: PullPlan) -> bool:
    """Whether a plan is for the cache of this context."""
    return derive_context(context, plan).cache_dir().absolute() == context.cache_dir().absolute()


def derive_context(context: Context, plan: PullPlan) -> Context:
    """The context to carry a plan out in: the cache and the Hub are those of the environment that it was made in."""
    cache = Path(plan.cache_dir) if plan.cache_dir else None
    return replace(context, planned_cache=cache, planned_endpoint=plan.endpoint)


def load_plan(row: Download) -> PullPlan:
    """The pinned plan that a row keeps.

    Raises:
        LibraryError: another version kept it, in a form that this one can't read.
    """
    try:
        return _PLAN_ADAPTER.validate_json(row.plan)
    except ValidationError:
        raise LibraryError(
            f"Download {row.id} was planned by another version of llm-hf-models",
            hint=f"llm hf pull {shlex.quote(row.ref)}",
        ) from None


def load_plan_if_readable(row: Download) -> PullPlan | None:
    """The same; None where another version kept it."""
    try:
        return load_plan(row)
    except LibraryError:
        return None
