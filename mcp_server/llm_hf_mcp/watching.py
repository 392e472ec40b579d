"""Tells subscribers, in both eras, when a download or the library has changed, whichever process changed it.

Until 2025-11-25 a client subscribes to addresses on its session; since 2026-07-28 it holds a listening request open.
An update says no more than "read it again", so one too many does no harm and one too few would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from llm_hf_mcp.resources import LIBRARY, download_uri, model_uri
from llm_hf_mcp.session import library
from llm_hf_models.errors import HfModelsError

LOOK_SECONDS = 1.0
MAX_ROWS = 200
MAX_URI_CHARS = 2000
MAX_SUBSCRIPTIONS = 1000  # of one connection

Seen = dict[str, object]  # address -> what it showed


class Watch(InMemorySubscriptionBus):
    """The bus of the new era, and the subscribers of the old one; looks only while somebody listens."""

    def __init__(self, look_seconds: float = LOOK_SECONDS) -> None:
        super().__init__()
        self._look_seconds = look_seconds
        self._listening = 0
        self._subscribed: dict[Connection, set[str]] = {}
        self._seen: Seen = {}

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """A stream of the new era."""
        leave, self._seen = super().subscribe(listener), {}  # who has just come may have missed the last change
        self._listening += 1
        left = False

        def unsubscribe() -> None:
            nonlocal left
            if not left:
                left, self._listening = True, self._listening - 1
            leave()

        return unsubscribe

    def add(self, connection: Connection, uri: str) -> None:
        """A subscription of the old era; it ends with its connection."""
        if connection not in self._subscribed:
            self._subscribed[connection] = set()
            connection.exit_stack.callback(self._subscribed.pop, connection, None)
        if len(self._subscribed[connection]) >= MAX_SUBSCRIPTIONS:
            raise MCPError(INVALID_PARAMS, f"No more than {MAX_SUBSCRIPTIONS} subscriptions on one connection")
        self._subscribed[connection].add(uri)
        self._seen = {}

    def drop(self, connection: Connection, uri: str) -> None:
        """Ends a subscription of the old era."""
        self._subscribed.get(connection, set()).discard(uri)

    async def run(self) -> None:
        """Looks, compares and tells, for as long as the server lives."""
        while True:
            if self._listening or any(self._subscribed.values()):
                try:
                    now = await anyio.to_thread.run_sync(_look, abandon_on_cancel=True)
                except HfModelsError:
                    now = self._seen  # a library that is busy now is readable later
                before, self._seen = self._seen, now
                await self._tell(before, now)
            await anyio.sleep(self._look_seconds)

    async def _tell(self, before: Seen, now: Seen) -> None:
        changed = [uri for uri in before.keys() | now.keys() if before.get(uri) != now.get(uri)]
        for uri in changed:
            await self.publish(ResourceUpdated(uri))
            for connection, uris in list(self._subscribed.items()):
                if uri in uris:
                    await connection.send_resource_updated(uri)
        if before and LIBRARY in changed:
            await self.publish(ResourcesListChanged())


def _look() -> Seen:
    service = library()
    seen: Seen = {
        download_uri(row.id): (row.state, row.done_bytes, row.error)
        for row in service.downloads(every=True, limit=MAX_ROWS)
    }
    models = {model.model_id: (model.aliases, model.state, len(model.checks)) for model in service.list()}
    seen |= {model_uri(name): what for name, what in models.items()}
    return {**seen, LIBRARY: models}


def add_to(server: MCPServer[Any], watch: Watch) -> None:
    """Serves `resources/subscribe`, which the SDK's MCPServer leaves to its lower half."""

    async def subscribe(ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        uri = str(params.uri)
        if len(uri) > MAX_URI_CHARS:
            raise MCPError(INVALID_PARAMS, "No resource here has so long an address")
        watch.add(ctx.session._connection, uri)  # noqa: SLF001 - the SDK hands it to no handler
        return EmptyResult()

    async def unsubscribe(ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        watch.drop(ctx.session._connection, str(params.uri))  # noqa: SLF001 - the same
        return EmptyResult()

    lower = server._lowlevel_server  # noqa: SLF001 - the only way to serve these two
    lower.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    lower.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)


def lifespan(watch: Watch) -> Callable[[MCPServer[Any]], Any]:
    """Runs the watch beside the server."""

    @asynccontextmanager
    async def beside(server: MCPServer[Any]) -> AsyncIterator[dict[str, Any]]:  # noqa: ARG001
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.run)
            yield {}
            tasks.cancel_scope.cancel()

    return beside
