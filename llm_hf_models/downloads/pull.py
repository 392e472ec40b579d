"""One pull carried out: the bytes, the proof, the entry in the library. Planned before (downloads/plan.py)."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads import fair_share, fetch_variant, hub_scans, xet_child
from llm_hf_models.downloads.leftovers import remove_leftovers
from llm_hf_models.downloads.records import context_of, open_row, plan_if_readable, plan_of
from llm_hf_models.downloads.running import RunningRow, new_owner
from llm_hf_models.downloads.types import PullPlan, PullResult
from llm_hf_models.errors import AccessError, HfModelsError, RepoNotFoundError, TokenMissingError, UnknownModelError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.validate import Report, check_shards
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.library.download_records import Download
from llm_hf_models.library.records import Check, LocalFile, LocalModel, Role
from llm_hf_models.models.variant_choice import refuse_invalid
from llm_hf_models.system.units import format_size
from llm_hf_models.transfer.types import Event, Progress, TransferLimits


def pull(context: Context, plan: PullPlan, *, progress: Progress, stop: threading.Event) -> PullResult:
    """Carries a plan out, here and now. What arrived stays when it is interrupted; nothing unproven is registered.

    Raises:
        as `download.download`, and InvalidGgufError where the whole file breaks the format's rules.
    """
    if plan.already_complete and plan.model_id:
        return _nothing_to_do(context, plan)
    with context.db() as db:
        row = open_row(context, db, plan, background=False)
    return carry_out(context, row, progress=progress, stop=stop)


def carry_out(context: Context, row: Download, *, progress: Progress, stop: threading.Event) -> PullResult:
    """Carries out the download of a row, unless another process does: then this one joins it.

    Two processes that pull the same thing each have a part in it: transfer/download_file.py lets one of them move
    each file, and
    the others see its progress and find the file finished.
    """
    plan = plan_of(row)
    context = context_of(context, plan)
    running = RunningRow(context, row, plan.files, new_owner(), stop)
    with _leaving_nothing_cancelled(context, row, running), running:
        return _work(context, row, plan, running, progress, stop)


def carry_out_queued(context: Context, row: Download) -> None:
    """Carries out a row that waits, for a worker. One that was paused or taken meanwhile is left alone."""
    plan, stop = plan_of(row), threading.Event()
    context = context_of(context, plan)
    running = RunningRow(context, row, plan.files, new_owner(), stop, as_found=True)
    with _leaving_nothing_cancelled(context, row, running), running:
        if running.owned:
            try:
                _work(context, row, plan, running, lambda _event: None, stop)
            except (AccessError, RepoNotFoundError) as error:
                raise _worded(context, row, error) from None


def _worded(context: Context, row: Download, error: HfModelsError) -> HfModelsError:
    """A refusal of the Hub in words that help where the worker keeps its token back, or has no passphrase for it."""
    from llm_hf_models.hub import tokens

    again = f"llm hf pull {shlex.quote(row.ref)}"
    if context.withholds_token:
        return TokenMissingError(
            f"{error.message}, and the worker sends its token to no Hub but the one that it was started for",
            hint=f"This uses the token: HF_ENDPOINT={shlex.quote(context.endpoint())} {again}",
        )
    if not tokens.is_locked(context.token()):
        return error
    return TokenMissingError(
        f"{error.message}, and the worker has no passphrase for the token that is kept encrypted",
        hint=f"This asks for it, and goes on from what arrived: {again}",
    )


@contextmanager
def _leaving_nothing_cancelled(context: Context, row: Download, running: RunningRow) -> Iterator[None]:
    """Removes what arrived of a download that its person cancelled on the way."""
    try:
        yield
    finally:
        if running.ended == "cancelled":
            remove_leftovers(context, [row])


def leave_nothing_of(context: Context, numbers: Sequence[int]) -> list[int]:
    """Removes what arrived of downloads that are cancelled, each in the cache that it was planned for.

    Returns:
        The ids of those of which something could not be removed.
    """
    left = []
    with context.queue() as db:
        rows = [row for number in numbers if (row := db.download(number)) is not None]
    for row in rows:
        plan = plan_if_readable(row)
        if plan is not None:
            left += remove_leftovers(context_of(context, plan), [row])
    return left


class Arrivals:
    """Counts the bytes of each file that arrive while this process looks on: its own, and those of others."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._at: dict[str, int] = {}
        self.ours: dict[str, int] = {}
        self.others: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.kind != "verifying":
                self._count(event)
        self._progress(event)

    def _count(self, event: Event) -> None:
        before = self._at.get(event.file, event.done)
        if event.kind != "started":  # what came before that is nobody's here
            counted = self.others if event.by_others else self.ours
            counted[event.file] = counted.get(event.file, 0) + max(0, event.done - before)
        # Others seem to be back at nothing for the moment in which they finish.
        self._at[event.file] = max(before, event.done) if event.by_others else event.done


