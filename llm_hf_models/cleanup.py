"""Find and remove leftovers for `llm hf gc`: unused files, old rows and old responses of the Hub.

Models and files in use are never removed. A partial file is named after the digest of its file (hub/cache_layout.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from llm_hf_models import paths as paths_module
from llm_hf_models.context import Context
from llm_hf_models.downloads.leftovers import (
    SortedRows,
    choose_work_folder,
    compute_age,
    compute_history_cutoff,
    find_youngest_age,
    group_by_digest,
    list_leftover_paths,
    remove_partial,
    sort_rows,
)
from llm_hf_models.downloads.local_files import build_partial_path
from llm_hf_models.downloads.records import load_plan_if_readable
from llm_hf_models.downloads.types import Leftover, LeftoverKind
from llm_hf_models.errors import NotWritableError
from llm_hf_models.hub import cache_files, cache_layout
from llm_hf_models.inference import engine_folder, running_engines
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import FINISHED_STATES
from llm_hf_models.library.records import LocalFile
from llm_hf_models.models.local.files import RemovalPlanner, delete_from_cache
from llm_hf_models.system import verified_files
from llm_hf_models.system.disk import count_bytes_on_disk, list_matches
from llm_hf_models.system.ownership import is_owned
from llm_hf_models.types import Cleanup

INTERRUPTED = "writing it was interrupted"


def plan_cleanup(context: Context) -> Cleanup:
    """Return the leftovers that `clean_up` would remove now. This changes nothing."""
    cutoff = compute_history_cutoff(context)
    with context.open_database() as db:
        rows = sort_rows(db, cutoff)
        files = tuple(_find_leftovers(context, db, rows))
        return Cleanup(
            files,
            download_records=db.count_downloads(FINISHED_STATES, before=cutoff),
            cached_responses=db.count_metadata(older_than=cutoff),
            freed_bytes=sum(file.size_bytes for file in files),
        )


def clean_up(context: Context) -> Cleanup:
    """Remove leftover files, old rows and old responses. Files that have come into use in the meantime are kept.

    Returns:
        The files and rows that were removed.

    Raises:
        NotWritableError: The system refused to remove a file.
    """
    cutoff = compute_history_cutoff(context)
    planned = plan_cleanup(context)
    with context.open_database() as db:
        removed = tuple(file for file in planned.files if _remove_leftover(context, db, cutoff, file))
        rows = db.delete_downloads(FINISHED_STATES, before=cutoff)
        responses = db.delete_old_metadata(older_than=cutoff)
    return replace(
        planned,
        files=removed,
        download_records=rows,
        cached_responses=responses,
        freed_bytes=sum(f.size_bytes for f in removed),
        done=True,
    )


def _find_leftovers(context: Context, db: Database, rows: SortedRows) -> Iterator[Leftover]:
    cache, keep_seconds = context.cache_dir(), context.settings().orphan_seconds
    for folder in _find_work_folders(cache, rows):
        yield from _find_partials(folder, rows, keep_seconds)
        yield from _select_old("note", list_matches(folder, "*.tmp"), keep_seconds, INTERRUPTED)
    yield from _find_old_notes(cache, keep_seconds)
    yield from _find_broken_refs(cache)
    yield from _find_incompletes(cache, keep_seconds)
    yield from _select_old(
        "copy", (paths_module.data_dir() / "imported").glob("*.partial"), keep_seconds, "its import was interrupted"
    )
    yield from _find_engine_folders(db, keep_seconds)
    for file in _list_abandoned(db):
        yield Leftover(
            "version", file.location, file.size, "its model was updated, or the update failed or was cancelled"
        )


def _find_work_folders(cache: Path, rows: SortedRows) -> set[Path]:
    """Return the folders that may contain partial files: the cache's, and those of finished downloads."""
    folders = {cache_layout.cache_work_folder(cache)}
    for row in rows.finished:
        if row.state != "done" and (plan := load_plan_if_readable(row)):
            folders.add(choose_work_folder(cache, plan))
    return folders


