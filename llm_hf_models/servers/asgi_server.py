"""Run a Starlette app with uvicorn: the listening socket, start and stop, request bodies, error responses."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp
from typing_extensions import Self

from llm_hf_models.errors import BadInputError, HfModelsError, NotWritableError
from llm_hf_models.servers.connections import ConnectionLimits, LimitedConnection
from llm_hf_models.servers.http_errors import HttpResponseError, RenderError
from llm_hf_models.servers.request_limits import LimitedApp, RequestLimits
from llm_hf_models.servers.request_log import LoggedApp

IDLE_SECONDS = 60  # a connection is closed this long after its last response
SHUTDOWN_SECONDS = 1  # open requests may finish within this time
ACCEPTS_PER_TURN = 4  # so that excess connections are closed before the file descriptors are used up
QUEUED_CONNECTIONS = 1024  # that the system keeps until they are accepted
HOST_HINT = "Use --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for all its networks."
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = logging.getLogger(__name__)


class HttpServer:
    """An HTTP server for one app. Clients can connect from its creation on. As a context manager, it closes at the end.

    Attributes:
        server_address: The host and port that it listens on.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        render_error: RenderError,
        *,
        max_body_bytes: int,
        lifespan: bool = False,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Listen on an address.

        Args:
            app: The app.
            host: The address. An IPv6 address has no brackets.
            port: The port; 0 chooses a free port.
            render_error: Called to build the response if a request fails outside the app.
            max_body_bytes: The maximum size of a request's body.
            lifespan: Whether the app must be started and stopped.
            log: Called with a line for each request.

        Raises:
            BadInputError: The host is empty.
            NotWritableError: The server can't listen on the address.
        """
        self._listener = _open_listener(host, port)
        self.server_address = self._listener.getsockname()
        # LimitedApp logs unexpected errors. uvicorn would log them again, and each request that a shutdown cancels.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        limits = ConnectionLimits.choose()
        connection = partial(
            LimitedConnection,
            limits=limits,
            render_error=lambda status, message: render_error(HttpResponseError(status, None, message)),
        )
        served: ASGIApp = LimitedApp(app, RequestLimits(limits.requests, max_body_bytes), render_error)
        self._server = _UvicornServer(
            uvicorn.Config(
                LoggedApp(served, log) if log else served,
                http=connection,  # type: ignore[arg-type]  # uvicorn only calls it
                loop="asyncio",  # whose number of accepted connections per turn can be limited
                backlog=ACCEPTS_PER_TURN,
                lifespan="on" if lifespan else "off",
                ws="none",
                log_config=None,
                server_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )

    def serve_forever(self) -> None:
        """Serve until `shutdown` is called. In the main thread, SIGINT and SIGTERM also end it and then take effect."""
        self._server.run(sockets=[self._listener])

    def shutdown(self) -> None:
        """Make `serve_forever` return soon. Any thread may call this. Requests that are still open are cancelled."""
        self._server.should_exit = True

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop listening."""
        self._listener.close()


class _UvicornServer(uvicorn.Server):
    _has_reported_exhaustion = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections. asyncio uses one number for the queue and for the connections per turn."""
        asyncio.get_running_loop().set_exception_handler(self._report_loop_error)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUED_CONNECTIONS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and let cancelled requests send an error. uvicorn then repeats the signal, which ends the process."""
        await super().shutdown(sockets)
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=SHUTDOWN_SECONDS)

    def _report_loop_error(self, loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
        """Log an error of the event loop. After a failed accept, asyncio accepts nothing for a second."""
        error = details.get("exception")
        if not (isinstance(error, OSError) and error.errno in _EXHAUSTED):
            loop.default_exception_handler(details)
        elif not self._has_reported_exhaustion:
            self._has_reported_exhaustion = True
            _log.warning("New connections are waiting: %s. Raise the limit with `ulimit -n`.", error.strerror)


def _open_listener(host: str, port: int) -> socket.socket:
    if not host:  # the system would listen on every address, which an empty variable must not cause
        raise BadInputError("The address to listen on is empty", hint=HOST_HINT)
    try:
        host.encode("idna")  # a socket does this too, but raises TypeError
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            if os.name == "posix":  # elsewhere, a second server could take the same port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(QUEUED_CONNECTIONS)
            stack.pop_all()
            return listener
    except (OSError, OverflowError, UnicodeError) as error:
        taken = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
        raise NotWritableError(
            f"Can't listen on {host[:100]} port {port}",
            cause=str(error)[:200],
            hint="Use port 0 for a free port." if taken else HOST_HINT,
        ) from None


def build_app(
    routes: Sequence[BaseRoute],
    *,
    convert_error: Callable[[HfModelsError], HttpResponseError],
    render_error: RenderError,
    middleware: Sequence[Middleware] = (),
) -> Starlette:
    """Return an app that sends every error in its own format."""

    async def respond_to_error(_: Request, error: Exception) -> Response:
        if isinstance(error, HfModelsError):
            error = convert_error(error)
        elif not isinstance(error, HTTPException):
            error = HTTPException(500, "Internal server error")
        if not isinstance(error, HttpResponseError):
            error = HttpResponseError(error.status_code, None, error.detail, error.headers)
        return render_error(error)

    async def ignore_disconnect(_request: Request, _error: Exception) -> Response:
        return Response()  # which nobody receives

    handled = dict.fromkeys((HTTPException, HfModelsError, Exception), respond_to_error)
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={**handled, ClientDisconnect: ignore_disconnect},
    )


async def read_body(request: Request) -> bytearray:
    """Return a request's body, whose size HttpServer limits. Unlike Starlette's function, keep one copy of it."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    return body
