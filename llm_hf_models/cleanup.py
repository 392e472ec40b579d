"""What `gc` removes: leftovers of downloads that are over, old rows and kept answers. Never a model, never what lives.

Partials of ours are named by the digest of their file (hub/cache_layout.py). Whoever removes one owns it first
(transfer/ownership.py),
as a download does, and looks at the rows once more then: so a pull that begins meanwhile keeps its bytes, or waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from llm_hf_models import paths as paths_module
from llm_hf_models.context import Context
from llm_hf_models.downloads.leftovers import (
    _build_partial_path,
    _choose_work_folder,
    _compute_age,
    _compute_history_cutoff,
    _find_youngest_age,
    _group_by_digest,
    _list_leftover_paths,
    _remove_partial,
    _sort_rows,
    _SortedRows,
)
from llm_hf_models.downloads.records import load_plan_if_readable
from llm_hf_models.downloads.types import Leftover, LeftoverKind
from llm_hf_models.errors import NotWritableError
from llm_hf_models.hub import cache_files, cache_layout
from llm_hf_models.inference import engine_folder, running_engines
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import FINISHED_STATES
from llm_hf_models.system.disk import count_bytes_on_disk
from llm_hf_models.transfer.ownership import is_owned
from llm_hf_models.types import Cleanup


def plan_cleanup(context: Context) -> Cleanup:
    """What `clean` would remove now. Changes nothing."""
    history = _compute_history_cutoff(context)
    with context.open_library() as db:
        rows = _sort_rows(db, history)
        files = tuple(_find_leftovers(context, db, rows))
        return Cleanup(
            files,
            download_records=db.count_downloads(FINISHED_STATES, before=history),
            cached_responses=db.count_metadata(older_than=history),
            freed_bytes=sum(file.size for file in files),
        )


def clean_up(context: Context) -> Cleanup:
    """Removes what is dead now. What has come alive since it was looked at stays, and is not in the result.

    Raises:
        NotWritableError: the system refused to remove something.
    """
    history = _compute_history_cutoff(context)
    planned = plan_cleanup(context)
    with context.open_library() as db:
        removed = tuple(file for file in planned.files if _remove_leftover(context, db, history, file))
        rows = db.clear_downloads(FINISHED_STATES, before=history)
        answers = db.delete_old_metadata(older_than=history)
    return replace(
        planned,
        files=removed,
        download_records=rows,
        cached_responses=answers,
        freed_bytes=sum(f.size for f in removed),
        done=True,
    )


def _find_leftovers(context: Context, db: Database, rows: _SortedRows) -> Iterator[Leftover]:
    cache, keep = context.cache_dir(), context.settings().orphan_seconds
    for folder in _find_work_folders(cache, rows):
        yield from _find_partials(folder, rows, keep)
        yield from _select_old("note", folder.glob("*.tmp"), keep, "half-written")
    yield from _find_old_notes(cache, keep)
    yield from _find_broken_refs(cache)
    yield from _find_incompletes(cache, keep)
    yield from _select_old(
        "copy", (paths_module.data_dir() / "imported").glob("*.partial"), keep, "its import was broken off"
    )
    yield from _find_engine_folders(db, keep)


# What may be dead


def _find_work_folders(cache: Path, rows: _SortedRows) -> set[Path]:
    """Where partials of ours stand: in the cache, and where else downloads that are over had brought theirs."""
    folders = {cache_layout.cache_work_folder(cache)}
    for row in rows.finished:
        if row.state != "done" and (found := load_plan_if_readable(row)):
            folders.add(_choose_work_folder(cache, found))
    return folders


def _find_partials(folder: Path, rows: _SortedRows, keep: float) -> Iterator[Leftover]:
    """By digest: one thing each, whatever stands beside the partial."""
    for etag, found in _group_by_digest(folder).items():
        partial = _build_partial_path(folder, etag)
        if rows.needs(partial) or is_owned(partial):
            continue
        paths = _list_leftover_paths(partial)
        age = _find_youngest_age(paths)
        if rows.is_left_by_finished(partial, time.time() - age):
            why = "its download is over"
        elif age >= keep:
            why = "no download here names it"  # another library's may, which shares the cache: hence the waiting
        else:
            continue
        if paths:
            yield Leftover("partial", str(partial), sum(map(count_bytes_on_disk, paths)), why)
        else:  # what held it was left alone, by a killed process, say
            yield Leftover("lock", str(min(found)), sum(map(count_bytes_on_disk, found)), why)


def _find_old_notes(cache: Path, keep: float) -> Iterator[Leftover]:
    """Notes that a blob was checked, of blobs that have gone."""
    blobs = {path.name for path in cache.glob("models--*/blobs/*")}
    notes = cache_layout.cache_work_folder(cache).glob("*.checked")
    yield from _select_old("note", (note for note in notes if note.stem not in blobs), keep, "its file has gone")


def _find_broken_refs(cache: Path) -> Iterator[Leftover]:
    """Refs of ours whose snapshot another tool removed: to `hf cache` such a repo is corrupt."""
    for ref in cache.glob(f"models--*/refs/{cache_layout.REF_NAMESPACE}/*"):
        if not (ref.parents[2] / "snapshots" / ref.name).is_dir():
            yield Leftover("ref", str(ref), count_bytes_on_disk(ref), "its snapshot has gone")


def _find_incompletes(cache: Path, keep: float) -> Iterator[Leftover]:
    """huggingface_hub's own partials: named at random, never continued by it after a kill."""
    for dead in _select_old(
        "incomplete", cache.glob("*--*/blobs/*.incomplete"), keep, "huggingface_hub was broken off"
    ):
        if not cache_files.is_being_downloaded(Path(dead.path)):
            yield dead


def _find_engine_folders(db: Database, keep: float) -> Iterator[Leftover]:
    """Folders of engines that neither run nor answer."""
    alive = {
        running_engines.get_engine_folder(row).path for row in db.list_engines() if running_engines.find_process(row)
    }
    for folder in engine_folder.make_base_folder().iterdir():
        if (
            folder in alive
            or not folder.is_dir()
            or engine_folder.is_listening(str(engine_folder.EngineFolder(folder).socket))
        ):
            continue
        inside = [folder, *folder.glob("*")]
        if min(map(_compute_age, inside)) >= keep:
            yield Leftover("engine", str(folder), sum(map(count_bytes_on_disk, inside)), "its engine has left")


def _select_old(kind: LeftoverKind, paths: Iterable[Path], keep: float, why: str) -> Iterator[Leftover]:
    for path in paths:
        if _compute_age(path) >= keep:
            yield Leftover(kind, str(path), count_bytes_on_disk(path), why)


# Removing


def _remove_leftover(context: Context, db: Database, history: float, dead: Leftover) -> bool:
    """Whether it was dead still, and has gone."""
    path = Path(dead.path)
    try:
        if dead.kind in ("partial", "lock"):
            return _remove_partial(context, db, history, _build_partial_path(path.parent, path.name.partition(".")[0]))
        if dead.kind == "incomplete":
            return cache_files.remove_incomplete(path)
        if dead.kind == "engine":
            engine_folder.EngineFolder(path).remove()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(f"Can't remove {path}", cause=error.strerror) from None
    return True
