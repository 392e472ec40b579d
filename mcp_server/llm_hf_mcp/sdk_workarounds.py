"""What mcp 2.3 has no public way to do, in one place. Nothing else here touches what the SDK keeps to itself.

`MCPServer` serves a closed list of methods; `resources/subscribe`, its opposite and `logging/setLevel` are left to the
server below it, which it doesn't hand out, and a handler there learns of its session, not of the connection that
outlives the request. (`Extension` may not bind the protocol's own methods, and middleware announces no capability.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp_types import EmptyResult, RequestParams

P = TypeVar("P", bound=RequestParams)


def register_method(
    server: MCPServer[Any], method: str, params: type[P], handler: Callable[[Connection, P], Awaitable[None]]
) -> None:
    """Serves a method of the protocol that is answered with nothing, and announces its capability.

    Args:
        server: which.
        method: as the protocol names it.
        params: what comes with it.
        handler: given the connection it came over, which lives until the client goes.
    """

    async def handle(ctx: ServerRequestContext[Any, Any], given: P) -> EmptyResult:
        await handler(ctx.session._connection, given)  # noqa: SLF001 - see above
        return EmptyResult()

    server._lowlevel_server.add_request_handler(method, params, handle)  # noqa: SLF001 - see above
