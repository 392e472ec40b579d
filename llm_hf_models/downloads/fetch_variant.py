"""Download one variant into the Hugging Face cache, or into a plain folder, and verify it.

This module uses neither SQLite nor the terminal.

In the cache, a file has three names in turn. It is `<etag>.part` while it is downloaded, together with its journal. It
becomes `<etag>.whole` once its digest is verified. Both are in the work folder of this package. When all files of the
variant are verified, each becomes `blobs/<etag>` in the repo's folder. The snapshot's links follow, and the refs come
last. Each step is one rename, so a killed process leaves a state from which the next call continues.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from llm_hf_models.downloads.file_verifier import FileVerifier
from llm_hf_models.errors import HubUnavailableError, InterruptedByUserError, StorageError
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.cache_layout import cache_path
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.system.disk import require_space, sync_folder, translate_disk_error
from llm_hf_models.system.hashing import FileStamp, copy_with_digests
from llm_hf_models.system.ownership import count_owning_processes
from llm_hf_models.system.verified_files import rename_verified
from llm_hf_models.transfer.download_file import download_file, journal_path
from llm_hf_models.transfer.journal import read_journal
from llm_hf_models.transfer.pacing import RateLimiter
from llm_hf_models.transfer.types import Event, ExpectedFile, Progress, TransferLimits

MAX_FILES_AT_ONCE = 4
STOP_CHECK_SECONDS = 0.1  # how often the stop event is checked
SHA256_CHARS = 64
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
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


def find_local_files(cache_dir: Path, repo: RepoId, commit: str, files: Sequence[HubFile]) -> dict[str, Path]:
    """Return the files that the cache already contains, by path: in this snapshot or as a blob of any repo.

    Only names and sizes are compared, which is fast. `fetch_into_cache` verifies the digest of every file that it did
    not download itself.
    """
    found: dict[str, Path] = {}
    for file in files:
        for path in _find_candidates(cache_dir, repo, commit, file):
            found.setdefault(file.path, path)
    return found


def _find_candidates(cache_dir: Path, repo: RepoId, commit: str, file: HubFile) -> Iterator[Path]:
    """Yield cached files with the right name and size: from the snapshot, then this repo, then other repos."""
    candidates = [cache_path(cache_dir, repo, commit, file.path)]
    if file.etag:
        candidates.append(cache_layout.repo_folder(cache_dir, repo) / "blobs" / file.etag)
    if file.sha256:
        candidates += cache_layout.find_blobs(cache_dir, file.sha256, file.size)
    yield from (candidate for candidate in candidates if cache_layout.has_size(candidate, file.size))


def count_partial_bytes(cache_dir: Path, files: Sequence[HubFile]) -> dict[str, int]:
    """Return the number of bytes of each file, by path, that an interrupted download left on the disk."""
    folder = cache_layout.cache_work_folder(cache_dir)
    return {file.path: count for file in files if (count := _count_partial(folder, file))}


def find_files_in_folder(folder: Path, files: Sequence[HubFile]) -> dict[str, Path]:
    """Return the files that a plain folder (`--to DIR`) already contains, compared by name and size only."""
    locations = {file.path: folder / RepoFile(file.path).path for file in files}
    return {file.path: locations[file.path] for file in files if cache_layout.has_size(locations[file.path], file.size)}


def count_partial_bytes_in_folder(folder: Path, files: Sequence[HubFile]) -> dict[str, int]:
    """Return the same as `count_partial_bytes`, for a plain folder (`--to DIR`)."""
    work = cache_layout.target_work_folder(folder)
    return {file.path: count for file in files if (count := _count_partial(work, file))}


def _count_partial(folder: Path, file: HubFile) -> int:
    if not file.etag:
        return 0
    if cache_layout.has_size(folder / f"{file.etag}.whole", file.size):
        return file.size
    partial = folder / f"{file.etag}.part"
    state = read_journal(journal_path(partial))
    return state.done.total if state and cache_layout.has_size(partial, file.size) else 0


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
        stop: As in `download_file`.

    Raises:
        HfModelsError: Any error of `download_file`.
        StorageError: Another tool keeps removing the files from the cache.
    """
    folder = cache_layout.cache_work_folder(cache_dir)
    job = _FetchJob(hub, repo, commit, folder, limits, get_connection_limit, get_rate_limit, progress, stop)
    blobs = cache_layout.repo_folder(cache_dir, repo) / "blobs"
    files = [job.resolve_etag(file) for file in files]
    fetched: set[str] = set()
    try:
        for _ in range(MAX_ROUNDS):
            missing = [file for file in files if not _adopt_from_cache(job, cache_dir, file)]
            fetched |= job.fetch_all(missing, lambda file: _adopt_from_cache(job, cache_dir, file))
            try:
                for file in files:
                    _publish(job, blobs, file, cache_path(cache_dir, repo, commit, file.path))
                cache_layout.write_refs(cache_dir, repo, commit, revision)
                return [
                    _make_stored_file(job, file, cache_path(cache_dir, repo, commit, file.path), fetched)
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
) -> list[StoredFile]:
    """Download a variant into a plain folder (`--to DIR`), each file under its path in the repo.

    A file with the right digest stays untouched. A file with the same name and other content is replaced once the
    right one is complete. A file that the cache contains, in this or another repo, is copied from there.

    Raises:
        HfModelsError: Any error of `download_file`.
    """
    work = cache_layout.target_work_folder(folder)
    job = _FetchJob(hub, repo, commit, work, limits, get_connection_limit, get_rate_limit, progress, stop)
    files = [job.resolve_etag(file) for file in files]
    job.sources = find_local_files(cache_dir, repo, commit, files)
    locations = {file.path: folder / RepoFile(file.path).path for file in files}
    try:
        missing = [file for file in files if not job.verifier.verify(file, locations[file.path])]
        fetched = job.fetch_all(missing, lambda file: job.verifier.verify(file, locations[file.path]) is not None)
        first: dict[str, Path] = {}  # two paths may have the same content, which is downloaded once
        for file in missing:
            location = locations[file.path]
            location.parent.mkdir(parents=True, exist_ok=True)
            if file.etag in first:
                if job.verifier.link(file, first[file.etag], location):
                    continue
                job.sources[file.path] = first[file.etag]
                fetched |= job.fetch_all([file], lambda _: False)
            job.move_verified(file, location)
            first[file.etag] = location
        _remove_work_folder(work)
        return [_make_stored_file(job, file, locations[file.path], fetched) for file in files]
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


