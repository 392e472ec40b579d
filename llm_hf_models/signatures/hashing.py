"""Compute the digests that a manifest lists for a file, while the bytes of the file arrive in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from llm_hf_models.signatures.types import Algorithm, SignedFile, SignedManifest

BLOCK_BYTES = 1 << 20
BLAKE3_HINT = "llm install 'llm-hf-models[blake3]'"


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...


def find_hash_problem(algorithm: Algorithm) -> str | None:
    """Return why digests of this kind can't be computed here, or None if they can."""
    if algorithm == "blake3" and find_spec("blake3") is None:
        return f"blake3 needs the package blake3. To install it, run {BLAKE3_HINT}."
    return None


def is_hashing_needed(manifest: SignedManifest) -> bool:
    """Return whether the manifest lists other digests than the sha256 of whole files, which the Hub records."""
    return manifest.algorithm != "sha256" or manifest.shard_bytes is not None


class ManifestHasher:
    """Computes the digests of one file that a manifest lists."""

    def __init__(self, manifest: SignedManifest, path: str) -> None:
        self._create = _find_constructor(manifest.algorithm)
        self._entries = list(manifest.find_entries(path))
        self._digests: dict[str, str] = {}
        self._hash, self._position = self._create(), 0

    def update(self, data: bytes | memoryview) -> None:
        """Hash the next bytes of the file."""
        left = memoryview(data).cast("B")
        while left and self._entries:
            end = self._entries[0].end
            part = left if end is None else left[: end - self._position]
            self._hash.update(part)
            self._position += len(part)
            left = left[len(part) :]
            if self._position == end:
                self._finish(self._entries.pop(0))

    def get_digests(self) -> dict[str, str]:
        """Return the digests by their names in the manifest, after the last byte. Those of missing bytes are absent."""
        if self._entries and self._entries[0].end is None:
            self._finish(self._entries.pop(0))
        return dict(self._digests)

    def _finish(self, entry: SignedFile) -> None:
        self._digests[entry.name] = self._hash.hexdigest()
        self._hash = self._create()


def hash_file(
    manifest: SignedManifest, path: str, location: Path, progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Read a file and return its digests by their names in the manifest.

    Args:
        manifest: the manifest, whose kind of digest can be computed here.
        path: the path of the file in the manifest.
        location: the file.
        progress: called after each block with the number of bytes done.

    Raises:
        OSError: the file can't be read.
    """
    hasher, done = ManifestHasher(manifest, path), 0
    with location.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
            done += len(block)
            if progress is not None:
                progress(done)
    return hasher.get_digests()


def _find_constructor(algorithm: Algorithm) -> Callable[[], _Hash]:
    if algorithm == "sha256":
        return hashlib.sha256
    if algorithm == "blake2b":
        return hashlib.blake2b
    from blake3 import blake3

    created: Callable[[], _Hash] = blake3
    return created
