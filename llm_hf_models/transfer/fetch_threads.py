"""The threads that fetch the missing bytes of one file and sync them to disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llm_hf_models.errors import AccessError, HfModelsError, NetworkError, RateLimitedError
from llm_hf_models.hub.types import Location
from llm_hf_models.network.connection import RangeConnection
from llm_hf_models.network.errors import is_transient
from llm_hf_models.network.range_checks import LinkExpiredError, RangeUnusableError
from llm_hf_models.network.response import RangeResponse
from llm_hf_models.system.disk import check_reserve
from llm_hf_models.system.machine import count_usable_cores
from llm_hf_models.transfer.journal import Journal
from llm_hf_models.transfer.pacing import ConnectionTuner, RateLimiter
from llm_hf_models.transfer.partial_file import FileHasher, PartialFile
from llm_hf_models.transfer.retry import Backoff
from llm_hf_models.transfer.segments import Segment, SegmentQueue
from llm_hf_models.transfer.source import DownloadSource
from llm_hf_models.transfer.types import Ranges, TransferLimits

MAX_CHUNK_BYTES = 3 << 18  # smaller chunks cost more thread switches: 14 % of the CPU at 256 KiB (over TLS 1 %)
MIN_CHUNK_BYTES = 1 << 16
ALL_CHUNKS_BYTES = 2 << 20  # limit for the buffers of all connections together
# A connection records its bytes in the journal after this many bytes or seconds, and reads no more at a time. A kill
# therefore costs each connection less than twice this amount.
RECORD_BYTES = 1 << 20
RECORD_SECONDS = 0.5
# Bytes are synced to disk after this many bytes or seconds. Power loss costs this amount, and the bytes that arrive
# during the sync.
CHECKPOINT_BYTES = 64 << 20
CHECKPOINT_SECONDS = 5.0


class StartOverError(Exception):
    """The server can't continue a file, so it has to be fetched in one stream from the start.

    `error` is the network error that interrupted such a stream, if any.
    """

    def __init__(self, error: NetworkError | None = None) -> None:
        super().__init__()
        self.error = error


class WorkerPool:
    """Fetches the missing bytes over as many connections as make the transfer faster, one thread per connection."""

    def __init__(
        self,
        source: DownloadSource,
        backoff: Backoff,
        rate_limiter: RateLimiter,
        limits: TransferLimits,
        get_connection_limit: Callable[[], int],
        file: PartialFile,
        journal: Journal,
        hasher: FileHasher,
        done: Ranges,
        size: int,
        *,
        whole: bool,
    ) -> None:
        """Prepare one attempt.

        Args:
            source: the link to the file.
            backoff: decides about retries.
            rate_limiter: limits the rate of the transfer.
            limits: settings of the transfer.
            get_connection_limit: returns how many connections other downloads leave to this file now.
            file: receives the bytes.
            journal: records the bytes in the file.
            hasher: computes the digest.
            done: the bytes that the file already has.
            size: the size of the file in bytes.
            whole: True if the server does not support ranges: fetch one stream from the first byte.
        """
        self._source, self._backoff, self._rate_limiter, self._limits = source, backoff, rate_limiter, limits
        self._file, self._journal, self._hasher, self._size = file, journal, hasher, size
        self._get_connection_limit = get_connection_limit
        self._segments = SegmentQueue(size, done, undivided=whole)
        self._tuner = ConnectionTuner(limits.connections, count_usable_cores())
        self._lock = threading.Lock()
        self._attempt_over = threading.Event()  # all threads of this attempt end; another attempt may follow
        self._connections: dict[threading.Thread, RangeConnection] = {}
        self._leaving: set[threading.Thread] = set()
        self._receivers: set[threading.Thread] = set()  # the threads that write to the file and the journal
        self._pausing = False
        self._start_after = self._request_after = 0.0
        self._unsynced = 0
        self._sync_now = threading.Event()
        self._syncer = threading.Thread(target=self._keep_synced, name="sync", daemon=True)
        self._whole = whole
        self.done = done.total
        self.changed = threading.Event()
        self.error: BaseException | None = None

    # The caller's thread

    def start(self) -> None:
        """Start with one connection."""
        self._syncer.start()
        if not self._segments.is_finished:
            self._start_worker()

    @property
    def is_finished(self) -> bool:
        """Whether all bytes have arrived or an error occurred; some connections may still be open."""
        return self.error is not None or self.done >= self._size

    @property
    def is_starved(self) -> bool:
        """Whether the file has no connection because other downloads use all of them."""
        return not self.is_finished and not self._connections and not self._get_connection_limit()

    def adjust_connections(self) -> None:
        """Add connections if more of them make the transfer faster. Called many times a second."""
        now = time.monotonic()
        with self._lock:
            running, receiving = len(self._connections), len(self._receivers)
        if running and (self._whole or self._pausing or now < self._start_after):
            return
        if self._segments.has_work:  # otherwise new connections would end at once
            self._tuner.update(now, self.done, receiving, cpu=time.process_time(), limit=self._rate_limiter.get_rate())
            limit = self._get_limit()
            for _ in range(running, min(1, limit) if self._whole else limit):
                self._start_worker()

    def stop(self, *, sync: bool) -> None:
        """Stop all threads and wait for those that write.

        Threads that are still connecting, or waiting for a response, may end later; they write nothing.

        Args:
            sync: True to sync the written bytes to disk.
        """
        with self._lock:
            self._attempt_over.set()
            connections, receivers = list(self._connections.values()), list(self._receivers)
        self._sync_now.set()
        for connection in connections:
            connection.abort()
        for thread in receivers:
            thread.join()
        if self._syncer.is_alive():
            self._syncer.join()
        if sync and self.error is None:
            self._sync()

    def _start_worker(self) -> None:
        connection = RangeConnection(
            connect_seconds=self._limits.connect_seconds, stall_seconds=self._limits.stall_seconds
        )
        thread = threading.Thread(target=self._run_worker, args=(connection,), name="connection", daemon=True)
        with self._lock:
            self._connections[thread] = connection
        thread.start()

    # The threads of the connections

    def _run_worker(self, connection: RangeConnection) -> None:
        try:
            while not self._attempt_over.is_set() and not self._should_leave(self._get_limit()):
                segment = self._segments.take(self._tuner.planned)
                if segment is None:
                    break
                try:
                    self._stream(connection, segment)
                except LinkExpiredError:
                    connection.close()
                except AccessError as error:
                    if not self._leave_to_others(error):
                        raise
                    break
                except NetworkError as error:
                    connection.close()
                    if not self._wait_to_retry(error):
                        break
                finally:
                    self._segments.give_back(segment)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._fail(error)
        finally:
            connection.close()
            with self._lock:
                self._leaving.discard(threading.current_thread())
                del self._connections[threading.current_thread()]
            self.changed.set()

    def _get_limit(self) -> int:
        """Return the number of connections that are useful and that other downloads leave to this file."""
        return min(self._tuner.wanted, self._get_connection_limit())

    def _should_leave(self, limit: int) -> bool:
        """Return whether this connection should end, so that no more than `limit` remain."""
        own = threading.current_thread()
        with self._lock:
            if own not in self._leaving and len(self._connections) - len(self._leaving) > limit:
                self._leaving.add(own)
            return own in self._leaving

    def _should_yield(self) -> bool:
        """Return whether this connection should end in mid-segment. A stream that can't be resumed is not ended."""
        return not self._whole and self._should_leave(self._get_connection_limit())

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            # Once `_attempt_over` is set, `stop` aborts the connections, which causes further errors.
            if self.error is None and not self._attempt_over.is_set():
                self.error = error
                self._attempt_over.set()

    def _leave_to_others(self, error: HfModelsError) -> bool:
        """Let this connection end if other connections can continue without it. Return whether it should end.

        If the host refused this connection, no new one replaces it for a while.
        """
        own = threading.current_thread()
        with self._lock:
            staying = self._connections.keys() - self._leaving - {own}
            if self._pausing or not staying:
                return self._pausing
            self._leaving.add(own)
            now = time.monotonic()
            self._start_after = max(self._start_after, now + self._limits.retry_seconds)
            if isinstance(error, (RateLimitedError, AccessError)):
                self._tuner.record_refusal(len(staying), now)
            if isinstance(error, RateLimitedError):
                self._request_after = now + min(error.retry_after or 0, self._limits.network_wait_seconds)
                self._start_after = max(self._start_after, self._request_after)
            return True

    def _wait_to_retry(self, error: NetworkError) -> bool:
        """Wait before the next attempt; return False if this connection should end instead.

        Raises:
            NetworkError: the error is permanent, or retries are used up.
            StartOverError: the stream has to start from the first byte.
        """
        if self._attempt_over.is_set():
            return False
        if not is_transient(error):
            raise error
        if self._whole:
            raise StartOverError(error)
        self._backoff.report_stall(error)
        if self._leave_to_others(error):
            return False
        self._pausing = True
        try:
            self._backoff.pause(error, self._attempt_over)
        finally:
            self._pausing = False
        return True

    def _stream(self, connection: RangeConnection, segment: Segment) -> None:
        if self._attempt_over.wait(max(0.0, self._request_after - time.monotonic())):
            return
        location = self._source.get_location()
        validator = self._source.validator
        start, end = self._segments.get_span(segment)
        if start == end:  # another connection took over the segment during the wait
            return
        response = self._request(connection, start, end, location, validator)
        with self._lock:
            if self._attempt_over.is_set():
                return
            self._receivers.add(threading.current_thread())
        try:
            if self._source.validator not in (None, validator):
                self._journal.record_validator(str(self._source.validator))
            self._receive(response, segment, location)
        finally:
            with self._lock:
                self._receivers.discard(threading.current_thread())

    def _request(
        self, connection: RangeConnection, start: int, end: int, location: Location, validator: str | None
    ) -> RangeResponse:
        extra = {} if self._whole else {"Range": f"bytes={start}-{end - 1}"}
        if extra and validator:
            extra["If-Range"] = validator
        response = connection.get(location.url, location.headers, extra)
        try:
            if self._whole:
                self._source.check_whole(response)
                return response
            self._source.check_range(response, start, end, sent_validator=validator is not None)
        except LinkExpiredError:
            self._source.mark_expired(location)
            raise
        except RangeUnusableError:
            raise StartOverError from None
        return response

    def _receive(self, response: RangeResponse, segment: Segment, location: Location) -> None:
        """Copy the body into the file and record it in the journal from time to time."""
        first = recorded = written = segment.position
        recorded_at = time.monotonic()
        chunk: bytearray | None = None
        try:
            while size := min(self._segments.count_remaining(segment), self._rate_limiter.limit_read(RECORD_BYTES)):
                if self._attempt_over.is_set() or self._should_yield():
                    return
                chunk = chunk or self._take_buffer()
                count = response.read_into(memoryview(chunk)[:size])
                if not count:
                    if self._whole or written == first:
                        raise NetworkError("The file ended too early")
                    return
                count = self._segments.advance(segment, count)
                self._file.write_at(memoryview(chunk)[:count], written)
                if self._hasher.mark_written(written, written + count, chunk):
                    chunk = None
                written += count
                self._count_received(count, written, location)
                now = time.monotonic()
                if written - recorded >= RECORD_BYTES or now - recorded_at >= RECORD_SECONDS:
                    self._record_range(recorded, written)
                    recorded, recorded_at = written, now
                    if self.done < self._size:
                        check_reserve(self._file.path.parent, self._size - self.done, self._limits.disk_reserve)
                self._rate_limiter.throttle(count, self._attempt_over)
        finally:
            if written > recorded:
                self._record_range(recorded, written)

    def _take_buffer(self) -> bytearray:
        """Return a buffer for one chunk, sized so that all buffers together stay within their limit."""
        size = max(MIN_CHUNK_BYTES, min(MAX_CHUNK_BYTES, ALL_CHUNKS_BYTES // self._tuner.wanted))
        while True:
            try:
                spare = self._hasher.spare.pop()
            except IndexError:
                return bytearray(size)
            if len(spare) == size:
                return spare

    def _count_received(self, count: int, end: int, location: Location) -> None:
        """Count bytes that were written to the file."""
        if self._whole:
            self._backoff.record_position(end)
        else:
            self._backoff.record_progress()
            self._source.mark_served(location)
        with self._lock:
            self.done += count

    def _record_range(self, start: int, end: int) -> None:
        if not self._whole:  # without ranges the transfer can't be continued, so there is nothing to record
            self._journal.record_write(start, end)
        with self._lock:
            self._unsynced += end - start
            if self._unsynced >= CHECKPOINT_BYTES:
                self._sync_now.set()

    # The thread that syncs bytes to disk

    def _keep_synced(self) -> None:
        try:
            while not self._attempt_over.is_set():
                self._sync_now.wait(CHECKPOINT_SECONDS)
                self._sync_now.clear()
                if not self._unsynced or self._attempt_over.is_set():
                    continue
                self._sync()
        except OSError as error:
            # Reported even after `stop`: the operating system reports lost bytes only once.
            self.error = self.error or error
            self._attempt_over.set()
            self.changed.set()

    def _sync(self) -> None:
        with self._lock:
            self._unsynced = 0
        count = self._journal.write_count
        try:
            self._file.sync()
        except OSError:
            self._journal.record_sync_failure()
            raise
        self._journal.record_sync(count)
