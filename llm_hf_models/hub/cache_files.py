"""Which files are in the Hugging Face cache, whoever fetched them, and how they leave it. Puts none there.

Layout: `models--owner--name/{blobs/<etag>, refs/<name>, snapshots/<commit>/<path>, trees/<commit>.json}`; a snapshot's
file links to its blob, or is the file itself where there are no links. huggingface_hub's own scan gives a whole repo up
for one dangling link or one ref that is ahead of its snapshot, which any running `hf download` makes for a moment.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from llm_hf_models.errors import (
    BadRefError,
    NotWritableError,
)
from llm_hf_models.hub.refs import RepoId, is_commit

if TYPE_CHECKING:
    from huggingface_hub import HFCacheInfo


@dataclass(frozen=True)
class CachedFile:
    """A file in the Hugging Face cache, whoever fetched it."""

    repo: RepoId
    commit: str
    path: str
    location: Path  # the file in the snapshot
    blob: Path  # what it links to, by one step: the blob may link on to one that repos share
    size: int

    @property
    def snapshot(self) -> Path:
        """The folder of its commit."""
        return self.location.parents[self.path.count("/")]

    @property
    def repo_folder(self) -> Path:
        """The folder of its repo."""
        return self.snapshot.parents[1]


def iter_cached_files(cache_dir: Path) -> Iterator[CachedFile]:
    """Every model file in the cache; none where there is no cache. What can't be read is passed over."""
    with suppress(OSError):
        for folder in sorted(cache_dir.iterdir()):
            kind, _, name = folder.name.partition("--")
            with suppress(BadRefError, OSError):  # BadRefError: of the Hub's first years, a name without an owner
                if kind == "models":
                    yield from _iter_repo_files(RepoId.parse(name.replace("--", "/")), folder)


def _iter_repo_files(repo: RepoId, folder: Path) -> Iterator[CachedFile]:
    for snapshot in sorted((folder / "snapshots").iterdir()):
        if not is_commit(snapshot.name):
            continue
        for location in sorted(snapshot.rglob("*")):
            if location.is_file():  # a dangling link is none
                path = location.relative_to(snapshot).as_posix()
                yield CachedFile(repo, snapshot.name, path, location, _find_blob(location), location.stat().st_size)


def _find_blob(location: Path) -> Path:
    if not location.is_symlink():
        return location
    return Path(os.path.abspath(location.parent / location.readlink()))  # noqa: PTH100 - resolve() would go all the way


def remove_files_and_blobs(files: Sequence[CachedFile], among: Iterable[CachedFile], *, dry_run: bool) -> int:
    """Removes files, and those of their blobs that none of the others links to.

    Args:
        files: what goes.
        among: every file of the cache.
        dry_run: only count.

    Returns:
        The bytes freed; those of a blob that repos share are not counted, and stay.

    Raises:
        OSError: the system refused.
    """
    going = {file.location for file in files}
    users: dict[Path, int] = defaultdict(int)
    for file in among:
        users[file.blob] += file.location not in going
    freed = 0
    for file in files:
        if not dry_run:
            file.location.unlink(missing_ok=True)
    for blob, size in {file.blob: file.size for file in files if not users[file.blob]}.items():
        freed += 0 if blob.is_symlink() else size
        if not dry_run:
            blob.unlink(missing_ok=True)
    return freed


def is_being_downloaded(incomplete: Path) -> bool:
    """Whether huggingface_hub fetches that file into a partial of its own now."""
    with _lock_download(incomplete) as unfetched:
        return not unfetched


def remove_incomplete(incomplete: Path) -> bool:
    """Removes a partial of huggingface_hub, unless it fetches that file now; whether it did not.

    Raises:
        OSError: the system refused.
    """
    with _lock_download(incomplete) as unfetched:
        if unfetched:
            incomplete.unlink(missing_ok=True)
        return unfetched


