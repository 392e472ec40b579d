"""List and delete the files in the Hugging Face cache, whichever tool downloaded them. This module adds no files.

Layout: `models--owner--name/{blobs/<etag>, refs/<name>, snapshots/<commit>/<path>,
trees/<commit>.json}`. A file in a snapshot is a symlink to its blob, or the file itself on systems
without symlinks. huggingface_hub's own scan rejects a whole repo because of one dangling link, or
one ref that is ahead of its snapshot. A running `hf download` causes both for a moment.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
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
from llm_hf_models.system.disk import count_freed_bytes

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy, HFCacheInfo


@dataclass(frozen=True)
class CachedFile:
    """A file in the Hugging Face cache, downloaded by any tool."""

    repo: RepoId
    commit: str
    path: str
    location: Path  # path of the file in the snapshot
    blob: Path  # target of its symlink, one step only: it may link to a blob that repos share
    size: int

    @property
    def snapshot(self) -> Path:
        """Return the snapshot folder that contains the file."""
        return self.location.parents[self.path.count("/")]

    @property
    def repo_folder(self) -> Path:
        """Return the folder of the file's repo in the cache."""
        return self.snapshot.parents[1]


def iter_cached_files(cache_dir: Path) -> Iterator[CachedFile]:
    """Yield every model file in the cache. Skip entries that can't be read, and yield nothing if there is no cache."""
    with suppress(OSError):
        for folder in sorted(cache_dir.iterdir()):
            kind, _, name = folder.name.partition("--")
            with suppress(BadRefError, OSError):  # BadRefError: a repo from the Hub's early years, without an owner
                if kind == "models":
                    yield from _iter_repo_files(RepoId.parse(name.replace("--", "/")), folder)


def _iter_repo_files(repo: RepoId, folder: Path) -> Iterator[CachedFile]:
    for snapshot in sorted((folder / "snapshots").iterdir()):
        if not is_commit(snapshot.name):
            continue
        for location in sorted(snapshot.rglob("*")):
            if location.is_file():  # False for a dangling link
                path = location.relative_to(snapshot).as_posix()
                yield CachedFile(repo, snapshot.name, path, location, _find_blob(location), location.stat().st_size)


def _find_blob(location: Path) -> Path:
    if not location.is_symlink():
        return location
    return Path(os.path.abspath(location.parent / location.readlink()))  # noqa: PTH100 - resolve() follows every link


def is_being_downloaded(incomplete: Path) -> bool:
    """Return whether huggingface_hub is downloading into this partial file.

    True as well if that can't be determined.
    """
    with lock_download(incomplete) as locked:
        return not locked


def remove_incomplete(incomplete: Path) -> bool:
    """Delete a partial file of huggingface_hub, unless a download into it is running.

    Returns:
        False if a download is running, or if that can't be determined. The file is kept then.

    Raises:
        OSError: the operating system refused to delete the file.
    """
    with lock_download(incomplete) as locked:
        if locked:
            incomplete.unlink(missing_ok=True)
        return locked


