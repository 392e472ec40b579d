"""Fetch several files of one repo into a work folder, at the same time, and verify each of them.

This module uses neither SQLite nor the terminal.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from llm_hf_models.downloads.file_verifier import FileVerifier
from llm_hf_models.downloads.local_files import build_partial_path, build_whole_path, count_partial_bytes
from llm_hf_models.downloads.manifest_digests import ManifestDigests
from llm_hf_models.errors import DigestMismatchError, InterruptedByUserError, MissingFileError
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.listing import complete_file
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import HubFile, Location
from llm_hf_models.signatures.types import SignedManifest
from llm_hf_models.system.disk import require_space, sync_folder
from llm_hf_models.system.hashing import copy_with_digests
from llm_hf_models.system.ownership import count_owning_processes
from llm_hf_models.system.verified_files import rename_verified
from llm_hf_models.transfer.download_file import download_file
from llm_hf_models.transfer.pacing import RateLimiter
from llm_hf_models.transfer.types import Event, ExpectedFile, Progress, TransferLimits

MAX_FILES_AT_ONCE = 4
SIGNAL_CHECK_SECONDS = 0.1  # Windows handles Ctrl-C only between two waits of the main thread


class FileFetcher:
    """Fetches the files of one download into a work folder, with the state that they share."""

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
        manifest: SignedManifest | None = None,
    ) -> None:
        self.hub, self.repo, self.commit, self.folder = hub, repo, commit, folder
        self._limits, self._progress, self._stop = limits, progress, stop
        self._get_connection_limit = get_connection_limit or (lambda: limits.connections)
        self._get_rate_limit, self._rate_limiter = get_rate_limit, RateLimiter(self._divide_rate)
        self.verifier, self.manifest_digests = FileVerifier(progress, stop), ManifestDigests(manifest)
        self._files_at_once = 1
        self._tasks: dict[Future[bool], HubFile] = {}
        self._partials: list[Path] = []  # partial files that this call or another process downloads
        self.sources: dict[str, Path] = {}  # local files with the right name and size to copy from, by path
        self.local_only = False

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

    def complete(self, file: HubFile) -> HubFile:
        """Return the file with a digest, which names its blob. Request a missing digest from the Hub."""
        return complete_file(self.hub, self.repo, file, self.commit)

    def move_verified(self, file: HubFile, location: Path) -> None:
        """Rename a verified file to its final name.

        Raises:
            FileNotFoundError: Neither the verified file nor its final name exists.
        """
        self.verifier.move(file, build_whole_path(self.folder, file.etag), location)
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
        self._partials = [build_partial_path(self.folder, file.etag) for file in unique]
        needed = sum(file.size - count_partial_bytes(self.folder, file) for file in unique)
        require_space(self.folder, needed, self._limits.disk_reserve)
        self._tasks, self._files_at_once = {}, max(1, min(MAX_FILES_AT_ONCE, len(unique), self._count_connections()))
        with ThreadPoolExecutor(self._files_at_once, thread_name_prefix="file") as pool, self._stop_on_failure():
            self._tasks = tasks = {pool.submit(self._fetch_file, file, is_finished): file for file in unique}
            while wait(tasks, timeout=SIGNAL_CHECK_SECONDS).not_done:
                pass
        errors = [error for task in tasks if (error := task.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, InterruptedByUserError)):
            raise error
        return {file.path for task, file in tasks.items() if task.result()}

    @contextlib.contextmanager
    def _stop_on_failure(self) -> Iterator[None]:
        """Stop the whole pull if the block raises an exception."""
        try:
            yield
        except BaseException:
            self._stop.set()
            raise

    def _fetch_file(self, file: HubFile, is_finished: Callable[[HubFile], bool]) -> bool:
        """Download one file. Return False if another process has completed it in the meantime."""
        partial, whole = build_partial_path(self.folder, file.etag), build_whole_path(self.folder, file.etag)

        def complete_without_download() -> bool:
            if self.verifier.verify(file, whole) or is_finished(file):
                self._progress(Event("done", file.path, file.size, file.size, by_others=True))
                # Waiting for the lock recreated the lock file, which the other process had removed. Remove it while
                # holding the lock: a waiting process then notices the removal and creates a new file.
                with contextlib.suppress(OSError):  # Windows refuses; `gc` removes the file later
                    partial.with_name(f"{partial.name}.lock").unlink()
                return True
            if file.path in self.sources and self._copy(file, self.sources[file.path], whole):
                partial.unlink(missing_ok=True)
                return True
            return False

        with self._stop_on_failure():
            is_downloaded = download_file(
                lambda: self._locate(file),
                ExpectedFile(file.path, file.size, file.sha256, file.git_sha1),
                partial,
                limits=self._limits,
                get_connection_limit=lambda: self._share_connections(file),
                rate_limiter=self._rate_limiter,
                progress=self._progress,
                stop=self._stop,
                final_path=whole,
                is_already_present=complete_without_download,
                create_observer=lambda: self.manifest_digests.start(file.path),
            )
        if is_downloaded:
            self.manifest_digests.finish(file.path)
        return is_downloaded

    def _locate(self, file: HubFile) -> Location:
        if not self.local_only:
            return self.hub.locate(self.repo, RepoFile(file.path), self.commit)
        source = self.sources.get(file.path)
        if source is None or not source.exists():
            raise MissingFileError(f"{source or file.path} is no longer on this machine")
        raise DigestMismatchError(
            f"{source} is not {file.path} of {self.repo}",
            cause=f"Its content does not have the digest {file.etag}.",
            hint="Copy the folder again, or download the model from the Hub.",
        )

    def _copy(self, file: HubFile, source: Path, whole: Path) -> bool:
        """Copy `source` to `whole`. Return False if `source` has the wrong digest or has been removed."""

        def report(done: int) -> None:
            if self._stop.is_set():
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
