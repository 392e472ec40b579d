"""Notify clients when a download or the library has changed, whichever process changed it.

Up to protocol version 2025-11-25, a client subscribes to URIs on its session, and may request log messages. Since
2026-07-28, it keeps a streaming request open. A notification only means "read this again", so an extra one is
harmless, but a missing one is not.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import anyio
import anyio.to_thread
from mcp import MCPDeprecationWarning
from mcp.server.connection import Connection
from mcp.server.mcpserver import MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    LoggingLevel,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)

from llm_hf_mcp import sdk_workarounds
from llm_hf_mcp.library_access import open_library
from llm_hf_mcp.resources import LIBRARY, build_download_uri, list_model_uris
from llm_hf_mcp.texts.downloads import format_event, is_file_note
from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.errors import HfModelsError
from llm_hf_models.library.download_records import ACTIVE_STATES, DownloadNote

POLL_SECONDS = 1.0
MAX_ROWS = 200
MAX_URI_CHARS = 2000
MAX_SUBSCRIPTIONS = 1000  # per connection
LOGGER = "downloads"
LEVELS: tuple[LoggingLevel, ...] = get_args(LoggingLevel)  # least severe first
LEVEL_BY_KIND: dict[str, LoggingLevel] = {
    "progress": "debug", "verifying": "debug", "started": "info", "queued": "info", "done": "notice",
    "paused": "notice", "cancelled": "notice", "stalled": "warning", "retrying": "warning", "waiting": "warning",
    "failed": "error",
}  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """The state of all resources at one time: a value for each URI, and each download with its log."""

    at: float = math.inf  # Unix seconds; earlier log entries of downloads are not sent
    states: dict[str, object] = field(default_factory=dict)
    downloads: dict[int, tuple[DownloadView, tuple[DownloadNote, ...]]] = field(default_factory=dict)


@dataclass
class ClientSubscriptions:
    """The subscriptions of one connection with an old protocol version."""

    uris: set[str] = field(default_factory=set)
    level: LoggingLevel | None = None  # None: the client did not request log messages


class ResourceWatcher(InMemorySubscriptionBus):
    """Watch the library while clients are subscribed, and notify them of changes.

    It is the SDK's bus for streams of the new protocol version, and holds the subscriptions of old versions.
    """

    def __init__(self, poll_seconds: float = POLL_SECONDS) -> None:
        super().__init__()
        self._poll_seconds = poll_seconds
        self._stream_count = 0
        self._clients: dict[Connection, ClientSubscriptions] = {}
        self._snapshot = Snapshot()

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Add a stream of the new protocol version, and return a function that removes it."""
        leave = super().subscribe(listener)
        self._resend_last_change()
        self._stream_count += 1
        left = False

        def unsubscribe() -> None:
            nonlocal left
            if not left:
                left, self._stream_count = True, self._stream_count - 1
            leave()

        return unsubscribe

    def _resend_last_change(self) -> None:
        """Notify all clients again, because a new client may have missed the last change."""
        self._snapshot = replace(self._snapshot, states={})

    def _get_subscriptions(self, connection: Connection) -> ClientSubscriptions:
        if connection not in self._clients:
            self._clients[connection] = ClientSubscriptions()
            connection.exit_stack.callback(self._clients.pop, connection, None)
        return self._clients[connection]

    async def add(self, connection: Connection, params: SubscribeRequestParams) -> None:
        """Subscribe a connection with an old protocol version to a URI, until the connection closes.

        Raises:
            MCPError: The URI is too long, or the connection has too many subscriptions.
        """
        uri, uris = str(params.uri), self._get_subscriptions(connection).uris
        if len(uri) > MAX_URI_CHARS:
            raise MCPError(INVALID_PARAMS, f"A resource URI has at most {MAX_URI_CHARS} characters")
        if len(uris) >= MAX_SUBSCRIPTIONS:
            raise MCPError(INVALID_PARAMS, f"A connection has at most {MAX_SUBSCRIPTIONS} subscriptions")
        uris.add(uri)
        self._resend_last_change()

    async def drop(self, connection: Connection, params: UnsubscribeRequestParams) -> None:
        """Unsubscribe a connection with an old protocol version from a URI."""
        self._get_subscriptions(connection).uris.discard(str(params.uri))

    async def set_log_level(self, connection: Connection, params: SetLevelRequestParams) -> None:
        """Set the least severe level at which a connection gets log messages about downloads."""
        self._get_subscriptions(connection).level = params.level
        self._snapshot = replace(self._snapshot, at=min(self._snapshot.at, time.time()))

    async def run(self) -> None:
        """Take snapshots, compare them and notify clients, until cancelled."""
        while True:
            if self._stream_count or any(client.uris or client.level for client in self._clients.values()):
                try:
                    now = await anyio.to_thread.run_sync(_take_snapshot, self._snapshot, abandon_on_cancel=True)
                except HfModelsError:
                    now = self._snapshot  # the library is busy; the next snapshot may succeed
                before, self._snapshot = self._snapshot, now
                await self._notify(before, now)
            else:
                self._snapshot = Snapshot()  # changes without subscribers are not sent later
            await anyio.sleep(self._poll_seconds)

    async def _notify(self, before: Snapshot, now: Snapshot) -> None:
        changed = {
            uri for uri in before.states.keys() | now.states.keys() if before.states.get(uri) != now.states.get(uri)
        }
        for uri in sorted(changed):
            await self.publish(ResourceUpdated(uri))
        for connection, subscriptions in list(self._clients.items()):
            for uri in sorted(changed & subscriptions.uris):
                await connection.send_resource_updated(uri)
            for level, message in _find_new_events(before, now):
                if subscriptions.level is not None and LEVELS.index(level) >= LEVELS.index(subscriptions.level):
                    await _send_log(connection, level, message)
        if before.states and LIBRARY in changed:
            await self.publish(ResourcesListChanged())


