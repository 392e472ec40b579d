"""Render local models. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import INDENT, Column, format_fields, format_table, wrap_words
from llm_hf_models.cli.views import running as running_views
from llm_hf_models.library.types import ModelSummary
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.library.records import Check
    from llm_hf_models.models.types import (
        ImportResult,
        LibrarySurvey,
        LocalModelView,
        Removal,
        Verification,
        VersionView,
    )

MAX_LINE_CHARS = 400


def summarize(model: LocalModelView) -> ModelSummary:
    """Return the row of a model in a table."""
    values = {name: getattr(model, name) for name in ModelSummary._fields if hasattr(model, name)}
    return ModelSummary(**{**values, "size_bytes": model.size_bytes if model.files else None})


def render_local_models(
    models: Sequence[ModelSummary], max_width: int | None, *, survey: bool = False, with_collections: bool = False
) -> str:
    """Return a table of local models.

    Args:
        models: The models.
        max_width: The width.
        survey: Add the columns that only a survey fills.
        with_collections: Add the collections of each model.
    """
    columns = [
        Column("ALIAS", min_width=20, keep_end=True),
        Column("ID", min_width=24, keep_end=True),
        Column("SIZE", 2, right=True),
        Column("STATE", 1),
        Column("KIND", 3),
        *([Column("UPDATE", 1), Column("FREES", 2, right=True)] if survey else []),
        *([Column("COLLECTIONS", min_width=11, below=True)] if with_collections else []),
        Column("USED", 4, right=True),
        Column("QUANT", 5, extra=True),
        Column("REVISION", 6, extra=True),
        Column("PINNED", 6, extra=True),
        Column("OTHER ALIASES", 7, min_width=20, extra=True),
    ]
    return format_table(
        columns, [_make_model_row(model, survey, with_collections) for model in models], max_width=max_width
    )


def _make_model_row(model: ModelSummary, survey: bool, with_collections: bool) -> list[str]:
    shortest, *others = _sort_aliases(model.aliases) or [""]
    return [
        shortest,
        model.id,
        cli_format.format_bytes(model.size_bytes),
        running_views.format_state(model),
        model.kind,
        *([_format_update(model), format_size(model.freed_bytes or 0)] if survey else []),
        *([", ".join(model.collections)] if with_collections else []),
        cli_format.format_age(model.last_used) or "never",
        model.quant,
        _format_revision(model),
        "pinned" if model.pinned else "",
        ", ".join(others),
    ]


def _sort_aliases(aliases: Sequence[str]) -> list[str]:
    return sorted(aliases, key=len)


def _format_update(model: ModelSummary) -> str:
    words = {True: "available", False: "up to date"}
    return f"unknown: {model.update_note}" if model.update_available is None else words[model.update_available]


def render_totals(survey: LibrarySurvey, max_width: int | None) -> str:
    """Return the number and size of the models of a survey, and the space that removing all of them frees."""
    count = len(survey.models)
    text = (
        f"{count} {'model' if count == 1 else 'models'}, {format_size(survey.size_bytes)} on the disk, "
        f"{format_size(survey.freed_bytes)} of which removing all of them frees. "
        f"{survey.outdated} with an update, {survey.unknown} unknown."
    )
    return wrap_words(text, max_width)


def _format_revision(model: ModelSummary) -> str:
    commit = (model.commit or "")[: cli_format.SHORT_COMMIT]
    return f"{model.revision} {commit}".strip() if model.revision and model.revision != model.commit else commit


def render_repairs(models: Sequence[ModelSummary]) -> str:
    """Return a line with the remedy for each model that is not ready, or an empty string."""
    lines = [f"{model.id} is {model.state}: {model.fix}" for model in models if model.fix]
    lines += [running_views.format_problem(model.health) for model in models if model.health and model.health.problem]
    return "\n".join(clean_text(line, MAX_LINE_CHARS) for line in lines)


def render_aliases(aliases: Mapping[str, str], max_width: int | None) -> str:
    """Return a table of aliases with their models."""
    rows = [[alias, model_id] for alias, model_id in aliases.items()]
    return format_table(
        [Column("ALIAS"), Column("MODEL", min_width=24, keep_end=True)], sorted(rows), max_width=max_width
    )


def render_local_model(model: LocalModelView, max_width: int | None) -> str:
    """Return a local model's facts, its checks with their dates, and its files. The checks are never combined."""
    facts = model.facts
    summary = format_fields(
        [
            ("Model", model.id),
            ("Aliases", ", ".join(_sort_aliases(model.aliases))),
            ("Collections", ", ".join(model.collections)),
            ("State", model.state + (f": {model.fix}" if model.fix else "")),
            ("Kind", model.kind),
            ("Endpoint", model.endpoint),
            ("Remote model", model.endpoint_model),
            ("API key", _describe_key_source(model)),
            ("Repo", model.repo),
            ("Commit", cli_format.join_if_present(model.commit, f"({model.revision})" if model.revision else "")),
            ("Pinned", "`llm hf update` leaves it at this commit" if model.pinned else None),
            ("Other versions", "\n".join(map(format_version, model.other_versions))),
            ("Quantization", model.quant),
            ("Size", format_size(model.size_bytes) if model.files else None),
            ("Architecture", facts.architecture),
            ("Parameters", cli_format.format_parameters(facts.parameters)),
            ("Context", cli_format.format_tokens(facts.context_length)),
            ("Chat template", _describe_template(model)),
            ("Input", ", ".join(("text", *facts.modalities)) if facts.modalities else None),
            ("Left out", "\n".join(model.left_out)),
            ("Licence", facts.license or str(model.hub.get("license") or "")),
            ("Base model", ", ".join(facts.base_models)),
            ("Added", cli_format.format_date(model.added)),
            ("Last used", cli_format.format_date(model.last_used) or "never"),
            *((f"{_format_check_title(check)}", _format_check(check)) for check in _select_newest(model.checks)),
        ],
        max_width=max_width,
    )
    columns = [
        Column("FILE", min_width=24, keep_end=True),
        Column("ROLE", 2),
        Column("SIZE", 1, right=True),
        Column("LOCATION", 3, below=True),
    ]
    rows = [[file.path, file.role, format_size(file.size), file.location] for file in model.files]
    parts = [format_table(columns, rows, max_width=max_width)] if rows else []
    if model.defaults:
        parts.append(running_views.render_defaults(model.defaults, max_width))
    if model.sampling:
        parts.append(running_views.render_sampling(model.sampling, max_width))
    return "\n\n".join([summary, *parts])