@contextmanager
def lock_download(blob: Path) -> Iterator[bool]:
    """Hold huggingface_hub's lock on a blob or a partial file, so that it starts no download of it.

    Yield False if the lock is taken, or if the lock file can't be opened.
    """
    repo = blob.parent.parent
    # huggingface_hub holds this lock during a download: `.locks/<repo folder>/<etag>.lock` (file_download.py).
    path = repo.parent / ".locks" / repo.name / f"{blob.name.partition('.')[0]}.lock"
    if not path.exists():
        yield True
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except OSError:  # includes filelock's Timeout
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def remove_empty_snapshot(repo: Path, snapshot: Path) -> None:
    """Remove a snapshot without files and the refs to it, and the repo folder if nothing else is in it.

    Files of other tools are never deleted. If this process is killed midway, the order of the steps
    keeps the cache valid for other tools: they reject a ref without its snapshot, and a repo without
    `snapshots`.

    Raises:
        OSError: the operating system refused to remove a folder.
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
    """Remove a folder and its subfolders, except for those that contain a file."""
    if not top.is_dir() or top.is_symlink():
        return
    for path in top.iterdir():
        _remove_empty_folders(path)
    if not any(top.iterdir()):
        top.rmdir()


# The whole cache


def scan_cache(cache_dir: Path) -> list[CachedFile]:
    """Return every model file in the Hugging Face cache, or an empty list if there is no cache."""
    return list(iter_cached_files(cache_dir))


@dataclass(frozen=True)
class Deletion:
    """The deletion of some cached files, before it is carried out.

    If huggingface_hub's scan accepts a repo, huggingface_hub deletes its files, because it knows how repos share blobs.
    """

    hub: DeleteCacheStrategy | None
    rest: tuple[CachedFile, ...]  # files that huggingface_hub does not know
    rest_blobs: frozenset[Path]  # their blobs, except for those that other files use

    @property
    def unlinked(self) -> frozenset[Path]:
        """The files that are removed from the disk, except for symlinks."""
        paths = self.rest_blobs | (self.hub.files | self.hub.blobs if self.hub else frozenset())
        return frozenset(path for path in paths if path.is_file() and not path.is_symlink())

    @property
    def shared_bytes(self) -> int:
        """The bytes that are freed in the store of blobs that repos share, as huggingface_hub counts them."""
        if self.hub is None:
            return 0
        regular = (path for path in self.hub.files | self.hub.blobs if path.is_file() and not path.is_symlink())
        return max(0, int(self.hub.expected_freed_size) - sum(path.stat().st_size for path in regular))

    def count_freed_bytes(self) -> int:
        """Return the number of bytes that the deletion frees. A blob that is also used elsewhere frees nothing."""
        return count_freed_bytes(self.unlinked) + self.shared_bytes


class CacheContents:
    """The model files in a Hugging Face cache, as one scan found them."""

    def __init__(self, cache_dir: Path) -> None:
        self.files = tuple(scan_cache(cache_dir))
        self._hub = _scan_with_huggingface_hub(cache_dir)
        repos = self._hub.repos if self._hub else ()
        self._known = {file.file_path: file for repo in repos for v in repo.revisions for file in v.files}

    def plan_deletion(self, locations: Collection[Path]) -> Deletion:
        """Plan the deletion of the files at these locations."""
        files = [file for file in self.files if file.location in locations]
        known = [self._known[file.location] for file in files if file.location in self._known]
        rest = tuple(file for file in files if file.location not in self._known)
        used = {file.blob for file in self.files if file.location not in locations}
        plan = self._hub.delete_files(*known) if self._hub and known else None
        return Deletion(plan, rest, frozenset(file.blob for file in rest) - used)


def delete_cached_files(cache_dir: Path, locations: Collection[Path], *, dry_run: bool = False) -> int:
    """Delete files from the cache, with blobs that no other file uses, and snapshots that become empty.

    Returns:
        Number of bytes freed, or that would be freed in a dry run.

    Raises:
        NotWritableError: a file could not be deleted.
    """
    contents = CacheContents(cache_dir)
    deletion = contents.plan_deletion(locations)
    freed = deletion.count_freed_bytes()
    if dry_run:
        return freed
    try:
        if deletion.hub:
            deletion.hub.execute()
            _ensure_removed(deletion.hub.blobs)
        for path in {*(file.location for file in deletion.rest), *deletion.rest_blobs}:
            path.unlink(missing_ok=True)
        deleted = {(file.repo_folder, file.snapshot) for file in contents.files if file.location in locations}
        for repo, snapshot in deleted:
            remove_empty_snapshot(repo, snapshot)
    except OSError as error:
        raise NotWritableError(f"Can't remove {error.filename}", cause=error.strerror) from None
    return freed


def delete_orphans(cache_dir: Path, blobs: Collection[Path]) -> None:
    """Delete those of the blobs that no snapshot links to. A kill during a deletion leaves such blobs.

    Raises:
        NotWritableError: a blob could not be deleted.
    """
    used = {file.blob for file in scan_cache(cache_dir)}
    for blob in set(blobs) - used:
        try:
            blob.unlink(missing_ok=True)
        except OSError as error:
            raise NotWritableError(f"Can't remove {blob}", cause=error.strerror) from None


def _scan_with_huggingface_hub(cache_dir: Path) -> HFCacheInfo | None:
    from huggingface_hub.errors import CacheNotFound

    try:
        from huggingface_hub import scan_cache_dir

        return scan_cache_dir(cache_dir)
    # ValueError: a file, or a bad HF_ENDPOINT at import. OSError: a repo that another user owns.
    except (CacheNotFound, ValueError, OSError):
        return None


def _ensure_removed(blobs: Iterable[Path]) -> None:
    for blob in blobs:  # huggingface_hub only logs a file that it can't delete
        if blob.is_symlink() or blob.exists():
            raise NotWritableError(f"Can't remove {blob}", hint="Check the owner of the cache folder.")
