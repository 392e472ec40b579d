"""The tool for new versions of local models: hf_update_model."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, ElicitationResult, Resolve
from mcp_types import CallToolResult
from pydantic import Field

from llm_hf_mcp import rendering
from llm_hf_mcp.answers import build_result, call
from llm_hf_mcp.consent import Agreement, SettledConsent, record_answer, request_agreement
from llm_hf_mcp.library_access import OpenLibrary
from llm_hf_mcp.progress import wait_for_download
from llm_hf_mcp.results import UpdateModelResult
from llm_hf_mcp.time_limit import PLAN_SECONDS
from llm_hf_mcp.tools.hub import Confirm, Wait
from llm_hf_mcp.tools.local import Name
from llm_hf_models.agent_library import PreparedChange
from llm_hf_models.updates.types import UpdatePlan


async def prepare_update(library: OpenLibrary, name: str, keep_old: bool | None) -> PreparedChange[UpdatePlan]:
    """Compare the model with the Hub, and plan its update."""
    return await call(library.prepare_update, [name], keep_old=keep_old, draft_after=PLAN_SECONDS)


PreparedUpdate = Annotated[PreparedChange[UpdatePlan], Resolve(prepare_update)]


async def ask_before_update(
    ctx: Context, library: OpenLibrary, change: PreparedUpdate, confirm: str | None
) -> Elicit[Agreement] | SettledConsent:
    """Ask the user to agree to the download, if the policy requires it."""
    return await request_agreement(ctx, library, change, confirm)


async def update_model(
    ctx: Context,
    name: Name,
    library: OpenLibrary,
    change: PreparedUpdate,
    answer: Annotated[ElicitationResult[Agreement], Resolve(ask_before_update)],
    keep_old: Annotated[
        bool | None, Field(description="Keep the files of the old version, so that the user can return to it at once")
    ] = None,
    wait_seconds: Wait = 0,
    confirm: Confirm = None,
) -> CallToolResult:
    """Update a local model to the newest commit of its branch on the Hub. hf_list_models shows which have an update.

    Only changed files are downloaded, in the background; follow the download id with hf_get_downloads. The old version
    answers prompts until the new one is verified and has passed a load test. Names and options stay. If the test fails,
    the download fails and the model stays as it is.
    """
    del name, keep_old, confirm  # used by prepare_update and ask_before_update
    change = await record_answer(library, change, answer)
    (planned,) = change.subject.models
    if planned.action == "refuse":
        raise ToolError(f"{planned.id} was not updated: {planned.reason}")
    if planned.plan is None:
        now = UpdateModelResult(None, await call(library.show, planned.id), f"{planned.id}: {planned.reason}.")
        return build_result(now, rendering.format_update_result)
    download = PreparedChange(
        change.action, planned.id, planned.plan, change.requests, change.preapproved, change.consent
    )
    row = await call(library.enqueue, download)
    row = await wait_for_download(ctx, library, row, wait_seconds)
    model = await call(library.show, planned.id) if row.state == "done" else None
    return build_result(UpdateModelResult(row, model), rendering.format_update_result)
