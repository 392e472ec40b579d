"""Run a Starlette app with uvicorn: the listening socket, start and stop, request bodies, error responses."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

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

IDLE_SECONDS = 60  # a connection is closed this long after its last response
SHUTDOWN_SECONDS = 1  # open requests may finish within this time
MAX_CONNECTIONS = 400  # more get status 503; each may need two file descriptors of the usual limit of 1024
HOST_HINT = "Use --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for all its networks."
_log = logging.getLogger(__name__)


class HttpServer:
    """An HTTP server for one app. Clients can connect from its creation on. As a context manager, it closes at the end.

    Attributes:
        server_address: The host and port that it listens on.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Listen on an address. An IPv6 address has no brackets, and port 0 chooses a free port.

        Raises:
            BadInputError: The host is empty.
            NotWritableError: The server can't listen on the address.
        """
        self._listener = _open_listener(host, port)
        self.server_address = self._listener.getsockname()
        # Unexpected errors are logged by the app (see build_app). uvicorn would log them again, and each request that
        # a shutdown cancels.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                server_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                limit_concurrency=MAX_CONNECTIONS,
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
            listener.listen()
            stack.pop_all()
            return listener
    except (OSError, OverflowError, UnicodeError) as error:
        taken = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
        raise NotWritableError(
            f"Can't listen on {host[:100]} port {port}",
            cause=str(error)[:200],
            hint="Use --port 0 for a free port." if taken else HOST_HINT,
        ) from None


class HttpResponseError(HTTPException):
    """Raised to send an error response: a status, an error code and a message."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


def build_app(
    routes: Sequence[BaseRoute],
    *,
    convert_error: Callable[[HfModelsError], HttpResponseError],
    render_error: Callable[[HttpResponseError], Response],
    middleware: Sequence[Middleware] = (),
) -> Starlette:
    """Return an app that sends every error in its own format. An unexpected error is logged, with status 500."""

    async def respond_to_error(_: Request, error: Exception) -> Response:
        if isinstance(error, HfModelsError):
            error = convert_error(error)
        elif not isinstance(error, HTTPException):
            _log.error("Unexpected error", exc_info=error)
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


async def read_body(request: Request, max_bytes: int) -> bytearray:
    """Return a request's body.

    Raises:
        HttpResponseError: The body is too large.
    """
    too_large = HttpResponseError(413, "invalid_request", f"The body is larger than {max_bytes} bytes")
    if int(request.headers.get("content-length", "0")) > max_bytes:  # the HTTP parser accepts only digits
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return body
