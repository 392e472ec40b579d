"""The tools for downloads: hf_get_downloads, hf_control_download."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, ElicitationResult, Resolve
from mcp_types import CallToolResult
from pydantic import Field

from llm_hf_mcp.answers import build_result, call, select_page
from llm_hf_mcp.consent import Agreement, SettledConsent, record_answer, request_agreement
from llm_hf_mcp.library_access import OpenLibrary
from llm_hf_mcp.progress import wait_for_download
from llm_hf_mcp.results import GetDownloadsResult, Totals
from llm_hf_mcp.texts.downloads import format_download_details, format_downloads
from llm_hf_mcp.tools.hub import Confirm, Cursor, Wait
from llm_hf_mcp.verbosity import Verbosity
from llm_hf_models.agent_library import PreparedChange
from llm_hf_models.types import DownloadChange, DownloadVerb

MAX_ROWS = 1000
NOTES = {"short": 1, "normal": 10, "full": 20}  # newest entries of a log
Id = Annotated[int, Field(ge=1, le=2**53, description="The id that hf_download_model returned")]


async def get_downloads(
    ctx: Context,
    library: OpenLibrary,
    id: Annotated[int | None, Field(ge=1, le=2**53, description="Show only the download with this id")] = None,  # noqa: A002
    finished: Annotated[bool, Field(description="Include finished downloads")] = False,
    wait_seconds: Wait = 0,
    limit: Annotated[int, Field(ge=1, le=50, description="Maximum number of rows per page")] = 20,
    cursor: Cursor = None,
    verbosity: Verbosity = "normal",
) -> CallToolResult:
    """Show unfinished downloads, including the user's own, or one download by its id with its log.

    With `id` and `wait_seconds`, it returns when that download has finished or the time is up, and reports progress
    meanwhile. Use this instead of repeated calls.
    """
    if id is None:
        every = await call(library.downloads, include_finished=finished, limit=MAX_ROWS)
        rows, after = select_page(every, cursor, limit=limit, kind="downloads", level=verbosity)
        totals = {"downloads": Totals(len(every), len(rows), sum(row.total_bytes for row in every))}
        found = GetDownloadsResult(rows, after, totals=totals)
    else:
        row = await call(library.get_download, id)
        row = await wait_for_download(ctx, library, row, wait_seconds)
        log = await call(library.get_download_log, id)
        shown = log[-NOTES[verbosity] :]
        totals = {"downloads": Totals(1, 1, row.total_bytes), "log": Totals(len(log), len(shown))}
        found = GetDownloadsResult((row,), log=shown, totals=totals)
    return build_result(found, format_downloads, verbosity)


async def prepare_control(library: OpenLibrary, id: int, action: DownloadVerb) -> PreparedChange[DownloadChange]:  # noqa: A002
    """Find the download."""
    return await call(library.prepare_control, action, id)


PreparedControl = Annotated[PreparedChange[DownloadChange], Resolve(prepare_control)]


async def ask_before_control(
    ctx: Context, library: OpenLibrary, change: PreparedControl, confirm: str | None
) -> Elicit[Agreement] | SettledConsent:
    """Ask the user to agree to the change, if the policy requires it."""
    return await request_agreement(ctx, library, change, confirm)


async def control_download(
    library: OpenLibrary,
    id: Id,  # noqa: A002
    action: Annotated[DownloadVerb, Field(description="What to do with the download")],
    change: PreparedControl,
    answer: Annotated[ElicitationResult[Agreement], Resolve(ask_before_control)],
    confirm: Confirm = None,
) -> CallToolResult:
    """Pause, resume, cancel or retry one download. Downloaded data is kept until the download is cancelled.

    Use `resume` for a paused download, `retry` for a failed or cancelled one. The user is asked before a download that
    the user started is paused or cancelled, and before a large one continues.
    """
    del id, action, confirm  # used by prepare_control and ask_before_control
    row = await call(library.control, await record_answer(library, change, answer))
    return build_result(row, format_download_details)
