"""One variant into the Hugging Face cache, checked and complete. Knows no SQLite and no terminal."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.hub import Hub, HubFile
from llm_hf_models.refs import RepoId
from llm_hf_models.transfer import Progress, TransferLimits


@dataclass(frozen=True)
class StoredFile:
    """A file that is whole and checked on this machine."""

    path: str  # inside the repo
    location: Path  # where to open it
    size: int
    sha256: str | None
    git_sha1: str | None
    fetched: bool  # False where it was here already


def cache_path(cache_dir: Path, repo: RepoId, commit: str, path: str) -> Path:
    """Where a file stands in the Hugging Face cache: `models--owner--name/snapshots/<commit>/<path>`."""
    raise NotImplementedError


def already_here(cache_dir: Path, repo: RepoId, commit: str, files: Sequence[HubFile]) -> dict[str, Path]:
    """Which of the files need no fetching, by path: in this snapshot, or as a blob of this or another repo."""
    raise NotImplementedError


def pending_bytes(cache_dir: Path, files: Sequence[HubFile]) -> dict[str, int]:
    """How many bytes of each file (by path) an interrupted download has on the disk already."""
    raise NotImplementedError


def download(
    hub: Hub,
    repo: RepoId,
    commit: str,
    files: Sequence[HubFile],
    *,
    cache_dir: Path,
    revision: str | None,
    limits: TransferLimits,
    progress: Progress,
    stop: threading.Event,
) -> list[StoredFile]:
    """Fetches what is not here yet; the snapshot's links and refs appear only when every file is checked.

    Args:
        hub: where from.
        repo, commit: what, pinned.
        files: all files of the variant, with sizes and digests.
        cache_dir: the Hugging Face cache.
        revision: branch or tag whose ref to write beside ours (`refs/main` for None).
        limits, progress, stop: as in `transfer.fetch`.

    Raises:
        as `transfer.fetch`.
    """
    raise NotImplementedError


def download_to(
    hub: Hub,
    repo: RepoId,
    commit: str,
    files: Sequence[HubFile],
    folder: Path,
    *,
    limits: TransferLimits,
    progress: Progress,
    stop: threading.Event,
) -> list[StoredFile]:
    """The same into a plain folder (`--to DIR`), files under their paths in the repo."""
    raise NotImplementedError