def _make_stored_file(job: _FetchJob, file: HubFile, location: Path, fetched: set[str]) -> StoredFile:
    """Return a file that is complete and verified now.

    Raises:
        FileNotFoundError: Another tool removed or modified the file in the meantime.
    """
    stamp = job.verifier.verify(file, location)
    if stamp is None:
        raise FileNotFoundError(f"{location} was removed or modified by another program")
    return StoredFile(file.path, location, file.size, file.sha256, file.git_sha1, file.path in fetched, stamp)


def _adopt_from_cache(job: _FetchJob, cache_dir: Path, file: HubFile) -> bool:
    """Return True if the cache contains the verified file in this repo, or in another repo from which it can be linked.

    A file of another repo is linked into the work folder. It is moved into this repo once all files are complete,
    because other tools report a repo that has blobs and no snapshot as damaged. A file that can't be linked becomes a
    source for `_FetchJob.fetch_all`, which copies it and verifies the copy.
    """
    candidates = _find_candidates(cache_dir, job.repo, job.commit, file)
    found = next((candidate for candidate in candidates if job.verifier.verify(file, candidate)), None)
    if found is None:
        return False
    blob = cache_layout.repo_folder(cache_dir, job.repo) / "blobs" / file.etag
    own = (blob, cache_path(cache_dir, job.repo, job.commit, file.path))
    if found not in own and not job.verifier.link(file, found, job.folder / f"{file.etag}.whole"):
        job.sources[file.path] = found
        return False
    return True


