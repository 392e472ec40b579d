"""Digests of files on the disk: sha256, and git's blob id for small files. Not for bytes that are still arriving."""

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
    """Both names that the Hub may know a file's bytes by, in hexadecimal."""

    sha256: str
    git_sha1: str

    def get_same_kind(self, digest: str) -> str:
        """The one of them that is of the same kind as `digest`."""
        return self.sha256 if len(digest) == len(self.sha256) else self.git_sha1


def create_git_blob_hash(size: int) -> hashlib._Hash:
    """A hash that becomes a git blob's id when it is fed the file's `size` bytes after git's own prefix."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def compute_digests(path: Path, progress: Callable[[int], None] | None = None) -> FileDigests:
    """Reads a file once and gives both digests.

    Args:
        path: the file.
        progress: told how many bytes are done, after each block.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return _hash_blocks(file, path.stat().st_size, None, progress)


def copy_with_digests(path: Path, to: Path, progress: Callable[[int], None] | None = None) -> FileDigests:
    """Copies a file, brings the copy to the disk and gives both digests of what was copied.

    Args:
        path: the file.
        to: where the copy goes; what stands there is replaced.
        progress: as in `digests_of`.

    Raises:
        OSError: it can't be read, or the copy can't be written.
    """
    with path.open("rb") as file, to.open("wb") as copy:
        found = _hash_blocks(file, path.stat().st_size, copy, progress)
        copy.flush()
        sync_data(copy.fileno())
    return found


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
