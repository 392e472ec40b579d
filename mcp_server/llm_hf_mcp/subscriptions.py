"""Tells clients, in both eras, when a download or the library has changed, whichever process changed it.

Until 2025-11-25 a client subscribes to addresses on its session, and may ask for log messages; since 2026-07-28 it
holds a listening request open. An update says no more than "read it again", so one too many does no harm and one too
few would.
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

from llm_hf_mcp import rendering, sdk_workarounds
from llm_hf_mcp.library_access import open_library
from llm_hf_mcp.resources import LIBRARY, build_download_uri, build_model_uri
from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.errors import HfModelsError
from llm_hf_models.library.download_records import ACTIVE_STATES, DownloadNote

POLL_SECONDS = 1.0
MAX_ROWS = 200
MAX_URI_CHARS = 2000
MAX_SUBSCRIPTIONS = 1000  # of one connection
LOGGER = "downloads"
LEVELS: tuple[LoggingLevel, ...] = get_args(LoggingLevel)  # the least severe first
LEVEL_BY_KIND: dict[str, LoggingLevel] = {
    "progress": "debug", "verifying": "debug", "started": "info", "queued": "info", "done": "notice",
    "paused": "notice", "cancelled": "notice", "stalled": "warning", "retrying": "warning", "waiting": "warning",
    "failed": "error",
}  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """What there was to see: each address with what it showed, and each download with its log."""

    at: float = math.inf  # Unix seconds; what happened to downloads before is no news
    shown: dict[str, object] = field(default_factory=dict)
    downloads: dict[int, tuple[DownloadView, tuple[DownloadNote, ...]]] = field(default_factory=dict)


@dataclass
class ClientSubscriptions:
    """What one connection of the old era wants to be told."""

    uris: set[str] = field(default_factory=set)
    level: LoggingLevel | None = None  # None: it asked for no log


class ResourceWatcher(InMemorySubscriptionBus):
    """The bus of the new era, and the subscribers of the old one; looks only while somebody listens."""

    def __init__(self, look_seconds: float = POLL_SECONDS) -> None:
        super().__init__()
        self._look_seconds = look_seconds
        self._listening = 0
        self._wishes: dict[Connection, ClientSubscriptions] = {}
        self._seen = Snapshot()

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """A stream of the new era."""
        leave = super().subscribe(listener)
        self._resend_last_change()
        self._listening += 1
        left = False

        def unsubscribe() -> None:
            nonlocal left
            if not left:
                left, self._listening = True, self._listening - 1
            leave()

        return unsubscribe

    def _resend_last_change(self) -> None:
        """Who has just come may have missed the last change of whatever it listens to: that is told once more."""
        self._seen = replace(self._seen, shown={})

    def _get_subscriptions(self, connection: Connection) -> ClientSubscriptions:
        if connection not in self._wishes:
            self._wishes[connection] = ClientSubscriptions()
            connection.exit_stack.callback(self._wishes.pop, connection, None)
        return self._wishes[connection]

    async def add(self, connection: Connection, asked: SubscribeRequestParams) -> None:
        """A subscription of the old era; it ends with its connection.

        Raises:
            MCPError: too long, or too many.
        """
        uri, uris = str(asked.uri), self._get_subscriptions(connection).uris
        if len(uri) > MAX_URI_CHARS:
            raise MCPError(INVALID_PARAMS, "No resource here has so long an address")
        if len(uris) >= MAX_SUBSCRIPTIONS:
            raise MCPError(INVALID_PARAMS, f"No more than {MAX_SUBSCRIPTIONS} subscriptions on one connection")
        uris.add(uri)
        self._resend_last_change()

    async def drop(self, connection: Connection, asked: UnsubscribeRequestParams) -> None:
        """Ends a subscription of the old era."""
        self._get_subscriptions(connection).uris.discard(str(asked.uri))

    async def set_log_level(self, connection: Connection, asked: SetLevelRequestParams) -> None:
        """From how severe on a connection of the old era hears what happens to downloads, wherever they run."""
        self._get_subscriptions(connection).level = asked.level
        self._seen = replace(self._seen, at=min(self._seen.at, time.time()))

    async def run(self) -> None:
        """Looks, compares and tells, for as long as the server lives."""
        while True:
            if self._listening or any(each.uris or each.level for each in self._wishes.values()):
                try:
                    now = await anyio.to_thread.run_sync(_take_snapshot, self._seen, abandon_on_cancel=True)
                except HfModelsError:
                    now = self._seen  # a library that is busy now is readable later
                before, self._seen = self._seen, now
                await self._notify(before, now)
            else:
                self._seen = Snapshot()  # what happens while nobody listens is nobody's news
            await anyio.sleep(self._look_seconds)

    async def _notify(self, before: Snapshot, now: Snapshot) -> None:
        changed = {uri for uri in before.shown.keys() | now.shown.keys() if before.shown.get(uri) != now.shown.get(uri)}
        for uri in sorted(changed):
            await self.publish(ResourceUpdated(uri))
        for connection, wishes in list(self._wishes.items()):
            for uri in sorted(changed & wishes.uris):
                await connection.send_resource_updated(uri)
            for level, told in _find_new_events(before, now):
                if wishes.level is not None and LEVELS.index(level) >= LEVELS.index(wishes.level):
                    await _send_log(connection, level, told)
        if before.shown and LIBRARY in changed:
            await self.publish(ResourcesListChanged())


async def _send_log(connection: Connection, level: LoggingLevel, told: str) -> None:
    with warnings.catch_warnings():  # deprecated since 2026-07-28, and this goes to clients of before alone
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await connection.log(level, told, LOGGER)


def _find_new_events(before: Snapshot, now: Snapshot) -> Iterable[tuple[LoggingLevel, str]]:
    """What has happened to downloads since."""
    for number, (row, log) in now.downloads.items():
        known = before.downloads[number][1] if number in before.downloads else ()
        for note in log:
            if note.at >= before.at and note not in known:
                level = "debug" if rendering.is_file_note(note) else LEVEL_BY_KIND.get(note.kind, "info")
                yield level, rendering.format_event(row, note)


def _take_snapshot(before: Snapshot) -> Snapshot:
    service, at = open_library(), time.time()
    downloads = {
        row.id: (row, _read_log(row, before)) for row in service.downloads(include_finished=True, limit=MAX_ROWS)
    }
    shown: dict[str, object] = {
        build_download_uri(number): (row.state, row.done_bytes, row.error, len(log))
        for number, (row, log) in downloads.items()
    }
    models = {model.model_id: (model.aliases, model.state, len(model.checks)) for model in service.list()}
    shown |= {build_model_uri(name): what for name, what in models.items()}
    return Snapshot(at, {**shown, LIBRARY: models}, downloads)


def _read_log(row: DownloadView, before: Snapshot) -> tuple[DownloadNote, ...]:
    """Read only where something may have been added: there may be many downloads that are long over."""
    old = before.downloads.get(row.id)
    if row.state not in ACTIVE_STATES and (old[0] == row if old else row.updated < before.at):
        return old[1] if old else ()
    return open_library().get_download_log(row.id)


def register_methods(server: MCPServer[Any], watch: ResourceWatcher) -> None:
    """Serves what only the old era has."""
    sdk_workarounds.register_method(server, "resources/subscribe", SubscribeRequestParams, watch.add)
    sdk_workarounds.register_method(server, "resources/unsubscribe", UnsubscribeRequestParams, watch.drop)
    sdk_workarounds.register_method(server, "logging/setLevel", SetLevelRequestParams, watch.set_log_level)


def build_lifespan(watch: ResourceWatcher) -> Callable[[MCPServer[Any]], Any]:
    """Runs the watch beside the server."""

    @asynccontextmanager
    async def beside(server: MCPServer[Any]) -> AsyncIterator[dict[str, Any]]:  # noqa: ARG001
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.run)
            yield {}
            tasks.cancel_scope.cancel()

    return beside
