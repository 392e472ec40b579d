"""Render search results, repos and pulls as text. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_fields, format_table, wrap_words
from llm_hf_models.cli.views.signatures import render_signature
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_duration, format_size

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PlannedFile, PullPlan, PullResult
    from llm_hf_models.gguf.memory_fit import Fit
    from llm_hf_models.hub.types import HubFile, RepoSummary
    from llm_hf_models.models.repos.types import ModelInfo, SearchPage, SearchResult, VariantInfo
    from llm_hf_models.models.types import Freshness


# Prefixes of tags whose content is in another column.
OMITTED_TAG_PREFIXES = ("license:", "region:", "base_model:", "gguf")


def render_search(page: SearchPage, max_width: int | None) -> str:
    """Return a table of the repos that a search found."""
    columns = [
        Column("ID", min_width=32, keep_end=True),
        Column("PARAMS", 4, right=True),
        Column("QUANT", 6),
        Column("SIZE", 1, right=True),
        Column("FITS", 2),
        Column("LOCAL", 3, min_width=8),
        Column("GATED", 5),
        Column("DOWNLOADS", 7, right=True),
        Column("UPDATED", 8, right=True),
        Column("LIKES", 9, right=True),
        Column("LICENCE", 10, min_width=8, extra=True),
        Column("TASK", 11, min_width=10, extra=True),
        Column("TAGS", 12, min_width=12, extra=True),
    ]
    return format_table(columns, [_make_search_row(row) for row in page.results], max_width=max_width)


def _make_search_row(row: SearchResult) -> list[str]:
    tags = [tag for tag in row.tags if not tag.startswith(OMITTED_TAG_PREFIXES) and tag != row.task]
    return [
        row.id,
        cli_format.format_parameters(row.parameters),
        row.recommended_quant or "",
        f"~{format_size(row.recommended_bytes)}" if row.recommended_bytes else "",
        cli_format.format_yes_no(row.fits),
        ", ".join(_shorten_id(id_, row.id) for id_ in row.local_models),  # with its revision
        _describe_gating(row),
        cli_format.format_number(row.downloads),
        cli_format.format_age(row.updated),
        cli_format.format_number(row.likes),
        row.license or "",
        row.task or "",
        ", ".join(tags),
    ]


def _shorten_id(model_id: str, repo: str) -> str:
    """Return a model's id without its repo, which it may have in other capitals."""
    start = f"hf/{repo}"
    is_of_repo = model_id[: len(start)].casefold() == start.casefold()
    return model_id[len(start) :].removeprefix(":") if is_of_repo else model_id


def _describe_gating(repo: RepoSummary) -> str:
    return ", ".join(word for word in (repo.gated or "", "private" if repo.private else "") if word)


def render_no_results(page: SearchPage) -> str:
    """Return advice on how to change a search without results."""
    advice = "".join(f"\n  {line}" for line in page.suggestions)
    return "No results." + (f" To find more:{advice}" if advice else "")


def render_freshness(fresh: Freshness) -> str | None:
    """Return a sentence about the age of data from the metadata cache, or None for fresh data."""
    if fresh.source == "hub":
        return None
    age = format_duration(fresh.age)
    if fresh.stale:
        if fresh.problem:
            return f"{clean_text(fresh.problem)}. Showing cached data from {age} ago."
        return f"The Hub is unreachable. Showing cached data from {age} ago."
    return f"Showing cached data from {age} ago. Use --refresh for new data."


def render_info(found: ModelInfo, max_width: int | None) -> str:
    """Return the details of one repo: its facts, its variants, and the variant that a plain pull chooses."""
    facts = format_fields(
        [
            ("Model", found.id),
            ("Author", found.author),
            ("Task", found.task),
            ("Library", found.library),
            ("Architecture", (found.facts and found.facts.architecture) or found.architecture),
            ("Parameters", cli_format.format_parameters((found.facts and found.facts.parameters) or found.parameters)),
            ("Context", cli_format.format_tokens((found.facts and found.facts.context_length) or found.context_length)),
            ("Chat template", cli_format.describe_template(found.chat_template, found.facts)),
            ("Licence", found.license or "none stated"),
            ("Base model", ", ".join(found.base_models)),
            ("Gated", _describe_gating(found) or "no"),
            ("Access", found.access),
            ("Hub scan", _describe_scan(found)),
            ("Signature", render_signature(found.signature)),
            ("Downloads", cli_format.join_if_present(cli_format.format_number(found.downloads), "in 30 days")),
            ("Likes", cli_format.format_number(found.likes)),
            ("Created", cli_format.format_date(found.created)),
            (
                "Updated",
                cli_format.join_if_present(
                    cli_format.format_date(found.updated), f"({cli_format.format_age(found.updated)} ago)"
                ),
            ),
            ("Commit", cli_format.join_if_present(found.commit, f"({found.revision})" if found.revision else "")),
            ("Tags", ", ".join(found.tags)),
        ],
        max_width=max_width,
    )
    parts = [facts]
    if found.variants:
        parts.append(_render_variants(found.variants, max_width))
    parts += [wrap_words(clean_text(line), max_width) for line in _list_pull_notes(found)]
    if not found.variants and not found.notes:
        parts.append(_render_conversions(found, max_width))
    parts += [wrap_words(f"Note: {clean_text(line)}", max_width) for line in found.notes]
    return "\n\n".join(parts)


