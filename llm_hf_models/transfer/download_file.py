"""Download one file over parallel connections, with a journal to resume from and a digest computed on arrival.

The modules of this package divide the work: journal.py explains which bytes can be trusted after a crash, segments.py
assigns bytes to connections, and pacing.py tunes the number of connections. This module combines them, and owns the
file (system/ownership.py), so that there is a single writer. A transfer has one thread for each connection and one that
syncs bytes to disk (both in fetch_threads.py), one that computes the digest (partial_file.py), and the caller's thread,
which monitors the transfer and reports progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from llm_hf_models.errors import DigestMismatchError, InterruptedByUserError, NetworkError
from llm_hf_models.hub.types import Location
from llm_hf_models.network.errors import is_transient
from llm_hf_models.system.disk import require_space, sync_folder, translate_disk_error
from llm_hf_models.system.hashing import FileStamp, read_stamp
from llm_hf_models.system.ownership import Owner, acquire_ownership
from llm_hf_models.system.processes import read_boot_id
from llm_hf_models.system.verified_files import rename_verified
from llm_hf_models.transfer.fetch_threads import StartOverError, WorkerPool
from llm_hf_models.transfer.journal import Identity, Journal, JournalState, read_journal
from llm_hf_models.transfer.pacing import RateLimiter
from llm_hf_models.transfer.partial_file import FileHasher, PartialFile
from llm_hf_models.transfer.retry import Backoff
from llm_hf_models.transfer.source import DownloadSource
from llm_hf_models.transfer.types import ByteObserver, Event, EventKind, ExpectedFile, Progress, TransferLimits

TICK_SECONDS = 0.1
OWNER_POLL_SECONDS = 0.25
WATCH_INTERVAL_SECONDS = 0.05  # how often the number of connections is adjusted
# After this time without a connection, the transfer gives up ownership of the file: another download that has a
# connection may be waiting for the file. It claims the file again after YIELD_SECONDS.
NO_CONNECTION_SECONDS = 2.0
YIELD_SECONDS = 1.0


def journal_path(partial: Path) -> Path:
    """Return the path of the journal of a partial."""
    return partial.with_name(f"{partial.name}.journal")


def download_file(
    locate: Callable[[], Location],
    expected: ExpectedFile,
    partial: Path,
    *,
    limits: TransferLimits,
    progress: Progress,
    stop: threading.Event,
    get_connection_limit: Callable[[], int] | None = None,
    rate_limiter: RateLimiter | None = None,
    final_path: Path | None = None,
    is_already_present: Callable[[], bool] = lambda: False,
    create_observer: Callable[[], ByteObserver | None] = lambda: None,
) -> bool:
    """Download a file to `partial` and verify it, resuming an earlier download if there is one.

    While another thread or process downloads the file, this call waits and reports that download's progress. If that
    download ends early, this call continues it.

    Args:
        locate: returns the link. It is called again when the link has expired.
        expected: the size and the digest of the file.
        partial: the path that receives the bytes. Its journal is next to it and is deleted at the end.
        limits: limits of the transfer that do not change while it runs.
        progress: receives events from any thread, at most ten `progress` events a second.
        stop: when set, the download ends at once. The received bytes are kept.
        get_connection_limit: returns the number of connections that the file may use now, from 0 to
            `limits.connections`. None means always `limits.connections`.
        rate_limiter: limits the rate of this file and of the others that share it; None means no limit.
        final_path: the path to which the verified file is moved before ownership ends; None leaves it at `partial`.
        is_already_present: called after this call has become the owner of the partial. If it returns True, for example
            because another download has stored the file meanwhile, nothing is downloaded.
        create_observer: called for each attempt. If the file was downloaded, the last observer received all its bytes.

    Returns:
        True if the file was downloaded, False if it was already present.

    Raises:
        DigestMismatchError: the digest was wrong twice.
        FileChangedError: the Hub or the storage host has another file now.
        DiskFullError, NotWritableError: the file could not be written.
        NetworkError, AccessError: the file could not be fetched.
        InterruptedByUserError: `stop` was set.
    """
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise translate_disk_error(error, partial.parent, expected.size, limits.disk_reserve) from None
    get_connection_limit = get_connection_limit or (lambda: limits.connections)
    rate_limiter = rate_limiter or RateLimiter(lambda: 0)
    others, starved = _WaitReporter(partial, expected, limits, progress, stop), False
    while True:
        if starved:
            others.pause(YIELD_SECONDS)
        with acquire_ownership(partial, others.wait) as owner:
            if is_already_present():
                return False
            if starved and not get_connection_limit():
                continue
            starved = False
            try:
                stamp = _Transfer(
                    locate,
                    expected,
                    partial,
                    owner,
                    limits,
                    progress,
                    stop,
                    get_connection_limit,
                    rate_limiter,
                    create_observer,
                ).run()
            except _OwnershipLostError:
                continue
            except _NoConnectionError:
                others.report_all_connections_taken()
                starved = True
                continue
            if final_path is not None:
                rename_verified(expected.digest or "", partial, final_path, stamp if expected.digest else None)
                sync_folder(final_path.parent)
            return True


class _OwnershipLostError(Exception):
    """Another process took over the partial because this one seemed to have ended."""


class _NoConnectionError(Exception):
    """Other downloads have used all connections for a while."""


class _WaitReporter:
    """Reports the progress of the file's owner while this download waits for it."""

    def __init__(
        self,
        partial: Path,
        expected: ExpectedFile,
        limits: TransferLimits,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._journal, self._expected = journal_path(partial), expected
        self._limits, self._progress, self._stop = limits, progress, stop
        self._done, self._progress_at = 0, time.monotonic()

    def wait(self) -> None:
        """Report the progress of the owner, or that it has stalled, and pause before the next attempt."""
        self._report()
        self.pause(OWNER_POLL_SECONDS)

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`. Raise InterruptedByUserError if the stop event is set."""
        if self._stop.wait(seconds):
            raise InterruptedByUserError("Stopped while another process was downloading this file")

    def _report(self) -> None:
        done, now = self._count_received(), time.monotonic()
        if done != self._done:
            self._done, self._progress_at = done, now
        kind: EventKind = "progress"
        message = None
        if now - self._progress_at >= self._limits.stall_seconds:
            kind, message = "waiting", "the process that downloads this file has stalled"
            self._progress_at = now
        self._progress(Event(kind, self._expected.name, done, self._expected.size, message, by_others=True))

    def report_all_connections_taken(self) -> None:
        """Report that other downloads use all connections."""
        message = "other downloads are using all connections"
        self._progress(
            Event("waiting", self._expected.name, self._count_received(), self._expected.size, message, by_others=True)
        )

    def _count_received(self) -> int:
        state = read_journal(self._journal)
        return state.done.total if state else 0


class _Transfer:
    """One call of `download_file`. Nearly always the first attempt succeeds."""

    def __init__(
        self,
        locate: Callable[[], Location],
        expected: ExpectedFile,
        partial: Path,
        owner: Owner,
        limits: TransferLimits,
        progress: Progress,
        stop: threading.Event,
        get_connection_limit: Callable[[], int],
        rate_limiter: RateLimiter,
        create_observer: Callable[[], ByteObserver | None],
    ) -> None:
        self._create_observer = create_observer
        self._expected, self._partial, self._owner = expected, partial, owner
        self._limits, self._progress, self._stop = limits, progress, stop
        self._get_connection_limit, self._rate_limiter = get_connection_limit, rate_limiter
        self._journal_path = journal_path(partial)
        self._source = DownloadSource(locate, expected)
        self._backoff = Backoff(limits, self._report)
        self._done = 0
        self._reported_at = 0.0

    def _report(self, kind: EventKind, message: str | None = None) -> None:
        now = time.monotonic()
        if kind == "progress" and now - self._reported_at < TICK_SECONDS:
            return
        self._reported_at = now
        self._progress(Event(kind, self._expected.name, self._done, self._expected.size, message))

    def run(self) -> FileStamp:
        """Download the file and verify its digest. Return the stamp that it had then."""
        mismatches, whole = 0, False
        while True:
            state = self._load_state()
            # Bytes without a journal are verified by their digest alone.
            trusted = state is not None
            try:
                found, stamp = self._fetch_missing(state, whole=whole)
            except StartOverError as restart:
                self._discard()
                whole = True
                if restart.error is not None:
                    self._backoff.pause(restart.error, self._stop)
                continue
            except OSError as error:
                needed = self._expected.size - self._done
                raise translate_disk_error(error, self._partial.parent, needed, self._limits.disk_reserve) from None
            if self._expected.digest in (None, found):
                break
            self._discard()
            self._reported_at = 0.0
            self._report("progress")  # back to zero bytes
            self._backoff = Backoff(self._limits, self._report)  # bytes that are fetched again count as progress
            mismatches += trusted
            whole = whole or self._source.has_unproven_ranges
            if mismatches > 1:
                raise DigestMismatchError(
                    f"{self._expected.name} has the wrong digest: expected {self._expected.digest}, got {found}",
                    cause="The digest was wrong twice. The downloaded bytes were deleted.",
                    hint="Check whether a proxy or mirror changes the file; the repo's record may also be wrong.",
                )
            if trusted:
                self._report(
                    "retrying",
                    f"Wrong digest (expected {self._expected.digest}, got {found}); downloading the file again",
                )
        self._journal_path.unlink(missing_ok=True)
        self._done = self._expected.size
        self._report("done")
        return stamp

    def _load_state(self) -> JournalState | None:
        """Return the state to continue from, or None for a file of the right size without a journal."""
        state = read_journal(self._journal_path)
        self._done = state.done.total if state else 0
        try:
            size = self._partial.stat().st_size
        except FileNotFoundError:
            size = -1
        if state is None and size == self._expected.size and self._expected.digest:
            return None
        identity = Identity(self._expected.size, self._call_with_retry(lambda: self._source.content_id))
        if state is None or state.identity != identity or size != identity.size or not state.done.total:
            # Bytes that can't be verified only take up disk space.
            self._discard()
            return JournalState(identity)
        return state

    def _call_with_retry(self, call: Callable[[], str]) -> str:
        """Call a function that sends a request to the Hub, and repeat the call after transient errors."""
        while True:
            try:
                return call()
            except NetworkError as error:
                if not is_transient(error):
                    raise
                self._backoff.pause(error, self._stop)
                self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise InterruptedByUserError(f"Download of {self._expected.name} stopped; the received bytes are kept")

    def _discard(self) -> None:
        # Delete the journal first: bytes without a journal are not trusted, but a journal without bytes would be wrong.
        self._journal_path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        sync_folder(self._partial.parent)
        self._done = 0

    def _fetch_missing(self, state: JournalState | None, *, whole: bool) -> tuple[str, FileStamp]:
        """Fetch the missing bytes. Return the digest of the whole file, and its stamp."""
        size = self._expected.size
        if state is None:
            identity = Identity(size, self._expected.digest or "")
            state = JournalState(identity)
            state.done.add(0, size)
        self._source.validator = state.validator
        self._done = state.done.total
        self._check_stop()
        require_space(self._partial.parent, size - self._done, self._limits.disk_reserve)
        self._report("started")
        # The journal is created first: a journal without a partial is discarded, but a partial without a journal would
        # have to be hashed.
        journal = Journal(self._journal_path, state)
        with PartialFile(self._partial, size) as file:
            observer = self._create_observer()
            hasher = FileHasher(file, size, git_blob=self._expected.sha256 is None, observer=observer)
            try:
                for start, end in state.done:
                    hasher.mark_written(start, end)
                workers = WorkerPool(
                    self._source,
                    self._backoff,
                    self._rate_limiter,
                    self._limits,
                    self._get_connection_limit,
                    file,
                    journal,
                    hasher,
                    state.done,
                    size,
                    whole=whole,
                )
                self._watch(workers)
                return self._wait_for_digest(hasher, file), read_stamp(file.fd)
            finally:
                hasher.cancel()
                journal.close()

    def _watch(self, workers: WorkerPool) -> None:
        """Run the connections until all bytes have arrived, and report progress."""
        last_connected_at = time.monotonic()
        workers.start()
        try:
            while not workers.is_finished:
                workers.changed.wait(WATCH_INTERVAL_SECONDS)
                workers.changed.clear()
                if self._owner.lost.is_set():
                    raise _OwnershipLostError
                self._check_stop()
                workers.adjust_connections()
                now = time.monotonic()
                last_connected_at = last_connected_at if workers.is_starved else now
                if now - last_connected_at >= NO_CONNECTION_SECONDS:
                    raise _NoConnectionError
                self._done = workers.done
                self._report("progress")
        finally:
            workers.stop(sync=read_boot_id() is None)
            self._done = workers.done
        if workers.error is not None:
            raise workers.error

    def _wait_for_digest(self, hasher: FileHasher, file: PartialFile) -> str:
        if not hasher.wait(0):
            self._report("verifying")
            while not hasher.wait(TICK_SECONDS):
                self._check_stop()
        file.sync()
        return hasher.hexdigest
