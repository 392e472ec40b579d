"""What `gc` removes: leftovers of downloads that are over, old rows and kept answers. Never a model, never what lives.

Partials of ours are named by the digest of their file (cache_layout.py). Whoever removes one owns it first (owner.py),
as a download does, and looks at the rows once more then: so a pull that begins meanwhile keeps its bytes, or waits.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llm_hf_models import cache_layout, cached_files, engine_dirs, engine_rows, settings
from llm_hf_models.context import Context
from llm_hf_models.download_records import FINISHED, OPEN, Download
from llm_hf_models.errors import InterruptedByUserError, LibraryBusyError, NotWritableError
from llm_hf_models.library import LibraryDB
from llm_hf_models.owner import is_owned, owning
from llm_hf_models.pull_plan import PullPlan
from llm_hf_models.pull_rows import plan_if_readable
from llm_hf_models.space import bytes_on_disk

Kind = Literal["partial", "lock", "incomplete", "note", "ref", "copy", "engine"]
EVERY = -1  # SQLite's word for no limit
# A digest and what its download is about; the lock and the owner's name are not leftovers by themselves.
_OF_DOWNLOAD = re.compile(r"(?P<etag>[0-9a-f]{40}|[0-9a-f]{64})\.(?P<part>part|whole)(?P<more>\..+)?")


@dataclass(frozen=True)
class DeadFile:
    """One thing on the disk that nothing needs any more. `size` in bytes on the disk."""

    kind: Kind
    path: str
    size: int
    why: str


@dataclass(frozen=True)
class Cleanup:
    """What `gc` removes, or has removed."""

    files: tuple[DeadFile, ...]
    rows: int  # of downloads that have long been over
    answers: int  # of the Hub, kept for so long that nobody asks for them
    freed_bytes: int
    done: bool = False


@dataclass(frozen=True)
class _Rows:
    """Which downloads are open, and which are over; rows that go in this very cleanup are over."""

    open: tuple[Download, ...]
    over: tuple[Download, ...]

    def wants(self, partial: Path) -> bool:
        return any(_may_be_of(row, partial) for row in self.open)

    def left(self, partial: Path, written: float) -> bool:
        """Whether one that is over left it; what was written since is another library's, which shares the cache."""
        return any(row.updated >= written and _may_be_of(row, partial) for row in self.over)


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


def remove_leftovers(context: Context, over: Iterable[Download]) -> list[int]:
    """Removes what arrived of downloads that a person ended for good, but for what others need. `gc` finds the rest.

    Returns:
        The ids of those of which something stays that no other download here needs: only their rows tell of it.
    """
    history, left = _history_before(context), []
    with context.db() as db:
        for row in over:
            partials = _partials_of(context, row)
            with contextlib.suppress(NotWritableError, LibraryBusyError):
                db.update_download(row.id)  # it is over now: what was written until now is its own
            for partial in partials:
                if _leftovers(partial):
                    with contextlib.suppress(OSError, NotWritableError):
                        _remove_partial(context, db, history, partial)
            stay = [partial for partial in partials if _leftovers(partial)]
            if not stay:
                with contextlib.suppress(NotWritableError, LibraryBusyError):
                    _note_that_nothing_is_left(db, row.id)
            elif not all(map(_rows(db, history).wants, stay)):
                left.append(row.id)
    return left


def _note_that_nothing_is_left(db: LibraryDB, number: int) -> None:
    with db.transaction():
        row = db.download(number)
        if row is not None and row.state == "cancelled":  # nobody has begun it again meanwhile
            db.update_download(number, done_bytes=0)


def _partials_of(context: Context, row: Download) -> Sequence[Path]:
    found = plan_if_readable(row)
    if found is None:  # of another version
        return ()
    folder = _work_folder_of(context.cache_dir(), found)
    return [_partial(folder, file.etag) for file in found.files if file.etag]


def _history_before(context: Context) -> float:
    return time.time() - context.settings().history_seconds


def _rows(db: LibraryDB, history: float) -> _Rows:
    everything = db.downloads(limit=EVERY)
    goes = {row.id for row in everything if row.state in FINISHED and row.updated < history}
    is_open = tuple(row for row in everything if row.state in OPEN and row.id not in goes)
    return _Rows(is_open, tuple(row for row in everything if row not in is_open))


def _dead_files(context: Context, db: LibraryDB, rows: _Rows) -> Iterator[DeadFile]:
    cache, keep = context.cache_dir(), context.settings().orphan_seconds
    for folder in _work_folders(cache, rows):
        yield from _partials(folder, rows, keep)
        yield from _old("note", folder.glob("*.tmp"), keep, "half-written")
    yield from _notes(cache, keep)
    yield from _refs(cache)
    yield from _incompletes(cache, keep)
    yield from _old("copy", (settings.home() / "imported").glob("*.partial"), keep, "its import was broken off")
    yield from _engines(db, keep)


