"""Streamable HTTP: who may connect, and the loop that serves them. Speaks to no host by itself (server.py does).

Connections since 2026-07-28 keep nothing here, so any of several workers with the same token may answer any of their
requests; older ones have sessions, and stay with the worker that has theirs.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp.server.request_state import RequestStateSecurity
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import Response

from llm_hf_mcp.server import build_server
from llm_hf_models.errors import BadInputError, NotWritableError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/mcp"
TOKEN_VARIABLE = "LLM_HF_MCP_TOKEN"  # noqa: S105 - its name
MIN_TOKEN_CHARS = 20
TOKEN_BYTES = 32
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class HttpOptions:
    """How to listen. `token` None: nobody has to show one."""

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()


def build_options(
    host: str, port: int, *, auth: bool, allowed_hosts: Sequence[str] = (), allowed_origins: Sequence[str] = ()
) -> HttpOptions:
    """What was asked for, checked.

    Raises:
        BadInputError: it would let strangers in.
    """
    given = os.environ.get(TOKEN_VARIABLE) or None
    if given is not None and (len(given) < MIN_TOKEN_CHARS or not given.isascii() or not given.isprintable()):
        raise BadInputError(
            f"{TOKEN_VARIABLE} is no good token: at least {MIN_TOKEN_CHARS} printable characters are needed",
            hint="python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one.",
        )
    if not is_loopback(host):
        if not auth:
            raise BadInputError("--no-auth is for this machine alone", hint=f"{host} can be reached by others.")
        if not allowed_hosts or not allowed_origins or given is None:
            raise BadInputError(
                f"{host} can be reached by others: that needs --allowed-host, --allowed-origin and a token",
                hint=f"Set {TOKEN_VARIABLE}, and name the address by which clients reach this server.",
            )
    token = (given or secrets.token_urlsafe(TOKEN_BYTES)) if auth else None
    return HttpOptions(host, port, token, tuple(allowed_hosts), tuple(allowed_origins))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class BearerTokenMiddleware:
    """Lets in who shows the token; compares in constant time, and before anything is read or kept."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._digest = _compute_digest(f"Bearer {token}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and not self._is_authorized(scope):
            refused = Response(
                "A bearer token is needed", 401, headers={"WWW-Authenticate": 'Bearer realm="llm-hf-mcp"'}
            )
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(shown) == 1 and hmac.compare_digest(_compute_digest(shown[0]), self._digest)


def _compute_digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def build_app(asked: HttpOptions) -> ASGIApp:
    """The whole server as an ASGI application."""
    security = None
    if asked.token is not None:
        # From the token, so that workers who share it can go on with each other's questions.
        key = hmac.new(asked.token.encode(), b"llm-hf-mcp request state", "sha256").hexdigest()
        security = RequestStateSecurity(keys=[key])
    server = build_server(request_state_security=security)
    hosts = [name for own in LOOPBACK for name in (own, f"{own}:*")]
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=TransportSecuritySettings(
            allowed_hosts=[*hosts, *(name for one in asked.allowed_hosts for name in (one, f"{one}:*"))],
            allowed_origins=[*(f"http://{name}" for name in hosts), *asked.allowed_origins],
        ),
        host=asked.host,
    )
    return app if asked.token is None else BearerTokenMiddleware(app, asked.token)


def serve(asked: HttpOptions) -> None:
    """Serves until it is interrupted.

    Raises:
        NotWritableError: the address can't be listened on.
    """
    import uvicorn

    family = socket.AF_INET6 if ":" in asked.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((asked.host, asked.port))
        listener.listen()
    except (OSError, OverflowError) as error:
        raise NotWritableError(f"Can't listen on {asked.host} port {asked.port}", cause=str(error)) from None
    config = uvicorn.Config(build_app(asked), log_level="warning", access_log=False, server_header=False)
    _print_address(asked, listener.getsockname()[1])  # who is told may connect: it listens already
    with listener, suppress(KeyboardInterrupt):
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


def _print_address(asked: HttpOptions, port: int) -> None:
    host = f"[{asked.host}]" if ":" in asked.host else asked.host
    lines = [f"http://{host}:{port}{PATH}"]
    if asked.token is None:
        lines.append("Anybody on this machine may use it: --no-auth.")
    elif os.environ.get(TOKEN_VARIABLE):
        lines.append(f"Clients send the token of {TOKEN_VARIABLE}: Authorization: Bearer …")
    else:
        lines.append(f"Authorization: Bearer {asked.token}")
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - to the person who started it
