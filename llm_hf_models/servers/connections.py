"""Limit the connections of an HTTP server: their number, and the time in which requests and responses must progress.

uvicorn limits only the requests in progress and the pause between two requests. A client that connects and sends
nothing, or one byte a minute, would keep its connection until the process has no file descriptor left.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
from starlette.responses import Response
from typing_extensions import Self
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HEAD_SECONDS = 10  # a request's head must arrive within this time
BODY_SECONDS = 20  # of a request's body, at least BODY_BYTES must arrive within this time
BODY_BYTES = 16 * 1024
READ_SECONDS = 60  # the client must read some of a response within this time
SLOW_BODY_SECONDS = 2  # a connection whose body takes longer may be closed if there are too many
LINGER_SECONDS = 1  # time for the client to read an error response before the connection is closed
MAX_CONNECTIONS = 400
USUAL_MAX_FILES = 1024
RenderStatus = Callable[[int, str], Response]


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections a server keeps open, and how many requests it handles at once."""

    connections: int
    requests: int

    @classmethod
    def choose(cls) -> Self:
        """Return limits for this process. A request may need three file descriptors besides its connection."""
        connections = max(4, min(MAX_CONNECTIONS, _get_max_open_files() // 4))
        return cls(connections, connections * 3 // 4)


def _get_max_open_files() -> int:
    if sys.platform == "win32":
        return USUAL_MAX_FILES
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return USUAL_MAX_FILES if soft == resource.RLIM_INFINITY else soft


class LimitedConnection(H11Protocol):
    """A connection with deadlines. If there are too many, the one that has waited longest for its client is closed."""

    connections: set[LimitedConnection]  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        render_error: RenderStatus,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits, self._render_error = limits, render_error
        self._phase: str | None = None  # the part of a request that is arriving: head, body
        self._timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._body_bytes = 0  # that arrived in the current interval
        self._is_refused = False
        self.waiting_since = 0.0

    # Events of the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request, and close another connection if there are too many."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self._watch_request()
        opened = [one for one in self.connections if not one.transport.is_closing()]
        if len(opened) > self._limits.connections:
            idle = [one for one in opened if one.is_waiting() and one is not self]
            replaceable = idle or [one for one in opened if one.is_waiting_for_body()] or [self]
            min(replaceable, key=lambda one: one.waiting_since).make_room(self)

    def data_received(self, data: bytes) -> None:
        """Process data, unless an error was sent already."""
        if self._is_refused:
            return
        self._body_bytes += len(data)
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.waiting_since = self.loop.time()
        super().on_response_complete()
        self._watch_request()

    def pause_writing(self) -> None:
        """Start to watch whether the client reads the response."""
        super().pause_writing()
        self._check_reader(None)

    def resume_writing(self) -> None:
        """Stop watching, because the client has read most of the data."""
        super().resume_writing()
        self._cancel_timer("_read_timer")

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all deadlines."""
        self._cancel_timer("_timer")
        self._cancel_timer("_read_timer")
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not valid HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg.rstrip("."))

    # Limits

    def is_waiting(self) -> bool:
        """Return whether no request is being handled."""
        return self.cycle is None or self.cycle.response_complete

    def is_waiting_for_body(self) -> bool:
        """Return whether the body of a request has been arriving for a long time."""
        return self._phase == "body" and self.loop.time() - self.waiting_since > SLOW_BODY_SECONDS

    def make_room(self, newcomer: LimitedConnection) -> None:
        """Close this connection, because there are too many."""
        if self is newcomer or self._phase == "body" or self.conn.trailing_data[0]:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections")
        self.transport.close()

    def _watch_request(self) -> None:
        """Start, keep or cancel the deadline for the part of a request that is arriving."""
        if self._is_refused or self.transport.is_closing():
            return
        phase = None
        if self.conn.their_state is h11.SEND_BODY:
            phase = "body"
        elif self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            phase = "head"
        if phase != self._phase:
            self._phase = phase
            self._cancel_timer("_timer")
            if phase == "head":
                self._timer = self.loop.call_later(HEAD_SECONDS, self._end_slow_request)
            elif phase == "body":
                self.waiting_since = self.loop.time()
                self._start_body_interval()

    def _start_body_interval(self) -> None:
        self._body_bytes = 0
        self._timer = self.loop.call_later(BODY_SECONDS, self._check_body)

    def _check_body(self) -> None:
        if self._body_bytes < BODY_BYTES:
            self._end_slow_request()
        else:
            self._start_body_interval()

    def _end_slow_request(self) -> None:
        """Close the connection, with an error if part of a request has arrived."""
        if self._phase == "body" or self.conn.trailing_data[0]:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time")
        else:
            self.transport.close()

    def _check_reader(self, unread_before: int | None) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread_before is not None and unread >= unread_before:
            self.transport.abort()
        else:
            self._read_timer = self.loop.call_later(READ_SECONDS, self._check_reader, unread)

    def _refuse(self, status: int, message: str) -> None:
        """Send an error unless a response was started, and close the connection soon."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._cancel_timer("_timer")
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            if self.is_waiting():  # its response was sent before the whole request had arrived
                self._close_soon()
            else:
                self.transport.close()
            return
        if not self.is_waiting():
            self.cycle.disconnected = True  # the app can't respond any more
            self.cycle.message_event.set()
        response = self._render_error(status, message)
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        reason = HTTPStatus(status).phrase.encode()
        with suppress(h11.LocalProtocolError):  # the response to HEAD has no body
            for event in (
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self._close_soon()

    def _close_soon(self) -> None:
        """Close the connection after a pause. If data were unread then, the system might discard the response."""
        self.flow.resume_reading()
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _cancel_timer(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)
