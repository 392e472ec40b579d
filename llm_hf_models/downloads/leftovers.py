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
from llm_hf_models.downloads.records import load_plan_if_readable
from llm_hf_models.downloads.types import PullPlan
from llm_hf_models.errors import InterruptedByUserError, LibraryBusyError, NotWritableError
from llm_hf_models.hub import cache_layout
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import FINISHED_STATES, UNFINISHED_STATES, Download
from llm_hf_models.transfer.ownership import acquire_ownership

NO_LIMIT = -1  # SQLite's word for no limit

# A digest and what its download is about; the lock and the owner's name are not leftovers by themselves.
_LEFTOVER_NAME = re.compile(r"(?P<etag>[0-9a-f]{40}|[0-9a-f]{64})\.(?P<part>part|whole)(?P<more>\..+)?")


@dataclass(frozen=True)
class _SortedRows:
    """Which downloads are open, and which are over; rows that go in this very cleanup are over."""

    open: tuple[Download, ...]
    finished: tuple[Download, ...]

    def needs(self, partial: Path) -> bool:
        return any(_may_belong_to(row, partial) for row in self.open)

    def is_left_by_finished(self, partial: Path, written: float) -> bool:
        """Whether one that is over left it; what was written since is another library's, which shares the cache."""
        return any(row.updated >= written and _may_belong_to(row, partial) for row in self.finished)


def remove_leftovers(context: Context, over: Iterable[Download]) -> list[int]:
    """Removes what arrived of downloads that a person ended for good, but for what others need. `gc` finds the rest.

    Returns:
        The ids of those of which something stays that no other download here needs: only their rows tell of it.
    """
    history, left = _compute_history_cutoff(context), []
    with context.open_library() as db:
        for row in over:
            partials = _list_partials(context, row)
            with contextlib.suppress(NotWritableError, LibraryBusyError):
                db.update_download(row.id)  # it is over now: what was written until now is its own
            for partial in partials:
                if _list_leftover_paths(partial):
                    with contextlib.suppress(OSError, NotWritableError):
                        _remove_partial(context, db, history, partial)
            stay = [partial for partial in partials if _list_leftover_paths(partial)]
            if not stay:
                with contextlib.suppress(NotWritableError, LibraryBusyError):
                    _reset_done_bytes(db, row.id)
            elif not all(map(_sort_rows(db, history).needs, stay)):
                left.append(row.id)
    return left


def _reset_done_bytes(db: Database, number: int) -> None:
    with db.transaction():
        row = db.get_download(number)
        if row is not None and row.state == "cancelled":  # nobody has begun it again meanwhile
            db.update_download(number, done_bytes=0)


def _list_partials(context: Context, row: Download) -> Sequence[Path]:
    found = load_plan_if_readable(row)
    if found is None:  # of another version
        return ()
    folder = _choose_work_folder(context.cache_dir(), found)
    return [_build_partial_path(folder, file.etag) for file in found.files if file.etag]


def _compute_history_cutoff(context: Context) -> float:
    return time.time() - context.settings().history_seconds


def _sort_rows(db: Database, history: float) -> _SortedRows:
    everything = db.list_downloads(limit=NO_LIMIT)
    goes = {row.id for row in everything if row.state in FINISHED_STATES and row.updated < history}
    is_open = tuple(row for row in everything if row.state in UNFINISHED_STATES and row.id not in goes)
    return _SortedRows(is_open, tuple(row for row in everything if row not in is_open))


def _choose_work_folder(cache: Path, found: PullPlan) -> Path:
    """Of a pull into a plain folder (`--to`), or into the cache of the environment that it was planned in."""
    if found.options.to:
        return cache_layout.target_work_folder(Path(found.folder))
    return cache_layout.cache_work_folder(Path(found.cache_dir) if found.cache_dir else cache)


def _may_belong_to(row: Download, partial: Path) -> bool:
    """Whether a download works, or has worked, on this partial: the same bytes for another folder are its own.

    One of another version, which can't be read or doesn't tell its cache, may work in any folder.
    """
    if partial.stem not in row.plan:
        return False
    found = load_plan_if_readable(row)
    if found is None or not (found.options.to or found.cache_dir):
        return True
    return _is_same_folder(_choose_work_folder(Path(found.cache_dir or ""), found), partial.parent)


def _is_same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, whatever links they take. In doubt they do: what is wanted must stay."""
    try:
        return one == other or one.samefile(other)
    except (FileNotFoundError, NotADirectoryError):  # what stands in one of them is not in the other
        return False
    except OSError:
        return True


def _group_by_digest(folder: Path) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in folder.glob("*"):
        if name := _LEFTOVER_NAME.fullmatch(path.name):
            found.setdefault(name["etag"], []).append(path)
    return found


def _build_partial_path(folder: Path, etag: str) -> Path:
    return folder / f"{etag}.part"


def _compute_age(path: Path) -> float:
    """Seconds since it was last written; 0 for what has gone meanwhile, which is no business of ours then."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _remove_partial(context: Context, db: Database, history: float, partial: Path) -> bool:
    lived = threading.Event()
    try:
        # Asked for once: a living owner means that it is no business of ours.
        with acquire_ownership(partial, lived, lived.set):
            rows = _sort_rows(db, history)
            if rows.needs(partial):
                return False
            age = _find_youngest_age(_list_leftover_paths(partial))
            if not rows.is_left_by_finished(partial, time.time() - age) and age < context.settings().orphan_seconds:
                return False
            for path in _list_leftover_paths(partial):
                path.unlink(missing_ok=True)
    except InterruptedByUserError:
        return False
    partial.with_name(f"{partial.name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a plain folder's; the cache's stays, it holds the notes
        if partial.parent.parent.name != ".locks":
            partial.parent.rmdir()
    return True


def _list_leftover_paths(partial: Path) -> Sequence[Path]:
    """All that a download left under a digest, without what holds it for us now."""
    ours = {f"{partial.name}.lock", f"{partial.name}.owner"}
    return [path for path in _group_by_digest(partial.parent).get(partial.stem, ()) if path.name not in ours]


def _find_youngest_age(paths: Sequence[Path]) -> float:
    return min(map(_compute_age, paths), default=float("inf"))
