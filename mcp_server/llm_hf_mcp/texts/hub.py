"""Render repos of the Hub and headers of GGUF files as text for agents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_mcp.answers import Report
from llm_hf_mcp.texts.parts import (
    NO_MORE_ROWS,
    format_totals,
    format_update,
    join_lines,
    join_parts,
    quote,
    suggest_next_page,
)
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.text import clean_text, quote_label
from llm_hf_models.system.units import format_count, format_size

if TYPE_CHECKING:
    from llm_hf_mcp.results import GetModelResult, InspectGgufResult, SearchModelsResult
    from llm_hf_models.models.repos.types import SearchResult, VariantInfo

MAX_VALUE_CHARS = 200
NO_REPO_SCAN = "not reported for the repo; hf_download_model checks the scan of each file"
# An option of the command line, such as --fits or --gated/--no-gated, which is an argument of the tool.
_OPTION = re.compile(r"--([a-z-]+)(?:/--no-\1)?")


def format_search(page: SearchModelsResult) -> Report:
    """Return one line for each repo that was found."""
    stale = ("The Hub can't be reached; these results are cached.",) if page.freshness.stale else ()
    if not page.results and page.totals["results"].total:
        return Report(NO_MORE_ROWS, None, stale)
    if not page.results:
        hints = [_OPTION.sub(_format_argument, hint) for hint in page.suggestions if "--library" not in hint]
        return Report("No models found.", f"{'; '.join(hints) or 'use other or fewer words'}.", stale)
    next_step = "hf_get_model(repo=…) shows the quantizations and which of them fit."
    return Report(
        join_lines(format_totals(page.totals), *map(_format_search_row, page.results)),
        suggest_next_page(page.next_cursor) or next_step,
        stale,
    )


def _format_argument(option: re.Match[str]) -> str:
    return option[1].replace("-", "_")


def _format_search_row(row: SearchResult) -> str:
    return f"{quote_label(row.id)}: " + join_parts(
        [
            f"{format_count(row.parameters)} parameters" if row.parameters else None,
            f"{quote_label(row.recommended_quant)} of about {format_size(row.recommended_bytes)}"
            if row.recommended_quant and row.recommended_bytes
            else None,
            row.license or "no licence stated",
            row.task,
            f"{row.downloads:,} downloads a month" if row.downloads is not None else None,
            "gated" if row.gated else None,
            {True: "fits this machine", False: "too large for this machine"}.get(row.fits)
            if row.fits is not None
            else None,
            f"on this machine as {', '.join(row.local_models)}" if row.local_models else None,
            format_update(row),
        ]
    )


def format_model(info: GetModelResult) -> Report:
    """Return one repo: its facts, its variants, and the variant that a download chooses."""
    facts = join_parts(
        [
            info.license or "no licence stated",
            (info.facts and info.facts.architecture) or info.architecture,
            f"context {info.context_length:,}" if info.context_length else None,
            f"gated ({info.access})" if info.gated else None,
            "Hub scan: " + (info.scan if info.scan_state != "not reported" else NO_REPO_SCAN),
            f"signature: {quote(info.signature.summary)}" if info.signature else None,
        ]
    )
    chosen = next((variant for variant in info.variants if variant.chosen), None)
    default = f"If ref names no quantization, hf_download_model downloads {info.choice_reason}." if chosen else None
    ref = f"{info.id}:{chosen.quant}" if chosen else ""
    none = "It has no GGUF variant that can be downloaded." if info.choice_reason is None else None
    conversions = [f"  GGUF conversion: {quote_label(row.id)}" for row in info.conversions]
    return Report(
        join_lines(
            f"{quote_label(info.id)} at {info.commit[:12]}: {facts}", none, format_totals(info.totals),
            *map(_format_variant, info.variants), *conversions,
            default, *info.notes, *(f"  file {quote_label(one.path)}: {format_size(one.size)}" for one in info.files),
        ),
        suggest_next_page(info.next_cursor) or (f"hf_download_model(ref={ref!r})." if chosen else None),
        ("The Hub can't be reached; this is cached.",) if info.freshness.stale else (),
        (("model card by the repo's owner", info.card),) if info.card else (),
    )  # fmt: skip


def _format_variant(variant: VariantInfo) -> str:
    return f"  {quote_label(variant.quant)}: " + join_parts(
        [
            format_size(variant.size),
            f"{variant.shards} shards" if variant.shards > 1 else None,
            "with vision projector" if variant.mmproj else None,
            variant.fit.reason if variant.fit else None,
            None if variant.fit is None or variant.fit.fits else "DOES NOT FIT",
            f"REFUSED because of the Hub's scan: {quote(variant.refused)}" if variant.refused else None,
            f"on this machine as {variant.local_model}" if variant.local_model else None,
            format_update(variant),
        ]
    )


def format_inspection(inspection: InspectGgufResult) -> Report:
    """Return the facts of a GGUF header, and the requested details, up to the size limit."""
    facts = inspection.facts
    details = [
        *map(_format_metadata, (inspection.metadata or {}).items()),
        *(f"{one.name}: {' x '.join(map(str, one.shape))} {one.type}" for one in inspection.tensors or ()),
    ]
    foreign = [("metadata and tensors of the file", "\n".join(details))] if details else []
    foreign += [("chat template of the file", inspection.chat_template)] if inspection.chat_template else []
    text = join_lines(
        f"{_label_file(inspection.file)}: GGUF v{inspection.version}, {inspection.tensor_count} tensors, "
        f"header {format_size(inspection.header_bytes)}"
        + (f" ({format_size(inspection.fetched_bytes)} fetched)" if inspection.fetched_bytes else ""),
        inspection.part,
        join_parts(
            [
                f"{facts.kind} model",
                facts.architecture,
                f"{format_count(facts.parameters)} parameters" if facts.parameters else None,
                facts.quantization,
                f"context {facts.context_length:,}" if facts.context_length else None,
                "chat template" if facts.chat_template else "no chat template",
                "tools" if facts.tools else None,
                "reasoning" if facts.reasoning else None,
                facts.license,
            ]
        ),
    )
    text = join_lines(text, format_totals(inspection.totals))
    return Report(text, suggest_next_page(inspection.next_cursor), foreign=tuple(foreign))


def _label_file(file: str) -> str:
    """Return the name of a local file, whose folder tells an agent nothing, or the path of a file in a repo."""
    return quote_label(Path(file).name if Path(file).is_absolute() else file)


def _format_metadata(pair: tuple[str, object]) -> str:
    key, value = pair
    text = clean_text(value if isinstance(value, str) else json.dumps(to_json(value)), MAX_VALUE_CHARS)
    return f"{key}: {text}"
