"""One answer over HTTP: its head, and its body into memory or into a pipe as it comes. Asks for nothing.

splice(2) moves what has arrived on a socket into a pipe, and from there into a file, past memory of ours: Linux alone,
and only where nothing has to be decrypted. What it saves stands in transfer/copy_body.py.
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
MIN_SPLICE_BYTES = 1 << 18  # with so many in a pipe more isn't waited for
FILL_SECONDS = 0.1  # a connection that is slow hands over what it has this often

# No more digits than any size has: int() raises for thousands of them.
_LENGTH = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


class SpliceUnsupportedError(Exception):
    """The system, or what confines us there, moves nothing from this socket into a pipe."""


class RangeResponse:
    """One answer; its body goes into the caller's memory, or into a pipe."""

    def __init__(
        self, response: http.client.HTTPResponse, url: str, sock: socket.socket | None, stall_seconds: float
    ) -> None:
        self._response, self._host, self._sock, self._stall_seconds = response, format_host(url), sock, stall_seconds
        self._left = response.length  # bytes to come; None where the sender didn't say
        self._early = memoryview(b"")  # what came along with the head
        self._direct = False  # whether that was looked for, and the rest is read from the socket itself
        self._pending: NetworkError | None = None
        self.url = url
        self.status = response.status

    def header(self, name: str) -> str | None:
        """A header of the answer, whatever its case."""
        return self._response.getheader(name)

    @property
    def length(self) -> int | None:
        """How long the body was said to be, in bytes."""
        text = self.header("Content-Length") or ""
        return int(text) if _LENGTH.fullmatch(text) else None

    @property
    def content_range(self) -> tuple[int, int, int | None] | None:
        """First byte, last byte and total size that a 206 claims; None where it claims none that can be read."""
        match = _CONTENT_RANGE.fullmatch(self.header("Content-Range") or "")
        return (int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])) if match else None

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another question: the body was read to its end, and both sides stay."""
        return self._left == 0 and not self._response.will_close

    def read_into(self, view: memoryview) -> int:
        """Fills `view` as far as bytes come without delay; 0 at the end.

        Raises:
            NetworkError: the connection broke, was silent too long, or ended before the announced end.
        """
        most = len(view) if self._left is None else min(len(view), self._left)
        return self._fill(most, lambda filled: self._read_some(view[filled:most], hurried=filled > 0))

    @property
    def splices(self) -> bool:
        """Whether `splice_into` may be tried from here on: the rest is read from a socket that isn't encrypted."""
        return hasattr(os, "splice") and self._direct and not self._early and not isinstance(self._sock, ssl.SSLSocket)

    def splice_into(self, pipe: int, most: int) -> int:
        """Like `read_into`, but into the writing end of an empty pipe: up to `most` bytes, or what it holds.

        Raises:
            NetworkError: as there; CantSpliceError: nothing was moved, and nothing will be.
        """
        most = most if self._left is None else min(most, self._left)
        return self._fill(most, lambda filled: self._splice(pipe, most - filled, filled))

    def _fill(self, most: int, some: Callable[[int], int | None]) -> int:
        """Up to `most` bytes by calls of `some`, which are told how many there are; fewer when more are delayed."""
        if self._pending:
            raise self._pending
        filled, since = 0, time.monotonic()
        while filled < most:
            try:
                count = some(filled)
            except (OSError, http.client.HTTPException, ValueError) as error:
                return self._broken(translate_error(error, self._host, connecting=False), filled)
            if count == 0 and self._left:
                return self._broken(NetworkError(f"{self._host} ended the connection too early"), filled)
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

    def _read_some(self, view: memoryview, *, hurried: bool) -> int | None:
        """What one read gives. Past what came along with the head, from the socket straight into our memory.

        HTTPResponse.readinto would fill the whole view first, and lose what it has when the connection breaks.
        """
        if not self._early:
            if self._direct and self._sock is not None:
                return self._receive(self._sock, view, hurried=hurried)
            # With a known length, once: it empties the response's own buffer. Chunked bodies come this way throughout.
            self._early = memoryview(self._response.read1(HEAD_BUFFER_BYTES))
            if self._left is not None and self._sock is not None:
                # From here on a read that takes longer comes back, so that what there is can be handed over.
                self._sock.settimeout(min(FILL_SECONDS, self._stall_seconds))
                self._direct = True
        count = min(len(self._early), len(view))
        view[:count], self._early = self._early[:count], self._early[count:]
        return count

    def _receive(self, sock: socket.socket, view: memoryview, *, hurried: bool) -> int | None:
        """What comes next; None where nothing does for a moment, and there is something to hand over already."""
        until = time.monotonic() + self._stall_seconds
        while True:
            try:
                return sock.recv_into(view)
            except TimeoutError:
                if hurried:
                    return None
                if time.monotonic() >= until:
                    raise

    def _splice(self, pipe: int, most: int, filled: int) -> int | None:
        """What comes next into a pipe that holds `filled` bytes; None where nothing does and that is enough.

        Or where it is full: it holds as many packets as it has pages. To wait until it is costs more naps than it
        saves calls.
        """
        if sys.platform != "linux" or self._sock is None:
            raise SpliceUnsupportedError
        until, readable = time.monotonic() + self._stall_seconds, False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while (moved := _try_splice(self._sock, pipe, most, filled)) is None:
            if filled >= MIN_SPLICE_BYTES or (filled and readable):
                break
            if readable:  # for others, not for splice: urgent data, or a queue of BPF's own
                raise SpliceUnsupportedError
            readable = bool(poll.poll(1000 * min(FILL_SECONDS, self._stall_seconds)))
            if filled and not readable:
                break
            if not readable and time.monotonic() >= until:
                raise TimeoutError("timed out")
        return moved

    def close(self) -> None:
        """Gives the body up."""
        self._response.close()

    def _broken(self, error: NetworkError, filled: int) -> int:
        if not filled:
            raise error
        self._pending = error
        return filled


def _try_splice(sock: socket.socket, pipe: int, most: int, filled: int) -> int | None:
    """What splice moves at once; None for nothing now."""
    if sys.platform != "linux":
        raise SpliceUnsupportedError
    try:
        return os.splice(sock.fileno(), pipe, most, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
    except BlockingIOError:
        return None
    except (ConnectionError, TimeoutError):
        raise
    except OSError:  # what confines us may answer with any; if more is the matter, reading will tell
        if filled:
            raise
        raise SpliceUnsupportedError from None