def _work(
    context: Context, row: Download, plan: PullPlan, running: RunningRow, progress: Progress, stop: threading.Event
) -> PullResult:
    before = _entry(context, plan)
    if plan.already_complete and before is not None and before.state == "ready":
        # Queued all the same: so that there is a download to follow, and its own command runs.
        result = _nothing_to_do(context, plan)
        running.finish(replace(before, checks=before.checks[::-1]))  # oldest first, as they were recorded
        return replace(result, download_id=row.id)
    started, arrivals = time.monotonic(), Arrivals(running.reporting(progress))
    moving = {file.path for file in plan.files if not file.here and not file.copy}
    stored = _fetch(context, row, plan, arrivals, stop)
    running.verifying()
    model, warnings = _prove(plan, stored, context.settings().header_seconds)
    before = _entry(context, plan)
    model = running.finish(model)
    if before is not None and model is not None:
        warnings += _left_behind(context, before, model)
    return PullResult(
        plan=plan,
        download_id=row.id,
        model_id=model.model_id if model else None,
        aliases=model.aliases if model else (),
        files=tuple(str(file.location) for file in stored),
        fetched_bytes=sum(arrivals.ours.get(file.path, 0) for file in stored if file.fetched),
        joined_bytes=sum(arrivals.others.get(file.path, 0) for file in stored if file.path in moving),
        seconds=time.monotonic() - started,
        warnings=tuple(warnings),
    )


def _entry(context: Context, plan: PullPlan) -> LocalModel | None:
    """What the library has under the same id, of an earlier pull."""
    with context.db() as db, suppress(UnknownModelError):
        return db.model(str(plan.model_id))
    return None


def _left_behind(context: Context, before: LocalModel, model: LocalModel) -> list[str]:
    """Says what becomes of the files that an entry had before: they stay, and we hold them no longer."""
    ours = {file.location for file in model.files}
    left = [file for file in before.files if file.location not in ours and Path(file.location).exists()]
    if not left or before.place == "in place":
        return []
    if before.place != "cache" or before.repo is None or before.commit is None:
        return [f"its earlier files ({format_size(sum(file.size for file in left))}) stay: {left[0].location}"]
    with context.db() as db:
        others = {(other.repo, other.commit) for other in db.models() if other.place == "cache"}
    if (before.repo, before.commit) not in others:
        cache_layout.drop_our_ref(
            cache_layout.cache_of(left[0].location, left[0].path), RepoId.parse(before.repo), before.commit
        )
    return [f"its earlier files ({format_size(sum(file.size for file in left))}) stay in the cache: `hf cache ls`"]


def _nothing_to_do(context: Context, plan: PullPlan) -> PullResult:
    started = time.monotonic()
    with context.db() as db:
        for alias in plan.aliases:
            db.add_alias(alias, str(plan.model_id))
        model = db.model(str(plan.model_id))
    paths = tuple(file.location for file in model.files)
    return PullResult(plan, None, model.model_id, model.aliases, paths, 0, time.monotonic() - started)


