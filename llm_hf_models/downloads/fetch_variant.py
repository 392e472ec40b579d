"""Download one variant into the Hugging Face cache, or into a plain folder, and verify it.

This module uses neither SQLite nor the terminal.

In the cache, a file has three names in turn. It is `<etag>.part` while it is downloaded, together with its journal. It
becomes `<etag>.whole` once its digest is verified. Both are in the work folder of this package. When all files of the
variant are verified, each becomes `blobs/<etag>` in the repo's folder. The snapshot's links follow, and the refs come
last. Each step is one rename, so a killed process leaves a state from which the next call continues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_hf_models.downloads.fetch_files import FileFetcher
from llm_hf_models.downloads.local_files import build_whole_path, find_candidates, find_local_files
from llm_hf_models.errors import StorageError
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.cache_layout import cache_path
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.signatures.types import SignedManifest
from llm_hf_models.system.disk import translate_disk_error
from llm_hf_models.system.hashing import FileStamp
from llm_hf_models.transfer.types import Progress, TransferLimits

MAX_ROUNDS = 5  # attempts to complete a snapshot while another tool removes files from the cache


@dataclass(frozen=True)
class StoredFile:
    """A complete and verified file on this machine."""

    path: str  # inside the repo
    location: Path  # on this machine
    size: int
    sha256: str | None
    git_sha1: str | None
    fetched: bool  # False if the file was already on this machine
    stamp: FileStamp  # when its digest was verified
    manifest_digests: Mapping[str, str] = field(default_factory=dict)  # by their names in a signed manifest


def fetch_into_cache(
    hub: Hub,
    repo: RepoId,
    commit: str,
    files: Sequence[HubFile],
    *,
    cache_dir: Path,
    revision: str | None,
    limits: TransferLimits,
    get_connection_limit: Callable[[], int] | None = None,
    get_rate_limit: Callable[[], int] = lambda: 0,
    progress: Progress,
    stop: threading.Event,
    sources: Mapping[str, Path] | None = None,
    local_only: bool = False,
    manifest: SignedManifest | None = None,
) -> list[StoredFile]:
    """Download the missing files of a variant. The snapshot's links and refs appear once every file is verified.

    Args:
        hub: The Hub to download from.
        repo: The repo to download from.
        commit: The pinned commit.
        files: All files of the variant, with sizes and digests.
        cache_dir: The Hugging Face cache.
        revision: The branch or tag whose ref is written in addition to the package's own (`refs/main` for None).
        limits: As in `download_file`. `connections` is the number for all files together.
        get_connection_limit: As in `download_file`, for all files together.
        get_rate_limit: Returns the rate limit for all files together in bytes per second; 0 means no limit.
        progress: As in `download_file`.
        stop: As in `download_file`. It is also set when a file fails, so that the other files end too.
        sources: Files to copy instead of downloading them, by path in the repo. The digest of each copy is compared.
        local_only: Raise an error instead of downloading a file.
        manifest: A signed manifest. If it lists other digests than the Hub records, they are computed as well, while
            the bytes of a file arrive. A file that was here already is read once for them.

    Raises:
        HfModelsError: Any error of `download_file`.
        MissingFileError: With `local_only`, no file on this machine has the bytes.
        StorageError: Another tool keeps removing the files from the cache.
    """
    folder = cache_layout.cache_work_folder(cache_dir)
    fetcher = FileFetcher(
        hub, repo, commit, folder, limits, get_connection_limit, get_rate_limit, progress, stop, manifest
    )
    fetcher.sources, fetcher.local_only = dict(sources or {}), local_only
    blobs = cache_layout.repo_folder(cache_dir, repo) / "blobs"
    files = [fetcher.complete(file) for file in files]
    fetched: set[str] = set()
    try:
        for _ in range(MAX_ROUNDS):
            missing = [file for file in files if not _adopt_from_cache(fetcher, cache_dir, file)]
            fetched |= fetcher.fetch_all(missing, lambda file: _adopt_from_cache(fetcher, cache_dir, file))
            try:
                for file in files:
                    _publish(fetcher, blobs, file, cache_path(cache_dir, repo, commit, file.path))
                cache_layout.write_refs(cache_dir, repo, commit, revision)
                return [
                    _make_stored_file(fetcher, file, cache_path(cache_dir, repo, commit, file.path), fetched)
                    for file in files
                ]
            except FileNotFoundError:
                continue  # another tool removed the folder in the meantime: download the removed files again
    except OSError as error:
        raise translate_disk_error(error, cache_dir, 0, limits.disk_reserve) from None
    raise StorageError(f"Another tool keeps removing {repo} from {cache_dir}", hint="Stop that tool, then pull again.")


def fetch_into_folder(
    hub: Hub,
    repo: RepoId,
    commit: str,
    files: Sequence[HubFile],
    folder: Path,
    *,
    cache_dir: Path,
    limits: TransferLimits,
    get_connection_limit: Callable[[], int] | None = None,
    get_rate_limit: Callable[[], int] = lambda: 0,
    progress: Progress,
    stop: threading.Event,
    manifest: SignedManifest | None = None,
) -> list[StoredFile]:
    """Download a variant into a plain folder (`--to DIR`), each file under its path in the repo.

    A file with the right digest stays untouched. A file with the same name and other content is replaced once the
    right one is complete. A file that the cache contains, in this or another repo, is copied from there.

    Raises:
        HfModelsError: Any error of `download_file`.
    """
    work = cache_layout.target_work_folder(folder)
    fetcher = FileFetcher(
        hub, repo, commit, work, limits, get_connection_limit, get_rate_limit, progress, stop, manifest
    )
    files = [fetcher.complete(file) for file in files]
    fetcher.sources = find_local_files(cache_dir, repo, commit, files)
    locations = {file.path: folder / RepoFile(file.path).path for file in files}
    try:
        missing = [file for file in files if not fetcher.verifier.verify(file, locations[file.path])]
        fetched = fetcher.fetch_all(
            missing, lambda file: fetcher.verifier.verify(file, locations[file.path]) is not None
        )
        first: dict[str, Path] = {}  # two paths may have the same content, which is downloaded once
        for file in missing:
            location = locations[file.path]
            location.parent.mkdir(parents=True, exist_ok=True)
            if file.etag in first:
                if fetcher.verifier.link(file, first[file.etag], location):
                    continue
                fetcher.sources[file.path] = first[file.etag]
                fetched |= fetcher.fetch_all([file], lambda _: False)
            fetcher.move_verified(file, location)
            first[file.etag] = location
        _remove_work_folder(work)
        return [_make_stored_file(fetcher, file, locations[file.path], fetched) for file in files]
    except OSError as error:
        raise translate_disk_error(error, folder, 0, limits.disk_reserve) from None


def _remove_work_folder(work: Path) -> None:
    """Remove the work folder from a plain folder, unless another download still uses it."""
    if not any(work.glob("*.part")) and not any(work.glob("*.whole")):
        for note in work.glob("*.checked"):  # of an earlier version
            note.unlink(missing_ok=True)
    try:
        work.rmdir()
    except OSError:
        return


def _make_stored_file(fetcher: FileFetcher, file: HubFile, location: Path, fetched: set[str]) -> StoredFile:
    """Return a file that is complete and verified now.

    Raises:
        FileNotFoundError: Another tool removed or modified the file in the meantime.
    """
    stamp = fetcher.verifier.verify(file, location)
    if stamp is None:
        raise FileNotFoundError(f"{location} was removed or modified by another program")
    digests = fetcher.manifest_digests.complete(file.path, location, lambda: fetcher.verifier.report_hashing(file))
    return StoredFile(file.path, location, file.size, file.sha256, file.git_sha1, file.path in fetched, stamp, digests)


def _adopt_from_cache(fetcher: FileFetcher, cache_dir: Path, file: HubFile) -> bool:
    """Return True if the cache contains the verified file in this repo, or in another repo from which it can be linked.

    A file of another repo is linked into the work folder. It is moved into this repo once all files are complete,
    because other tools report a repo that has blobs and no snapshot as damaged. A file that can't be linked becomes a
    source for `FileFetcher.fetch_all`, which copies it and verifies the copy.
    """
    candidates = find_candidates(cache_dir, fetcher.repo, fetcher.commit, file)
    found = next((candidate for candidate in candidates if fetcher.verifier.verify(file, candidate)), None)
    if found is None:
        return False
    blob = cache_layout.repo_folder(cache_dir, fetcher.repo) / "blobs" / file.etag
    own = (blob, cache_path(cache_dir, fetcher.repo, fetcher.commit, file.path))
    if found not in own and not fetcher.verifier.link(file, found, build_whole_path(fetcher.folder, file.etag)):
        fetcher.sources[file.path] = found
        return False
    return True


def _publish(fetcher: FileFetcher, blobs: Path, file: HubFile, path: Path) -> None:
    """Move a verified file to its blob, and link the blob to `path` in the snapshot.

    Raises:
        FileNotFoundError: Another tool removed the file or its folder in the meantime.
    """
    blob = blobs / file.etag
    path.parent.mkdir(parents=True, exist_ok=True)
    if build_whole_path(fetcher.folder, file.etag).exists():
        blobs.mkdir(parents=True, exist_ok=True)
        fetcher.move_verified(file, blob)
    if blob.exists() and not (path.exists() and path.samefile(blob)):
        fetcher.verifier.link_into_snapshot(file, blob, path)
    path.stat()
