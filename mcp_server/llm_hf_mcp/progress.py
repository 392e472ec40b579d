"""Waiting within one call, no longer than hosts do, with progress that only grows. Changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from llm_hf_mcp import rendering
from llm_hf_mcp.answers import call
from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.library.download_records import ACTIVE_STATES
from llm_hf_models.service import Library
from llm_hf_models.transfer.types import Event

CALL_SECONDS = 50.0  # hosts give up on a call after about a minute
POLL_SECONDS = 0.5

T = TypeVar("T")


async def wait_for_download(ctx: Context, service: Library, row: DownloadView, seconds: float) -> DownloadView:
    """The download once it is over or paused, or as it is after so many seconds."""
    deadline, told_bytes = anyio.current_time() + seconds, -1
    while row.state in ACTIVE_STATES and anyio.current_time() < deadline:
        if row.done_bytes > told_bytes:
            told_bytes = row.done_bytes
            await ctx.report_progress(row.done_bytes, row.total_bytes, rendering.format_download(row))
        await anyio.sleep(min(POLL_SECONDS, max(0.0, deadline - anyio.current_time())))
        row = await call(service.get_download, row.id)
    if seconds and row.done_bytes > told_bytes:
        await ctx.report_progress(row.done_bytes, row.total_bytes, rendering.format_download(row))
    return row


@dataclass
class HashingProgress:
    """How far the hashing of a model's files is, as its events tell. Bytes."""

    total: int
    _done: dict[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Of all files together."""
        return sum(self._done.values())

    def record_event(self, event: Event) -> None:
        """An event, from any thread."""
        self._done[event.file] = event.done


async def report_hashing(ctx: Context, hashing: HashingProgress, work: Callable[[], Awaitable[T]]) -> T:
    """What `work` comes to, with the progress of the hashing that it does."""
    refused: ToolError | None = None

    async def tell() -> None:
        told = -1
        while True:
            if hashing.done > told:
                told = hashing.done
                await ctx.report_progress(told, hashing.total, "hashing")
            await anyio.sleep(POLL_SECONDS)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        try:
            result = await work()
        except ToolError as error:  # which would leave the group as a group of one
            refused = error
        tasks.cancel_scope.cancel()
    if refused is not None:
        raise refused
    return result
