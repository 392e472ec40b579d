"""The tools about downloads: get_downloads, control_download."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import Field

from llm_hf_mcp import rendering
from llm_hf_mcp.answers import answer, call, page
from llm_hf_mcp.library_access import library
from llm_hf_mcp.progress import wait_for
from llm_hf_mcp.results import Downloads
from llm_hf_mcp.tools.hub import Cursor, Wait

MAX_ROWS = 1000
MAX_NOTES = 20  # the newest of a log
Id = Annotated[int, Field(ge=1, le=2**53, description="The id that download_model gave")]


async def get_downloads(
    ctx: Context,
    id: Annotated[int | None, Field(ge=1, le=2**53, description="Only this download")] = None,  # noqa: A002
    finished: Annotated[bool, Field(description="Also those that are over")] = False,
    wait_seconds: Wait = 0,
    limit: Annotated[int, Field(ge=1, le=50, description="Rows on a page at most")] = 20,
    cursor: Cursor = None,
) -> CallToolResult:
    """Tells how downloads stand: all that are not over, or one by its id with its log, also those of the person.

    With an id and wait_seconds it answers once that download is over or the time is up, with progress meanwhile. Use
    that instead of asking again and again.
    """
    service = library(ctx)
    if id is None:
        rows, after = page(await call(service.downloads, every=finished, limit=MAX_ROWS), cursor, limit=limit)
        found = Downloads(rows, after)
    else:
        row = await call(service.download, id)
        row = await wait_for(ctx, service, row, wait_seconds)
        found = Downloads((row,), log=(await call(service.download_log, id))[-MAX_NOTES:])
    return answer(found, rendering.downloads(found))


async def control_download(
    ctx: Context,
    id: Id,  # noqa: A002
    action: Literal["pause", "resume", "cancel", "retry"],
) -> CallToolResult:
    """Pauses, resumes, cancels or retries one download. What has arrived is kept until it is cancelled for good.

    `resume` goes with a paused one, `retry` with a failed or cancelled one. Don't cancel what the person started
    unless they ask for it.
    """
    service = library(ctx)
    verbs = {"pause": service.pause, "resume": service.resume, "cancel": service.cancel, "retry": service.retry}
    row = await call(verbs[action], id)
    return answer(row, rendering.one_download(row))
