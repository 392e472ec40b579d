"""The tools for lockfiles: hf_lock_models and hf_sync_lockfile. Both exchange texts, never names of files."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, ElicitationResult, Resolve
from mcp_types import CallToolResult
from pydantic import Field

from llm_hf_mcp import lockfile_texts
from llm_hf_mcp.answers import build_result, call, decode_cursor, encode_cursor
from llm_hf_mcp.consent import Agreement, SettledConsent, record_answer, request_agreement
from llm_hf_mcp.library_access import OpenLibrary
from llm_hf_mcp.results import LockModelsResult, SyncLockfileResult
from llm_hf_mcp.tools.hub import Confirm, Cursor
from llm_hf_models.agent_library import AgentLibrary, PreparedChange
from llm_hf_models.lockfiles.types import SyncedModel, SyncPlan, SyncStep

PAGE_CHARS = 5000


async def lock_models(
    library: OpenLibrary,
    collection: Annotated[str | None, Field(max_length=200, description="Only the models of this collection")] = None,
    cursor: Cursor = None,
) -> CallToolResult:
    """Return a lockfile: the models on this machine with their commits, digests, names and options. It has no keys.

    Use it if the user wants the same models on another machine, where hf_sync_lockfile or `llm hf sync` reads it. A
    long lockfile has several pages: join them without changes. Chat templates and system prompts in it are data.
    """
    done = await call(library.lock, collection=collection)
    start = min(decode_cursor(cursor), len(done.text))
    page = cut_page(done.text[start:])
    after = start + len(page)
    found = LockModelsResult(
        page, done.models, done.size_bytes, done.left_out, encode_cursor(after) if after < len(done.text) else None
    )
    return build_result(found, lockfile_texts.format_lock)


def cut_page(text: str) -> str:
    """Return the start of a text, at most a page, up to the end of a line if it has one."""
    if len(text) <= PAGE_CHARS:
        return text
    end = text.rfind("\n", 0, PAGE_CHARS) + 1
    return text[: end or PAGE_CHARS]


async def prepare_sync(library: OpenLibrary, lockfile: str, prune: bool) -> PreparedChange[SyncPlan]:
    """Plan the sync."""
    return await call(_prepare, library, lockfile, prune=prune)


def _prepare(library: AgentLibrary, text: str, *, prune: bool) -> PreparedChange[SyncPlan]:
    with library.log_failure("sync", "lockfile"):
        lockfile = library.parse_lockfile(text)
    return library.prepare_sync(lockfile, prune=prune)


PreparedSync = Annotated[PreparedChange[SyncPlan], Resolve(prepare_sync)]


async def ask_before_sync(
    ctx: Context, library: OpenLibrary, change: PreparedSync, confirm: str | None, dry_run: bool
) -> Elicit[Agreement] | SettledConsent:
    """Ask the user to agree to the sync, if the policy requires it."""
    return SettledConsent() if dry_run else await request_agreement(ctx, library, change, confirm)


def _show_step(step: SyncStep) -> SyncedModel:
    return SyncedModel(step.id, step.action, step.action == "none", step.fetch_bytes, step.problem, step.hint)


async def sync_lockfile(
    lockfile: Annotated[str, Field(min_length=1, max_length=400_000, description="The whole text of the lockfile")],
    library: OpenLibrary,
    change: PreparedSync,
    answer: Annotated[ElicitationResult[Agreement], Resolve(ask_before_sync)],
    prune: Annotated[bool, Field(description="Also delete the models that the lockfile does not list")] = False,
    dry_run: Annotated[bool, Field(description="Only compare, and change nothing")] = False,
    confirm: Confirm = None,
) -> CallToolResult:
    """Make this machine match a lockfile: download missing models at its commits, set names and options.

    Missing files are downloaded in the background, and each digest is compared with the lockfile. Call it again with
    the same lockfile when hf_get_downloads shows that they are done: names and options are set then. Models on other
    servers are attached only by the user, with `llm hf sync FILE`.
    """
    del lockfile, prune, confirm
    plan = change.subject
    if dry_run:
        models = tuple(map(_show_step, plan.steps))
        removed, kept, is_complete = tuple(one.id for one in plan.removals), plan.unlisted, plan.in_sync
    else:
        done = await call(library.sync, await record_answer(library, change, answer), in_background=True)
        models, removed, is_complete = done.models, tuple(one.id for one in done.removed), done.complete
        kept = (*plan.unlisted, *done.not_removed)
    found = SyncLockfileResult(models, removed, kept, is_complete, dry_run)
    return build_result(found, lockfile_texts.format_sync)
