"""Render tool results as text for models: short lines, complete enough for hosts that ignore the JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_hf_mcp.answers import Report, replace_commands
from llm_hf_mcp.list_texts import format_date, format_freed, format_totals, format_update
from llm_hf_mcp.verbosity import COMMIT_CHARS
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.text import clean_text, quote_label
from llm_hf_models.system.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from llm_hf_mcp.results import (
        DownloadModelResult,
        EditAliasesResult,
        GetDownloadsResult,
        GetModelResult,
        ImportModelResult,
        InspectGgufResult,
        ListModelsResult,
        SearchModelsResult,
        UpdateModelResult,
        VerifyModelResult,
    )
    from llm_hf_mcp.verbosity import Level
    from llm_hf_models.downloads.types import DownloadView
    from llm_hf_models.library.download_records import DownloadNote
    from llm_hf_models.models.repo_types import SearchResult, VariantInfo
    from llm_hf_models.models.types import LoadTestReport, LocalModelView, PromptResult, Removal, Verification
    from llm_hf_models.other_tools.types import FoundModel
    from llm_hf_models.types import Status

MAX_ITEMS = 20
MAX_VALUE_CHARS = 200
MAX_QUOTE_CHARS = 300
NO_MORE_ROWS = "There are no more rows. Omit the cursor for the first page."
NO_REPO_SCAN = "not reported for the repo; hf_download_model checks the scan of each file"
_EVENT_TEXTS = {
    "queued": "was queued", "started": "has started", "done": "is done", "failed": "has failed", "paused": "was paused",
    "cancelled": "was cancelled", "stalled": "stalled", "retrying": "was retried", "waiting": "had to wait",
    "verifying": "is being verified",
}  # fmt: skip
_USUAL_RESULTS = ("matches", "valid", "no findings", "loads", "no issue reported", "not reported", "not scanned")
_RESTART_COMMAND = "The user can run `llm hf downloads` to continue all downloads that wait for a worker."
# An option of the command line, such as --fits or --gated/--no-gated, which is an argument of the tool.
_FINISH_TEXTS = {"length": "cut off at max_tokens", "loop": "stopped because it repeated the same text"}
_OPTION = re.compile(r"--([a-z-]+)(?:/--no-\1)?")


def _join_lines(*lines: str | None) -> str:
    return "\n".join(clean_text(line, 600) if "\n" not in line else line for line in lines if line)


def _join_parts(parts: Iterable[str | None]) -> str:
    return ", ".join(part for part in parts if part)


def _quote(text: str) -> str:
    """Return a text that may quote others, in quotes and shortened."""
    return json.dumps(clean_text(text, MAX_QUOTE_CHARS), ensure_ascii=False)


def _suggest_next_page(cursor: str | None) -> str | None:
    return f"there are more rows: call again with cursor={cursor!r}." if cursor else None


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
        _join_lines(format_totals(page.totals), *map(_format_search_row, page.results)),
        _suggest_next_page(page.next_cursor) or next_step,
        stale,
    )


def _format_argument(option: re.Match[str]) -> str:
    return option[1].replace("-", "_")


def _format_search_row(row: SearchResult) -> str:
    return f"{quote_label(row.id)}: " + _join_parts(
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
    facts = _join_parts(
        [
            info.license or "no licence stated",
            (info.facts and info.facts.architecture) or info.architecture,
            f"context {info.context_length:,}" if info.context_length else None,
            f"gated ({info.access})" if info.gated else None,
            "Hub scan: " + (info.scan if info.scan_state != "not reported" else NO_REPO_SCAN),
            f"signature: {_quote(info.signature.summary)}" if info.signature else None,
        ]
    )
    chosen = next((variant for variant in info.variants if variant.chosen), None)
    default = f"If ref names no quantization, hf_download_model downloads {info.choice_reason}." if chosen else None
    ref = f"{info.id}:{chosen.quant}" if chosen else ""
    none = "It has no GGUF variant that can be downloaded." if info.choice_reason is None else None
    conversions = [f"  GGUF conversion: {quote_label(row.id)}" for row in info.conversions]
    return Report(
        _join_lines(
            f"{quote_label(info.id)} at {info.commit[:12]}: {facts}", none, format_totals(info.totals),
            *map(_format_variant, info.variants), *conversions,
            default, *info.notes, *(f"  file {quote_label(one.path)}: {format_size(one.size)}" for one in info.files),
        ),
        _suggest_next_page(info.next_cursor) or (f"hf_download_model(ref={ref!r})." if chosen else None),
        ("The Hub can't be reached; this is cached.",) if info.freshness.stale else (),
        (("model card by the repo's owner", info.card),) if info.card else (),
    )  # fmt: skip


def _format_variant(variant: VariantInfo) -> str:
    return f"  {quote_label(variant.quant)}: " + _join_parts(
        [
            format_size(variant.size),
            f"{variant.shards} shards" if variant.shards > 1 else None,
            "with vision projector" if variant.mmproj else None,
            variant.fit.reason if variant.fit else None,
            None if variant.fit is None or variant.fit.fits else "DOES NOT FIT",
            f"REFUSED because of the Hub's scan: {_quote(variant.refused)}" if variant.refused else None,
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
    text = _join_lines(
        f"{_label_file(inspection.file)}: GGUF v{inspection.version}, {inspection.tensor_count} tensors, "
        f"header {format_size(inspection.header_bytes)}"
        + (f" ({format_size(inspection.fetched_bytes)} fetched)" if inspection.fetched_bytes else ""),
        inspection.part,
        _join_parts(
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
    text = _join_lines(text, format_totals(inspection.totals))
    return Report(text, _suggest_next_page(inspection.next_cursor), foreign=tuple(foreign))


def _label_file(file: str) -> str:
    """Return the name of a local file, whose folder tells an agent nothing, or the path of a file in a repo."""
    return quote_label(Path(file).name if Path(file).is_absolute() else file)


def _format_metadata(pair: tuple[str, object]) -> str:
    key, value = pair
    text = clean_text(value if isinstance(value, str) else json.dumps(to_json(value)), MAX_VALUE_CHARS)
    return f"{key}: {text}"


def format_download(row: DownloadView) -> str:
    """Return one download as a line."""
    part = f"{row.done_bytes / row.total_bytes:.0%} of {format_size(row.total_bytes)}" if row.total_bytes else ""
    return f"Download {row.id}: {quote_label(row.ref)} is {row.state}" + "".join(
        f", {part}"
        for part in (
            f"{row.requested_action} requested" if row.requested_action else None,
            part,
            f"{format_size(row.bytes_per_second)}/s" if row.bytes_per_second else None,
            f"about {format_duration(row.remaining_seconds)} left" if row.remaining_seconds else None,
            f"reported error {_quote(row.error)}" if row.error else None,
            "no worker is running" if row.needs_worker else None,
        )
        if part
    )


def format_download_details(row: DownloadView, log: Sequence[DownloadNote] = ()) -> Report:
    """Return one download: its state, its last problem, and the next step."""
    last = next((note for note in reversed(log) if note.kind not in ("progress", "verifying")), None)
    kinds = ("stalled", "retrying", "waiting")
    has_problem = last is not None and row.state in ("running", "paused") and last.kind in kinds and not row.error
    text = _join_lines(format_download(row), _format_note(last) if last and has_problem else None)
    return Report(text, _suggest_next_step(row))


def _format_note(note: DownloadNote) -> str:
    age = format_duration(max(0.0, time.time() - note.at))
    return f"{age} ago it {_EVENT_TEXTS.get(note.kind, note.kind)}: {_quote(note.message)}"


def _suggest_next_step(row: DownloadView) -> str:
    if row.needs_worker:
        return f"hf_control_download(id={row.id}, action='resume') continues it. {_RESTART_COMMAND}"
    if row.requested_action in ("pause", "cancel"):
        return f"hf_get_downloads(id={row.id}, wait_seconds=10). It stops within seconds."
    return {
        "failed": f"hf_control_download(id={row.id}, action='retry') once the cause is fixed.",
        "paused": f"hf_control_download(id={row.id}, action='resume') continues it.",
        "done": f"hf_list_models(name={row.repo!r}) for its name, then hf_run_prompt. It is complete and verified.",
        "cancelled": f"hf_control_download(id={row.id}, action='retry') starts it again.",
    }.get(row.state, f"hf_get_downloads(id={row.id}, wait_seconds=45). It continues in the background.")


def format_event(row: DownloadView, note: DownloadNote) -> str:
    """Return one log entry of a download, for a host's log."""
    about = f"Download {row.id} ({row.ref})" if not is_file_note(note) else f"{note.message} of download {row.id}"
    message = "" if is_file_note(note) else f": {note.message}" * bool(note.message)
    return clean_text(f"{about} {_EVENT_TEXTS.get(note.kind, note.kind)}{message}", 600)


