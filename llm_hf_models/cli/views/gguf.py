"""Render GGUF headers, checks and load tests as text. `max_width` is in columns; None means no limit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_fields, format_table
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.models.repos.types import CheckReport, Inspection, TensorView
    from llm_hf_models.models.types import LoadTestReport


MAX_ITEMS = 6  # of an array
SKIPPED_ARRAY, SKIPPED_TEXT = {"type_name", "length"}, {"length"}  # fields of gguf.types.ArrayInfo and StringInfo


def render_inspection(found: Inspection, max_width: int | None) -> str:
    """Return a summary of a GGUF header: facts about the model, then about the file."""
    facts = found.facts
    types = sorted(facts.tensor_types.items(), key=lambda pair: -pair[1])
    return format_fields(
        [
            ("File", found.file),
            ("Part", found.part),
            ("Name", facts.name),
            ("Kind", facts.kind),
            ("Architecture", facts.architecture),
            ("Parameters", cli_format.format_parameters(facts.parameters)),
            ("Quantization", facts.quantization),
            ("Bits per weight", f"{facts.bits_per_weight:.2f}" if facts.bits_per_weight else None),
            ("Weights", cli_format.format_bytes(facts.weights_bytes)),
            ("Tensors", f"{found.tensor_count:,}: " + ", ".join(f"{count:,} {name}" for name, count in types)),
            ("Blocks", str(facts.block_count) if facts.block_count else None),
            ("Context", cli_format.format_tokens(facts.context_length)),
            ("KV cache", f"{format_size(facts.kv_bytes_per_token)} per token" if facts.kv_bytes_per_token else None),
            (
                "Tokenizer",
                cli_format.join_if_present(facts.tokenizer, f"({facts.vocabulary_size or 0:,} tokens)"),
            ),
            ("Chat template", cli_format.describe_template(facts.chat_template, facts)),
            ("Input", ", ".join(facts.modalities)),
            ("Sampling", ", ".join(f"{key} {value:g}" for key, value in facts.sampling.items())),
            ("Licence", facts.license),
            ("Base model", ", ".join(facts.base_models)),
            ("Header", f"GGUF {found.version}, {found.byte_order}-endian, {format_size(found.header_bytes)}"),
            ("Downloaded", format_size(found.fetched_bytes) if found.fetched_bytes else None),
        ],
        max_width=max_width,
    )


def render_metadata(pairs: Mapping[str, Any], max_width: int | None) -> str:
    """Return a table of metadata. Long arrays are summarised."""
    rows = [[key, _format_metadata(value)] for key, value in pairs.items()]
    return format_table([Column("KEY"), Column("VALUE", 1, min_width=20)], rows, max_width=max_width)


def _format_metadata(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict) and set(value) == SKIPPED_ARRAY:
        return f"{value['length']:,} values of type {value['type_name']}"
    if isinstance(value, dict) and set(value) == SKIPPED_TEXT:
        return f"text of {value['length']:,} bytes"
    if not isinstance(value, list):
        return cli_format.format_value(value)
    shown = ", ".join(json.dumps(one) if isinstance(one, str) else _format_metadata(one) for one in value[:MAX_ITEMS])
    return f"{len(value):,} values: {shown}, …" if len(value) > MAX_ITEMS else f"[{shown}]"


def render_tensors(tensors: Sequence[TensorView], max_width: int | None) -> str:
    """Return a table of tensors."""
    columns = [Column("TENSOR", min_width=20), Column("SHAPE", 1), Column("TYPE"), Column("OFFSET", 2, right=True)]
    rows = [
        [one.name, " x ".join(map(str, one.shape)), one.type, cli_format.format_number(one.offset)] for one in tensors
    ]
    return format_table(columns, rows, max_width=max_width)


def render_check(report: CheckReport, max_width: int | None) -> str:
    """Return a table of findings and a summary."""
    columns = [
        Column("SEVERITY"),
        Column("CODE"),
        Column("LOCATION", 3, min_width=12),
        Column("FINDING", min_width=30, wrap=True),
        Column("WHY IT MATTERS", 2, min_width=40, wrap=True, below=True),
    ]
    rows = [[one.severity, one.code, one.where or "", one.message, one.why or ""] for one in report.findings]
    scope = "" if report.complete else " Only the header was checked, because the file is on the Hub."
    count = f"{_format_count(report.errors, 'error')}, {_format_count(report.warnings, 'warning')}"
    own_template = (
        "your own (llm hf set), checked too; the file's template is not used" if report.own_template else None
    )
    pairs = [
        ("File", report.source),
        ("Part", report.part),
        ("Chat template", own_template),
        ("Result", f"{count}.{scope}"),
    ]
    summary = format_fields(pairs, max_width=max_width)
    return f"{format_table(columns, rows, max_width=max_width)}\n\n{summary}" if rows else summary


def render_load_test(report: LoadTestReport, max_width: int | None) -> str:
    """Return the verdict of a load test, its measurements and the active sandbox layers."""
    result = report.result
    return format_fields(
        [
            ("Model", report.source),
            ("Verdict", result.verdict + (f": {result.reason}" if result.reason else "")),
            ("Files", report.doubt),
            ("Loaded in", f"{result.load_seconds:.2f} s" if result.load_seconds is not None else None),
            ("Peak memory", cli_format.format_bytes(result.peak_memory)),
            ("Speed", cli_format.format_speed(result.tokens_per_second)),
            ("Output", result.output),
            ("Confined by", ", ".join(result.layers) or ("nothing" if report.ran else None)),
            ("Inactive layers", "; ".join(f"{layer}: {reason}" for layer, reason in result.missing)),
            ("Last log lines", result.engine_log),
        ],
        max_width=max_width,
    )


def _format_count(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
