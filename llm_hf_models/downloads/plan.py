"""Plan a pull before it starts: choose the variant and its files, and check every reason to refuse the pull."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.downloads import hub_scans
from llm_hf_models.downloads.local_files import count_partial_bytes, find_files_in_folder, find_local_files
from llm_hf_models.downloads.plan_types import PlannedFile, PullOptions, PullPlan
from llm_hf_models.downloads.records import load_plan_if_readable
from llm_hf_models.errors import (
    DiskFullError,
    FileNotFoundInRepoError,
    InvalidGgufError,
    NameTakenError,
    PolicyError,
    UnknownModelError,
)
from llm_hf_models.gguf.facts import ModelFacts, apply_kind, apply_task
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.listing import complete_file
from llm_hf_models.hub.refs import ModelRef, RepoFile, RepoId, parse_alias
from llm_hf_models.hub.types import FileScan, HubFile, RepoDetails
from llm_hf_models.inference.options import validate_for_model
from llm_hf_models.library.download_records import ACTIVE_STATES, Download
from llm_hf_models.models import identity, metadata_cache, projector_choice, repo_info, scan_summary, variant_choice
from llm_hf_models.models import names as models_names
from llm_hf_models.models.names import make_short_names
from llm_hf_models.models.repo_info import add_sampling, collect_repo_facts
from llm_hf_models.models.variant_choice import ALLOW_INVALID_HINT, refuse_invalid
from llm_hf_models.paths import make_absolute
from llm_hf_models.system.disk import count_free_bytes, is_same_disk, refuse_long_names, translate_disk_error
from llm_hf_models.system.hashing import compute_digests
from llm_hf_models.system.units import format_size


def plan_pull(context: Context, text: str, options: PullOptions) -> PullPlan:
    """Plan a pull of the model ref `text`. Raise an error now if the pull is known to fail later.

    Raises:
        BadRefError: The model ref is malformed.
        NotFoundError: The repo, revision, file or quantization does not exist.
        AccessError: The Hub refused access.
        NetworkError: The Hub could not be reached.
        PolicyError: A setting forbids this pull.
        UnsafeFileError: A scanner reports a file as unsafe.
        InvalidGgufError: The header breaks the rules of the GGUF format.
        NameTakenError: Another model has a requested alias.
        NotWritableError: A file's name is too long for the file system.
        DiskFullError: There is not enough disk space.
    """
    requested = repo_info.add_revision(repo_info.parse_ref(context, text), options.revision)
    ref, details, freshness, note = repo_info.fetch_repo(context, requested, refresh=True)
    repo_info.notify_of_name(context, note)
    ref = variant_choice.settle_ref(ref, details)
    hub = context.hub()
    # The scan reports are requested for the variant that will probably be chosen, while its header is read.
    guessed: tuple[Variant | None, str] = (
        (None, "") if options.file_only else variant_choice.guess_variant(context, hub, ref, details)
    )
    scan_request = (
        None if freshness.stale else hub_scans.ScanRequest(hub, ref.repo, details.commit, _list_paths(ref, guessed[0]))
    )
    variant, reason = variant_choice.settle_variant(context, hub, ref, details, guessed)
    left_out: tuple[str, ...] = ()
    if variant is not None and not options.mmproj:
        variant = replace(variant, mmproj=None, mmproj_size=0)
    elif variant is not None:
        variant, left_out = projector_choice.settle_projector(
            context, hub, ref.repo, details, variant, allow_invalid=options.allow_invalid
        )
    paths = _list_paths(ref, variant)
    chosen = [_get_complete_file(context, hub, ref.repo, details, path) for path in paths]
    model_id = _choose_model_id(context, ref, requested.repo, variant) if variant else None
    _refuse_by_policy(context, details, chosen)
    hub_scans.refuse_unsafe(details, chosen, (), allowed=options.allow_unsafe)
    planned = _plan_files(context, ref.repo, details.commit, chosen, options)
    plan = PullPlan(
        ref=str(ref),
        repo=str(ref.repo),
        revision=ref.revision,
        commit=details.commit,
        model_id=model_id,
        quant=variant.quant if variant else None,
        reason=reason,
        files=planned,
        weights=variant.files if variant else (),
        mmproj=variant.mmproj if variant else None,
        total_bytes=sum(file.size for file in planned),
        fetch_bytes=sum(file.size - file.partial for file in planned if not file.local and not file.copy),
        folder=str(_choose_folder(context, ref.repo, details.commit, options)),
        options=options,
        replaces=_find_replaced(planned, options),
        hub=collect_repo_facts(details),
        freshness=freshness,
        already_complete=_is_complete(context, model_id, details.commit, planned, options),
        cache_dir=str(context.cache_dir().absolute()),
        endpoint=context.endpoint(),
        note=note,
        left_out=left_out,
        unusable=tuple(variant_choice.list_left_out(details)),
    )
    if variant is not None:
        plan = _add_model(context, hub, plan, details, variant)
    plan = _add_scans(plan, details, scan_request)
    refuse_long_names(Path(plan.folder) / file.path for file in plan.files)
    _refuse_full_disk(context, plan)
    return plan


def _list_paths(ref: ModelRef, variant: Variant | None) -> tuple[str, ...]:
    if variant is not None:
        return tuple(variant.all_files)
    if ref.file is None:
        raise FileNotFoundInRepoError(f"{ref} does not name a file")
    return (ref.file.path,)


def _get_complete_file(context: Context, hub: Hub, repo: RepoId, details: RepoDetails, path: str) -> HubFile:
    """Return a file with its digest, which is requested if the list of files lacks it.

    Raises:
        HubUnavailableError: The Hub reports no digest, so that the file could not be verified.
    """
    file = details.get_file(RepoFile(path))
    return metadata_cache.request_with_retry(context, lambda: complete_file(hub, repo, file, details.commit))


def _add_scans(plan: PullPlan, details: RepoDetails, request: hub_scans.ScanRequest | None) -> PullPlan:
    """Return the plan with the scanners' reports. `request` is None if the Hub could not be asked.

    Raises:
        UnsafeFileError: A scanner reports a file as unsafe.
    """
    paths = [file.path for file in plan.files]
    scans: tuple[FileScan, ...] = ()
    problem = None if request else plan.freshness.problem or "the Hub did not respond"
    if request is not None and not plan.already_complete:
        scans, problem = request.wait_for_scans(paths)
    unsafe = hub_scans.refuse_unsafe(details, plan.files, scans, allowed=plan.options.allow_unsafe)
    summary = hub_scans.summarize(scan_summary.summarize_details(details, paths), scans, paths, problem)
    return replace(
        plan,
        scans=scans,
        scan=summary.text,
        scan_state=summary.state,
        scan_warnings=hub_scans.list_warnings(scans),
        scan_problem=problem,
        unsafe=unsafe,
    )


def _choose_model_id(context: Context, ref: ModelRef, requested: RepoId, variant: Variant) -> str:
    """Return the id of the model: that of the local model of the same variant, if there is one.

    That id may have other capitals, or the name that the repo had before.
    """
    with context.open_database() as db:
        models = db.list_models()
    for repo in (ref.repo, requested):
        if existing := identity.find_model_of_variant(models, str(repo), variant.quant, ref.revision):
            return existing.model_id
    revision = f"@{ref.revision}" if ref.revision else ""
    return f"hf/{ref.repo}{revision}:{variant.quant}"


def _refuse_by_policy(context: Context, details: RepoDetails, files: Sequence[HubFile]) -> None:
    now = context.settings()
    owners, licenses = settings.split_list(now.allowed_owners), settings.split_list(now.allowed_licenses)
    if owners and details.author.lower() not in owners:
        raise PolicyError(
            f"Pulling from {details.author} is not allowed",
            cause=f"The setting allowed_owners allows only {now.allowed_owners}.",
            hint="llm hf settings allowed_owners",
        )
    if licenses and (details.license or "").lower() not in licenses:
        raise PolicyError(
            f"The licence of {details.id} ({details.license or 'none stated'}) is not allowed",
            cause=f"The setting allowed_licenses allows only {now.allowed_licenses}.",
            hint="llm hf settings allowed_licenses",
        )
    total = sum(file.size for file in files)
    if now.max_download_bytes and total > now.max_download_bytes:
        raise PolicyError(
            f"The pull is {format_size(total)}, more than max_download_bytes allows",
            cause=f"The setting max_download_bytes is {format_size(now.max_download_bytes)}.",
            hint="llm hf settings max_download_bytes",
        )


def _plan_files(
    context: Context, repo: RepoId, commit: str, files: Sequence[HubFile], options: PullOptions
) -> tuple[PlannedFile, ...]:
    with context.open_database() as db:  # files that failed `verify` have the right size, but are downloaded again
        broken = {file.location for model in db.list_models() if model.state == "changed" for file in model.files}
    cached = find_local_files(context.cache_dir(), repo, commit, files)
    cached = {path: location for path, location in cached.items() if str(location) not in broken}
    if options.to is None:
        local, copy, work = cached, set[str](), cache_layout.cache_work_folder(context.cache_dir())
    else:
        folder = make_absolute(options.to)
        local, work = _find_verified_files(folder, files), cache_layout.target_work_folder(folder)
        copy = cached.keys() - local.keys()
    return tuple(
        PlannedFile(
            **vars(file),
            local=file.path in local,
            partial=0 if file.path in copy else count_partial_bytes(work, file),
            copy=file.path in copy,
        )
        for file in files
    )


def _find_verified_files(folder: Path, files: Sequence[HubFile]) -> dict[str, Path]:
    """Return the files that a plain folder already contains, by path.

    Their digests are compared, because the user's own files may have the same names.
    """
    etags, found = {file.path: file.etag for file in files}, {}
    for path, location in find_files_in_folder(folder, files).items():
        with suppress(OSError):
            if not etags[path] or compute_digests(location).get_same_kind(etags[path]) == etags[path]:
                found[path] = location
    return found


def _find_replaced(files: Sequence[PlannedFile], options: PullOptions) -> tuple[str, ...]:
    if options.to is None:
        return ()
    folder = make_absolute(options.to)
    locations = [folder / RepoFile(file.path).path for file in files if not file.local]
    return tuple(str(location) for location in locations if location.is_symlink() or location.exists())


def _choose_folder(context: Context, repo: RepoId, commit: str, options: PullOptions) -> Path:
    if options.to is not None:
        return make_absolute(options.to)
    return cache_layout.cache_path(context.cache_dir(), repo, commit, "x").parent


def _is_complete(
    context: Context, model_id: str | None, commit: str, files: Sequence[PlannedFile], options: PullOptions
) -> bool:
    if model_id is None or options.to is not None or not all(file.local for file in files):
        return False
    with context.open_database() as db:
        try:
            model = db.get_model(model_id)
        except UnknownModelError:
            return False
    return (
        model.state == "ready"
        and model.commit == commit
        and {file.path for file in model.files} == {file.path for file in files}
    )


def _add_model(context: Context, hub: Hub, plan: PullPlan, details: RepoDetails, variant: Variant) -> PullPlan:
    """Return the plan with the model's facts, findings, memory fit and aliases.

    Raises:
        InvalidGgufError: The header is invalid, and the options don't allow that.
        NameTakenError: Another model has a requested alias.
        BadInputError: An option is not for this kind of model.
    """
    repo = RepoId.parse(plan.repo)
    facts: ModelFacts | None = None
    findings: tuple[Finding, ...] = ()
    try:
        preview = variant_choice.fetch_preview(context, hub, repo, details, variant)
        facts, findings = _determine_kind(plan, details, preview.facts), preview.findings
    except InvalidGgufError as error:  # the header can't be read at all
        if not plan.options.allow_invalid:
            error.hint = ALLOW_INVALID_HINT
            raise
    if not plan.already_complete and not plan.options.allow_invalid:
        refuse_invalid(plan.ref, findings)
    tokens, memory = context.settings().context, variant_choice.get_memory_for_models(context)
    return replace(
        plan,
        findings=() if plan.already_complete else findings,
        facts=facts,
        hub=plan.hub if plan.already_complete else add_sampling(context, hub, repo, details, plan.hub or {}),
        fit=variant_choice.assess_fit(variant, facts, tokens, memory),
        aliases=_choose_aliases(context, plan, variant, facts.kind if facts else "chat"),
    )


def _determine_kind(plan: PullPlan, details: RepoDetails, facts: ModelFacts) -> ModelFacts:
    """Return the facts with the kind by the Hub's task, or by the options of the pull.

    Raises:
        BadInputError: An option is not for this kind of model.
    """
    facts = apply_kind(apply_task(facts, details.task), plan.options.kind)
    validate_for_model(plan.options.model_options, plan.ref, embedding=facts.kind == "embedding")
    return facts


def _choose_aliases(context: Context, plan: PullPlan, variant: Variant, kind: str) -> tuple[str, ...]:
    """Return the requested aliases, then the short names that no other model has.

    Raises:
        NameTakenError: Another model has a requested alias.
    """
    models_names.refuse_taken_names(plan.options.aliases, kind)
    with context.open_database() as db:
        taken = {alias.casefold(): model.model_id for model in db.list_models() for alias in model.aliases}
    for alias in map(parse_alias, plan.options.aliases):
        if taken.get(alias.casefold(), plan.model_id) != plan.model_id:
            raise NameTakenError(
                f"{alias!r} is already an alias of {taken[alias.casefold()]}", hint=f"llm hf alias --remove {alias}"
            )
    short = make_short_names(plan.repo, variant.quant) if plan.revision is None else ()
    free = [name for name in short if taken.get(name.casefold(), plan.model_id) == plan.model_id]
    return tuple(dict.fromkeys((*plan.options.aliases, *free)))


def _refuse_full_disk(context: Context, plan: PullPlan) -> None:
    folder = Path(plan.folder)
    try:
        free, promised = count_free_bytes(folder), _count_promised_bytes(context, plan)
    except OSError as error:
        raise translate_disk_error(error, folder, plan.fetch_bytes, 0) from None
    reserve = context.settings().disk_reserve
    needed = plan.fetch_bytes + sum(file.size for file in plan.files if file.copy)
    missing = needed + promised + reserve - free if needed else 0
    if missing > 0:
        raise DiskFullError(
            f"Not enough disk space in {folder}: {format_size(missing)} short",
            missing_bytes=missing,
            cause=f"The pull needs {format_size(needed)},"
            + (f" other downloads need {format_size(promised)}," if promised else "")
            + f" {format_size(free)} are free, and {format_size(reserve)} are reserved (setting disk_reserve).",
            hint="Remove leftovers with `llm hf gc`, or models with `llm hf rm` (`llm hf list` shows their sizes).",
        )


def _count_promised_bytes(context: Context, plan: PullPlan) -> int:
    """Return the bytes that other running and queued downloads will still write to the same disk."""
    with context.open_database() as db:
        rows = db.list_downloads(states=ACTIVE_STATES, limit=-1)
    stale = context.stale_seconds()
    others = [
        row
        for row in rows
        if (row.ref, row.commit) != (plan.ref, plan.commit)
        # If the process of a download has ended, a worker continues it only if it is a background download.
        and (row.state == "queued" or row.background or row.is_owner_running(stale_seconds=stale))
    ]
    return sum(max(0, row.total_bytes - row.done_bytes) for row in others if _may_share_disk(row, Path(plan.folder)))


def _may_share_disk(row: Download, folder: Path) -> bool:
    """Return True if a download writes to the disk of a folder, or if its plan can't be read."""
    plan = load_plan_if_readable(row)
    return plan is None or is_same_disk(Path(plan.folder), folder)
