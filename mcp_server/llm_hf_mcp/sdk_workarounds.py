"""Workarounds for gaps in the public API of mcp 2.3. Only this module uses private attributes of the SDK.

`MCPServer` serves a fixed list of methods. `resources/subscribe`, `resources/unsubscribe` and `logging/setLevel` need
its low-level server, which is private. A handler there gets the session, not the connection, which outlives the
request. (`Extension` can't add methods of the protocol, and middleware can't announce capabilities.) `MCPServer` also
has no method that serves streams of another transport.

Its HTTP transport logs a traceback if a session ends, or a client disconnects, while a request arrives.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from anyio import BrokenResourceError, ClosedResourceError
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import EmptyResult, RequestParams

P = TypeVar("P", bound=RequestParams)


def register_method(
    server: MCPServer[Any], method: str, params: type[P], handler: Callable[[Connection, P], Awaitable[None]]
) -> None:
    """Register a method of the protocol that returns an empty result, and announce its capability.

    Args:
        server: The server that gets the method.
        method: The method's name in the protocol.
        params: The type of the method's parameters.
        handler: Called with the client's connection, which stays open until the client disconnects.
    """

    async def handle(ctx: ServerRequestContext[Any, Any], given: P) -> EmptyResult:
        await handler(ctx.session._connection, given)  # noqa: SLF001 - see above
        return EmptyResult()

    server._lowlevel_server.add_request_handler(method, params, handle)  # noqa: SLF001 - see above


async def serve_streams(
    server: MCPServer[Any], received: ReadStream[SessionMessage | Exception], replies: WriteStream[SessionMessage]
) -> None:
    """Serve one client over the streams of a transport until `received` ends."""
    lowlevel = server._lowlevel_server  # noqa: SLF001 - see above
    await lowlevel.run(received, replies, lowlevel.create_initialization_options())


def ignore_ended_sessions() -> None:
    """Drop the SDK's log entries about requests whose client has left or whose session has ended."""
    logging.getLogger("mcp.server.streamable_http").addFilter(_is_worth_logging)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not _is_closed_stream(error)


def _is_closed_stream(error: BaseException) -> bool:
    grouped = getattr(error, "exceptions", None)  # of an ExceptionGroup, which Python 3.10 does not have
    if grouped:
        return all(map(_is_closed_stream, grouped))
    return isinstance(error, ClosedResourceError | BrokenResourceError)