# What may be dead


def _work_folders(cache: Path, rows: _Rows) -> set[Path]:
    """Where partials of ours stand: in the cache, and where else downloads that are over had brought theirs."""
    folders = {cache_layout.work_folder(cache)}
    for row in rows.over:
        if row.state != "done" and (found := plan_if_readable(row)):
            folders.add(_work_folder_of(cache, found))
    return folders


def _work_folder_of(cache: Path, found: PullPlan) -> Path:
    """Of a pull into a plain folder (`--to`), or into the cache of the environment that it was planned in."""
    if found.options.to:
        return cache_layout.work_folder_of(Path(found.folder))
    return cache_layout.work_folder(Path(found.cache_dir) if found.cache_dir else cache)


def _may_be_of(row: Download, partial: Path) -> bool:
    """Whether a download works, or has worked, on this partial: the same bytes for another folder are its own.

    One of another version, which can't be read or doesn't tell its cache, may work in any folder.
    """
    if partial.stem not in row.plan:
        return False
    found = plan_if_readable(row)
    if found is None or not (found.options.to or found.cache_dir):
        return True
    return _is_same(_work_folder_of(Path(found.cache_dir or ""), found), partial.parent)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, whatever links they take. In doubt they do: what is wanted must stay."""
    try:
        return one == other or one.samefile(other)
    except (FileNotFoundError, NotADirectoryError):  # what stands in one of them is not in the other
        return False
    except OSError:
        return True


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


def _by_digest(folder: Path) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in folder.glob("*"):
        if name := _OF_DOWNLOAD.fullmatch(path.name):
            found.setdefault(name["etag"], []).append(path)
    return found


def _partial(folder: Path, etag: str) -> Path:
    return folder / f"{etag}.part"


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
        if not cached_files.is_fetched_now(Path(dead.path)):
            yield dead


def _engines(db: LibraryDB, keep: float) -> Iterator[DeadFile]:
    """Folders of engines that neither run nor answer."""
    alive = {engine_rows.dir_of(row).path for row in db.engines() if engine_rows.process_of(row)}
    for folder in engine_dirs.base_dir().iterdir():
        if folder in alive or not folder.is_dir() or engine_dirs.answers(str(engine_dirs.EngineDir(folder).socket)):
            continue
        inside = [folder, *folder.glob("*")]
        if min(map(_age, inside)) >= keep:
            yield DeadFile("engine", str(folder), sum(map(bytes_on_disk, inside)), "its engine has left")


def _old(kind: Kind, paths: Iterable[Path], keep: float, why: str) -> Iterator[DeadFile]:
    for path in paths:
        if _age(path) >= keep:
            yield DeadFile(kind, str(path), bytes_on_disk(path), why)


def _age(path: Path) -> float:
    """Seconds since it was last written; 0 for what has gone meanwhile, which is no business of ours then."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


# Removing


def _remove(context: Context, db: LibraryDB, history: float, dead: DeadFile) -> bool:
    """Whether it was dead still, and has gone."""
    path = Path(dead.path)
    try:
        if dead.kind in ("partial", "lock"):
            return _remove_partial(context, db, history, _partial(path.parent, path.name.partition(".")[0]))
        if dead.kind == "incomplete":
            return cached_files.remove_incomplete(path)
        if dead.kind == "engine":
            engine_dirs.EngineDir(path).remove()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(f"Can't remove {path}", cause=error.strerror) from None
    return True


def _remove_partial(context: Context, db: LibraryDB, history: float, partial: Path) -> bool:
    lived = threading.Event()
    try:
        # Asked for once: a living owner means that it is no business of ours.
        with owning(partial, lived, lived.set):
            rows = _rows(db, history)
            if rows.wants(partial):
                return False
            age = _youngest(_leftovers(partial))
            if not rows.left(partial, time.time() - age) and age < context.settings().orphan_seconds:
                return False
            for path in _leftovers(partial):
                path.unlink(missing_ok=True)
    except InterruptedByUserError:
        return False
    partial.with_name(f"{partial.name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a plain folder's; the cache's stays, it holds the notes
        if partial.parent.parent.name != ".locks":
            partial.parent.rmdir()
    return True


def _leftovers(partial: Path) -> Sequence[Path]:
    """All that a download left under a digest, without what holds it for us now."""
    ours = {f"{partial.name}.lock", f"{partial.name}.owner"}
    return [path for path in _by_digest(partial.parent).get(partial.stem, ()) if path.name not in ours]


def _youngest(paths: Sequence[Path]) -> float:
    return min(map(_age, paths), default=float("inf"))