def is_file_note(note: DownloadNote) -> bool:
    """Return whether a log entry is about one file. The last entry of a whole download names its model."""
    named = note.kind == "done" and note.message.startswith("hf/")
    return note.kind in ("started", "verifying", "done") and bool(note.message) and not named


def format_pull(now: DownloadModelResult) -> Report:
    """Return the state of a download, and the next step."""
    report = _format_pull_state(now)
    return replace(report, warnings=(*report.warnings, now.note)) if now.note else report


def _format_pull_state(now: DownloadModelResult) -> Report:
    if now.model is not None:
        how = "was on this machine already" if now.download is None else "was downloaded"
        names = _join_parts(now.model.aliases) or now.model.id
        checks = _join_parts(_format_checks(now.model))
        name = (now.model.aliases or (now.model.id,))[0]
        text = f"{now.model.id} {how}. Checks: {checks}. Names: {names}."
        left_out = tuple(f"Left out: {_quote(line)}" for line in now.model.left_out)
        return Report(text, f"hf_run_prompt(name={name!r}).", left_out)
    if now.download is None:
        return Report("The files were on this machine already.")
    return format_download_details(now.download)


def format_update_result(now: UpdateModelResult) -> Report:
    """Return the state of an update, and the next step."""
    if now.download is None:
        return Report(now.note or "There is nothing to update.")
    if now.model is None:
        return format_download_details(now.download)
    checks = _join_parts(_format_checks(now.model))
    text = f"{now.model.id} is at {(now.model.commit or '')[:COMMIT_CHARS]} now. Checks: {checks}."
    return Report(text, f"hf_run_prompt(name={now.model.id!r}).")


