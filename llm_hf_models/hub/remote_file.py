"""A Hub file as a byte source, by Range requests: for headers before downloading. Not for whole files."""

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
from llm_hf_models.network.tls import unreadable_bundle_error

if TYPE_CHECKING:
    import httpx2

FIRST_BLOCK_BYTES = 256 * 1024
MAX_BLOCK_BYTES = 4 * 1024 * 1024  # each block is twice the one before, up to this
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_OK, _PARTIAL, _FIRST_ERROR = 200, 206, 400


class RemoteFile:
    """Reads forward from the start of a remote file, in growing blocks; a context manager.

    Never asks for more than one block beyond what was read. Each answer must be the range that was asked for, of a file
    of the same size and ETag as before: bytes of two versions are never joined.

    Args:
        locate: called for the link, and again when it has expired.
        timeout: seconds without an answer.
        connect_timeout: seconds for a connection.
        total_seconds: how long all of it may take, from now on: a host that sends a byte now and then is never silent.
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
        """The next `size` bytes, fewer at the file's end.

        Raises:
            NetworkError and below: the storage host could not be reached or did not answer as it should.
            SlowHeaderError: the time is over.
            FileChangedError: the file is another one than a moment ago.
            whatever `locate` raises.
        """
        if size < 0:
            raise ValueError("a remote file is never read whole")
        if self._location is None:
            self._location = self._locate()
        while len(self._buffer) < size and self.fetched_bytes < self._location.size:
            self._buffer += self._read_next_block(self._location)
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def __enter__(self) -> RemoteFile:  # noqa: PYI034 - nobody inherits from it
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
            raise FileChangedError("The file changed on the Hub while its start was read", hint="Ask again.")
        self._location = new
        return new

    def _fetch(self, location: Location, start: int, stop: int) -> bytes | None:
        """The bytes from `start` up to `stop`; None when the link has expired."""
        import httpx2

        host = urlsplit(location.url).netloc
        headers = {**location.headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with self._open_client().stream("GET", location.url, headers=headers) as answer:
                if answer.status_code in EXPIRED_LINK_STATUSES:
                    return None
                self._check_response(answer.status_code, answer.headers, location, start, stop)
                # A server that ignores Range sends the file from its start.
                skip = 0 if answer.status_code == _PARTIAL else start
                body = bytearray()
                for piece in answer.iter_bytes():
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
                raise unreadable_bundle_error(error) from None
        return self._client

    def _check_response(
        self, status: int, headers: Mapping[str, str], location: Location, start: int, stop: int
    ) -> None:
        """Raises unless an answer is what was asked for, of the file that was read so far."""
        parts = urlsplit(location.url)
        if status >= _FIRST_ERROR:
            raise make_storage_host_error(parts.netloc, "the file", status, headers.get)
        if status == _PARTIAL:
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            told = tuple(int(number) for number in match.groups()) if match else None
            right = told == (start, stop - 1, location.size)
        else:
            right = status == _OK and headers.get("Content-Length") == str(location.size)
        if not right:
            raise HubUnavailableError(
                f"{parts.netloc} did not send the bytes that were asked for",
                cause=f"asked for bytes {start}-{stop - 1}/{location.size}, told"
                f" {headers.get('Content-Range') or 'HTTP ' + str(status)}",
            )
        etag = headers.get("ETag")
        if self._storage_etag is not None and etag != self._storage_etag:
            raise FileChangedError("The file changed while its start was read", hint="Ask again.")
        self._storage_etag = etag
