"""Render local models and this machine as text for agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_hf_mcp.answers import Report, replace_commands
from llm_hf_mcp.texts.parts import (
    format_date,
    format_freed,
    format_update,
    join_lines,
    join_parts,
    quote,
    suggest_next_page,
)
from llm_hf_mcp.verbosity import COMMIT_CHARS
from llm_hf_models.system.text import quote_label
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_mcp.results import EditAliasesResult, ListModelsResult, VerifyModelResult
    from llm_hf_mcp.verbosity import Level
    from llm_hf_models.models.types import LoadTestReport, LocalModelView, PromptResult, Removal, Verification
    from llm_hf_models.types import Status

MAX_ITEMS = 20
_USUAL_RESULTS = ("matches", "valid", "no findings", "loads", "no issue reported", "not reported", "not scanned")
_FINISH_TEXTS = {"length": "cut off at max_tokens", "loop": "stopped because it repeated the same text"}


def format_local_models(page: ListModelsResult, name: str, level: Level, warnings: Sequence[str]) -> Report:
    """Return one line for each local model on the page, and figures about all models with `name` in a name."""
    totals = page.totals["models"]
    if not totals.total and name:
        return Report("No local model has a matching name.", "hf_list_models() lists them all.")
    if not totals.total:
        return Report("There are no models on this machine.", "hf_search_models, then hf_download_model.")
    figures = (
        f"{totals.shown} of {totals.total} models, {format_size(totals.size_bytes or 0)} in all. Deleting all of them "
        f"frees {format_size(page.freed_bytes)}. {page.outdated} with an update, {page.unknown} not compared with the "
        "Hub."
    )
    update = next((each for each in page.models if each.update_available), None)
    next_step = f"hf_download_model(ref={update.id.removeprefix('hf/')!r}) gets the update." if update else None
    return Report(
        join_lines(figures, *(_format_local_model(each, level) for each in page.models)),
        suggest_next_page(page.next_cursor) or next_step,
        tuple(warnings),
    )


def _format_local_model(found: LocalModelView, level: Level) -> str:
    if level == "short":
        parts = [found.state, format_size(found.size_bytes) if found.files else None, format_update(found)]
        return f"{found.id}: {join_parts(parts)}"
    return f"{found.id}: " + join_parts(
        [
            f"also {' '.join(found.aliases)}" if found.aliases else None,
            found.state,
            found.kind,
            format_size(found.size_bytes) if found.files else None,
            format_freed(found),
            f"added {format_date(found.added)}",
            f"last used {format_date(found.last_used)}" if found.last_used else "never used",
            f"commit {found.commit[:COMMIT_CHARS]}" if found.commit else None,
            format_update(found),
            *format_checks(found, every=level == "full"),
            f"to fix: {replace_commands(found.fix)}" if found.fix else None,
            f"left out: {'; '.join(map(quote, found.left_out))}" if found.left_out else None,
        ]
    )


def format_checks(found: LocalModelView, *, every: bool = True) -> list[str]:
    """Return the newest result of each kind of check, with its date. Without `every`, only the unusual results."""
    newest = {check.kind: check for check in sorted(found.checks, key=lambda check: check.at)}
    return [
        f"{check.kind.replace('_', ' ')}: {_format_check_result(check.result, check.detail)}"
        f" ({format_date(check.at)}"
        + (f", {replace_commands(check.detail['doubt'])})" if check.detail.get("doubt") else ")")
        for check in newest.values()
        if every or check.detail.get("doubt") or check.result not in _USUAL_RESULTS
    ]


def _format_check_result(result: str, detail: Mapping[str, Any]) -> str:
    """Return the result of a check. If the Hub was not asked for its scans, add the reason."""
    reason = detail.get("problem") if result == "not asked" else detail.get("summary")
    return f"{result}: {quote(str(reason))}" if reason else result


def format_verification(verification: VerifyModelResult) -> Report:
    """Return the results of the checks, each by itself and never combined."""
    structure = verification.structure
    findings = [f"{finding.code}: {finding.message}" for finding in (structure.findings if structure else ())]
    text = join_lines(
        f"{verification.digest.id}: digest {_format_digest(verification)}",
        *(f"  {quote_label(path)}: {result}" for path, result in verification.digest.files),
        f"signature: {quote(verification.digest.signature.summary)}" if verification.digest.signature else None,
        f"structure: {structure.errors} errors, {structure.warnings} warnings"
        if structure
        else "structure: not checked",
        _format_load_test(verification.load_test) if verification.load_test else "load test: not run",
    )
    foreign = (("findings, which quote the file", "\n".join(findings)),) if findings else ()
    return Report(text, _format_fix(verification.digest), foreign=foreign)


def _format_fix(digest: Verification) -> str | None:
    if digest.fix is None:
        return None
    return f"to {'verify it' if digest.unchanged else 'fix it'}: {replace_commands(digest.fix)}"


def _format_digest(verification: VerifyModelResult) -> str:
    if verification.digest.unchanged:
        return "matches" if verification.digest.matches else "not verified"
    return (
        "does NOT match"
        if any(result.startswith("differs") for _, result in verification.digest.files)
        else "not verified"
    )


def _format_load_test(report: LoadTestReport) -> str:
    load_test = report.result
    why = f" ({quote(load_test.reason)})" if load_test.reason else ""
    return f"load test: {load_test.verdict}{why}, confined by {join_parts(load_test.layers) or 'nothing'}"


def format_response(done: PromptResult) -> Report:
    """Return the response of a model, labelled as the model's text."""
    figures = join_parts(
        [
            f"{done.output_tokens} tokens" if done.output_tokens is not None else None,
            f"{done.tokens_per_second:.1f} tokens/s" if done.tokens_per_second else None,
            f"loaded in {done.load_seconds:.1f} s" if done.load_seconds else None,
            _FINISH_TEXTS.get(done.finish_reason or ""),
        ]
    )
    return Report(f"Response of {done.id} ({figures}):", foreign=(("the local model", done.text),))