async def _send_log(connection: Connection, level: LoggingLevel, message: str) -> None:
    with warnings.catch_warnings():  # deprecated since 2026-07-28, but only older clients use it
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await connection.log(level, message, LOGGER)


def _find_new_events(before: Snapshot, now: Snapshot) -> Iterable[tuple[LoggingLevel, str]]:
    """Yield the log entries of downloads that were added between two snapshots, with their levels."""
    for number, (row, log) in now.downloads.items():
        known = before.downloads[number][1] if number in before.downloads else ()
        for note in log:
            if note.at >= before.at and note not in known:
                level = "debug" if is_file_note(note) else LEVEL_BY_KIND.get(note.kind, "info")
                yield level, format_event(row, note)


def _take_snapshot(before: Snapshot) -> Snapshot:
    service, at = open_library(), time.time()
    downloads = {
        row.id: (row, _read_log(row, before)) for row in service.downloads(include_finished=True, limit=MAX_ROWS)
    }
    states: dict[str, object] = {
        build_download_uri(number): (row.state, row.done_bytes, row.error, len(log))
        for number, (row, log) in downloads.items()
    }
    models = [(model, (model.aliases, model.state, len(model.checks))) for model in service.list()]
    states |= {uri: state for model, state in models for uri in list_model_uris(model)}
    return Snapshot(at, {**states, LIBRARY: {model.id: state for model, state in models}}, downloads)


def _read_log(row: DownloadView, before: Snapshot) -> tuple[DownloadNote, ...]:
    """Return a download's log, read only if entries may have been added: most downloads finished long ago."""
    old = before.downloads.get(row.id)
    if row.state not in ACTIVE_STATES and (old[0] == row if old else row.updated < before.at):
        return old[1] if old else ()
    return open_library().get_download_log(row.id)


def register_methods(server: MCPServer[Any], watcher: ResourceWatcher) -> None:
    """Register the methods of old protocol versions."""
    sdk_workarounds.register_method(server, "resources/subscribe", SubscribeRequestParams, watcher.add)
    sdk_workarounds.register_method(server, "resources/unsubscribe", UnsubscribeRequestParams, watcher.drop)
    sdk_workarounds.register_method(server, "logging/setLevel", SetLevelRequestParams, watcher.set_log_level)


def build_lifespan(watcher: ResourceWatcher) -> Callable[[MCPServer[Any]], Any]:
    """Return a lifespan that runs the watcher while the server runs."""

    @asynccontextmanager
    async def run_watcher(server: MCPServer[Any]) -> AsyncIterator[dict[str, Any]]:  # noqa: ARG001
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.run)
            yield {}
            tasks.cancel_scope.cancel()

    return run_watcher
