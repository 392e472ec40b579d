"""Carry out a planned pull: download the files, verify them, and register the model. See downloads/plan.py."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads import fetch_variant, hub_scans, signature_checks, version_switch, xet_child
from llm_hf_models.downloads.fair_share import FairShare
from llm_hf_models.downloads.leftovers import remove_leftovers
from llm_hf_models.downloads.plan import complete_draft
from llm_hf_models.downloads.plan_types import PullPlan, PullResult, list_restrictions
from llm_hf_models.downloads.records import derive_context, load_plan, open_row
from llm_hf_models.downloads.running import RunningDownload
from llm_hf_models.errors import AccessError, HfModelsError, RepoNotFoundError, TokenMissingError, UnknownModelError
from llm_hf_models.gguf.facts import ModelFacts, apply_task
from llm_hf_models.gguf.validate import ValidationReport, check_shards
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.refs import DEFAULT_BRANCH, RepoId
from llm_hf_models.library.download_records import Download
from llm_hf_models.library.records import Check, FileRole, LocalFile, LocalModel
from llm_hf_models.models.local.default_options import set_options
from llm_hf_models.models.names import explain_taken_aliases
from llm_hf_models.models.repo_signature import make_check
from llm_hf_models.models.repos.projector_choice import WITHOUT_HINT
from llm_hf_models.models.repos.variant_choice import refuse_invalid
from llm_hf_models.signatures.types import SignedManifest
from llm_hf_models.transfer.types import Event, Progress, TransferLimits


def pull(context: Context, plan: PullPlan, *, progress: Progress, stop: threading.Event) -> PullResult:
    """Carry out a plan in this process.

    If the pull is interrupted, the downloaded bytes are kept. Only a verified model is registered.

    Raises:
        HfModelsError: Any error of `fetch_variant.fetch_into_cache`.
        InvalidGgufError: The complete file breaks the rules of the GGUF format.
    """
    if plan.already_complete and plan.model_id:
        return _add_aliases_only(context, plan)
    with context.open_database() as db:
        row = open_row(context, db, plan, background=False)
    return run_download(context, row, progress=progress, stop=stop)


def run_download(context: Context, row: Download, *, progress: Progress, stop: threading.Event) -> PullResult:
    """Carry out the download of a row, or join another process that is carrying it out.

    Processes that pull the same variant share the work. transfer/download_file.py lets one of them download each
    file. The others see its progress and find the file complete.
    """
    plan = load_plan(row)
    context = derive_context(context, plan)
    running = RunningDownload(context, row, plan.files, stop)
    with _remove_files_if_cancelled(context, row, running), running:
        return _fetch_and_register(context, row, plan, running, progress, stop)


def run_queued_download(context: Context, row: Download) -> None:
    """Carry out a queued row in a worker, unless it has been paused or claimed in the meantime."""
    plan, stop = load_plan(row), threading.Event()
    context = derive_context(context, plan)
    running = RunningDownload(context, row, plan.files, stop, only_if_active=True)
    with _remove_files_if_cancelled(context, row, running), running:
        if running.owned:
            try:
                _fetch_and_register(context, row, plan, running, lambda _event: None, stop)
            except (AccessError, RepoNotFoundError) as error:
                raise _explain_refusal(context, row, error) from None


def _explain_refusal(context: Context, row: Download, error: HfModelsError) -> HfModelsError:
    """Explain the Hub's refusal if the worker lacks the token, may not send it to this Hub, or can't decrypt it."""
    from llm_hf_models.downloads.token_handoff import find_token_for_worker  # imported late: foreground pulls
    from llm_hf_models.hub import tokens

    pull_again = f"llm hf pull {shlex.quote(row.ref)}"
    if context.withholds_token:
        return TokenMissingError(
            f"{error.message}, and the worker may send its token only to the Hub it was started for",
            hint=f"Use the token for this Hub: HF_ENDPOINT={shlex.quote(context.endpoint())} {pull_again}",
        )
    if row.token_fingerprint is not None:
        used = find_token_for_worker(context)
        if used is None or used.fingerprint != row.token_fingerprint:
            return TokenMissingError(
                f"{error.message}, and the worker with the token of this download has ended",
                hint=f"Continue the download with that token: llm hf retry {row.id}",
            )
    if not tokens.is_locked(context.token()):
        return error
    return TokenMissingError(
        f"{error.message}, and the worker has no passphrase for the encrypted token",
        hint=f"Enter the passphrase and continue the download: {pull_again}",
    )


@contextmanager
def _remove_files_if_cancelled(context: Context, row: Download, running: RunningDownload) -> Iterator[None]:
    """Remove the files of a download that was cancelled while it was running."""
    try:
        yield
    finally:
        if running.end_state == "cancelled":
            remove_leftovers(context, [row])


class ByteCounter:
    """A progress callable that counts the bytes of each file that this process and other processes download."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._done: dict[str, int] = {}
        self.own_bytes: dict[str, int] = {}
        self.other_bytes: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.kind != "verifying":
                self._count(event)
        self._progress(event)

    def _count(self, event: Event) -> None:
        before = self._done.get(event.file, event.done)
        if event.kind != "started":  # bytes from before the start count for neither
            counts = self.other_bytes if event.by_others else self.own_bytes
            counts[event.file] = counts.get(event.file, 0) + max(0, event.done - before)
        # For a moment, a file that another process is just finishing seems to have no bytes.
        self._done[event.file] = max(before, event.done) if event.by_others else event.done


