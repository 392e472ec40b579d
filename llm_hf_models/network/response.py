"""An HTTP response whose body is read into a buffer as it arrives."""

from __future__ import annotations

import contextlib
import re
import socket
import time

from urllib3 import BaseHTTPResponse, HTTPResponse
from urllib3.exceptions import HTTPError

from llm_hf_models.errors import NetworkError
from llm_hf_models.network.errors import translate_error
from llm_hf_models.network.inflate import ENCODINGS, Inflater
from llm_hf_models.network.urls import format_host

HEAD_BUFFER_BYTES = 1 << 17
FILL_SECONDS = 0.1  # a read from a slow connection returns the bytes so far after this time

# The number of digits is limited, because int() raises for thousands of them.
_LENGTH = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes[ =]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)


class RangeResponse:
    """One response, whose body is read into a buffer of the caller. Only `abort` may be called from other threads.

    The bytes are read from the socket itself, with a short timeout: urllib3's `read1` takes 1.4 x the CPU, and its
    `read` loses the bytes so far if the connection breaks, and returns none of them while it waits for more.
    """

    def __init__(self, response: BaseHTTPResponse, url: str, stall_seconds: float) -> None:
        self._response, self._host, self._stall_seconds = response, format_host(url), stall_seconds
        connection = response.connection if isinstance(response, HTTPResponse) else None
        # None if the server is about to close the connection: http.client then hides the socket.
        self._sock = connection.sock if connection else None
        self._left = response.length_remaining  # bytes still to come; None if the server announced no length
        self._early = memoryview(b"")  # body bytes that arrived together with the headers
        self._direct = False  # True once the early bytes are read and the rest comes from the socket itself
        self._pending: NetworkError | None = None
        self._aborted = False
        self._inflater = Inflater(self._read_raw, self._host) if self.encoding in ENCODINGS else None
        self.url = url
        self.status = response.status

    def get_header(self, name: str) -> str | None:
        """Return a response header; its name is not case-sensitive."""
        return self._response.headers.get(name)

    @property
    def encoding(self) -> str | None:
        """The encoding of the body, such as gzip, or None. Every request asks for a body without one."""
        encoding = (self.get_header("Content-Encoding") or "").strip().lower()
        return None if encoding in ("", "identity") else encoding

    @property
    def length(self) -> int | None:
        """The announced length of the body in bytes."""
        text = self.get_header("Content-Length") or ""
        return int(text) if _LENGTH.fullmatch(text) else None

    @property
    def content_range(self) -> tuple[int, int, int | None] | None:
        """The first byte, last byte and total size in Content-Range, or None if it is missing or invalid."""
        match = _CONTENT_RANGE.fullmatch(self.get_header("Content-Range") or "")
        return (int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])) if match else None

    def read_into(self, view: memoryview) -> int:
        """Read the bytes that arrive without delay into `view` and return their number, 0 at the end.

        A body that the server compressed with gzip or deflate is decompressed.

        Raises:
            NetworkError: the connection broke, stalled, or ended before the announced length.
        """
        return self._inflater.read_into(view) if self._inflater else self._read_raw(view)

    def _read_raw(self, view: memoryview) -> int:
        """Read the bytes as they were sent. See `read_into`."""
        if self._pending:
            raise self._pending
        max_bytes = len(view) if self._left is None else min(len(view), self._left)
        filled, since = 0, time.monotonic()
        while filled < max_bytes:
            try:
                count = self._read_some(view[filled:max_bytes], has_bytes=filled > 0)
            except (HTTPError, OSError, ValueError, AttributeError) as error:  # AttributeError: abort of a TLS socket
                return self._defer_error(translate_error(error, self._host), filled)
            if self._aborted:  # the bytes may be wrong: SSLSocket.shutdown turns decryption off
                return self._defer_error(NetworkError(f"The connection to {self._host} was aborted"), filled)
            if count == 0 and self._left:
                return self._defer_error(NetworkError(f"{self._host} closed the connection too early"), filled)
            if not count:
                break
            filled += count
            if self._left is not None:
                self._left -= count
            if not self._direct or time.monotonic() - since >= FILL_SECONDS:
                break
        if self._left == 0:
            self._response.release_conn()  # now `close` does not close the connection
            self._response.close()
        return filled

    def _read_some(self, view: memoryview, *, has_bytes: bool) -> int | None:
        """Read once into `view`: first the bytes that arrived with the headers, then directly from the socket."""
        if not self._early:
            if self._direct and self._sock is not None:
                return self._receive(self._sock, view, has_bytes=has_bytes)
            # With a known length, this runs once and empties the buffer of the response. Chunked bodies, and those
            # after which the server closes the connection, are always read this way.
            self._early = memoryview(self._response.read1(HEAD_BUFFER_BYTES))
            if self._left is not None and self._sock is not None:
                # From now on a slow read returns early, so that the bytes so far can be processed.
                self._sock.settimeout(min(FILL_SECONDS, self._stall_seconds))
                self._direct = True
        count = min(len(self._early), len(view))
        view[:count], self._early = self._early[:count], self._early[count:]
        return count

    def _receive(self, sock: socket.socket, view: memoryview, *, has_bytes: bool) -> int | None:
        """Receive the next bytes; return None if they are delayed while `has_bytes` is set."""
        until = time.monotonic() + self._stall_seconds
        while True:
            try:
                return sock.recv_into(view)
            except TimeoutError:
                if has_bytes:
                    return None
                if self._aborted or time.monotonic() >= until:
                    raise

    def abort(self) -> None:
        """Let a read in another thread fail."""
        self._aborted = True
        if not self._direct:  # otherwise the reader notices the flag soon
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # the body may have been read completely
                self._response.shutdown()

    def close(self) -> None:
        """Discard the rest of the body, and close the connection if there was any."""
        self._response.close()

    def _defer_error(self, error: NetworkError, filled: int) -> int:
        if not filled:
            raise error
        self._pending = error
        return filled
