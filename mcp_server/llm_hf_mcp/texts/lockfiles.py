"""Render the results of the tools for lockfiles as text for models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm_hf_mcp.answers import Report
from llm_hf_models.system.text import clean_text, quote_label
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_mcp.results import LockModelsResult, SyncLockfileResult
    from llm_hf_models.lockfiles.types import SyncedModel

MAX_LEFT_OUT = 8
MAX_ID_CHARS = 200
MAX_PROBLEM_CHARS = 300


def format_lock(page: LockModelsResult) -> Report:
    """Return the text of a lockfile, or a page of it."""
    more = f"call again with cursor={page.next_cursor!r}, and join the pages." if page.next_cursor else None
    return Report(
        f"{page.models} models, {format_size(page.size_bytes)}.",
        more,
        tuple(f"Left out: {clean_text(line)}" for line in page.left_out[:MAX_LEFT_OUT]),
        foreign=(("the lockfile", page.text),),
    )


def format_sync(done: SyncLockfileResult) -> Report:
    """Return one line for each model that does not match, and the next step."""
    lines = [_format_model(model, dry_run=done.dry_run) for model in done.models if model.action != "none"]
    matching = sum(model.action == "none" for model in done.models)
    lines.append(f"{matching} of {len(done.models)} models matched the lockfile already.")
    verb = "would be deleted" if done.dry_run else "deleted"
    lines += [f"{quote_label(name, MAX_ID_CHARS)}: {verb}" for name in done.removed]
    lines += [f"Not in the lockfile: {', '.join(quote_label(name, MAX_ID_CHARS) for name in done.unlisted)}."] * bool(
        done.unlisted
    )
    waits = any(model.download_id is not None for model in done.models)
    step = "hf_get_downloads until they are done, then call hf_sync_lockfile again with the same text."
    return Report("\n".join(lines), step if waits else None)


def _format_model(model: SyncedModel, *, dry_run: bool) -> str:
    name = quote_label(model.id, MAX_ID_CHARS)
    if model.problem:
        return f"{name}: failed: {json.dumps(clean_text(model.problem, MAX_PROBLEM_CHARS), ensure_ascii=False)}"
    if dry_run:
        size = f" {format_size(model.fetched_bytes)}" if model.action == "download" else ""
        return f"{name}: needs {model.action}{size}"
    if model.download_id is not None:
        return f"{name}: download {model.download_id} runs in the background"
    return f"{name}: {model.action} done"