def _find_partials(folder: Path, rows: SortedRows, keep_seconds: float) -> Iterator[Leftover]:
    """Yield the leftovers of downloads in a work folder, one for each digest."""
    for etag, found in group_by_digest(folder).items():
        partial = build_partial_path(folder, etag)
        if rows.needs(partial) or is_owned(partial):
            continue
        paths = list_leftover_paths(partial)
        age = find_youngest_age(paths)
        if rows.is_left_by_finished(partial, time.time() - age):
            reason = "its download has finished"
        elif age >= keep_seconds:  # another library that shares the cache may need a younger file
            reason = "no download needs it"
        else:
            continue
        if paths:
            yield Leftover("partial", str(partial), sum(map(count_bytes_on_disk, paths)), reason)
        else:  # only the lock or the owner file is left, for example after a kill
            yield Leftover("lock", str(min(found)), sum(map(count_bytes_on_disk, found)), reason)


def _find_old_notes(cache: Path, keep_seconds: float) -> Iterator[Leftover]:
    """Yield the notes about verified files that were removed or modified since, and those of earlier versions."""
    unused = list_matches(cache_layout.cache_work_folder(cache), "*.checked")
    yield from _select_old("note", unused, 0, "an earlier version wrote it")
    outdated = verified_files.find_outdated_notes()
    yield from _select_old("note", outdated, keep_seconds, "its file was removed or modified")
    yield from _select_old("note", verified_files.notes_folder().glob("*.tmp"), keep_seconds, INTERRUPTED)


def _find_broken_refs(cache: Path) -> Iterator[Leftover]:
    """Yield the package's own refs to snapshots that another tool removed. `hf cache` calls such a repo corrupt."""
    for ref in list_matches(cache, f"models--*/refs/{cache_layout.REF_NAMESPACE}/*"):
        if not (ref.parents[2] / "snapshots" / ref.name).is_dir():
            yield Leftover("ref", str(ref), count_bytes_on_disk(ref), "its snapshot was removed")


def _find_incompletes(cache: Path, keep_seconds: float) -> Iterator[Leftover]:
    """Yield huggingface_hub's partial files. Their names are random, so it never continues them after a kill."""
    for leftover in _select_old(
        "incomplete", list_matches(cache, "*--*/blobs/*.incomplete"), keep_seconds, "huggingface_hub was interrupted"
    ):
        if not cache_files.is_being_downloaded(Path(leftover.path)):
            yield leftover


def _list_abandoned(db: Database) -> Iterator[LocalFile]:
    """Yield the files of models' versions that are not kept, which a killed update left, or one that failed a test."""
    models, versions = db.list_models(), db.list_all_versions()
    planner = RemovalPlanner(models, versions)
    for model in models:
        if model.model_id in versions:
            yield from planner.list_abandoned(model)


def _find_engine_folders(db: Database, keep_seconds: float) -> Iterator[Leftover]:
    """Yield the folders of engines that neither run nor listen on their socket."""
    running = {
        running_engines.get_engine_folder(row).path for row in db.list_engines() if running_engines.find_process(row)
    }
    for folder in engine_folder.make_base_folder().iterdir():
        if (
            folder in running
            or not folder.is_dir()
            or engine_folder.is_listening(str(engine_folder.EngineFolder(folder).socket))
        ):
            continue
        contents = [folder, *folder.glob("*")]
        if min(map(compute_age, contents)) >= keep_seconds:
            yield Leftover("engine", str(folder), sum(map(count_bytes_on_disk, contents)), "its engine has ended")


def _select_old(kind: LeftoverKind, paths: Iterable[Path], keep_seconds: float, reason: str) -> Iterator[Leftover]:
    for path in paths:
        if compute_age(path) >= keep_seconds:
            yield Leftover(kind, str(path), count_bytes_on_disk(path), reason)


def _remove_leftover(context: Context, db: Database, cutoff: float, leftover: Leftover) -> bool:
    """Remove a leftover. Return False if it has come into use again and is kept."""
    path = Path(leftover.path)
    try:
        if leftover.kind in ("partial", "lock"):
            return remove_partial(context, db, cutoff, build_partial_path(path.parent, path.name.partition(".")[0]))
        if leftover.kind == "incomplete":
            return cache_files.remove_incomplete(path)
        if leftover.kind == "version":
            found = [file for file in _list_abandoned(db) if file.location == leftover.path]
            delete_from_cache(found)
            return bool(found)
        if leftover.kind == "engine":
            engine_folder.EngineFolder(path).remove()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(f"Can't remove {path}", cause=error.strerror) from None
    return True