def _fetch_and_register(
    context: Context, row: Download, plan: PullPlan, running: RunningDownload, progress: Progress, stop: threading.Event
) -> PullResult:
    if plan.is_draft:
        plan = running.complete_plan(
            lambda notify, draft=plan: complete_draft(replace(context, notify=notify, stop=stop), draft)  # type: ignore[misc]
        )
    before = _find_registered(context, plan)
    if plan.already_complete and before is not None and before.state == "ready":
        # Nothing to download, but a queued pull has a row that callers follow, and maybe a command to run.
        result = _add_aliases_only(context, plan)
        running.finish(_build_unchanged(before))
        return replace(result, download_id=row.id)
    if plan.switch is not None:
        version_switch.record_target(context, plan)
    started, counter = time.monotonic(), ByteCounter(running.wrap_progress(progress))
    to_download = {file.path for file in plan.files if not file.local and not file.copy}
    plan, manifest = signature_checks.find_manifest_to_compare(context, plan)
    stored = _fetch_files(context, row, plan, manifest, counter, stop)
    running.mark_verifying()
    plan = signature_checks.compare_stored_files(context, plan, manifest, stored)
    model, warnings = _validate_model(plan, stored, context.settings().header_seconds)
    before = _find_registered(context, plan)
    is_copy = before is not None and _is_registered_elsewhere(before, plan)
    if plan.switch is not None and before is not None and model is not None:
        model = version_switch.check_before_switch(context, before, model, plan.switch, stop)
    model = running.finish(_build_unchanged(before) if before and is_copy else model, plan.switch)
    if model is not None and not is_copy:
        _store_options(context, plan, model.model_id)
    if before is not None and model is not None:
        release = version_switch.release_old_files if plan.switch is None else version_switch.complete_switch
        warnings += release(context, before, model)
    return PullResult(
        plan=_update_refused_aliases(context, plan),
        download_id=row.id,
        id=model.model_id if model else None,
        aliases=model.aliases if model else (),
        files=tuple(str(file.location) for file in stored),
        fetched_bytes=sum(counter.own_bytes.get(file.path, 0) for file in stored if file.fetched),
        other_process_bytes=sum(counter.other_bytes.get(file.path, 0) for file in stored if file.path in to_download),
        elapsed_seconds=time.monotonic() - started,
        warnings=tuple(warnings),
        is_copy=is_copy,
    )


def _update_refused_aliases(context: Context, plan: PullPlan) -> PullPlan:
    """Return the plan with the aliases that other models have now, which they may have got during the download."""
    with context.open_database() as db:
        taken = explain_taken_aliases(db.list_models(), (*plan.aliases, *plan.refused_aliases), plan.model_id)
    return replace(plan, refused_aliases=taken)