def format_downloads(page: GetDownloadsResult) -> Report:
    """Return one line for each download."""
    if page.log:
        return format_download_details(page.downloads[0], page.log)
    if not page.downloads and page.totals["downloads"].total:
        return Report(NO_MORE_ROWS)
    if not page.downloads:
        return Report("There are no unfinished downloads.", "hf_get_downloads(finished=true) also lists finished ones.")
    waiting = next((row for row in page.downloads if row.needs_worker), None)
    return Report(
        _join_lines(format_totals(page.totals), *map(format_download, page.downloads)),
        _suggest_next_page(page.next_cursor) or (_suggest_next_step(waiting) if waiting else None),
    )


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
        _join_lines(figures, *(_format_local_model(each, level) for each in page.models)),
        _suggest_next_page(page.next_cursor) or next_step,
        tuple(warnings),
    )


def format_import(found: ImportModelResult, program: str, warnings: Sequence[str]) -> Report:
    """Return one line for each model of a program, or the model that was registered."""
    if done := found.imported:
        model_id = done.result.model.id
        notes = [f"Not taken over: {note}." for note in done.notes]
        text = _join_lines(f"Registered {quote_label(done.name)} as {model_id}. Digest: {done.result.digest}.", *notes)
        return Report(text, f"hf_run_prompt(name={model_id!r}, prompt=…) uses it.")
    totals = found.totals["models"]
    if not totals.total:
        return Report(f"{program} has no models here.", "hf_search_models, then hf_download_model.", tuple(warnings))
    usable = next((model for model in found.models if not model.problem and not model.identical_to), None)
    next_step = f"hf_import_model(program={program!r}, name={usable.name!r}) registers it." if usable else None
    return Report(
        _join_lines(f"{totals.shown} of {totals.total} models.", *map(_format_found_model, found.models)),
        _suggest_next_page(found.next_cursor) or next_step,
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
    return f"{quote_label(model.name)}: {_join_parts(parts)}"


def _format_local_model(found: LocalModelView, level: Level) -> str:
    if level == "short":
        parts = [found.state, format_size(found.size_bytes) if found.files else None, format_update(found)]
        return f"{found.id}: {_join_parts(parts)}"
    return f"{found.id}: " + _join_parts(
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
            *_format_checks(found, every=level == "full"),
            f"to fix: {replace_commands(found.fix)}" if found.fix else None,
            f"left out: {'; '.join(map(_quote, found.left_out))}" if found.left_out else None,
        ]
    )


def _format_checks(found: LocalModelView, *, every: bool = True) -> list[str]:
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
    return f"{result}: {_quote(str(reason))}" if reason else result


def format_verification(verification: VerifyModelResult) -> Report:
    """Return the results of the checks, each by itself and never combined."""
    structure = verification.structure
    findings = [f"{finding.code}: {finding.message}" for finding in (structure.findings if structure else ())]
    text = _join_lines(
        f"{verification.digest.id}: digest {_format_digest(verification)}",
        *(f"  {quote_label(path)}: {result}" for path, result in verification.digest.files),
        f"signature: {_quote(verification.digest.signature.summary)}" if verification.digest.signature else None,
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
    why = f" ({_quote(load_test.reason)})" if load_test.reason else ""
    return f"load test: {load_test.verdict}{why}, confined by {_join_parts(load_test.layers) or 'nothing'}"


def format_response(done: PromptResult) -> Report:
    """Return the response of a model, labelled as the model's text."""
    figures = _join_parts(
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
        f" Kept, because others use or own them, or the user imported them: {_join_parts(removed.kept[:MAX_ITEMS])}."
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
    return Report(f"Other names of {now.id}: {_join_parts(now.aliases) or 'none'}.")


def format_status(now: Status) -> Report:
    """Return a summary of this machine."""
    account = now.token.account
    token = f"token of {account.name}" if account else "no token, which gated and private models need"
    if account is None and now.token.source:
        token = f"an invalid token ({_quote(now.token.problem or '')})"
    text = _join_lines(
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
