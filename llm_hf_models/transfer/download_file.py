"""The bytes of one file: parallel ranges, a journal, the digest while they arrive. Knows no SQLite and no terminal.

What may be trusted after which accident is explained in transfer/journal.py, how connections are added and bytes
shared out in
transfer/segments.py, who may write a partial in transfer/ownership.py. Here they come together: one thread per
connection (transfer/fetch_threads.py), one
for the digest, one that brings bytes to the disk itself, and the caller's own, which watches, reports and decides.
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
from llm_hf_models.system.processes import read_boot_id
from llm_hf_models.transfer.fetch_threads import StartOverError, WorkerPool
from llm_hf_models.transfer.journal import Identity, Journal, JournalState, read_journal
from llm_hf_models.transfer.ownership import Owner, OwnershipLostError, acquire_ownership
from llm_hf_models.transfer.pacing import RateLimiter
from llm_hf_models.transfer.partial_file import FileHasher, PartialFile
from llm_hf_models.transfer.retry import Backoff
from llm_hf_models.transfer.source import DownloadSource
from llm_hf_models.transfer.types import Event, EventKind, ExpectedFile, Progress, TransferLimits

TICK_SECONDS = 0.1
WATCH_INTERVAL_SECONDS = 0.05  # how often it is asked whether more connections pay off
NO_CONNECTION_SECONDS = (
    2.0  # a file that may have no connection for so long is left to others, who may have one and wait for it
)
YIELD_SECONDS = 1.0  # how long they have before it is looked at again


def journal_path(partial: Path) -> Path:
    """Where the journal of a partial stands."""
    return partial.with_name(f"{partial.name}.journal")


def download_file(
    locate: Callable[[], Location],
    expected: ExpectedFile,
    partial: Path,
    *,
    limits: TransferLimits,
    progress: Progress,
    stop: threading.Event,
    pace: RateLimiter | None = None,
    final_path: Path | None = None,
    is_already_present: Callable[[], bool] = lambda: False,
) -> bool:
    """Makes `partial` the whole, checked file; continues what an earlier call left there.

    While another thread or process fetches it, this one waits, reports that one's progress, and goes on where it dies.

    Args:
        locate: called for the link, and again when it has expired.
        expected: size and digest that prove the file.
        partial: where the bytes go; its journal stands beside it and is gone when this returns.
        limits: seconds, bytes and connections.
        progress: called from any thread, never more than ten times a second for `progress` events.
        stop: when set, ends at once with what has arrived kept.
        pace: shared by files under one limit; None is this file's own.
        final_path: the name that the checked file gets before anybody else may touch it; None leaves it its own.
        is_already_present: asked once the partial is this call's alone: True where the file came in another way
        meanwhile.

    Returns:
        Whether it was fetched; False where `is_already_present` said so.

    Raises:
        DigestMismatchError, FileChangedError, DiskFullError, NotWritableError, NetworkError, AccessError,
        InterruptedByUserError: `stop` was set.
    """
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise translate_disk_error(error, partial.parent, expected.size, limits.disk_reserve) from None
    pace = pace or RateLimiter(limits.bytes_per_second)
    others, held = _WaitReporter(partial, expected, limits, progress), False
    while True:
        if held:
            stop.wait(YIELD_SECONDS)
        with acquire_ownership(partial, stop, others.report) as owner:
            if is_already_present():
                return False
            if held and limits.connections_now and not limits.connections_now():
                continue
            held = False
            try:
                _Transfer(locate, expected, partial, owner, limits, progress, stop, pace).run()
            except OwnershipLostError:
                continue
            except _NoConnectionError:
                others.report_all_connections_taken()
                held = True
                continue
            if final_path is not None:
                partial.replace(final_path)
                sync_folder(final_path.parent)
            return True


class _NoConnectionError(Exception):
    """Other downloads have had all connections for a while."""


class _WaitReporter:
    """What one tells who waits for others: how far the partial's owner is, or that they have all connections."""

    def __init__(self, partial: Path, expected: ExpectedFile, limits: TransferLimits, progress: Progress) -> None:
        self._journal, self._expected = journal_path(partial), expected
        self._limits, self._progress = limits, progress
        self._done, self._moved_at = 0, time.monotonic()

    def report(self) -> None:
        """Called while the owner is waited for; says so when nothing has come for long."""
        done, now = self._count_received(), time.monotonic()
        if done != self._done:
            self._done, self._moved_at = done, now
        kind: EventKind = "progress"
        message = None
        if now - self._moved_at >= self._limits.stall_seconds:
            kind, message = "waiting", "the process that fetches it has brought nothing for a while"
            self._moved_at = now
        self._progress(Event(kind, self._expected.name, done, self._expected.size, message, by_others=True))

    def report_all_connections_taken(self) -> None:
        """Called once it has none."""
        words = "other downloads have all connections"
        self._progress(
            Event("waiting", self._expected.name, self._count_received(), self._expected.size, words, by_others=True)
        )

    def _count_received(self) -> int:
        state = read_journal(self._journal)
        return state.done.total if state else 0


