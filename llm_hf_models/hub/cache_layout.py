"""Names and links inside the Hugging Face cache, and our own folder beside them. Fetches nothing.

The layout is documented in huggingface_hub's guide "Understand caching": `models--owner--name/blobs/<etag>`, relative
symlinks to them in `snapshots/<commit>/`, and commits in `refs/`. Two things of ours stand there too: a ref
`llm-hf/<commit>`, which keeps `hf cache prune` from taking a pinned commit away, and the folder `.locks/llm-hf`, which
other tools leave alone, for partial files and for notes of which blobs were checked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from llm_hf_models.hub.refs import RepoFile, RepoId, is_commit, parse_revision
from llm_hf_models.system.disk import sync_folder

REF_NAMESPACE = "llm-hf"
_NO_SYMLINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP}
_NO_SYMLINKS_WINDOWS = {1, 50, 1314}  # of FAT and of a network's drive, and of a user who may make none


def repo_folder(cache_dir: Path, repo: RepoId) -> Path:
    """`models--owner--name` in the cache."""
    return cache_dir / f"models--{repo.owner}--{repo.name}"


def cache_path(cache_dir: Path, repo: RepoId, commit: str, path: str) -> Path:
    """Where a file stands in the Hugging Face cache: `models--owner--name/snapshots/<commit>/<path>`."""
    return repo_folder(cache_dir, repo) / "snapshots" / commit / RepoFile(path).path


def infer_cache_dir(location: str, path: str) -> Path:
    """The other way: the cache in which a repo's file of that path stands at `location`."""
    return Path(location).parents[path.count("/") + 3]


def cache_work_folder(cache_dir: Path) -> Path:
    """Our own folder in the cache: partials, their journals and locks, and notes of what was checked."""
    return cache_dir / ".locks" / "llm-hf"


def target_work_folder(folder: Path) -> Path:
    """The same in a plain folder (`--to DIR`)."""
    return folder / ".llm-hf"


def has_size(path: Path, size: int) -> bool:
    """Whether a file, or what it links to, has that many bytes."""
    try:
        return path.stat().st_size == size and path.is_file()
    except OSError:
        return False


def find_blobs(cache_dir: Path, etag: str, size: int) -> Iterator[Path]:
    """The same content in any repo of the cache, by its sha256."""
    for blob in sorted(cache_dir.glob(f"models--*/blobs/{etag}")):
        if has_size(blob, size):
            yield blob


def mark_verified(folder: Path, etag: str, file: Path) -> None:
    """Remembers that a file's digest was found right, as long as the file isn't touched."""
    _write_atomically(folder / f"{etag}.checked", read_file_stamp(file), folder)


def is_verified(folder: Path, etag: str, file: Path) -> bool:
    """Whether the file is the one whose digest was found right, untouched since."""
    try:
        return (folder / f"{etag}.checked").read_text("ascii") == read_file_stamp(file)
    except (OSError, ValueError):
        return False


def clear_verified_mark(folder: Path, etag: str) -> None:
    """Forgets it: the file turned out to be another one."""
    with contextlib.suppress(OSError):
        (folder / f"{etag}.checked").unlink()


def read_file_stamp(file: Path) -> str:
    """What changes when the file does."""
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def try_hard_link(existing: Path, wanted: Path) -> bool:
    """Gives a file a second name. False where that can't be: no hard links here, or the file has gone.

    Raises:
        OSError: the folder refuses any file.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    aside = wanted.with_name(f"{wanted.name}.{secrets.token_hex(4)}")
    try:
        os.link(existing.resolve(), aside)
    except OSError:
        return False
    try:
        aside.replace(wanted)
    finally:
        aside.unlink(missing_ok=True)
    return True


def link_into_snapshot(blob: Path, path: Path) -> None:
    """Makes `path` a relative symlink to the blob; where there are no symlinks (Windows), the file itself stands there.

    Raises:
        OSError: neither could be made; the blob stays where it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        aside.symlink_to(os.path.relpath(blob, path.parent))
    except OSError as error:
        if not _is_symlink_unsupported(error):  # a full disk, say: other snapshots may link to this blob
            raise
        blob.replace(path)  # by one step: between two a kill would leave it under a name that nobody knows
        return
    try:
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _is_symlink_unsupported(error: OSError) -> bool:
    """Whether a symlink can't be made for good. Where no file can be made either, moving one fails as well."""
    return error.errno in _NO_SYMLINKS or getattr(error, "winerror", None) in _NO_SYMLINKS_WINDOWS


def write_refs(cache_dir: Path, repo: RepoId, commit: str, revision: str | None) -> None:
    """Names the commit: by the branch or tag that was asked for (`main` for None), and by a ref of ours that keeps it.

    Raises:
        OSError: they could not be written.
    """
    names = [f"{REF_NAMESPACE}/{commit}"]
    if revision is None or not is_commit(revision):
        names.append(parse_revision(revision) if revision else "main")
    for name in names:
        path = repo_folder(cache_dir, repo) / "refs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, commit, cache_work_folder(cache_dir))
        sync_folder(path.parent)


def remove_own_ref(cache_dir: Path, repo: RepoId, commit: str) -> None:
    """Lets others' tools prune a commit again, as far as no other ref names it."""
    with contextlib.suppress(OSError):
        (repo_folder(cache_dir, repo) / "refs" / REF_NAMESPACE / commit).unlink()


def _write_atomically(path: Path, text: str, folder: Path) -> None:
    """Writes a small file whole or not at all; half-written it stands in `folder`, where nobody takes it for a ref."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{secrets.token_hex(8)}.tmp"
    try:
        aside.write_text(text, "ascii")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
