"""Build paths and links in the Hugging Face cache, and manage the work folder in it. Downloads nothing.

The layout is documented in huggingface_hub's guide "Understand caching". Blobs are in
`models--owner--name/blobs/<etag>`, relative symlinks to them in `snapshots/<commit>/`, and commits
in `refs/`. This package adds two things. A ref `llm-hf/<commit>` keeps `hf cache prune` from
deleting a pinned commit. The folder `.locks/llm-hf`, which other tools ignore, holds partial files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from llm_hf_models.hub.refs import RepoFile, RepoId, is_commit, parse_revision
from llm_hf_models.system.disk import DENIED_ERRNOS, list_matches, sync_folder

REF_NAMESPACE = "llm-hf"
_NO_SYMLINK_ERRNOS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP}
_NO_SYMLINK_WINERRORS = {1, 50, 1314}  # FAT, network drives, and users without the privilege


def repo_folder(cache_dir: Path, repo: RepoId) -> Path:
    """Return the repo's folder in the cache, `models--owner--name`."""
    return cache_dir / f"models--{repo.owner}--{repo.name}"


def cache_path(cache_dir: Path, repo: RepoId, commit: str, path: str) -> Path:
    """Return a file's path in the Hugging Face cache: `models--owner--name/snapshots/<commit>/<path>`."""
    return repo_folder(cache_dir, repo) / "snapshots" / commit / RepoFile(path).path


def infer_cache_dir(location: str, path: str) -> Path:
    """Return the cache folder of a cached file, given its location and its path in the repo."""
    return Path(location).parents[path.count("/") + 3]


def infer_repo_folder(location: str, path: str) -> Path:
    """Return the folder of the repo of a cached file, given its location and its path in the repo."""
    return Path(location).parents[path.count("/") + 2]


def cache_work_folder(cache_dir: Path) -> Path:
    """Return the work folder in the cache, for partial files, their journals and locks."""
    return cache_dir / ".locks" / "llm-hf"


def target_work_folder(folder: Path) -> Path:
    """Return the work folder in a plain target folder (`--to DIR`)."""
    return folder / ".llm-hf"


def has_size(path: Path, size: int) -> bool:
    """Return whether a file, or the file that it links to, has `size` bytes."""
    try:
        return path.stat().st_size == size and path.is_file()
    except (OSError, UnicodeEncodeError):  # the latter: `refuse_names` in system/disk.py explains it
        return False


def find_blobs(cache_dir: Path, etag: str, size: int) -> Iterator[Path]:
    """Yield complete blobs with this etag, the sha256 of the content, from any repo in the cache."""
    for blob in sorted(list_matches(cache_dir, f"models--*/blobs/{etag}")):
        if has_size(blob, size):
            yield blob


def try_hard_link(existing: Path, target: Path, temporary_folder: Path | None = None) -> bool:
    """Give a file a second name with a hard link.

    Args:
        existing: the file.
        target: its second name; a file with this name is replaced in one step.
        temporary_folder: the folder on the same file system in which the link is made first; None uses that of the
            target.

    Returns:
        False if the file system has no hard links, or the file no longer exists.

    Raises:
        OSError: the target folder accepts no files.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _make_temporary_path((temporary_folder or target.parent) / target.name)
    try:
        os.link(existing.resolve(), temporary)
    except OSError:
        return False
    try:
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def link_into_snapshot(blob: Path, path: Path) -> None:
    """Make `path` a relative symlink to the blob. On systems without symlinks (Windows), move the blob there.

    Raises:
        OSError: neither was possible. The blob stays in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _make_temporary_path(path)
    try:
        temporary.symlink_to(os.path.relpath(blob, path.parent))
    except OSError as error:
        if not _is_symlink_unsupported(error):  # such as a full disk: the blob stays, as other snapshots may need it
            raise
        blob.replace(path)  # in one step: a kill between two steps would leave the file under a temporary name
        return
    try:
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_temporary_path(path: Path) -> Path:
    """Return a path in the same folder. Its name does not contain the file's, which may have the maximum length."""
    return path.with_name(f"{secrets.token_hex(8)}.tmp")


def _is_symlink_unsupported(error: OSError) -> bool:
    """Return whether the error means that symlinks are unsupported.

    If the folder accepts no files at all, moving the blob fails as well.
    """
    return error.errno in _NO_SYMLINK_ERRNOS or getattr(error, "winerror", None) in _NO_SYMLINK_WINERRORS


def write_refs(cache_dir: Path, repo: RepoId, commit: str, revision: str | None) -> None:
    """Write the refs of a commit: the requested branch or tag (`main` for None), and `llm-hf/<commit>`.

    The latter keeps `hf cache prune` from deleting the commit. In a cache that is read-only or belongs to another user,
    no ref is written: its owner decides what it keeps.

    Raises:
        OSError: a ref could not be written for another reason.
    """
    names = [f"{REF_NAMESPACE}/{commit}"]
    if revision is None or not is_commit(revision):
        names.append(parse_revision(revision) if revision else "main")
    for name in names:
        path = repo_folder(cache_dir, repo) / "refs" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(path, commit, cache_work_folder(cache_dir))
        except OSError as error:
            if error.errno not in DENIED_ERRNOS:
                raise
        sync_folder(path.parent)


def remove_own_ref(folder: Path, commit: str) -> None:
    """Delete the ref `llm-hf/<commit>` of a repo's folder.

    Other tools may then prune the commit, unless another ref names it.
    """
    with contextlib.suppress(OSError):
        (folder / "refs" / REF_NAMESPACE / commit).unlink()


def _write_atomically(path: Path, text: str, folder: Path) -> None:
    """Write a small file atomically. The temporary file is in `folder`, where no tool mistakes it for a ref."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{secrets.token_hex(8)}.tmp"
    try:
        temporary.write_text(text, "ascii")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