def _build_unchanged(model: LocalModel) -> LocalModel:
    """Return a registered model so that registering it again changes nothing but its aliases."""
    return replace(model, checks=model.checks[::-1])  # oldest first, as they were recorded


def _is_registered_elsewhere(model: LocalModel, plan: PullPlan) -> bool:
    """Return True if `--to DIR` stores an additional copy of a model whose own files are complete in another folder."""
    folder = Path(plan.folder).resolve()
    own = [Path(file.location).parent.resolve() for file in model.files]
    return (
        plan.options.to is not None and model.state == "ready" and not any(path.is_relative_to(folder) for path in own)
    )


def _find_registered(context: Context, plan: PullPlan) -> LocalModel | None:
    """Return the model that an earlier pull registered under the same id, if any."""
    with context.open_database() as db, suppress(UnknownModelError):
        return db.get_model(str(plan.model_id))
    return None


def _add_aliases_only(context: Context, plan: PullPlan) -> PullResult:
    started = time.monotonic()
    with context.open_database() as db:
        with db.transaction():
            for alias in plan.aliases:
                db.add_alias(alias, str(plan.model_id))
        model = db.get_model(str(plan.model_id))
    _store_options(context, plan, model.model_id)
    paths = tuple(file.location for file in model.files)
    return PullResult(plan, None, model.model_id, model.aliases, paths, 0, time.monotonic() - started)


def _store_options(context: Context, plan: PullPlan, model_id: str) -> None:
    if plan.options.model_options:
        set_options(context, model_id, plan.options.model_options)


def _fetch_files(
    context: Context,
    row: Download,
    plan: PullPlan,
    manifest: SignedManifest | None,
    progress: Progress,
    stop: threading.Event,
) -> list[fetch_variant.StoredFile]:
    if list_restrictions(plan):
        context.unlock_token()  # before the threads of the transfer need it
    hub, repo = context.hub(), RepoId.parse(plan.repo)
    limits = _make_limits(context, plan)
    share = FairShare(context, row.id, plan.options.connections, plan.options.limit_rate)
    if plan.options.to is not None:
        return fetch_variant.fetch_into_folder(
            hub,
            repo,
            plan.commit,
            plan.files,
            Path(plan.folder),
            cache_dir=context.cache_dir(),
            limits=limits,
            get_connection_limit=share.get_connection_limit,
            get_rate_limit=share.get_rate_limit,
            progress=progress,
            stop=stop,
            manifest=manifest,
        )
    uses_xet = context.settings().transport == "xet" and not plan.local_only
    by_xet = _fetch_with_xet(context, plan, limits, progress, stop) if uses_xet else set()
    stored = fetch_variant.fetch_into_cache(
        hub,
        repo,
        plan.commit,
        plan.files,
        cache_dir=context.cache_dir(),
        revision=_choose_ref(context, plan, repo),
        limits=limits,
        get_connection_limit=share.get_connection_limit,
        get_rate_limit=share.get_rate_limit,
        progress=progress,
        stop=stop,
        sources={path: Path(source) for path, source in plan.sources.items()},
        local_only=plan.local_only,
        manifest=manifest,
    )
    return [replace(file, fetched=file.fetched or file.path in by_xet) for file in stored]


def _choose_ref(context: Context, plan: PullPlan, repo: RepoId) -> str | None:
    """Return the revision whose ref in the cache is written. An existing ref never moves back to an older commit."""
    name = plan.revision or DEFAULT_BRANCH
    ref = cache_layout.repo_folder(context.cache_dir(), repo) / "refs" / name
    goes_back = plan.from_lockfile or (plan.switch is not None and plan.switch.kind == "rollback")
    return plan.commit if goes_back and ref.exists() else plan.revision


def _make_limits(context: Context, plan: PullPlan) -> TransferLimits:
    now = context.settings()
    return TransferLimits(
        connections=plan.options.connections or now.connections,
        connect_seconds=now.connect_seconds,
        stall_seconds=now.stall_seconds,
        network_wait_seconds=now.network_wait_seconds,
        retry_seconds=now.retry_seconds,
        disk_reserve=now.disk_reserve_bytes,
    )