def _list_pull_notes(found: ModelInfo) -> list[str]:
    """Return sentences about the variant that a plain pull chooses, and about those that a pull refuses."""
    notes = [f"A plain pull chooses {found.choice_reason}"] if found.choice_reason else []
    refused = [variant for variant in found.variants if variant.refused]
    if refused:
        plain = "This and every" if any(variant.chosen for variant in refused) else "A"
        notes.append(f"{plain} pull of a variant marked REFUSED needs --allow-unsafe, because of the Hub's scan.")
    return notes


def _render_conversions(found: ModelInfo, max_width: int | None) -> str:
    """Return the GGUF conversions of a repo without GGUF files, and the next command."""
    if not found.conversions:
        name = found.id.partition("/")[2]
        text = "The repo has no GGUF files, and the Hub lists no GGUF conversion of it."
        return wrap_words(f"{text} Search for one: llm hf search {name}", max_width)
    columns = [Column("GGUF CONVERSION", min_width=32, keep_end=True), Column("DOWNLOADS", 1, right=True)]
    rows = [[row.id, cli_format.format_number(row.downloads)] for row in found.conversions]
    table = format_table(columns, rows, max_width=max_width)
    return f"The repo has no GGUF files.\n\n{table}\n\nPull the first one: llm hf pull {found.conversions[0].id}"


def _render_variants(variants: Sequence[VariantInfo], max_width: int | None) -> str:
    columns = [
        Column("QUANT"),
        Column("BITS", 4, right=True),
        Column("SIZE", right=True),
        Column("SHARDS", 5, right=True),
        Column("MMPROJ", 3, right=True),
        Column("REFUSED", 1),
        Column("LOCAL", 2),
        Column("FITS", 3),
        Column("REASON", 6, min_width=20, wrap=True),
    ]
    rows = [
        [
            variant.quant,
            f"{variant.bits_per_weight:.1f}" if variant.bits_per_weight else "",
            format_size(variant.size),
            str(variant.shards) if variant.shards > 1 else "",
            format_size(variant.mmproj_size) if variant.mmproj else "",
            "unsafe" if variant.refused else "",
            "yes" if variant.local_model else "",
            cli_format.format_yes_no(variant.fit.fits if variant.fit else None),
            variant.fit.reason if variant.fit else "",
        ]
        for variant in variants
    ]
    return format_table(
        columns, rows, max_width=max_width, bold=[at for at, variant in enumerate(variants) if variant.chosen]
    )


def render_repo_files(found: ModelInfo, max_width: int | None) -> str:
    """Return a table of a repo's files."""
    columns = [
        Column("FILE", min_width=24, keep_end=True),
        Column("SIZE", 1, right=True),
        Column("HUB SCAN", 2),
        Column("DIGEST", 3, extra=True),
    ]
    return format_table(columns, [_make_file_row(file) for file in found.files], max_width=max_width)


def _make_file_row(file: HubFile) -> list[str]:
    digest = f"sha256:{file.sha256}" if file.sha256 else f"git:{file.git_sha1}" if file.git_sha1 else ""
    return [file.path, format_size(file.size), file.scan or "", digest]


# A pull


def _describe_scan(found: ModelInfo) -> str:
    return "not reported for the repo; a pull checks each file" if found.scan_state == "not reported" else found.scan


def render_plan(planned: PullPlan, max_width: int | None) -> str:
    """Return the plan of a pull, for `--dry-run`."""
    columns = [Column("FILE", min_width=24, keep_end=True), Column("SIZE", right=True), Column("STATE", 1)]
    rows = [[file.path, format_size(file.size), _describe_state(file)] for file in planned.files]
    facts = format_fields(
        [
            ("Model", planned.model_id or "none (files only)"),
            ("Repo", planned.repo),
            ("Commit", cli_format.join_if_present(planned.commit, f"({planned.revision})" if planned.revision else "")),
            ("Quantization", _format_reason(planned.quant, planned.reason)),
            ("Left out", "\n".join((*planned.left_out, *planned.unusable))),
            ("Parameters", _format_parameters(planned)),
            ("Fits", _format_fit(planned.fit)),
            ("Aliases", ", ".join(planned.aliases)),
            ("No alias", "\n".join(f"{name}: it {reason}" for name, reason in planned.refused_aliases.items())),
            ("Folder", planned.folder),
            ("Replaces", "\n".join(planned.replaces)),
            (
                "Hub scan",
                "\n".join([planned.scan or "not reported", *cli_format.summarize_scans(map(asdict, planned.scans))]),
            ),
            ("Signature", render_signature(planned.signature)),
            ("Header", "\n".join(f"{finding.severity}: {finding.message}" for finding in planned.findings)),
            ("Download", f"{format_size(planned.fetch_bytes)} of {format_size(planned.total_bytes)}"),
        ],
        max_width=max_width,
    )
    return f"{facts}\n\n{format_table(columns, rows, max_width=max_width)}"


