"""An HTTP response whose body is read into memory or into a pipe as it arrives.

splice(2) moves received bytes from a socket into a pipe, and from there into a file, without copying them through the
memory of the process. It works on Linux only, and only for unencrypted connections. transfer/copy_body.py states the
measured gain.
"""

from __future__ import annotations

import http.client
import os
import re
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable

from llm_hf_models.errors import NetworkError
from llm_hf_models.network.errors import translate_error
from llm_hf_models.network.urls import format_host

HEAD_BUFFER_BYTES = 1 << 17
MIN_SPLICE_BYTES = 1 << 18  # a pipe with this many bytes is returned without waiting for more
FILL_SECONDS = 0.1  # a read from a slow connection returns the bytes so far after this time

# The number of digits is limited, because int() raises for thousands of them.
_LENGTH = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


class SpliceUnsupportedError(Exception):
    """The operating system or a sandbox does not support splice for this socket."""


class RangeResponse:
    """One response, whose body is read into a buffer of the caller or into a pipe."""

    def __init__(
        self, response: http.client.HTTPResponse, url: str, sock: socket.socket | None, stall_seconds: float
    ) -> None:
        self._response, self._host, self._sock, self._stall_seconds = response, format_host(url), sock, stall_seconds
        self._left = response.length  # bytes still to come; None if the server announced no length
        self._early = memoryview(b"")  # body bytes that arrived together with the headers
        self._direct = False  # True once the early bytes are read and the rest comes from the socket itself
        self._pending: NetworkError | None = None
        self.url = url
        self.status = response.status

    def get_header(self, name: str) -> str | None:
        """Return a response header; its name is not case-sensitive."""
        return self._response.getheader(name)

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

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can be reused: the body was read completely and the server keeps it open."""
        return self._left == 0 and not self._response.will_close

    def read_into(self, view: memoryview) -> int:
        """Read the bytes that arrive without delay into `view` and return their number, 0 at the end.

        Raises:
            NetworkError: the connection broke, stalled, or ended before the announced length.
        """
        max_bytes = len(view) if self._left is None else min(len(view), self._left)
        return self._fill(max_bytes, lambda filled: self._read_some(view[filled:max_bytes], has_bytes=filled > 0))

    @property
    def can_splice(self) -> bool:
        """Whether `splice_into` may be tried: the rest of the body is read from an unencrypted socket."""
        return hasattr(os, "splice") and self._direct and not self._early and not isinstance(self._sock, ssl.SSLSocket)

    def splice_into(self, pipe: int, max_bytes: int) -> int:
        """Move up to `max_bytes` into the writing end of an empty pipe and return their number, 0 at the end.

        Raises:
            NetworkError: the connection broke, stalled, or ended before the announced length.
            SpliceUnsupportedError: splice does not work; no bytes were moved.
        """
        max_bytes = max_bytes if self._left is None else min(max_bytes, self._left)
        return self._fill(max_bytes, lambda filled: self._splice(pipe, max_bytes - filled, filled))

    def _fill(self, max_bytes: int, read_more: Callable[[int], int | None]) -> int:
        """Call `read_more` until `max_bytes` have arrived or more bytes are delayed; return the number of bytes.

        Args:
            max_bytes: the maximum number of bytes.
            read_more: receives the number of bytes so far and returns how many it added, None if more are delayed.
        """
        if self._pending:
            raise self._pending
        filled, since = 0, time.monotonic()
        while filled < max_bytes:
            try:
                count = read_more(filled)
            except (OSError, http.client.HTTPException, ValueError) as error:
                return self._defer_error(translate_error(error, self._host, connecting=False), filled)
            if count == 0 and self._left:
                return self._defer_error(NetworkError(f"{self._host} closed the connection too early"), filled)
            if not count:
                break
            filled += count
            if self._left is not None:
                self._left -= count
            if not self._direct or time.monotonic() - since >= FILL_SECONDS:
                break
        if self._left == 0 and not self._response.will_close:
            self._response.close()
        return filled

    def _read_some(self, view: memoryview, *, has_bytes: bool) -> int | None:
        """Read once into `view`: first the bytes that arrived with the headers, then directly from the socket.

        HTTPResponse.readinto would try to fill the whole view, and would lose its bytes if the connection breaks.
        """
        if not self._early:
            if self._direct and self._sock is not None:
                return self._receive(self._sock, view, has_bytes=has_bytes)
            # With a known length, this runs once and empties the buffer of the response. Chunked bodies are always read
            # this way.
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
                if time.monotonic() >= until:
                    raise

    def _splice(self, pipe: int, max_bytes: int, filled: int) -> int | None:
        """Splice the next bytes into a pipe that holds `filled` bytes; return None if it should be emptied first.

        A pipe holds as many packets as it has pages, so it can be full before its size is reached. Waiting until it is
        full costs more context switches than it saves calls.
        """
        if sys.platform != "linux" or self._sock is None:
            raise SpliceUnsupportedError
        until, readable = time.monotonic() + self._stall_seconds, False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while (count_moved := _try_splice(self._sock, pipe, max_bytes, filled)) is None:
            if filled >= MIN_SPLICE_BYTES or (filled and readable):
                break
            if readable:  # readable, but not by splice: urgent data, or a BPF queue
                raise SpliceUnsupportedError
            readable = bool(poll.poll(1000 * min(FILL_SECONDS, self._stall_seconds)))
            if filled and not readable:
                break
            if not readable and time.monotonic() >= until:
                raise TimeoutError("timed out")
        return count_moved

    def close(self) -> None:
        """Discard the rest of the body."""
        self._response.close()

    def _defer_error(self, error: NetworkError, filled: int) -> int:
        if not filled:
            raise error
        self._pending = error
        return filled


def _try_splice(sock: socket.socket, pipe: int, max_bytes: int, filled: int) -> int | None:
    """Splice the available bytes and return their number, or None if there are none."""
    if sys.platform != "linux":
        raise SpliceUnsupportedError
    try:
        return os.splice(sock.fileno(), pipe, max_bytes, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
    except BlockingIOError:
        return None
    except (ConnectionError, TimeoutError):
        raise
    except OSError:  # a sandbox may return any error; if the connection is broken, reading reports it
        if filled:
            raise
        raise SpliceUnsupportedError from None
