"""Find the files of a variant that this machine already has: complete in the cache or in a folder, or in part.

Only names and sizes are compared, which is fast. downloads/fetch_files.py compares the digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.cache_layout import cache_path
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.transfer.download_file import journal_path
from llm_hf_models.transfer.journal import read_journal


def find_local_files(cache_dir: Path, repo: RepoId, commit: str, files: Sequence[HubFile]) -> dict[str, Path]:
    """Return the files that the cache already contains, by path: in this snapshot or as a blob of any repo.

    `fetch_into_cache` verifies the digest of every file that it did not download itself.
    """
    found: dict[str, Path] = {}
    for file in files:
        for path in find_candidates(cache_dir, repo, commit, file):
            found.setdefault(file.path, path)
    return found


def find_candidates(cache_dir: Path, repo: RepoId, commit: str, file: HubFile) -> Iterator[Path]:
    """Yield cached files with the right name and size: from the snapshot, then this repo, then other repos."""
    candidates = [cache_path(cache_dir, repo, commit, file.path)]
    if file.etag:
        candidates.append(cache_layout.repo_folder(cache_dir, repo) / "blobs" / file.etag)
    if file.sha256:
        candidates += cache_layout.find_blobs(cache_dir, file.sha256, file.size)
    yield from (candidate for candidate in candidates if cache_layout.has_size(candidate, file.size))


def find_files_in_folder(folder: Path, files: Sequence[HubFile]) -> dict[str, Path]:
    """Return the files that a plain folder (`--to DIR`) already contains, by path."""
    locations = {file.path: folder / RepoFile(file.path).path for file in files}
    return {file.path: locations[file.path] for file in files if cache_layout.has_size(locations[file.path], file.size)}


def build_partial_path(work: Path, etag: str) -> Path:
    """Return the path of a file in a work folder while it is downloaded."""
    return work / f"{etag}.part"


def build_whole_path(work: Path, etag: str) -> Path:
    """Return the path of a file in a work folder once its digest is verified."""
    return work / f"{etag}.whole"


def count_partial_bytes(work: Path, file: HubFile) -> int:
    """Return the number of bytes of a file that an interrupted download left in a work folder."""
    if not file.etag:
        return 0
    if cache_layout.has_size(build_whole_path(work, file.etag), file.size):
        return file.size
    partial = build_partial_path(work, file.etag)
    state = read_journal(journal_path(partial))
    return state.done.total if state and cache_layout.has_size(partial, file.size) else 0
