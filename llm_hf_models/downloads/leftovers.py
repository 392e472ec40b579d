"""Find and remove the leftover files of downloads that have finished.

A process that removes a partial file becomes its owner first (system/ownership.py), as a download does, and then
reads the rows again. A pull that starts in the meantime keeps its bytes, or waits.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads.local_files import build_partial_path
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.downloads.records import derive_context, load_plan_if_readable
from llm_hf_models.errors import LibraryBusyError, NotWritableError, StorageError
from llm_hf_models.hub import cache_layout
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import FINISHED_STATES, UNFINISHED_STATES, Download
from llm_hf_models.system.disk import list_matches
from llm_hf_models.system.ownership import OwnedByOtherError, acquire_ownership, is_owned, wait_at_most

NO_LIMIT = -1  # SQLite's value for no limit

OWNER_WAIT_SECONDS = 1.0  # for the owner of a file that is about to be removed
# The name of a file that belongs to a download: the digest, then `part` or `whole`, and maybe more.
_LEFTOVER_NAME = re.compile(r"(?P<etag>[0-9a-f]{40}|[0-9a-f]{64})\.(?P<part>part|whole)(?P<more>\..+)?")


@dataclass(frozen=True)
class SortedRows:
    """Unfinished and finished downloads. Rows that this cleanup removes count as finished."""

    unfinished: tuple[Download, ...]
    finished: tuple[Download, ...]
    _plans: dict[int, PullPlan | None] = field(default_factory=dict)  # loaded so far, by the id of the row

    def needs(self, partial: Path) -> bool:
        """Return True if an unfinished download may use this partial file, or if its plan can't be read."""
        plans = map(self._load_plan, self.unfinished)
        return any(plan is None or _may_belong_to(plan, partial) for plan in plans)

    def is_left_by_finished(self, partial: Path, written: float) -> bool:
        """Return True if a finished download left this partial file. A plan that can't be read does not show that.

        A file written after that download finished belongs to another library that shares the cache.

        Args:
            partial: The partial file.
            written: The time of its last change, in Unix seconds.
        """
        plans = (self._load_plan(row) for row in self.finished if row.updated >= written)
        return any(plan is not None and _may_belong_to(plan, partial) for plan in plans)

    def _load_plan(self, row: Download) -> PullPlan | None:
        if row.id not in self._plans:
            self._plans[row.id] = load_plan_if_readable(row)
        return self._plans[row.id]


def _give_up_version(db: Database, row: Download) -> None:
    """Let `gc` remove the complete files of a new version whose update was cancelled before its load test."""
    plan = load_plan_if_readable(row)
    if plan is not None and plan.switch is not None and plan.model_id is not None:
        for version in db.list_all_versions(plan.model_id).get(plan.model_id, ()):
            if version.commit == plan.commit and version.state == "untested":
                db.set_version_state(plan.model_id, plan.commit, "refused")


def remove_leftovers(context: Context, finished: Iterable[Download]) -> list[int]:
    """Remove the partial files of cancelled downloads, except those that other downloads need.

    Returns:
        The ids of downloads with files that no other download needs and that could not be removed. `gc` can find
        those files only by their rows.
    """
    cutoff, remaining = compute_history_cutoff(context), []
    with context.open_database() as db:
        for row in finished:
            partials = _list_partials(context, row)
            with contextlib.suppress(NotWritableError, LibraryBusyError):
                db.update_download(row.id)  # set its time to now: all bytes written so far belong to it
                _give_up_version(db, row)
            for partial in partials:
                if list_leftover_paths(partial):
                    with contextlib.suppress(OSError, StorageError):
                        remove_partial(context, db, cutoff, partial)
            kept = [partial for partial in partials if list_leftover_paths(partial)]
            if not kept:
                with contextlib.suppress(NotWritableError, LibraryBusyError):
                    _reset_done_bytes(db, row.id)
            elif not all(map(sort_rows(db, cutoff).needs, kept)):
                remaining.append(row.id)
    return remaining


def remove_cancelled_files(context: Context, download_ids: Sequence[int]) -> list[int]:
    """Remove the files of cancelled downloads, each from the cache that it was planned for.

    Returns:
        The ids of the downloads with files that could not be removed.
    """
    remaining = []
    with context.open_downloads() as db:
        rows = [row for download_id in download_ids if (row := db.get_download(download_id)) is not None]
    for row in rows:
        plan = load_plan_if_readable(row)
        if plan is not None:
            remaining += remove_leftovers(derive_context(context, plan), [row])
    return remaining


