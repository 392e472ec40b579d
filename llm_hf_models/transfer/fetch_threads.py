"""The threads that fetch one file's missing bytes and bring them to the disk. Judges no digest, starts nothing over."""

from __future__ import annotations

import threading
import time

from llm_hf_models.errors import AccessError, HfModelsError, NetworkError, RateLimitedError
from llm_hf_models.hub.types import Location
from llm_hf_models.network.connection import RangeConnection
from llm_hf_models.network.errors import is_transient
from llm_hf_models.network.response import RangeResponse
from llm_hf_models.system.disk import check_reserve
from llm_hf_models.system.machine import count_usable_cores
from llm_hf_models.transfer.copy_body import BodyCopier
from llm_hf_models.transfer.journal import Journal
from llm_hf_models.transfer.pacing import ConnectionTuner, RateLimiter
from llm_hf_models.transfer.partial_file import FileHasher, PartialFile
from llm_hf_models.transfer.retry import Backoff
from llm_hf_models.transfer.segments import Segment, SegmentQueue
from llm_hf_models.transfer.source import DownloadSource, LinkExpiredError, RangeRefusedError
from llm_hf_models.transfer.types import Ranges, TransferLimits

MAX_CHUNK_BYTES = 3 << 18  # smaller ones cost more hand-overs between threads: at 256 KiB 15 % of the CPU
MIN_CHUNK_BYTES = 1 << 16
ALL_CHUNKS_BYTES = 2 << 20  # the chunks that all connections together are filling: what bounds memory
RECORD_BYTES = 1 << 20  # taken at a time at most; a kill costs each connection less than two of these, or those of
RECORD_SECONDS = 0.5
CHECKPOINT_BYTES = 64 << 20  # power loss costs this many bytes, or those of
CHECKPOINT_SECONDS = 5.0  # (and what arrives while the disk is busy with the ones before)


class StartOverError(Exception):
    """The server can't continue: the file has to come in one stream. `error` is what happened to such a stream."""

    def __init__(self, error: NetworkError | None = None) -> None:
        super().__init__()
        self.error = error


