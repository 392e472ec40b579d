"""Wait within one tool call, no longer than hosts allow, and report progress."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from llm_hf_mcp.answers import call
from llm_hf_mcp.texts.downloads import format_download
from llm_hf_mcp.time_limit import RESERVED_SECONDS, count_seconds_left
from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.library.download_records import ACTIVE_STATES
from llm_hf_models.service import Library
from llm_hf_models.transfer.types import Event

POLL_SECONDS = 0.5

T = TypeVar("T")


async def wait_for_download(ctx: Context, service: Library, row: DownloadView, seconds: float) -> DownloadView:
    """Wait until a download is finished or paused, for at most `seconds` or the time left, and return its state.

    A download that no worker carries out is returned at once.
    """
    deadline, reported_bytes = anyio.current_time() + min(seconds, count_seconds_left() - RESERVED_SECONDS), -1
    while row.state in ACTIVE_STATES and not row.needs_worker and anyio.current_time() < deadline:
        if row.done_bytes > reported_bytes:
            reported_bytes = row.done_bytes
            await ctx.report_progress(row.done_bytes, row.total_bytes, format_download(row))
        await anyio.sleep(min(POLL_SECONDS, max(0.0, deadline - anyio.current_time())))
        row = await call(service.get_download, row.id)
    if seconds and row.done_bytes > reported_bytes:
        await ctx.report_progress(row.done_bytes, row.total_bytes, format_download(row))
    return row


@dataclass
class HashingProgress:
    """The progress of hashing a model's files, in bytes."""

    total: int
    _done: dict[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """The bytes hashed so far, of all files."""
        return sum(self._done.values())

    def record_event(self, event: Event) -> None:
        """Record an event. Can be called from any thread."""
        self._done[event.file] = event.done


async def report_hashing(ctx: Context, hashing: HashingProgress, work: Callable[[], Awaitable[T]]) -> T:
    """Await `work`, report the progress of its hashing meanwhile, and return its result."""
    failure: ToolError | None = None

    async def report() -> None:
        reported = -1
        while True:
            if hashing.done > reported:
                reported = hashing.done
                await ctx.report_progress(reported, hashing.total, "hashing")
            await anyio.sleep(POLL_SECONDS)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(report)
        try:
            result = await work()
        except ToolError as error:  # inside the task group it would become an exception group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result
