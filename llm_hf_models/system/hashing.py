"""Compute the digests of files on disk: sha256, and git's blob id, which the Hub uses for small files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llm_hf_models.system.disk import sync_data

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileDigests:
    """Both digests that the Hub may have for a file, in hexadecimal."""

    sha256: str
    git_sha1: str

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
        return _hash_blocks(file, path.stat().st_size, None, progress)


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
        digests = _hash_blocks(file, path.stat().st_size, copy, progress)
        copy.flush()
        sync_data(copy.fileno())
    return digests


def _hash_blocks(
    file: BinaryIO, size: int, copy: BinaryIO | None, progress: Callable[[int], None] | None
) -> FileDigests:
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
    return FileDigests(sha256.hexdigest(), sha1.hexdigest())
