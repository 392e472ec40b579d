"""Serve MCP over Streamable HTTP: check the options, authorize requests, and run the server (server.py).

Since protocol version 2026-07-28 connections have no state in the server, so any of several workers with the same
token can handle any request. Older versions have sessions, which stay with one worker.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from mcp.server.request_state import RequestStateSecurity
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llm_hf_mcp import strict_json
from llm_hf_mcp.sdk_workarounds import ignore_ended_sessions
from llm_hf_mcp.server import build_server
from llm_hf_models.errors import BadInputError
from llm_hf_models.servers.asgi_server import HttpServer, read_body
from llm_hf_models.servers.http_errors import HttpResponseError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/mcp"
MAX_BODY_BYTES = 4 * 2**20  # the default of the SDK
TOKEN_VARIABLE = "LLM_HF_MCP_TOKEN"  # noqa: S105 - a name, not a token
MIN_TOKEN_CHARS = 20
TOKEN_BYTES = 32
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class HttpOptions:
    """The address and the access rules of the server. If `token` is None, clients need no token."""

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()


def build_options(
    host: str, port: int, *, auth: bool, allowed_hosts: Sequence[str] = (), allowed_origins: Sequence[str] = ()
) -> HttpOptions:
    """Return checked options.

    Args:
        host: The address to listen on.
        port: The port; 0 chooses a free one.
        auth: Whether clients must send a token.
        allowed_hosts: Further names that requests may have in the Host header.
        allowed_origins: Origins from which browsers may send requests.

    Raises:
        BadInputError: The token is not valid, or the options would give other machines access without one.
    """
    given = os.environ.get(TOKEN_VARIABLE) or None
    if given is not None and (len(given) < MIN_TOKEN_CHARS or not given.isascii() or not given.isprintable()):
        raise BadInputError(
            f"{TOKEN_VARIABLE} must have at least {MIN_TOKEN_CHARS} printable ASCII characters",
            hint="Generate one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    if not is_loopback(host):
        if not auth:
            raise BadInputError(
                "--no-auth needs a loopback address",
                cause=f"Other machines can reach {host}.",
                hint="Omit --no-auth, or listen on 127.0.0.1.",
            )
        if not allowed_hosts or not allowed_origins or given is None:
            raise BadInputError(
                f"Listening on {host} needs --allowed-host, --allowed-origin and a token",
                cause=f"Other machines can reach {host}.",
                hint=f"Set {TOKEN_VARIABLE} and pass the name that clients use.",
            )
    token = (given or secrets.token_urlsafe(TOKEN_BYTES)) if auth else None
    return HttpOptions(host, port, token, tuple(allowed_hosts), tuple(allowed_origins))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class BearerTokenMiddleware:
    """Reject requests without the token. Tokens are compared in constant time, before the request is read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._digest = _compute_digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward an authorized request to the app, or respond with 401."""
        if scope["type"] == "http" and not self._is_authorized(scope):
            refused = Response(
                "A bearer token is required", 401, headers={"WWW-Authenticate": 'Bearer realm="llm-hf-mcp"'}
            )
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        # Schemes are case-insensitive (RFC 9110, section 11.1), and any number of spaces may follow.
        return scheme.lower() == b"bearer" and hmac.compare_digest(_compute_digest(token.lstrip(b" ")), self._digest)


class WholeBodyMiddleware:
    """Forward a request when its body is complete. A client that disconnects earlier is no error, as it is for the SDK.

    The SDK would log a traceback, which takes it longer than a request. `HttpServer` limits the size of the body. A
    message that is not strict JSON is answered by a JSON-RPC error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request.

        Raises:
            ClientDisconnect: The client has disconnected before the end of the body.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytes(await read_body(Request(scope, receive)))
        if scope["method"] == "POST" and (error := strict_json.find_error(body)):
            await JSONResponse(error, HTTPStatus.BAD_REQUEST)(scope, receive, send)
            return
        pending: list[Message] = [{"type": "http.request", "body": body}]

        async def receive_again() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, receive_again, send)


def _compute_digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def build_app(options: HttpOptions) -> ASGIApp:
    """Return the server as an ASGI application."""
    security = None
    if options.token is not None:
        # Derived from the token, so that workers with the same token can continue each other's requests.
        key = hmac.new(options.token.encode(), b"llm-hf-mcp request state", "sha256").hexdigest()
        security = RequestStateSecurity(keys=[key])
    server = build_server(request_state_security=security)
    ignore_ended_sessions()
    hosts = [name for own in LOOPBACK for name in (own, f"{own}:*")]
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=TransportSecuritySettings(
            allowed_hosts=[*hosts, *(name for one in options.allowed_hosts for name in (one, f"{one}:*"))],
            allowed_origins=[*(f"http://{name}" for name in hosts), *options.allowed_origins],
        ),
        host=options.host,
    )
    app = WholeBodyMiddleware(app)
    return app if options.token is None else BearerTokenMiddleware(app, options.token)


def serve(options: HttpOptions) -> None:
    """Serve until interrupted.

    Raises:
        NotWritableError: The server can't listen on the address.
    """
    app = build_app(options)
    with HttpServer(
        app, options.host, options.port, _render_error, max_body_bytes=MAX_BODY_BYTES, lifespan=True
    ) as server:
        _print_address(options, server.server_address[1])  # printed now, because clients can connect already
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _render_error(error: HttpResponseError) -> Response:
    """Return an error as a JSON-RPC message."""
    code = INVALID_REQUEST if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else INTERNAL_ERROR
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": error.detail}}
    return JSONResponse(body, error.status_code, error.headers)


def _print_address(options: HttpOptions, port: int) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    lines = [f"http://{host}:{port}{PATH}"]
    if options.token is None:
        lines.append("No token is required (--no-auth): every program on this machine has access.")
    elif os.environ.get(TOKEN_VARIABLE):
        lines.append(f"Clients must send the token in {TOKEN_VARIABLE}: Authorization: Bearer …")
    else:
        lines.append(f"Authorization: Bearer {options.token}")
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - for the user who started the server
