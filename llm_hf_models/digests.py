"""Digests of files on the disk: sha256, and git's blob id for small files. Not for bytes that are still arriving."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileDigests:
    """Both names that the Hub may know a file's bytes by, in hexadecimal."""

    sha256: str
    git_sha1: str


def git_blob_hash(size: int) -> hashlib._Hash:
    """A hash that becomes a git blob's id when it is fed the file's `size` bytes after git's own prefix."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def digests_of(path: Path, progress: Callable[[int], None] | None = None) -> FileDigests:
    """Reads a file once and gives both digests.

    Args:
        path: the file.
        progress: told how many bytes are done, after each block.

    Raises:
        OSError: it can't be read.
    """
    sha256, sha1 = hashlib.sha256(), git_blob_hash(path.stat().st_size)
    done = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            sha256.update(block)
            sha1.update(block)
            done += len(block)
            if progress is not None:
                progress(done)
    return FileDigests(sha256.hexdigest(), sha1.hexdigest())