def format_version(version: VersionView) -> str:
    """Return another version of a model: its commit, its date, and whether its files are on this machine."""
    commit, when = (version.commit or "")[: cli_format.SHORT_COMMIT], cli_format.format_date(version.replaced)
    if version.state == "refused" and version.problem is None:
        return f"{commit}, not used: its update was cancelled"
    if version.state == "refused":
        return f"{commit}, not used: its load test failed on {when} ({version.problem})"
    if version.state == "untested":
        return f"{commit}, not used: its load test has not ended"
    place = f"{format_size(version.size_bytes)} kept" if version.on_disk else "its files are removed"
    return f"{commit}, replaced on {when}, {place}"


def _describe_template(model: LocalModelView) -> str | None:
    """Return a description of the chat template. None for a remote endpoint, whose template is unknown."""
    if model.endpoint or model.kind not in ("chat", "base"):
        return None
    return cli_format.describe_template(model.facts.chat_template, model.facts)


def _describe_key_source(model: LocalModelView) -> str | None:
    if model.key_env:
        return f"the environment variable {model.key_env}"
    return f"llm's keys: {model.key_name}" if model.key_name else None


def _select_newest(checks: Sequence[Check]) -> list[Check]:
    newest: dict[str, Check] = {}
    for check in checks:
        if check.kind not in newest or check.at > newest[check.kind].at:
            newest[check.kind] = check
    return list(newest.values())