def _fetch_with_xet(
    context: Context, plan: PullPlan, limits: TransferLimits, progress: Progress, stop: threading.Event
) -> set[str]:
    """Let huggingface_hub download the missing files into the cache.

    `fetch_into_cache` then verifies and links them like any file that was already in the cache.
    """
    token = context.token()
    return xet_child.fetch_files(
        context.endpoint(),
        token.value if token else None,
        RepoId.parse(plan.repo),
        plan.commit,
        plan.files,
        cache_dir=context.cache_dir(),
        metadata_seconds=context.settings().metadata_seconds,
        limits=limits,
        progress=progress,
        stop=stop,
    )


def _validate_model(
    plan: PullPlan, stored: Sequence[fetch_variant.StoredFile], seconds: float
) -> tuple[LocalModel | None, list[str]]:
    """Validate the GGUF files, whose digests are verified already.

    Returns:
        The model to register, or None if nothing is to be registered; and the warnings to show.
    """
    if plan.model_id is None or plan.quant is None:
        return None, []
    by_path = {file.path: file for file in stored}
    report = check_shards([by_path[path].location for path in plan.weights], seconds=seconds)
    if report.errors:
        if plan.options.allow_invalid:
            return None, [f"not registered: {finding.code}: {finding.message}" for finding in report.errors]
        refuse_invalid(plan.ref, report.findings)
    projector = check_shards([by_path[plan.mmproj].location], seconds=seconds) if plan.mmproj else None
    if projector is not None and projector.errors:
        refuse_invalid(str(plan.mmproj), projector.findings, WITHOUT_HINT)
    facts = report.header.facts if report.header else ModelFacts()
    facts = apply_task(facts, (plan.hub or {}).get("task"))
    if projector is not None and projector.header is not None:
        facts = replace(facts, modalities=projector.header.facts.modalities)
    warnings = [f"{finding.code}: {finding.message}" for finding in report.warnings]
    return _build_local_model(plan, stored, facts, _build_checks(plan, stored, report)), warnings


def _build_local_model(
    plan: PullPlan, stored: Sequence[fetch_variant.StoredFile], facts: ModelFacts, checks: tuple[Check, ...]
) -> LocalModel:
    return LocalModel(
        model_id=str(plan.model_id),
        repo=plan.repo,
        revision=plan.revision,
        commit=plan.commit,
        quant=str(plan.quant),
        files=tuple(_build_local_file(plan, file) for file in stored),
        facts=facts,
        aliases=plan.aliases,
        checks=checks,
        place="cache" if plan.options.to is None else "folder",
        hub=plan.hub or {},
    )


def _build_local_file(plan: PullPlan, file: fetch_variant.StoredFile) -> LocalFile:
    role: FileRole = "mmproj" if file.path == plan.mmproj else "weights"
    return LocalFile(
        path=file.path,
        role=role,
        size=file.size,
        location=str(file.location),
        sha256=file.sha256,
        git_sha1=file.git_sha1,
        mtime_ns=file.stamp.mtime_ns,
        ctime_ns=file.stamp.ctime_ns,
    )


def _build_checks(
    plan: PullPlan, stored: Sequence[fetch_variant.StoredFile], report: ValidationReport
) -> tuple[Check, ...]:
    now = time.time()
    template = [asdict(finding) for finding in report.findings if finding.part == "template"]
    structure = [asdict(finding) for finding in report.findings if finding.part != "template"]
    matches = {"repo": plan.repo, "commit": plan.commit, "files": len(stored)}
    matches |= {"record": "lockfile"} if plan.local_only else {}  # the Hub was not asked for its digests
    scan = hub_scans.build_scan_details(
        plan.scans, unsafe=plan.unsafe, allowed=plan.options.allow_unsafe, problem=plan.scan_problem
    )
    has_answer = plan.scan_problem is None or plan.scan_state == "issues reported"
    signature = (make_check(plan.signature),) if plan.signature else ()
    return (
        *signature,
        Check("digest", "matches", now, matches),
        Check("scan", plan.scan or "not reported" if has_answer else "not asked", now, scan),
        Check("structure", "valid", now, {"findings": structure, "left_out": plan.left_out}),
        Check("template", "findings" if template else "no findings", now, {"findings": template}),
    )
