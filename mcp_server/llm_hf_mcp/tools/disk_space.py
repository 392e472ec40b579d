"""The tools about disk space: what takes it, and the removal of models that are not used."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, ElicitationResult, Resolve
from mcp_types import CallToolResult
from pydantic import Field

from llm_hf_mcp.answers import Report, build_result, call
from llm_hf_mcp.consent import Agreement, SettledConsent, record_answer, request_agreement
from llm_hf_mcp.library_access import OpenLibrary
from llm_hf_mcp.tools.hub import Confirm
from llm_hf_models.agent_library import PreparedChange
from llm_hf_models.disk_space.types import DiskUsage, Pruning
from llm_hf_models.system.units import format_size

MAX_LINES = 20
SECONDS_PER_DAY = 86_400
BYTES_PER_GB = 10**9


async def get_disk_usage(
    library: OpenLibrary,
    by: Annotated[Literal["model", "repo", "collection"], Field(description="What a row stands for")] = "model",
) -> CallToolResult:
    """Show the disk space of local models, and of what other tools have in the Hugging Face cache.

    Use it if the disk is full, or before hf_prune_models. `shared_bytes` of a row are in other rows too, and count once
    in the sum.
    """
    return build_result(await call(library.get_disk_usage, by), _format_usage)


def _format_usage(usage: DiskUsage) -> Report:
    lines = [
        f"{' '.join(part for part in (row.kind, row.name) if part)}: {format_size(row.size_bytes)}"
        + (f", {format_size(row.shared_bytes)} of it shared" if row.shared_bytes else "")
        + ("" if row.is_registered or row.kind != "repo" else ", not a local model")
        for row in usage.rows[:MAX_LINES]
    ]
    total = f"{format_size(usage.size_bytes)} in all, {format_size(usage.disk_free_bytes)} free on this disk."
    return Report("\n".join([*lines, total]))


async def prepare_pruning(
    library: OpenLibrary, unused_days: float | None, larger_gb: float | None, keep: list[str]
) -> PreparedChange[Pruning]:
    """Plan the removal."""
    return await call(
        library.prepare_pruning,
        unused_seconds=None if unused_days is None else unused_days * SECONDS_PER_DAY,
        larger_bytes=None if larger_gb is None else int(larger_gb * BYTES_PER_GB),
        keep=keep,
    )


PreparedPruning = Annotated[PreparedChange[Pruning], Resolve(prepare_pruning)]


async def ask_before_prune(
    ctx: Context, library: OpenLibrary, change: PreparedPruning, confirm: str | None
) -> Elicit[Agreement] | SettledConsent:
    """Ask the user to agree to the removal, if the policy requires it."""
    return await request_agreement(ctx, library, change, confirm)


async def prune_models(
    library: OpenLibrary,
    change: PreparedPruning,
    answer: Annotated[ElicitationResult[Agreement], Resolve(ask_before_prune)],
    unused_days: Annotated[float | None, Field(ge=0, le=36_500, description="Days without use")] = None,
    larger_gb: Annotated[float | None, Field(ge=0, le=1_000_000, description="Size on the disk in GB")] = None,
    keep: Annotated[
        list[Annotated[str, Field(max_length=200)]], Field(max_length=20, description="Collections to keep")
    ] = [],  # noqa: B006 - never modified
    confirm: Confirm = None,
) -> CallToolResult:
    """Delete the local models that meet all criteria, after the user has agreed. Use it only if the user wants it.

    At least one criterion is needed. The user's default model, pinned models and models in use are kept.
    """
    del unused_days, larger_gb, keep, confirm
    return build_result(await call(library.prune, await record_answer(library, change, answer)), _format_pruning)


def _format_pruning(done: Pruning) -> Report:
    lines = [f"Deleted {each.id} ({format_size(each.size_bytes)})." for each in done.models[:MAX_LINES]]
    lines += [f"Kept {each.id}: {each.reason}." for each in done.kept[:MAX_LINES]]
    total = f"Deleted {len(done.models)} models and freed {format_size(done.freed_bytes)}."
    return Report("\n".join([*lines, total]))