def _format_check_title(check: Check) -> str:
    titles = {"scan": "Hub scan", "load_test": "Load test"}
    return titles.get(check.kind, check.kind.capitalize())


def _format_check(check: Check) -> str:
    detail: Mapping[str, Any] = check.detail
    if check.kind == "signature":
        return f"{detail.get('summary') or check.result}\nchecked on {cli_format.format_date(check.at)}"
    source = (
        f" {detail['repo']}@{str(detail['commit'])[: cli_format.SHORT_COMMIT]}"
        if detail.get("repo") and detail.get("commit")
        else ""
    )
    problem = detail.get("problem") if check.kind == "scan" else None
    result = f"{check.result}: {problem}" if problem and check.result == "not asked" else check.result
    findings = [f"\nnot asked for each file: {problem}"] if problem and check.result != "not asked" else []
    findings += [f"\n{finding['severity']}: {finding['message']}" for finding in detail.get("findings", ())]
    files = detail.get("files", ()) if check.kind == "scan" else ()
    findings += [f"\n{line}" for line in cli_format.summarize_scans(files)]
    if detail.get("doubt"):
        findings.append(f"\n{detail['doubt']}")
    if detail.get("unsafe"):
        findings.append(f"\npulled despite the scan (--allow-unsafe): {', '.join(detail['unsafe'])}")
    return f"{result}{source}, {cli_format.format_date(check.at)}" + "".join(findings)


def render_verification(done: Verification, max_width: int | None = None) -> str:
    """Return a line for each file, and the remedy if a file doesn't match its record. Long lines are wrapped."""
    lines = [f"{done.id}: {path}: {result}" for path, result in done.files]
    if done.scan is not None:
        lines.append(f"{done.id}: Hub scan: " + _format_check(done.scan).replace("\n", "; "))
    if done.signature is not None:
        lines.append(f"{done.id}: Signature: " + done.signature.summary.replace("\n", "; "))
    if done.fix:
        lines.append(f"{'Verify' if done.unchanged else 'Repair'} it: {done.fix}")
    return "\n".join(wrap_words(clean_text(line), max_width, indent=INDENT) for line in lines)


def render_verified_count(done: Sequence[Verification]) -> str:
    """Return how many models match."""
    return f"{sum(each.matches for each in done)} of {len(done)} match."


def render_removal(removed: Removal) -> str:
    """Return the files that a removal deletes and keeps, and the space it frees."""
    lines = [f"{'Removed' if removed.done else 'Would remove'} {removed.id}"]
    lines += [f"  {path}" for path in removed.files]
    lines += [f"  kept: {path}" for path in removed.kept]
    lines.append(f"{'Freed' if removed.done else 'Would free'} {format_size(removed.freed_bytes)}.")
    if removed.llm_default:
        verb = "was" if removed.done else "is"
        lines.append(f"It {verb} llm's default model. Choose another one: {removed.llm_default}")
    return "\n".join(lines)


def render_import(done: ImportResult, requested_aliases: Sequence[str] = ()) -> str:
    """Return the model that an import registered, and the command to use it by its requested alias, if any."""
    model = done.model
    usage = cli_format.suggest_usage(model.id, requested_aliases or model.aliases, model.kind)
    projector = next((file.path for file in model.files if file.role == "mmproj"), None)
    inputs = f" The projector {projector} adds {' and '.join(model.facts.modalities)} input." if projector else ""
    left_out = "".join(f"\nLeft out {clean_text(line)}." for line in model.left_out)
    names = cli_format.explain_missing_aliases(model.id, done.refused_aliases, model.aliases, model.kind)
    return "\n".join([f"Registered {model.id}. Digest: {done.digest}.{inputs}{left_out}", *names, usage])