class WorkerPool:
    """One attempt at the missing bytes, by as many connections as pay off."""

    def __init__(
        self,
        source: DownloadSource,
        weather: Backoff,
        pace: RateLimiter,
        limits: TransferLimits,
        file: PartialFile,
        journal: Journal,
        digest: FileHasher,
        done: Ranges,
        size: int,
        *,
        whole: bool,
    ) -> None:
        """`whole`: the server has no ranges; one stream, from the first byte."""
        self._source, self._weather, self._pace, self._limits = source, weather, pace, limits
        self._file, self._journal, self._digest, self._size = file, journal, digest, size
        self._segments = SegmentQueue(size, done, undivided=whole)
        self._width = ConnectionTuner(limits.connections, count_usable_cores())
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._connections: dict[threading.Thread, RangeConnection] = {}
        self._leaving: set[threading.Thread] = set()
        self._receivers: set[threading.Thread] = set()  # those that touch the file and the journal
        self._pausing = False
        self._spawn_after = self._ask_after = 0.0
        self._unsynced = 0
        self._sync_now = threading.Event()
        self._syncer = threading.Thread(target=self._keep_synced, name="sync", daemon=True)
        self._whole = whole
        self.done = done.total
        self.changed = threading.Event()
        self.error: BaseException | None = None

    # The caller's thread

    def start(self) -> None:
        """Begins with one connection."""
        self._syncer.start()
        if not self._segments.finished:
            self._start_worker()

    @property
    def finished(self) -> bool:
        """Whether all bytes are there, or an error ended it; a connection may still wait for what others brought."""
        return self.error is not None or self.done >= self._size

    @property
    def held(self) -> bool:
        """Whether it has no connection, and may have none as long as others run."""
        return not self.finished and not self._connections and not self._get_share()

    def look_after(self) -> None:
        """Adds connections where more pay off. Called many times a second."""
        now = time.monotonic()
        with self._lock:
            running, receiving = len(self._connections), len(self._receivers)
        if running and (self._whole or self._pausing or now < self._spawn_after):
            return
        if self._segments.takeable:  # else new ones would come and go, and the next ones after them
            self._width.look(now, self.done, receiving, cpu=time.process_time(), limit=self._pace.rate())
            most = self._get_limit()
            for _ in range(running, min(1, most) if self._whole else most):
                self._start_worker()

    def end(self, *, sync: bool) -> None:
        """Stops all threads and waits for those that write; `sync` brings what they wrote to the disk.

        Those that still look for the host, or wait for its answer, may take long to notice; they write nothing then.
        """
        with self._lock:
            self._halt.set()
            connections, receivers = list(self._connections.values()), list(self._receivers)
        self._sync_now.set()
        for connection in connections:
            connection.shut()
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
            while not self._halt.is_set() and not self._should_leave(self._get_limit()):
                segment = self._segments.take(self._width.outlook)
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
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread, which raises it
            self._fail(error)
        finally:
            connection.close()
            with self._lock:
                self._leaving.discard(threading.current_thread())
                del self._connections[threading.current_thread()]
            self.changed.set()

    def _get_share(self) -> int:
        """How many connections other downloads leave to this file now."""
        now = self._limits.connections_now
        return now() if now else self._limits.connections

    def _get_limit(self) -> int:
        """How many connections there may be now: as many as pay off, and as other downloads leave."""
        return min(self._width.wanted, self._get_share())

    def _should_leave(self, most: int) -> bool:
        """Whether this connection is to leave, so that no more than `most` stay."""
        own = threading.current_thread()
        with self._lock:
            if own not in self._leaving and len(self._connections) - len(self._leaving) > most:
                self._leaving.add(own)
            return own in self._leaving

    def _should_yield(self) -> bool:
        """Whether this connection is to leave now, midway: a stream that can't be continued would lose all."""
        return not self._whole and self._should_leave(self._get_share())

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            # What threads meet after the end was called is its consequence.
            if self.error is None and not self._halt.is_set():
                self.error = error
                self._halt.set()

    def _leave_to_others(self, error: HfModelsError) -> bool:
        """Whether others go on without this connection: then it leaves, and for the host's refusal none replaces it."""
        own = threading.current_thread()
        with self._lock:
            staying = self._connections.keys() - self._leaving - {own}
            if self._pausing or not staying:
                return self._pausing
            self._leaving.add(own)
            now = time.monotonic()
            self._spawn_after = max(self._spawn_after, now + self._limits.retry_seconds)
            if isinstance(error, (RateLimitedError, AccessError)):
                self._width.refuse(len(staying), now)
            if isinstance(error, RateLimitedError):
                self._ask_after = now + min(error.retry_after or 0, self._limits.network_wait_seconds)
                self._spawn_after = max(self._spawn_after, self._ask_after)
            return True

    def _wait_to_retry(self, error: NetworkError) -> bool:
        """After a failure: False where others go on without this connection; else waits out the weather."""
        if self._halt.is_set():
            return False
        if not is_transient(error):
            raise error
        if self._whole:
            raise StartOverError(error)
        self._weather.stalled(error)
        if self._leave_to_others(error):
            return False
        self._pausing = True
        try:
            self._weather.pause(error, self._halt)
        finally:
            self._pausing = False
        return True

    def _stream(self, connection: RangeConnection, segment: Segment) -> None:
        if self._halt.wait(max(0.0, self._ask_after - time.monotonic())):  # one was told to wait: all are
            return
        location = self._source.location()
        validator = self._source.validator
        start, end = self._segments.span(segment)
        if start == end:  # another connection took it over while this one waited
            return
        reply = self._request(connection, start, end, location, validator)
        with self._lock:
            if self._halt.is_set():
                return
            self._receivers.add(threading.current_thread())
        try:
            if self._source.validator not in (None, validator):
                self._journal.validator(str(self._source.validator))
            with BodyCopier(reply, self._file, self._digest, self._take_buffer) as carrier:
                self._receive(carrier, segment, location)
        finally:
            with self._lock:
                self._receivers.discard(threading.current_thread())

    def _request(
        self, connection: RangeConnection, start: int, end: int, location: Location, validator: str | None
    ) -> RangeResponse:
        extra = {} if self._whole else {"Range": f"bytes={start}-{end - 1}"}
        if extra and validator:
            extra["If-Range"] = validator
        reply = connection.get(location.url, location.headers, extra)
        try:
            if self._whole:
                self._source.check_whole(reply)
                return reply
            self._source.check_range(reply, start, end, sent_validator=validator is not None)
        except LinkExpiredError:
            self._source.expired(location)
            raise
        except RangeRefusedError:
            raise StartOverError from None
        return reply

    def _receive(self, carrier: BodyCopier, segment: Segment, location: Location) -> None:
        """Brings the body into the file, and tells the journal every now and then."""
        first = recorded = written = segment.position
        recorded_at = time.monotonic()
        try:
            while most := min(self._segments.left(segment), self._pace.step(RECORD_BYTES)):
                if self._halt.is_set() or self._should_yield():
                    return
                count = carrier.load(most)
                if not count:
                    if self._whole or written == first:
                        raise NetworkError("The file ended too early")
                    return
                count = self._segments.advance(segment, count)
                carrier.unload(count, written)
                written += count
                self._count_received(count, written, location)
                now = time.monotonic()
                if written - recorded >= RECORD_BYTES or now - recorded_at >= RECORD_SECONDS:
                    self._record_range(recorded, written)
                    recorded, recorded_at = written, now
                    if self.done < self._size:
                        check_reserve(self._file.path.parent, self._size - self.done, self._limits.disk_reserve)
                self._pace.spend(count, self._halt)
        finally:
            if written > recorded:
                self._record_range(recorded, written)

    def _take_buffer(self) -> bytearray:
        """Memory for a chunk: as much as so many connections may have each."""
        size = max(MIN_CHUNK_BYTES, min(MAX_CHUNK_BYTES, ALL_CHUNKS_BYTES // self._width.wanted))
        while True:
            try:
                spare = self._digest.spare.pop()
            except IndexError:
                return bytearray(size)
            if len(spare) == size:
                return spare

    def _count_received(self, count: int, end: int, location: Location) -> None:
        """Counts bytes that are in the file now."""
        if self._whole:
            self._weather.moved_to(end)
        else:
            self._weather.moved()
            self._source.served(location)
        with self._lock:
            self.done += count

    def _record_range(self, start: int, end: int) -> None:
        if not self._whole:  # else the server has no ranges and can't continue: there is nothing to remember
            self._journal.wrote(start, end)
        with self._lock:
            self._unsynced += end - start
            if self._unsynced >= CHECKPOINT_BYTES:
                self._sync_now.set()

    # The thread that brings bytes to the disk itself

    def _keep_synced(self) -> None:
        try:
            while not self._halt.is_set():
                self._sync_now.wait(CHECKPOINT_SECONDS)
                self._sync_now.clear()
                if not self._unsynced or self._halt.is_set():
                    continue
                self._sync()
        except OSError as error:
            # Told at the very end, too: the system tells of bytes that it could not write once, and never again.
            self.error = self.error or error
            self._halt.set()
            self.changed.set()

    def _sync(self) -> None:
        with self._lock:
            self._unsynced = 0
        count = self._journal.count
        try:
            self._file.sync()
        except OSError:
            self._journal.sync_failed()
            raise
        self._journal.synced(count)
