"""Compute the digests that a signed manifest lists for the files of one download, if the Hub does not record them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_hf_models.signatures.hashing import ManifestHasher, find_hash_problem, hash_file, is_hashing_needed
from llm_hf_models.signatures.types import SignedManifest


class ManifestDigests:
    """Has a hasher for each file that is downloaded, and the digests of those that are complete."""

    def __init__(self, manifest: SignedManifest | None) -> None:
        is_needed = manifest is not None and is_hashing_needed(manifest) and not find_hash_problem(manifest.algorithm)
        self._manifest = manifest if is_needed else None
        self._hashers: dict[str, ManifestHasher] = {}
        self._digests: dict[str, dict[str, str]] = {}

    def start(self, path: str) -> ManifestHasher | None:
        """Return a hasher for an attempt to download a file, or None if no digest is needed."""
        if self._manifest is None or not self._manifest.find_entries(path):
            return None
        self._hashers[path] = hasher = ManifestHasher(self._manifest, path)
        return hasher

    def finish(self, path: str) -> None:
        """Keep the digests of the last attempt, which received the whole file."""
        if path in self._hashers:
            self._digests[path] = self._hashers[path].get_digests()

    def complete(
        self, path: str, location: Path, create_progress: Callable[[], Callable[[int], None]]
    ) -> dict[str, str]:
        """Return the digests of a complete file. Read the file if this process did not download it.

        Args:
            path: the path of the file in the repo.
            location: the file.
            create_progress: called if the file is read. It returns the function that receives the number of bytes done.

        Raises:
            OSError: the file can't be read.
        """
        if self._manifest is None or not self._manifest.find_entries(path):
            return {}
        if path not in self._digests:
            self._digests[path] = hash_file(self._manifest, path, location, create_progress())
        return self._digests[path]
