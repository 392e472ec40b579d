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
    _age,
    _by_digest,
    _history_before,
    _leftovers,
    _partial,
    _remove_partial,
    _Rows,
    _rows,
    _work_folder_of,
    _youngest,
)
from llm_hf_models.downloads.records import plan_if_readable
from llm_hf_models.downloads.types import DeadFile, Kind
from llm_hf_models.errors import NotWritableError
from llm_hf_models.hub import cache_files, cache_layout
from llm_hf_models.inference import engine_folder, running_engines
from llm_hf_models.library.database import LibraryDB
from llm_hf_models.library.download_records import FINISHED
from llm_hf_models.system.disk import bytes_on_disk
from llm_hf_models.transfer.ownership import is_owned
from llm_hf_models.types import Cleanup


def plan(context: Context) -> Cleanup:
    """What `clean` would remove now. Changes nothing."""
    history = _history_before(context)
    with context.db() as db:
        rows = _rows(db, history)
        files = tuple(_dead_files(context, db, rows))
        return Cleanup(
            files,
            rows=db.count_downloads(FINISHED, before=history),
            answers=db.count_metadata(older_than=history),
            freed_bytes=sum(file.size for file in files),
        )


def clean(context: Context) -> Cleanup:
    """Removes what is dead now. What has come alive since it was looked at stays, and is not in the result.

    Raises:
        NotWritableError: the system refused to remove something.
    """
    history = _history_before(context)
    planned = plan(context)
    with context.db() as db:
        removed = tuple(file for file in planned.files if _remove(context, db, history, file))
        rows = db.clear_downloads(FINISHED, before=history)
        answers = db.forget_metadata(older_than=history)
    return replace(
        planned, files=removed, rows=rows, answers=answers, freed_bytes=sum(f.size for f in removed), done=True
    )


def _dead_files(context: Context, db: LibraryDB, rows: _Rows) -> Iterator[DeadFile]:
    cache, keep = context.cache_dir(), context.settings().orphan_seconds
    for folder in _work_folders(cache, rows):
        yield from _partials(folder, rows, keep)
        yield from _old("note", folder.glob("*.tmp"), keep, "half-written")
    yield from _notes(cache, keep)
    yield from _refs(cache)
    yield from _incompletes(cache, keep)
    yield from _old("copy", (paths_module.home() / "imported").glob("*.partial"), keep, "its import was broken off")
    yield from _engines(db, keep)


# What may be dead


def _work_folders(cache: Path, rows: _Rows) -> set[Path]:
    """Where partials of ours stand: in the cache, and where else downloads that are over had brought theirs."""
    folders = {cache_layout.work_folder(cache)}
    for row in rows.over:
        if row.state != "done" and (found := plan_if_readable(row)):
            folders.add(_work_folder_of(cache, found))
    return folders


def _partials(folder: Path, rows: _Rows, keep: float) -> Iterator[DeadFile]:
    """By digest: one thing each, whatever stands beside the partial."""
    for etag, found in _by_digest(folder).items():
        partial = _partial(folder, etag)
        if rows.wants(partial) or is_owned(partial):
            continue
        paths = _leftovers(partial)
        age = _youngest(paths)
        if rows.left(partial, time.time() - age):
            why = "its download is over"
        elif age >= keep:
            why = "no download here names it"  # another library's may, which shares the cache: hence the waiting
        else:
            continue
        if paths:
            yield DeadFile("partial", str(partial), sum(map(bytes_on_disk, paths)), why)
        else:  # what held it was left alone, by a killed process, say
            yield DeadFile("lock", str(min(found)), sum(map(bytes_on_disk, found)), why)


def _notes(cache: Path, keep: float) -> Iterator[DeadFile]:
    """Notes that a blob was checked, of blobs that have gone."""
    blobs = {path.name for path in cache.glob("models--*/blobs/*")}
    notes = cache_layout.work_folder(cache).glob("*.checked")
    yield from _old("note", (note for note in notes if note.stem not in blobs), keep, "its file has gone")


def _refs(cache: Path) -> Iterator[DeadFile]:
    """Refs of ours whose snapshot another tool removed: to `hf cache` such a repo is corrupt."""
    for ref in cache.glob(f"models--*/refs/{cache_layout.OUR_REFS}/*"):
        if not (ref.parents[2] / "snapshots" / ref.name).is_dir():
            yield DeadFile("ref", str(ref), bytes_on_disk(ref), "its snapshot has gone")


def _incompletes(cache: Path, keep: float) -> Iterator[DeadFile]:
    """huggingface_hub's own partials: named at random, never continued by it after a kill."""
    for dead in _old("incomplete", cache.glob("*--*/blobs/*.incomplete"), keep, "huggingface_hub was broken off"):
        if not cache_files.is_fetched_now(Path(dead.path)):
            yield dead


def _engines(db: LibraryDB, keep: float) -> Iterator[DeadFile]:
    """Folders of engines that neither run nor answer."""
    alive = {running_engines.dir_of(row).path for row in db.engines() if running_engines.process_of(row)}
    for folder in engine_folder.base_dir().iterdir():
        if folder in alive or not folder.is_dir() or engine_folder.answers(str(engine_folder.EngineDir(folder).socket)):
            continue
        inside = [folder, *folder.glob("*")]
        if min(map(_age, inside)) >= keep:
            yield DeadFile("engine", str(folder), sum(map(bytes_on_disk, inside)), "its engine has left")


def _old(kind: Kind, paths: Iterable[Path], keep: float, why: str) -> Iterator[DeadFile]:
    for path in paths:
        if _age(path) >= keep:
            yield DeadFile(kind, str(path), bytes_on_disk(path), why)


# Removing


def _remove(context: Context, db: LibraryDB, history: float, dead: DeadFile) -> bool:
    """Whether it was dead still, and has gone."""
    path = Path(dead.path)
    try:
        if dead.kind in ("partial", "lock"):
            return _remove_partial(context, db, history, _partial(path.parent, path.name.partition(".")[0]))
        if dead.kind == "incomplete":
            return cache_files.remove_incomplete(path)
        if dead.kind == "engine":
            engine_folder.EngineDir(path).remove()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(f"Can't remove {path}", cause=error.strerror) from None
    return True
