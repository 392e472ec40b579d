"""Create, find and read the rows of pulls, with their plans. See downloads/pull.py for carrying them out."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llm_hf_models.context import Context
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.errors import LibraryError
from llm_hf_models.library.download_records import UNFINISHED_STATES, Download
from llm_hf_models.library.downloads import DownloadTables

_PLAN_ADAPTER: TypeAdapter[PullPlan] = TypeAdapter(PullPlan)


def open_row(
    context: Context, db: DownloadTables, plan: PullPlan, *, background: bool, on_done: str | None = None
) -> Download:
    """Return the unfinished row that an earlier attempt at this pull left, or a new row in the state queued."""
    with db.transaction():  # if two processes do this at once, the second finds the row of the first
        row = find_open_row(context, db, plan)
        if row is not None:
            return _update_open_row(context, db, row, plan, background=background, on_done=on_done)
        return db.add_download(
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


def store_completed_plan(db: DownloadTables, download_id: int, plan: PullPlan) -> PullPlan:
    """Store the completed plan of a row that had a draft, with the aliases that were requested in the meantime."""
    with db.transaction():
        now = db.get_download(download_id)
        stored = load_plan_if_readable(now) if now else None
        aliases = tuple(dict.fromkeys((*plan.aliases, *(stored.aliases if stored else ()))))
        plan = replace(plan, aliases=aliases)
        db.update_download(
            download_id, plan=_serialize_plan(plan), total_bytes=plan.total_bytes, state="running", error=None
        )
    return plan


def find_open_row(context: Context, db: DownloadTables, plan: PullPlan) -> Download | None:
    """Return the unfinished row of a pull, if there is one."""
    return next(
        (row for row in db.list_downloads(states=UNFINISHED_STATES, limit=-1) if _has_same_target(context, row, plan)),
        None,
    )


def _update_open_row(
    context: Context, db: DownloadTables, row: Download, plan: PullPlan, *, background: bool, on_done: str | None
) -> Download:
    """Replace the plan of an unfinished row by a newer one.

    A row that a process is carrying out stays in the foreground or background, and keeps the aliases of its plan. A
    row that is queued in the background stays in the background, so that a worker continues it when this pull ends.
    """
    background = row.background and (background or row.state == "queued")
    if row.is_owner_running(stale_seconds=context.stale_seconds()):
        background = row.background
        plan = replace(plan, aliases=tuple(dict.fromkeys((*load_plan(row).aliases, *plan.aliases))))
    changes: dict[str, Any] = {
        "plan": _serialize_plan(plan),
        "background": background,
        "on_done": on_done or row.on_done,
        "requested_by": row.choose_requester(context.requested_by),
    }
    db.update_download(row.id, **changes)
    return replace(row, **changes)


def _serialize_plan(plan: PullPlan) -> str:
    return _PLAN_ADAPTER.dump_json(plan).decode()


def _has_same_target(context: Context, row: Download, plan: PullPlan) -> bool:
    """Return True if a row downloads the same files to the same folder as a plan, and is not being cancelled."""
    if (row.ref, row.commit, row.quant) != (plan.ref, plan.commit, plan.quant) or row.wanted == "cancel":
        return False
    stored_plan = load_plan_if_readable(row)
    if stored_plan is None:
        return False
    if not is_for_cache(derive_context(context, plan), stored_plan):
        return False
    return (stored_plan.options.to, stored_plan.mmproj) == (plan.options.to, plan.mmproj)


def is_for_cache(context: Context, plan: PullPlan) -> bool:
    """Return True if a plan was made for the cache of this context."""
    return derive_context(context, plan).cache_dir().absolute() == context.cache_dir().absolute()


def derive_context(context: Context, plan: PullPlan) -> Context:
    """Return the context for carrying out a plan, with the cache and the Hub that the plan was made for."""
    cache = Path(plan.cache_dir) if plan.cache_dir else None
    return replace(context, planned_cache=cache, planned_endpoint=plan.endpoint)


def load_plan(row: Download) -> PullPlan:
    """Return the plan that is stored in a row.

    Raises:
        LibraryError: Another version of this package stored it in a form that this version can't read.
    """
    try:
        return _PLAN_ADAPTER.validate_json(row.plan)
    except ValidationError:
        raise LibraryError(
            f"Download {row.id} was planned by another version of llm-hf-models",
            hint=f"llm hf pull {shlex.quote(row.ref)}",
        ) from None


def load_plan_if_readable(row: Download) -> PullPlan | None:
    """Return the plan that is stored in a row, or None if this version can't read it."""
    try:
        return load_plan(row)
    except LibraryError:
        return None