def format_removal(removed: Removal) -> Report:
    """Return the result of a deletion."""
    kept = (
        f" Kept, because others use or own them, or the user imported them: {join_parts(removed.kept[:MAX_ITEMS])}."
        if removed.kept
        else ""
    )
    default = f"It was llm's default model. The user chooses another one: {removed.llm_default}"
    return Report(
        f"Deleted {removed.id} and freed {format_size(removed.freed_bytes)}.{kept}",
        warnings=(default,) if removed.llm_default else (),
    )


def format_names(now: EditAliasesResult) -> Report:
    """Return all names of a model."""
    return Report(f"Other names of {now.id}: {join_parts(now.aliases) or 'none'}.")


def format_status(now: Status) -> Report:
    """Return a summary of this machine."""
    account = now.token.account
    token = f"token of {account.name}" if account else "no token, which gated and private models need"
    if account is None and now.token.source:
        token = f"an invalid token ({quote(now.token.problem or '')})"
    text = join_lines(
        f"memory: {format_size(now.machine.free_memory_bytes)} free of {format_size(now.machine.total_memory_bytes)}",
        f"disk: {format_size(now.disk_free_bytes)} free of {format_size(now.disk_total_bytes)}",
        f"{now.models} models, {format_size(now.models_bytes)}",
        f"Hub: {now.endpoint}{' (offline)' if now.offline else ''}, {token}",
        *(
            f"engine: {engine.id}, {format_size(engine.memory_bytes)}, context {engine.context}"
            for engine in now.engines
        ),
    )
    missing = now.sandbox.missing.items()
    warnings = [f"engines run without the sandbox layer {layer}: {reason}" for layer, reason in missing]
    problems = [problem for problem in (now.sandbox.problem, now.problem) if problem]
    return Report(text, warnings=(*warnings, *problems))


def list_names(found: Sequence[LocalModelView]) -> list[str]:
    """Return every name of the given local models."""
    return [name for each in found for name in (*each.aliases, each.id)]
