"""Limit the requests of an HTTP server (their number, the size of their bodies), and render all errors in one format.

An error can come from the app, from a framework that writes plain text, or from the end of the server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_hf_models.servers.http_errors import HttpResponseError, RenderError

ALL_BODIES_BYTES = 64 * 2**20  # of all requests in progress, but at least two bodies of the maximum size
MAX_ERROR_BYTES = 2000  # of a text that becomes the message of an error
_HOST = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(:(?P<port>[0-9]{1,5}))?")
_MAX_PORT = 65535
_REPLACED_HEADERS = (b"content-type", b"content-length")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestLimits:
    """How many requests are handled at once, and the size of one body and of all."""

    requests: int
    body_bytes: int

    @property
    def all_bodies_bytes(self) -> int:
        """The size of the bodies of all requests in progress."""
        return max(ALL_BODIES_BYTES, 2 * self.body_bytes)


class LimitedApp:
    """An app with limits. The app itself reads the body, so that it can reject a client without its key first."""

    def __init__(self, app: ASGIApp, limits: RequestLimits, render_error: RenderError) -> None:
        self._app, self._limits, self._render_error = app, limits, render_error
        self._requests = 0
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or a start or stop of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(send, self._render_error)
        body = _Body(self, scope, receive)
        try:
            self._check_request(scope)
            body.check_announcement()
            await self._app(scope, body.receive, response.send)
        except HttpResponseError as error:
            await response.send_error(error)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            await response.send_error(HttpResponseError(503, None, "The server was stopped"))
            raise
        except Exception as error:
            _log.error("Unexpected error", exc_info=error)
            if response.is_started:
                raise  # uvicorn closes the connection, so that the client notices
            await response.send_error(HttpResponseError(500, None, "Internal server error"))
        finally:
            self._requests -= body.is_complete
            self._bodies_bytes -= body.size

    @staticmethod
    def _check_request(scope: Scope) -> None:
        if not scope["raw_path"].startswith(b"/"):
            raise HttpResponseError(400, None, "The target of the request is not a path")
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        if host is not None:  # HTTP/1.1 requires it, which the HTTP parser checks
            parse_host(host)

    def count_request(self) -> None:
        """Count a request whose body is complete. Until then, it costs only its connection and its bytes."""
        self._requests += 1
        if self._requests > self._limits.requests:
            raise HttpResponseError(503, None, "Too many requests are in progress", {"Retry-After": "1"})

    def count_body(self, size: int, added: int) -> None:
        """Count bytes of a body that has `size` bytes so far, including them."""
        self._bodies_bytes += added
        if size > self._limits.body_bytes:
            raise self.make_size_error()
        if self._bodies_bytes > self._limits.all_bodies_bytes:
            raise HttpResponseError(503, None, "The requests in progress are too large", {"Retry-After": "1"})

    def exceeds_limit(self, size: int) -> bool:
        """Return whether a body is too large."""
        return size > self._limits.body_bytes

    def make_size_error(self) -> HttpResponseError:
        """Return the error for a body that is too large."""
        return HttpResponseError(413, "invalid_request", f"The body is larger than {self._limits.body_bytes} bytes")


def parse_host(value: bytes) -> tuple[str, int | None]:
    """Return the name or address in a Host header, in lower case and without brackets, and the port if there is one.

    Raises:
        HttpResponseError: The header is not valid.
    """
    invalid = HttpResponseError(400, None, "The Host header is not valid")
    found = _HOST.fullmatch(value.decode("latin-1"))
    if not found:
        raise invalid
    port = int(found["port"]) if found["port"] else None
    if port is not None and port > _MAX_PORT:
        raise invalid
    if found["name"]:
        return found["name"].lower(), port
    try:
        return str(ipaddress.IPv6Address(found["ipv6"])), port
    except ValueError:
        raise invalid from None


class _Body:
    """The body of a request, which is counted while the app receives it."""

    def __init__(self, app: LimitedApp, scope: Scope, receive: Receive) -> None:
        self._app, self._scope, self._receive = app, scope, receive
        self.size = 0  # bytes
        self.is_complete = False

    def check_announcement(self) -> None:
        """Raise an error if the client announces a body that is too large. Without a body, the request is complete."""
        headers = dict(self._scope["headers"])
        size = int(headers.get(b"content-length", 0))  # the HTTP parser accepts only digits
        if self._app.exceeds_limit(size):
            raise self._app.make_size_error()
        if size == 0 and b"transfer-encoding" not in headers:
            self._complete()

    def _complete(self) -> None:
        if not self.is_complete:
            self.is_complete = True
            self._app.count_request()

    async def receive(self) -> Message:
        message = await self._receive()
        added = len(message.get("body", b""))
        self.size += added
        self._app.count_body(self.size, added)
        if message["type"] == "http.request" and not message.get("more_body"):
            self._complete()
        return message


class _Response:
    """A response. If it is an error that is not JSON, it is replaced by one in the server's format."""

    def __init__(self, send: Send, render_error: RenderError) -> None:
        self._send, self._render_error = send, render_error
        self._replaced: MutableMapping[str, Any] | None = None
        self._text = bytearray()
        self.is_started = False

    async def send(self, message: Message) -> None:
        """Forward a part of the response."""
        if message["type"] == "http.response.start" and _is_plain_error(message):
            self._replaced = message
        elif self._replaced is None:
            self.is_started = True
            await self._send(message)
        elif message["type"] == "http.response.body":
            self._text += message.get("body", b"")[:MAX_ERROR_BYTES]
            if not message.get("more_body"):
                await self._send_replacement(self._replaced)

    async def _send_replacement(self, start: MutableMapping[str, Any]) -> None:
        text = self._text.decode("utf-8", "replace") or HTTPStatus(start["status"]).phrase
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in start["headers"]
            if name.lower() not in _REPLACED_HEADERS
        }
        await self.send_error(HttpResponseError(start["status"], None, text, headers))

    async def send_error(self, error: HttpResponseError) -> None:
        """Send an error, unless a response was started."""
        if self.is_started:
            return
        self.is_started = True
        rendered = self._render_error(error)
        with suppress(OSError):  # the client has disconnected
            await self._send(
                {"type": "http.response.start", "status": rendered.status_code, "headers": rendered.raw_headers}
            )
            await self._send({"type": "http.response.body", "body": rendered.body})


def _is_plain_error(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] >= HTTPStatus.BAD_REQUEST and not any(b"json" in kind for kind in kinds)
