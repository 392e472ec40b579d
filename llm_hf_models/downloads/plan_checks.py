"""Refuse a pull by the settings and by the disk that it would write to, and find the reasons to ask about one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.downloads.records import find_open_row, load_plan_if_readable
from llm_hf_models.errors import DiskFullError, PolicyError
from llm_hf_models.hub.types import HubFile, RepoDetails
from llm_hf_models.library.download_records import ACTIVE_STATES, Download
from llm_hf_models.system.disk import count_free_bytes, is_same_disk, refuse_names, translate_disk_error
from llm_hf_models.system.units import format_size

SMALL_REST = 0.1  # the part of a pull that is too small for a question


def refuse_by_policy(context: Context, details: RepoDetails, files: Sequence[HubFile]) -> None:
    """Refuse a pull that the settings forbid.

    Raises:
        PolicyError: A setting forbids this owner, this licence or this size.
    """
    now = context.settings()
    owners, licenses = settings.split_list(now.allowed_owners), settings.split_list(now.allowed_licenses)
    if owners and details.author.lower() not in owners:
        raise PolicyError(
            f"Pulling from {details.author} is not allowed",
            cause=f"The setting allowed_owners allows only {now.allowed_owners}.",
            hint="llm hf settings allowed_owners",
        )
    if licenses and (details.license or "").lower() not in licenses:
        raise PolicyError(
            f"The licence of {details.id} ({details.license or 'none stated'}) is not allowed",
            cause=f"The setting allowed_licenses allows only {now.allowed_licenses}.",
            hint="llm hf settings allowed_licenses",
        )
    total = sum(file.size for file in files)
    if now.max_download_bytes and total > now.max_download_bytes:
        raise PolicyError(
            f"The pull is {format_size(total)}, more than max_download_bytes allows",
            cause=f"The setting max_download_bytes is {format_size(now.max_download_bytes)}.",
            hint="llm hf settings max_download_bytes",
        )


def list_concerns(context: Context, plan: PullPlan) -> tuple[str, ...]:
    """Return the reasons to ask a person before a plan is carried out: the memory that it needs, and its size.

    There are none if the download was started before, or if only a small part of it is missing on this machine.
    """
    if plan.fetch_bytes <= plan.total_bytes * SMALL_REST:
        return ()
    found, limit = [], context.settings().ask_above_bytes
    if plan.fit is not None and not plan.fit.fits:
        found.append(f"The model does not fit this machine's memory: {plan.fit.reason}.")
    if limit and plan.fetch_bytes > limit:
        found.append(f"The download is larger than {format_size(limit)} (setting ask_above_bytes).")
    if found:
        with context.open_database() as db:
            if find_open_row(context, db, plan) is not None:
                return ()
    return tuple(found)


def refuse_place(context: Context, plan: PullPlan) -> None:
    """Refuse a pull into a folder that can't hold its files.

    Raises:
        NotWritableError: The file system does not accept a file's name.
        DiskFullError: There is not enough disk space.
    """
    refuse_names(Path(plan.folder) / file.path for file in plan.files)
    _refuse_full_disk(context, plan)


def _refuse_full_disk(context: Context, plan: PullPlan) -> None:
    folder = Path(plan.folder)
    try:
        free, promised = count_free_bytes(folder), _count_promised_bytes(context, plan)
    except OSError as error:
        raise translate_disk_error(error, folder, plan.fetch_bytes, 0) from None
    reserve = context.settings().disk_reserve_bytes
    needed = plan.fetch_bytes + sum(file.size for file in plan.files if file.copy)
    missing = needed + promised + reserve - free if needed else 0
    if missing > 0:
        raise DiskFullError(
            f"Not enough disk space in {folder}: {format_size(missing)} short",
            missing_bytes=missing,
            cause=f"The pull needs {format_size(needed)},"
            + (f" other downloads need {format_size(promised)}," if promised else "")
            + f" {format_size(free)} are free, and {format_size(reserve)} are reserved (setting disk_reserve_bytes).",
            hint="Remove leftovers with `llm hf gc`, or models with `llm hf rm` (`llm hf list` shows their sizes).",
        )


def _count_promised_bytes(context: Context, plan: PullPlan) -> int:
    """Return the bytes that other running and queued downloads will still write to the same disk."""
    with context.open_database() as db:
        rows = db.list_downloads(states=ACTIVE_STATES, limit=-1)
    stale = context.stale_seconds()
    others = [
        row
        for row in rows
        if (row.ref, row.commit) != (plan.ref, plan.commit)
        # If the process of a download has ended, a worker continues it only if it is a background download.
        and (row.state == "queued" or row.background or row.is_owner_running(stale_seconds=stale))
    ]
    return sum(max(0, row.total_bytes - row.done_bytes) for row in others if _may_share_disk(row, Path(plan.folder)))


def _may_share_disk(row: Download, folder: Path) -> bool:
    """Return True if a download writes to the disk of a folder, or if its plan can't be read."""
    plan = load_plan_if_readable(row)
    return plan is None or is_same_disk(Path(plan.folder), folder)