def _fetch(
    context: Context, row: Download, plan: PullPlan, progress: Progress, stop: threading.Event
) -> list[fetch_variant.StoredFile]:
    hub, repo = context.hub(), RepoId.parse(plan.repo)
    limits = fair_share.transfer_limits(context, row.id, plan.options.connections, plan.options.limit_rate)
    if plan.options.to is not None:
        return fetch_variant.download_to(
            hub,
            repo,
            plan.commit,
            plan.files,
            Path(plan.folder),
            cache_dir=context.cache_dir(),
            limits=limits,
            progress=progress,
            stop=stop,
        )
    handed = _hand_over(context, plan, limits, progress, stop) if context.settings().transport == "xet" else set()
    stored = fetch_variant.download(
        hub,
        repo,
        plan.commit,
        plan.files,
        cache_dir=context.cache_dir(),
        revision=plan.revision,
        limits=limits,
        progress=progress,
        stop=stop,
    )
    return [replace(file, fetched=file.fetched or file.path in handed) for file in stored]


def _hand_over(
    context: Context, plan: PullPlan, limits: TransferLimits, progress: Progress, stop: threading.Event
) -> set[str]:
    """Has huggingface_hub fill its cache first: what it brought is proven and linked as whatever was there before."""
    token = context.token()
    return xet_child.fetch(
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


def _prove(
    plan: PullPlan, stored: Sequence[fetch_variant.StoredFile], seconds: float
) -> tuple[LocalModel | None, list[str]]:
    """The model to register, from files whose digests are checked, and what a person should be told."""
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
        refuse_invalid(str(plan.mmproj), projector.findings, "--no-mmproj fetches the model without it.")
    facts = report.header.facts if report.header else ModelFacts()
    if projector is not None and projector.header is not None:
        facts = replace(facts, modalities=projector.header.facts.modalities)
    warnings = [f"{finding.code}: {finding.message}" for finding in report.warnings]
    return _local_model(plan, stored, facts, _checks(plan, stored, report)), warnings


def _local_model(
    plan: PullPlan, stored: Sequence[fetch_variant.StoredFile], facts: ModelFacts, checks: tuple[Check, ...]
) -> LocalModel:
    return LocalModel(
        model_id=str(plan.model_id),
        repo=plan.repo,
        revision=plan.revision,
        commit=plan.commit,
        quant=str(plan.quant),
        files=tuple(_local_file(plan, file) for file in stored),
        facts=facts,
        aliases=plan.aliases,
        checks=checks,
        place="cache" if plan.options.to is None else "folder",
        hub=plan.hub or {},
    )


def _local_file(plan: PullPlan, file: fetch_variant.StoredFile) -> LocalFile:
    role: Role = "mmproj" if file.path == plan.mmproj else "weights"
    mtime = file.location.stat().st_mtime_ns
    return LocalFile(file.path, role, file.size, str(file.location), file.sha256, file.git_sha1, mtime)


def _checks(plan: PullPlan, stored: Sequence[fetch_variant.StoredFile], report: Report) -> tuple[Check, ...]:
    now = time.time()
    template = [asdict(finding) for finding in report.findings if finding.part == "template"]
    structure = [asdict(finding) for finding in report.findings if finding.part != "template"]
    matches = {"repo": plan.repo, "commit": plan.commit, "files": len(stored)}
    scan = hub_scans.record(
        plan.scans, unsafe=plan.unsafe, allowed=plan.options.allow_unsafe, problem=plan.scan_problem
    )
    return (
        Check("digest", "matches", now, matches),
        Check("scan", plan.scan or "not reported", now, scan),
        Check("structure", "valid", now, {"findings": structure}),
        Check("template", "findings" if template else "no findings", now, {"findings": template}),
    )
