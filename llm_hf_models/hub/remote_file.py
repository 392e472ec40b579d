"""Read the start of a file on the Hub with Range requests, such as a header before the download."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from llm_hf_models.errors import FileChangedError, HubUnavailableError, NetworkError, TimedOutError
from llm_hf_models.gguf.header import DEFAULT_HEADER_SECONDS, make_slow_header_error
from llm_hf_models.hub.types import Location
from llm_hf_models.network.errors import make_link_error, suggest_longer_timeout
from llm_hf_models.network.urls import format_host

if TYPE_CHECKING:
    from llm_hf_models.network.connection import RangeConnection
    from llm_hf_models.network.response import RangeResponse

FIRST_BLOCK_BYTES = 256 * 1024
MAX_BLOCK_BYTES = 4 * 1024 * 1024  # each block is twice as large as the previous one, up to this size


class RemoteFile:
    """Reads a remote file from its start, in growing blocks. A context manager.

    It requests at most one block more than is needed. Bytes of two versions are never joined: if the
    ETag is another one than before, the bytes read so far are fetched again and compared, because the
    servers of a mirror may have different ETags for the same file.

    Args:
        locate: function that returns the file's location. It is called again when the link has
            expired.
        name: the file, as shown to the user.
        size: the file's size in bytes; None if only the location has it.
        timeout: seconds to wait for a response.
        connect_timeout: seconds to wait for a connection.
        total_seconds: seconds for all reads together, counted from now. A host that sends a byte
            now and then never exceeds `timeout`, but it exceeds this limit.
        progress: called with the number of bytes received so far.
    """

    def __init__(
        self,
        locate: Callable[[], Location],
        *,
        name: str = "the file",
        size: int | None = None,
        timeout: float = 20,
        connect_timeout: float = 10,
        total_seconds: float = DEFAULT_HEADER_SECONDS,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._locate, self._name = locate, name
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._total_seconds, self._deadline = total_seconds, time.monotonic() + total_seconds
        self._progress = progress
        self._location: Location | None = None
        self._size = size
        self._connection: RangeConnection | None = None
        self._buffer = bytearray()
        self._block_bytes = FIRST_BLOCK_BYTES
        self._storage_etag: str | None = None
        self._content = hashlib.sha256()  # of the bytes fetched so far
        self.fetched_bytes = 0

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes, or fewer at the file's end.

        Raises:
            NetworkError: the storage host could not be reached, or its response is invalid.
            SlowHeaderError: the total time has passed.
            FileChangedError: the file changed since the previous read.
            HfModelsError: `locate` raised it.
        """
        if size < 0:
            raise ValueError("size must not be negative")
        if self._location is None:
            self._location = self._find_location()
        end = self._find_size(self._location)
        while len(self._buffer) < size and self.fetched_bytes < end:
            self._buffer += self._read_next_block(self._location, end)
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def __enter__(self) -> RemoteFile:  # noqa: PYI034 - it has no subclasses
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _find_size(self, location: Location) -> int:
        """Return the size of the file, from the caller or from the headers of its location.

        Raises:
            HubUnavailableError: the size is unknown.
        """
        for size in (self._size, location.size, location.response_size):
            if size is not None:
                return size
        raise HubUnavailableError(
            f"The size of {self._name} is unknown", cause="The headers X-Linked-Size and Content-Length are missing."
        )

    def _read_next_block(self, location: Location, end: int) -> bytes:
        start = self.fetched_bytes
        block = self._fetch_with_any_link(location, start, min(start + self._block_bytes, end))
        self._content.update(block)
        self.fetched_bytes += len(block)
        self._block_bytes = min(self._block_bytes * 2, MAX_BLOCK_BYTES)
        return block

    def _fetch_with_any_link(self, location: Location, start: int, stop: int) -> bytes:
        block = self._fetch(location, start, stop)
        if block is None:
            block = self._fetch(self._refresh_location(location), start, stop)
        if block is None:
            raise make_link_error(format_host(location.url), self._name)
        return block

    def _find_location(self) -> Location:
        from llm_hf_models.network.time_limit import limit_time  # imports httpcore2

        with self._check_time(), limit_time(self._count_seconds_left()):
            return self._locate()

    def _count_seconds_left(self) -> float:
        """Return the rest of the total time.

        Raises:
            SlowHeaderError: the total time has passed.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise make_slow_header_error(self._total_seconds)
        return left

    @contextmanager
    def _check_time(self) -> Iterator[None]:
        """Raise SlowHeaderError instead of a timeout that the total time has caused."""
        try:
            yield
        except TimedOutError:
            self._count_seconds_left()
            raise

    def _refresh_location(self, old: Location) -> Location:
        new = self._find_location()
        if any(None not in pair and pair[0] != pair[1] for pair in ((new.size, old.size), (new.etag, old.etag))):
            raise FileChangedError("The file changed on the Hub during the read", hint="Try again.")
        self._location = new
        return new

    def _fetch(self, location: Location, start: int, stop: int) -> bytes | None:
        """Return the bytes from `start` to `stop` (exclusive), or None if the link has expired."""
        from llm_hf_models.network.range_checks import LinkExpiredError

        try:
            with self._check_time():
                block, etag = self._request(location, start, stop)
                self._check_etag(location, etag, start)
        except LinkExpiredError:
            return None
        except TimedOutError as error:
            error.hint = error.hint or suggest_longer_timeout(self._timeout)
            raise
        return block

    def _request(self, location: Location, start: int, stop: int) -> tuple[bytes, str | None]:
        """Request the bytes from `start` to `stop`. Return them and the ETag."""
        from llm_hf_models.network.range_checks import RangeUnusableError

        try:
            return self._send(location, start, stop, {"Range": f"bytes={start}-{stop - 1}"})
        except RangeUnusableError:
            return self._send(location, start, stop, {})

    def _send(self, location: Location, start: int, stop: int, headers: dict[str, str]) -> tuple[bytes, str | None]:
        from llm_hf_models.network.connection import RangeConnection  # imports urllib3
        from llm_hf_models.network.range_checks import OK, check_range, check_whole

        self._connection = self._connection or RangeConnection(
            connect_seconds=self._connect_timeout, stall_seconds=self._timeout
        )
        size = self._find_size(location)
        stall_seconds = min(self._timeout, self._count_seconds_left())
        response = self._connection.get(location.url, location.headers, headers, stall_seconds=stall_seconds)
        is_whole = not headers or response.status == OK  # the server ignores Range and sends the file from its start
        if is_whole:
            check_whole(response, size=size, name=self._name)
        else:
            check_range(response, start, stop, size=size, name=self._name)
        return self._read_body(response, start if is_whole else 0, stop - start), response.get_header("ETag")

    def _read_body(self, response: RangeResponse, skip: int, count: int) -> bytes:
        """Return `count` bytes of the body after the first `skip`."""
        body = memoryview(bytearray(skip + count))
        filled = 0
        while filled < len(body):
            received = response.read_into(body[filled:])
            if not received:
                raise NetworkError(f"{format_host(response.url)} sent {max(0, filled - skip)} of {count} bytes")
            filled += received
            if self._progress is not None:
                self._progress(self.fetched_bytes + max(0, filled - skip))
            if filled < len(body):
                self._count_seconds_left()
        return bytes(body[skip:])

    def _check_etag(self, location: Location, etag: str | None, start: int) -> None:
        """Compare the storage host's ETag with the previous one, and if it differs, the bytes before `start`.

        Raises:
            FileChangedError: the bytes differ.
        """
        etag = re.sub(r"\A[wW]/", "", etag or "") or self._storage_etag
        if self._storage_etag not in (None, etag) and start:
            again = hashlib.sha256()
            for position in range(0, start, MAX_BLOCK_BYTES):
                again.update(self._request(location, position, min(position + MAX_BLOCK_BYTES, start))[0])
            if again.digest() != self._content.digest():
                raise FileChangedError("The file changed on its host during the read", hint="Try again.")
        self._storage_etag = etag