def _format_parameters(planned: PullPlan) -> str:
    """Return the number of parameters and their bits; `unknown` for a model if its headers don't tell them."""
    if planned.facts is None:
        return ""
    bits = planned.facts.bits_per_weight
    parameters = cli_format.format_parameters(planned.facts.parameters) or "unknown"
    return f"{parameters}, {bits:.2f} bits per weight" if bits else parameters


def _describe_state(file: PlannedFile) -> str:
    if file.local:
        return "on disk"
    if file.copy:
        return "to copy from the cache"
    return f"{format_size(file.partial)} on disk" if file.partial else "to download"


def render_choice(planned: PullPlan, *, warns_of_memory: bool) -> str:
    """Return the chosen variant, the reason for it and the warnings, before a pull starts."""
    stale = render_freshness(planned.freshness) if planned.freshness.stale else None
    if planned.already_complete:
        return f"{planned.model_id} is already on this machine." + (f" {stale}" if stale else "")
    lines = [f"{planned.repo}, {_format_reason(planned.quant, planned.reason)}" if planned.quant else planned.ref]
    lines += [f"Warning: {stale}"] if stale else []
    if warns_of_memory and planned.fit and not planned.fit.fits:
        lines.append(f"Warning: the model does not fit this machine's memory: {planned.fit.reason}")
    lines += [f"Left out {line}." for line in (*planned.left_out, *planned.unusable)]
    lines += [f"Warning: Hub scan: {line}" for line in planned.scan_warnings]
    lines += [f"Warning: Hub scan not asked: {planned.scan_problem}"] if planned.scan_problem else []
    lines += [f"Warning: signature: {line}" for line in (planned.signature.warnings if planned.signature else ())]
    lines += [f"{finding.severity.capitalize()}: {finding.message}" for finding in planned.findings
              if finding.severity != "note"]  # fmt: skip
    return "\n".join(map(clean_text, lines))


def _format_reason(quant: str | None, reason: str) -> str:
    """Return quantization and reason. A reason for an automatic choice already starts with the quantization."""
    if not quant:
        return ""
    return reason if reason.startswith(f"{quant}:") else f"{quant}: {reason}"


def list_missing_aliases(planned: PullPlan, aliases: Sequence[str] = ()) -> list[str]:
    """Return a line for each short name that does not select the model, and the command that gives it another name."""
    kind = planned.facts.kind if planned.facts else "chat"
    return cli_format.explain_missing_aliases(str(planned.model_id), planned.refused_aliases, aliases, kind)


def render_pull_result(result: PullResult) -> str:
    """Return a pull's downloaded bytes and speed, and the command to use the model."""
    lines = [f"Warning: {clean_text(warning)}" for warning in result.warnings]
    if result.fetched_bytes:
        speed = format_size(result.fetched_bytes / max(result.elapsed_seconds, 0.001))
        moved = f"{format_size(result.fetched_bytes)} in {cli_format.format_elapsed(result.elapsed_seconds)}"
        lines.append(f"Downloaded {moved} ({speed}/s). Digests match the Hub's.")
    if result.other_process_bytes:
        lines.append(f"Another process downloaded {format_size(result.other_process_bytes)}. Digests match the Hub's.")
    if not (result.fetched_bytes or result.other_process_bytes or result.plan.already_complete):
        copied = any(file.copy for file in result.plan.files)
        lines.append("Copied from the cache; nothing to download." if copied else "Nothing to download.")
    if result.is_copy:
        lines.append(f"This is an additional copy: {result.id} keeps its own files.")
    if result.id:
        kind = result.plan.facts.kind if result.plan.facts else "chat"
        lines += list_missing_aliases(result.plan, result.aliases)
        lines.append(cli_format.suggest_usage(result.id, result.plan.options.aliases or result.aliases, kind))
    return "\n".join(lines)


def _format_fit(fit: Fit | None) -> str:
    return f"{cli_format.format_yes_no(fit.fits)}: {fit.reason}" if fit else ""
