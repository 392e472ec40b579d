"""Render the models of other programs as text for agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_hf_mcp.answers import Report
from llm_hf_mcp.texts.parts import join_lines, join_parts, suggest_next_page
from llm_hf_models.system.text import quote_label
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_mcp.results import ImportModelResult
    from llm_hf_models.other_tools.types import FoundModel


def format_import(found: ImportModelResult, program: str, warnings: Sequence[str]) -> Report:
    """Return one line for each model of a program, or the model that was registered."""
    if done := found.imported:
        model_id = done.result.model.id
        notes = [f"Not taken over: {note}." for note in done.notes]
        text = join_lines(f"Registered {quote_label(done.name)} as {model_id}. Digest: {done.result.digest}.", *notes)
        return Report(text, f"hf_run_prompt(name={model_id!r}, prompt=…) uses it.")
    totals = found.totals["models"]
    if not totals.total:
        return Report(f"{program} has no models here.", "hf_search_models, then hf_download_model.", tuple(warnings))
    usable = next((model for model in found.models if not model.problem and not model.identical_to), None)
    next_step = f"hf_import_model(program={program!r}, name={usable.name!r}) registers it." if usable else None
    return Report(
        join_lines(f"{totals.shown} of {totals.total} models.", *map(_format_found_model, found.models)),
        suggest_next_page(found.next_cursor) or next_step,
        tuple(warnings),
    )


def _format_found_model(model: FoundModel) -> str:
    parts = [
        format_size(model.size_bytes) if model.size_bytes else None,
        model.quant,
        f"from {model.repo}" if model.repo else None,
        f"identical to {model.identical_to}" if model.identical_to else None,
        f"can't be registered: {model.problem}" if model.problem else None,
    ]
    return f"{quote_label(model.name)}: {join_parts(parts)}"