def _publish(job: _FetchJob, blobs: Path, file: HubFile, path: Path) -> None:
    """Move a verified file to its blob, and link the blob to `path` in the snapshot.

    Raises:
        FileNotFoundError: Another tool removed the file or its folder in the meantime.
    """
    blob = blobs / file.etag
    path.parent.mkdir(parents=True, exist_ok=True)
    if (job.folder / f"{file.etag}.whole").exists():
        blobs.mkdir(parents=True, exist_ok=True)
        job.move_verified(file, blob)
    if blob.exists() and not (path.exists() and path.samefile(blob)):
        job.verifier.link_into_snapshot(file, blob, path)
    path.stat()


class _FetchJob:
    """The files of one download, with the state that they share."""

    def __init__(
        self,
        hub: Hub,
        repo: RepoId,
        commit: str,
        folder: Path,
        limits: TransferLimits,
        get_connection_limit: Callable[[], int] | None,
        get_rate_limit: Callable[[], int],
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self.hub, self.repo, self.commit, self.folder = hub, repo, commit, folder
        self._limits, self._progress, self._stop = limits, progress, stop
        self._get_connection_limit = get_connection_limit or (lambda: limits.connections)
        self._get_rate_limit, self._rate_limiter = get_rate_limit, RateLimiter(self._divide_rate)
        self.verifier = FileVerifier(progress, stop)
        self._files_at_once = 1
        self._tasks: dict[Future[bool], HubFile] = {}
        self._partials: list[Path] = []  # partial files that this call or another process downloads
        self.sources: dict[str, Path] = {}  # local files with the right name and size to copy from, by path

    def _divide_rate(self) -> int:
        """Return the rate limit divided by the number of processes that download files of the same variant.

        Connections are not divided: closing one loses the bytes in flight, and another process may end at any moment.
        """
        rate = self._get_rate_limit()
        return max(1, rate // max(1, count_owning_processes(self._partials))) if rate else 0

    def _count_connections(self) -> int:
        """Return the number of connections that all files together may use now."""
        return min(self._limits.connections, self._get_connection_limit())

    def _share_connections(self, file: HubFile) -> int:
        """Return the number of connections that one file may use now.

        It is 0 for some files while there are fewer connections than files.
        """
        active = [other.etag for task, other in list(self._tasks.items()) if not task.done()][: self._files_at_once]
        if file.etag not in active:  # its task has only just started
            return -(-self._count_connections() // self._files_at_once)
        each, left = divmod(self._count_connections(), len(active))
        return each + (active.index(file.etag) < left)

    def resolve_etag(self, file: HubFile) -> HubFile:
        """Return the file with a digest, which names its blob. Request a missing digest from the Hub."""
        etag = file.etag or self.hub.locate(self.repo, RepoFile(file.path), self.commit).etag
        if not _DIGEST.fullmatch(etag):
            raise HubUnavailableError(
                f"The Hub reports no digest for {file.path}", cause="Without a digest the file can't be verified."
            )
        if file.etag:
            return file
        return replace(file, sha256=etag) if len(etag) == SHA256_CHARS else replace(file, git_sha1=etag)

    def move_verified(self, file: HubFile, location: Path) -> None:
        """Rename a verified file to its final name.

        Raises:
            FileNotFoundError: Neither the verified file nor its final name exists.
        """
        self.verifier.move(file, self.folder / f"{file.etag}.whole", location)
        self._remove_lock_files(file)

    def _remove_lock_files(self, file: HubFile) -> None:
        """Remove the lock of a finished file, and the owner files and journals that killed processes left."""
        for pattern in ("part.lock", "part.owner.*", "part.journal*"):
            for path in self.folder.glob(f"{file.etag}.{pattern}"):
                with contextlib.suppress(OSError):  # Windows refuses while another process waits for the lock
                    path.unlink()

    def fetch_all(self, files: Sequence[HubFile], is_finished: Callable[[HubFile], bool]) -> set[str]:
        """Download or copy each file to `<etag>.whole`, several files at once.

        Args:
            files: The missing files.
            is_finished: Returns True if another process has finished the file in the meantime.

        Returns:
            The paths of the files that this call downloaded.
        """
        if not files:
            return set()
        unique = list({file.etag: file for file in files}.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        self._partials = [self.folder / f"{file.etag}.part" for file in unique]
        needed = sum(file.size - _count_partial(self.folder, file) for file in unique)
        require_space(self.folder, needed, self._limits.disk_reserve)
        self._tasks, self._files_at_once = {}, max(1, min(MAX_FILES_AT_ONCE, len(unique), self._count_connections()))
        halt = threading.Event()
        with ThreadPoolExecutor(self._files_at_once, thread_name_prefix="file") as pool:
            try:
                tasks = {pool.submit(self._fetch_file, file, is_finished, halt): file for file in unique}
                self._tasks, pending = tasks, set(tasks)
                while pending:
                    done, pending = wait(pending, timeout=STOP_CHECK_SECONDS)
                    if self._stop.is_set() or any(task.exception() for task in done):
                        halt.set()
            finally:
                halt.set()
        errors = [error for task in tasks if (error := task.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, InterruptedByUserError)):
            raise error
        return {file.path for task, file in tasks.items() if task.result()}

    def _fetch_file(self, file: HubFile, is_finished: Callable[[HubFile], bool], halt: threading.Event) -> bool:
        """Download one file. Return False if another process has completed it in the meantime."""
        partial, whole = self.folder / f"{file.etag}.part", self.folder / f"{file.etag}.whole"

        def complete_without_download() -> bool:
            if self.verifier.verify(file, whole) or is_finished(file):
                self._progress(Event("done", file.path, file.size, file.size, by_others=True))
                # Waiting for the lock recreated the lock file, which the other process had removed. Remove it while
                # holding the lock: a waiting process then notices the removal and creates a new file.
                with contextlib.suppress(OSError):  # Windows refuses; `gc` removes the file later
                    partial.with_name(f"{partial.name}.lock").unlink()
                return True
            if file.path in self.sources and self._copy(file, self.sources[file.path], whole, halt):
                partial.unlink(missing_ok=True)
                return True
            return False

        return download_file(
            lambda: self.hub.locate(self.repo, RepoFile(file.path), self.commit),
            ExpectedFile(file.path, file.size, file.sha256, file.git_sha1),
            partial,
            limits=self._limits,
            get_connection_limit=lambda: self._share_connections(file),
            rate_limiter=self._rate_limiter,
            progress=self._progress,
            stop=halt,
            final_path=whole,
            is_already_present=complete_without_download,
        )

    def _copy(self, file: HubFile, source: Path, whole: Path, halt: threading.Event) -> bool:
        """Copy `source` to `whole`. Return False if `source` has the wrong digest or has been removed."""

        def report(done: int) -> None:
            if halt.is_set():
                raise InterruptedByUserError(f"Stopped while copying {file.path}")
            self._progress(Event("progress", file.path, done, file.size))

        self._progress(Event("started", file.path, 0, file.size))
        unverified = whole.with_suffix(".part.copy")
        try:
            digests = copy_with_digests(source, unverified, report)
            if digests.get_same_kind(file.etag) != file.etag:
                return False
            rename_verified(file.etag, unverified, whole, digests.stamp)
        except FileNotFoundError:  # another tool has removed it from the cache
            return False
        finally:
            unverified.unlink(missing_ok=True)
        sync_folder(self.folder)
        self._progress(Event("done", file.path, file.size, file.size))
        return True
