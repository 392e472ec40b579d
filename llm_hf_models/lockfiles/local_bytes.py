"""Find the bytes of locked files on this machine: in the cache, among other models, or in an exported folder."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm_hf_models.downloads.file_verifier import FileVerifier
from llm_hf_models.downloads.local_files import find_candidates
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.library.records import LocalFile, LocalModel
from llm_hf_models.lockfiles.types import LockedFile, LockedModel
from llm_hf_models.servers.library_catalog import make_substitute_commit
from llm_hf_models.transfer.types import Progress

LOCKFILE_NAME = "models.lock.toml"  # in an exported folder
FILES_FOLDER = "files"


def get_served_name(locked: LockedModel) -> tuple[RepoId, str]:
    """Return the repo and the commit under which a mirror, a folder and the cache have a model."""
    if locked.repo and locked.commit:
        return RepoId.parse(locked.repo), locked.commit
    repo = locked.id.removeprefix("hf/").partition(":")[0].partition("@")[0]
    return RepoId.parse(repo), make_substitute_commit((file.path, file.digest) for file in locked.files)


def find_in_folder(folder: Path, locked: LockedModel, file: LockedFile) -> Path:
    """Return the place of a file in an exported folder: `files/owner/name/COMMIT/PATH`."""
    repo, commit = get_served_name(locked)
    return folder / FILES_FOLDER / repo.owner / repo.name / commit / RepoFile(file.path).path


def make_hub_file(file: LockedFile) -> HubFile:
    """Return a locked file as a download needs it."""
    return HubFile(file.path, file.size_bytes, file.sha256, file.git_sha1)


class LocalBytes:
    """The files on this machine that may have the bytes of locked files.

    Args:
        cache_dir: The Hugging Face cache.
        models: The local models.
        folder: An exported folder that replaces the Hub.
        progress: Called with the progress of hashing.
        stop: Ends the hashing when set.
    """

    def __init__(
        self,
        cache_dir: Path,
        models: Sequence[LocalModel],
        folder: Path | None,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._cache_dir, self._folder = cache_dir, folder
        self._verifier = FileVerifier(progress, stop)
        self._broken = {file.location for model in models if model.state == "changed" for file in model.files}
        self._by_digest: dict[str, list[LocalFile]] = {}
        for file in (file for model in models for file in model.files):
            self._by_digest.setdefault(file.sha256 or file.git_sha1 or "", []).append(file)

    def prove(self, files: Iterable[LocalFile]) -> bool:
        """Return whether files have their recorded digests. A file that is not proven yet is hashed."""
        results = [self._prove_file(file) for file in files]
        return all(results)

    def _prove_file(self, file: LocalFile) -> bool:
        hub_file = HubFile(file.path, file.size, file.sha256, file.git_sha1)
        proven = self._verifier.verify(hub_file, Path(file.location)) is not None
        self._broken = self._broken - {file.location} if proven else self._broken | {file.location}
        return proven

    def find_cached(self, locked: LockedModel) -> dict[str, Path]:
        """Return the files that the cache has, by path: of this repo, or of another one with the same digest.

        A file that another program or a damaged disk left there with another content is not one of them.
        """
        repo, commit = get_served_name(locked)
        found: dict[str, Path] = {}
        for file in map(make_hub_file, locked.files):
            places = find_candidates(self._cache_dir, repo, commit, file)
            proven = (place for place in places if self._verifier.verify(file, place) is not None)
            if place := next(proven, None):
                found[file.path] = place
        return found

    def find_elsewhere(self, locked: LockedModel) -> dict[str, Path]:
        """Return the files that another folder has, by path: that of another model, or the exported folder.

        The copies of the exported folder are compared with their digests while they are copied.
        """
        found: dict[str, Path] = {}
        for file in locked.files:
            places = [Path(one.location) for one in self._by_digest.get(file.digest, ()) if self._is_usable(one)]
            if self._folder is not None:
                places.append(find_in_folder(self._folder, locked, file))
            for place in places:
                if cache_layout.has_size(place, file.size_bytes):
                    found.setdefault(file.path, place)
        return found

    def _is_usable(self, file: LocalFile) -> bool:
        return file.location not in self._broken and file.compare_with_disk() == "as recorded"