class _Transfer:
    """One call of `fetch`: attempts, of which the first nearly always is the last."""

    def __init__(
        self,
        locate: Callable[[], Location],
        expected: ExpectedFile,
        partial: Path,
        owner: Owner,
        limits: TransferLimits,
        progress: Progress,
        stop: threading.Event,
        pace: RateLimiter,
    ) -> None:
        self._expected, self._partial, self._owner = expected, partial, owner
        self._limits, self._progress, self._stop, self._pace = limits, progress, stop, pace
        self._journal_path = journal_path(partial)
        self._source = DownloadSource(locate, expected)
        self._weather = Backoff(limits, self._report)
        self._done = 0
        self._told_at = 0.0

    def _report(self, kind: EventKind, message: str | None = None) -> None:
        now = time.monotonic()
        if kind == "progress" and now - self._told_at < TICK_SECONDS:
            return
        self._told_at = now
        self._progress(Event(kind, self._expected.name, self._done, self._expected.size, message))

    def run(self) -> None:
        mismatches, whole = 0, False
        while True:
            state = self._load_state()
            trusted = (
                state is not None
            )  # else bytes without a journal: only their digest can say whether they are any good
            try:
                found = self._fetch_missing(state, whole=whole)
            except StartOverError as again:
                self._discard()
                whole = True
                if again.error is not None:
                    self._weather.pause(again.error, self._stop)
                continue
            except OSError as error:
                needed = self._expected.size - self._done
                raise translate_disk_error(error, self._partial.parent, needed, self._limits.disk_reserve) from None
            if self._expected.digest in (None, found):
                break
            self._discard()
            self._told_at = 0.0
            self._report("progress")  # that nothing is here any more
            self._weather = Backoff(self._limits, self._report)  # for what is fetched anew, each byte counts again
            mismatches += trusted
            if mismatches > 1:
                raise DigestMismatchError(
                    f"{self._expected.name} is not the file that the Hub recorded:"
                    f" expected {self._expected.digest}, got {found}",
                    cause="It came wrong a second time, and nothing of it was kept.",
                    hint="A proxy or a mirror may be changing it; or the repo's record is wrong.",
                )
            if trusted:
                self._report(
                    "retrying",
                    f"The digest is wrong (expected {self._expected.digest}, got {found}); fetching it again",
                )
        self._journal_path.unlink(missing_ok=True)
        self._done = self._expected.size
        self._report("done")

    def _load_state(self) -> JournalState | None:
        """What can be built on; None for a file of the right size that has no journal."""
        state = read_journal(self._journal_path)
        self._done = state.done.total if state else 0
        try:
            size = self._partial.stat().st_size
        except FileNotFoundError:
            size = -1
        if state is None and size == self._expected.size and self._expected.digest:
            return None
        identity = Identity(self._expected.size, self._call_with_retry(lambda: self._source.proof))
        if state is None or state.identity != identity or size != identity.size or not state.done.total:
            # Bytes that nothing speaks for would only take room from those to come.
            self._discard()
            return JournalState(identity)
        return state

    def _call_with_retry(self, ask: Callable[[], str]) -> str:
        """The answer of a question to the Hub, through any weather."""
        while True:
            try:
                return ask()
            except NetworkError as error:
                if not is_transient(error):
                    raise
                self._weather.pause(error, self._stop)
                self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise InterruptedByUserError(f"Stopped; what has arrived of {self._expected.name} is kept")

    def _discard(self) -> None:
        # The journal first: bytes without one are never trusted, a journal without bytes would lie.
        self._journal_path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        sync_folder(self._partial.parent)
        self._done = 0

    def _fetch_missing(self, state: JournalState | None, *, whole: bool) -> str:
        """Fetches what is missing; returns the digest of what is there then."""
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
        # In this order: a new journal without a partial is thrown away, a partial without one would have to be hashed.
        journal = Journal(self._journal_path, state)
        with PartialFile(self._partial, size) as file:
            digest = FileHasher(file, size, git_blob=self._expected.sha256 is None)
            try:
                for start, end in state.done:
                    digest.have(start, end)
                fetching = WorkerPool(
                    self._source,
                    self._weather,
                    self._pace,
                    self._limits,
                    file,
                    journal,
                    digest,
                    state.done,
                    size,
                    whole=whole,
                )
                self._watch(fetching)
                return self._wait_for_digest(digest, file)
            finally:
                digest.abandon()
                journal.close()

    def _watch(self, fetching: WorkerPool) -> None:
        """Lets the connections work until all is there, and reports."""
        had_one_at = time.monotonic()
        fetching.start()
        try:
            while not fetching.finished:
                fetching.changed.wait(WATCH_INTERVAL_SECONDS)
                fetching.changed.clear()
                if self._owner.lost.is_set():
                    raise OwnershipLostError
                self._check_stop()
                fetching.look_after()
                now = time.monotonic()
                had_one_at = had_one_at if fetching.held else now
                if now - had_one_at >= NO_CONNECTION_SECONDS:
                    raise _NoConnectionError
                self._done = fetching.done
                self._report("progress")
        finally:
            fetching.end(sync=read_boot_id() is None)
            self._done = fetching.done
        if fetching.error is not None:
            raise fetching.error

    def _wait_for_digest(self, digest: FileHasher, file: PartialFile) -> str:
        if not digest.wait(0):
            self._report("verifying")
            while not digest.wait(TICK_SECONDS):
                self._check_stop()
        file.sync()
        return digest.hex