@contextmanager
def _lock_download(incomplete: Path) -> Iterator[bool]:
    """Keeps huggingface_hub from fetching that file; False where it does so already, or where that can't be told."""
    repo = incomplete.parent.parent
    # What it holds meanwhile: `.locks/<repo folder>/<etag>.lock` (file_download.py).
    path = repo.parent / ".locks" / repo.name / f"{incomplete.name.partition('.')[0]}.lock"
    if not path.exists():
        yield True
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except OSError:  # a Timeout is one
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def remove_empty_snapshot(repo: Path, snapshot: Path) -> None:
    """Removes a snapshot that was left empty, and its repo where nothing else is in it. Never a file of others.

    In an order in which a kill leaves a cache that others still read: a ref without its snapshot would be damage, and
    so would a repo without `snapshots`.

    Raises:
        OSError: the system refused.
    """
    if not snapshot.is_dir() or any(path.is_symlink() or not path.is_dir() for path in snapshot.rglob("*")):
        return
    for ref in list((repo / "refs").rglob("*")):
        if ref.is_file() and ref.read_text(encoding="utf-8", errors="replace").strip() == snapshot.name:
            ref.unlink()
    (repo / "trees" / f"{snapshot.name}.json").unlink(missing_ok=True)
    _remove_empty_folders(snapshot)
    if any((repo / "snapshots").iterdir()):
        return
    for name in ("refs", "trees", ".no_exist", "blobs"):
        _remove_empty_folders(repo / name)
    if [path.name for path in repo.iterdir()] == ["snapshots"]:
        _remove_empty_folders(repo)


def _remove_empty_folders(top: Path) -> None:
    """Removes a folder and those in it, as far as no file is in them."""
    if not top.is_dir() or top.is_symlink():
        return
    for path in top.iterdir():
        _remove_empty_folders(path)
    if not any(top.iterdir()):
        top.rmdir()


# The cache on this machine


def scan_cache(cache_dir: Path) -> list[CachedFile]:
    """Every model file in the Hugging Face cache; empty where there is no cache."""
    return list(iter_cached_files(cache_dir))


def delete_cached_files(cache_dir: Path, files: Sequence[CachedFile], *, dry_run: bool = False) -> int:
    """Removes files from the cache, with blobs that nothing else there uses, and snapshots that are left empty.

    huggingface_hub does it where its scan accepts the repo, since it knows how repos share blobs.

    Returns:
        The bytes freed (or that would be).

    Raises:
        NotWritableError: the system refused to remove one.
    """
    cache = _scan_with_huggingface_hub(cache_dir)
    entries = (
        {file.file_path: file for repo in cache.repos for v in repo.revisions for file in v.files} if cache else {}
    )
    left = [file for file in files if file.location not in entries]
    freed = 0
    try:
        if cache:
            plan = cache.delete_files(*(entries[file.location] for file in files if file.location in entries))
            freed += int(plan.expected_freed_size)
            if not dry_run:
                plan.execute()
                _ensure_removed(plan.blobs)
        freed += remove_files_and_blobs(left, scan_cache(cache_dir), dry_run=dry_run)
        if not dry_run:
            for repo, snapshot in {(file.repo_folder, file.snapshot) for file in files}:
                remove_empty_snapshot(repo, snapshot)
    except OSError as error:
        raise NotWritableError(f"Can't remove {error.filename}", cause=error.strerror) from None
    return freed


def _scan_with_huggingface_hub(cache_dir: Path) -> HFCacheInfo | None:
    from huggingface_hub.errors import CacheNotFound

    try:
        from huggingface_hub import scan_cache_dir

        return scan_cache_dir(cache_dir)
    except (CacheNotFound, ValueError):  # ValueError: it is a file; or HF_ENDPOINT is no address, and the import breaks
        return None


def _ensure_removed(blobs: Iterable[Path]) -> None:
    for blob in blobs:  # huggingface_hub logs what it couldn't remove, and goes on
        if blob.is_symlink() or blob.exists():
            raise NotWritableError(f"Can't remove {blob}", hint="Check who owns the cache.")