def _reset_done_bytes(db: Database, download_id: int) -> None:
    with db.transaction():
        row = db.get_download(download_id)
        if row is not None and row.state == "cancelled":  # no process has started it again in the meantime
            db.update_download(download_id, done_bytes=0)


def _list_partials(context: Context, row: Download) -> Sequence[Path]:
    plan = load_plan_if_readable(row)
    if plan is None:
        return ()
    folder = choose_work_folder(context.cache_dir(), plan)
    return [build_partial_path(folder, file.etag) for file in plan.files if file.etag]


def compute_history_cutoff(context: Context) -> float:
    """Return the time in Unix seconds before which finished downloads and cached responses are removed."""
    return time.time() - context.settings().history_seconds


def sort_rows(db: Database, cutoff: float) -> SortedRows:
    """Read all rows and sort them into unfinished and finished ones.

    A failed download can be continued, so it counts as finished only if it is older than `cutoff`.
    """
    rows = db.list_downloads(limit=NO_LIMIT)
    expired = {row.id for row in rows if row.state in FINISHED_STATES and row.updated < cutoff}
    unfinished = tuple(row for row in rows if row.state in UNFINISHED_STATES and row.id not in expired)
    return SortedRows(unfinished, tuple(row for row in rows if row not in unfinished))


def choose_work_folder(cache: Path, plan: PullPlan) -> Path:
    """Return the folder with the partial files of a pull, inside its target folder (`--to`) or its cache.

    `cache` is used for plans of older versions, which do not name their cache.
    """
    if plan.options.to:
        return cache_layout.target_work_folder(Path(plan.folder))
    return cache_layout.cache_work_folder(Path(plan.cache_dir) if plan.cache_dir else cache)


def _may_belong_to(plan: PullPlan, partial: Path) -> bool:
    """Return True if a download with this plan uses this partial file, or has used it.

    The partial file must be in the download's own work folder. If another version stored a plan that does not name its
    cache, any folder may be its work folder.
    """
    if all(file.etag != partial.stem for file in plan.files):
        return False
    if not (plan.options.to or plan.cache_dir):
        return True
    return _is_same_folder(choose_work_folder(Path(plan.cache_dir or ""), plan), partial.parent)


def _is_same_folder(one: Path, other: Path) -> bool:
    """Return True if two paths lead to the same folder, or if unknown: no file that may be needed is removed."""
    try:
        return one == other or one.samefile(other)
    except (FileNotFoundError, NotADirectoryError):  # one of them does not exist
        return False
    except OSError:
        return True


def group_by_digest(folder: Path) -> Mapping[str, list[Path]]:
    """Return the files of downloads in a work folder, grouped by the digest in their names."""
    found: dict[str, list[Path]] = {}
    for path in list_matches(folder, "*"):
        if name := _LEFTOVER_NAME.fullmatch(path.name):
            found.setdefault(name["etag"], []).append(path)
    return found


def compute_age(path: Path) -> float:
    """Return the seconds since a file was last changed, or 0 if it no longer exists."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def remove_partial(context: Context, db: Database, cutoff: float, partial: Path) -> bool:
    """Remove a partial file and its journal, unless a download needs or owns it. Return True if they were removed.

    Another process of a cancelled download may be about to end, or may try the same at this moment. Therefore this
    waits a short time for another owner.
    """
    if is_owned(partial) and sort_rows(db, cutoff).needs(partial):  # its owner may not end soon
        return False
    try:
        with acquire_ownership(partial, wait_at_most(OWNER_WAIT_SECONDS, OwnedByOtherError(partial))):
            rows = sort_rows(db, cutoff)
            if rows.needs(partial):
                return False
            age = find_youngest_age(list_leftover_paths(partial))
            if age < context.settings().orphan_seconds and not rows.is_left_by_finished(partial, time.time() - age):
                return False
            for path in list_leftover_paths(partial):
                path.unlink(missing_ok=True)
    except OwnedByOtherError:
        return False
    partial.with_name(f"{partial.name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the folder is not empty
        if partial.parent.parent.name != ".locks":  # the cache's work folder stays: it has the verification marks
            partial.parent.rmdir()
    return True


def list_leftover_paths(partial: Path) -> Sequence[Path]:
    """Return a partial file with the files that belong to it, except its lock and owner file, which may be in use."""
    held = {f"{partial.name}.lock", f"{partial.name}.owner"}
    return [path for path in group_by_digest(partial.parent).get(partial.stem, ()) if path.name not in held]


def find_youngest_age(paths: Sequence[Path]) -> float:
    """Return the seconds since the latest change of any of the files; infinite without files."""
    return min(map(compute_age, paths), default=float("inf"))
