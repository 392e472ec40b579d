"""Leftover files of downloads that have ended: find and remove them."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads.records import plan_if_readable
from llm_hf_models.downloads.types import PullPlan
from llm_hf_models.errors import InterruptedByUserError, LibraryBusyError, NotWritableError
from llm_hf_models.hub import cache_layout
from llm_hf_models.library.database import LibraryDB
from llm_hf_models.library.download_records import FINISHED, OPEN, Download
from llm_hf_models.transfer.ownership import owning

EVERY = -1  # SQLite's word for no limit

# A digest and what its download is about; the lock and the owner's name are not leftovers by themselves.
_OF_DOWNLOAD = re.compile(r"(?P<etag>[0-9a-f]{40}|[0-9a-f]{64})\.(?P<part>part|whole)(?P<more>\..+)?")


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


def _by_digest(folder: Path) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in folder.glob("*"):
        if name := _OF_DOWNLOAD.fullmatch(path.name):
            found.setdefault(name["etag"], []).append(path)
    return found


def _partial(folder: Path, etag: str) -> Path:
    return folder / f"{etag}.part"


def _age(path: Path) -> float:
    """Seconds since it was last written; 0 for what has gone meanwhile, which is no business of ours then."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


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
