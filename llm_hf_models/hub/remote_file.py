"""Read the start of a file on the Hub with Range requests, such as a header before the download."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llm_hf_models.errors import FileChangedError, HubUnavailableError, NetworkError
from llm_hf_models.gguf.header import DEFAULT_HEADER_SECONDS, make_slow_header_error
from llm_hf_models.hub.types import Location
from llm_hf_models.network.errors import (
    EXPIRED_LINK_STATUSES,
    make_connection_error,
    make_link_error,
    make_storage_host_error,
)
from llm_hf_models.network.tls import make_unreadable_bundle_error

if TYPE_CHECKING:
    import httpx2

FIRST_BLOCK_BYTES = 256 * 1024
MAX_BLOCK_BYTES = 4 * 1024 * 1024  # each block is twice as large as the previous one, up to this size
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_OK, _PARTIAL, _FIRST_ERROR = 200, 206, 400


class RemoteFile:
    """Reads a remote file from its start, in growing blocks. A context manager.

    It requests at most one block more than is needed. Each response must be the requested range, of
    a file with the same size and ETag as before, so that bytes of two versions are never joined.

    Args:
        locate: function that returns the file's location. It is called again when the link has
            expired.
        timeout: seconds to wait for a response.
        connect_timeout: seconds to wait for a connection.
        total_seconds: seconds for all reads together, counted from now. A host that sends a byte
            now and then never exceeds `timeout`, but it exceeds this limit.
    """

    def __init__(
        self,
        locate: Callable[[], Location],
        *,
        timeout: float = 20,
        connect_timeout: float = 10,
        total_seconds: float = DEFAULT_HEADER_SECONDS,
    ) -> None:
        self._locate = locate
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._total_seconds, self._deadline = total_seconds, time.monotonic() + total_seconds
        self._location: Location | None = None
        self._client: httpx2.Client | None = None
        self._buffer = bytearray()
        self._block_bytes = FIRST_BLOCK_BYTES
        self._storage_etag: str | None = None
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
            self._location = self._locate()
        while len(self._buffer) < size and self.fetched_bytes < self._location.size:
            self._buffer += self._read_next_block(self._location)
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def __enter__(self) -> RemoteFile:  # noqa: PYI034 - it has no subclasses
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _read_next_block(self, location: Location) -> bytes:
        start = self.fetched_bytes
        stop = min(start + self._block_bytes, location.size)
        block = self._fetch(location, start, stop)
        if block is None:
            block = self._fetch(self._refresh_location(location), start, stop)
        if block is None:
            raise make_link_error(urlsplit(location.url).netloc, "the file")
        self.fetched_bytes = stop
        self._block_bytes = min(self._block_bytes * 2, MAX_BLOCK_BYTES)
        return block

    def _refresh_location(self, old: Location) -> Location:
        new = self._locate()
        if (new.size, new.etag) != (old.size, old.etag):
            raise FileChangedError("The file changed on the Hub during the read", hint="Try again.")
        self._location = new
        return new

    def _fetch(self, location: Location, start: int, stop: int) -> bytes | None:
        """Return the bytes from `start` to `stop` (exclusive), or None if the link has expired."""
        import httpx2

        host = urlsplit(location.url).netloc
        headers = {**location.headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with self._open_client().stream("GET", location.url, headers=headers) as response:
                if response.status_code in EXPIRED_LINK_STATUSES:
                    return None
                self._check_response(response.status_code, response.headers, location, start, stop)
                # A server that ignores Range sends the file from its start.
                skip = 0 if response.status_code == _PARTIAL else start
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) >= skip + stop - start:
                        break
                    if time.monotonic() > self._deadline:
                        raise make_slow_header_error(self._total_seconds)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise make_connection_error(host, error, self._timeout) from None
        block = bytes(body[skip : skip + stop - start])
        if len(block) < stop - start:
            raise NetworkError(f"{host} sent {len(block)} of {stop - start} bytes")
        return block

    def _open_client(self) -> httpx2.Client:
        if self._client is None:
            import httpx2

            limits = httpx2.Timeout(self._timeout, connect=self._connect_timeout)
            # On a redirect to another origin httpx2 drops the Authorization header.
            try:
                self._client = httpx2.Client(timeout=limits, follow_redirects=True)
            except OSError as error:
                raise make_unreadable_bundle_error(error) from None
        return self._client

    def _check_response(
        self, status: int, headers: Mapping[str, str], location: Location, start: int, stop: int
    ) -> None:
        """Raise unless the response is the requested range of the file that was read so far."""
        parts = urlsplit(location.url)
        if status >= _FIRST_ERROR:
            raise make_storage_host_error(parts.netloc, "the file", status, headers.get)
        if status == _PARTIAL:
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            received = tuple(int(number) for number in match.groups()) if match else None
            is_expected = received == (start, stop - 1, location.size)
        else:
            is_expected = status == _OK and headers.get("Content-Length") == str(location.size)
        if not is_expected:
            raise HubUnavailableError(
                f"{parts.netloc} returned the wrong byte range",
                cause=f"Requested bytes {start}-{stop - 1}/{location.size}, received"
                f" {headers.get('Content-Range') or 'HTTP ' + str(status)}",
            )
        etag = headers.get("ETag")
        if self._storage_etag is not None and etag != self._storage_etag:
            raise FileChangedError("The file changed on its host during the read", hint="Try again.")
        self._storage_etag = etag
