"""Compute the digests of files on disk: sha256, and git's blob id, which the Hub uses for small files.

A digest belongs to the stamp that the file had while it was read. A later stamp may be that of other content.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from llm_hf_models.system.disk import sync_data

BLOCK_BYTES = 1 << 20


class FileStamp(NamedTuple):
    """The properties of a file that show whether it has changed. On Windows, `ctime_ns` is the time of creation."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int  # changes with content, mode, owner and number of links, and can't be set

    def has_same_content_as(self, other: FileStamp) -> bool:
        """Return whether only `ctime_ns` differs, as after a rename."""
        return self[:-1] == other[:-1]


def read_stamp(file: Path | int) -> FileStamp:
    """Return the stamp of a file, given its path or descriptor. Links are followed.

    Raises:
        OSError: the file does not exist.
    """
    status = os.fstat(file) if isinstance(file, int) else file.stat()
    return FileStamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class FileDigests:
    """Both digests that the Hub may have for a file, in hexadecimal."""

    sha256: str
    git_sha1: str
    stamp: FileStamp | None  # of the hashed file, or of the copy; None if the file changed while it was read

    def get_same_kind(self, digest: str) -> str:
        """Return the digest of the same kind as `digest`."""
        return self.sha256 if len(digest) == len(self.sha256) else self.git_sha1


def create_git_blob_hash(size: int) -> hashlib._Hash:
    """Return a hash object that yields the git blob id after it is updated with the `size` bytes of a file."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def compute_digests(path: Path, progress: Callable[[int], None] | None = None) -> FileDigests:
    """Read a file once and return both digests.

    Args:
        path: the file.
        progress: called after each block with the number of bytes done.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        before = read_stamp(file.fileno())
        sha256, git_sha1 = _hash_blocks(file, before.size, None, progress)
        return FileDigests(sha256, git_sha1, before if read_stamp(file.fileno()) == before else None)


def copy_with_digests(path: Path, to: Path, progress: Callable[[int], None] | None = None) -> FileDigests:
    """Copy a file, sync the copy to disk and return both digests of the copied bytes.

    Args:
        path: the file.
        to: the path of the copy; an existing file is replaced.
        progress: called after each block with the number of bytes done.

    Raises:
        OSError: the file can't be read, or the copy can't be written.
    """
    with path.open("rb") as file, to.open("wb") as copy:
        sha256, git_sha1 = _hash_blocks(file, path.stat().st_size, copy, progress)
        copy.flush()
        sync_data(copy.fileno())
        return FileDigests(sha256, git_sha1, read_stamp(copy.fileno()))


def _hash_blocks(
    file: BinaryIO, size: int, copy: BinaryIO | None, progress: Callable[[int], None] | None
) -> tuple[str, str]:
    sha256, sha1 = hashlib.sha256(), create_git_blob_hash(size)
    done = 0
    while block := file.read(BLOCK_BYTES):
        sha256.update(block)
        sha1.update(block)
        if copy is not None:
            copy.write(block)
        done += len(block)
        if progress is not None:
            progress(done)
    return sha256.hexdigest(), sha1.hexdigest()
