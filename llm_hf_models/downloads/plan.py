"""Plan a pull before it starts: choose the variant and its files, and check every reason to refuse the pull."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from llm_hf_models.context import Context
from llm_hf_models.downloads import hub_scans, plan_checks, signature_checks
from llm_hf_models.downloads.plan_types import PullOptions, PullPlan, VersionSwitch
from llm_hf_models.downloads.planned_files import choose_folder, find_replaced, is_complete, plan_files
from llm_hf_models.errors import (
    FileNotFoundInRepoError,
    InvalidGgufError,
    NameTakenError,
    NetworkError,
    SlowHeaderError,
    UnknownModelError,
)
from llm_hf_models.gguf.facts import ModelFacts, apply_kind, apply_task
from llm_hf_models.gguf.memory_fit import Fit
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.listing import complete_file
from llm_hf_models.hub.refs import ModelRef, RepoFile, RepoId, parse_alias
from llm_hf_models.hub.types import FileScan, HubFile, RepoDetails
from llm_hf_models.inference.protocol.options import validate_for_model
from llm_hf_models.models import metadata_cache
from llm_hf_models.models import names as models_names
from llm_hf_models.models.names import explain_taken_aliases, make_short_names
from llm_hf_models.models.repos import identity, projector_choice, scan_summary, variant_choice
from llm_hf_models.models.repos import info as repo_info
from llm_hf_models.models.repos.info import add_sampling, collect_repo_facts
from llm_hf_models.models.repos.variant_choice import ALLOW_INVALID_HINT, refuse_invalid
from llm_hf_models.models.types import Freshness
from llm_hf_models.network.errors import is_transient


def plan_pull(context: Context, text: str, options: PullOptions, *, draft_after: float | None = None) -> PullPlan:
    """Plan a pull of the model ref `text`. Raise an error now if the pull is known to fail later.

    Args:
        context: The context with the settings, the token and the library.
        text: The model ref.
        options: The options of the pull.
        draft_after: Return a draft (see `PullPlan.is_draft`) if reading the header and the scan reports takes longer
            than these seconds. With None, they are requested as patiently as a transfer requests its bytes.

    Raises:
        BadRefError: The model ref is malformed.
        NotFoundError: The repo, revision, file or quantization does not exist.
        AccessError: The Hub refused access.
        NetworkError: The Hub could not be reached.
        SlowHeaderError: The header took longer than `header_seconds`.
        PolicyError: A setting forbids this pull.
        UnsafeFileError: A scanner reports a file as unsafe.
        SignatureRefusedError: The repo's signature contradicts the files, or the settings require another one.
        InvalidGgufError: The header breaks the rules of the GGUF format.
        NameTakenError: Another model has a requested alias.
        NotWritableError: The file system does not accept a file's name.
        DiskFullError: There is not enough disk space.
    """
    requested = repo_info.add_revision(repo_info.parse_ref(context, text), options.revision)
    ref, details, freshness, note = repo_info.fetch_repo(context, requested, refresh=True)
    repo_info.notify_of_name(context, note)
    listing = Listing(variant_choice.settle_ref(ref, details), requested.repo, options, details, freshness, note)
    wait = None if freshness.stale else draft_after
    plan = plan_listed(context, listing, draft_after=wait)
    commit = _find_pinned_commit(context, plan)
    if commit is None:
        return plan
    pinned = replace(listing.ref, quant=plan.quant, file=None)
    details, freshness = repo_info.fetch_details(context, replace(pinned, revision=commit))
    note = f"{plan.model_id} is pinned: {commit[:12]} is pulled, not {plan.commit[:12]}."
    repo_info.notify_of_name(context, note)
    return plan_listed(context, Listing(pinned, listing.requested_repo, options, details, freshness, note),
                       draft_after=wait)  # fmt: skip


def _find_pinned_commit(context: Context, plan: PullPlan) -> str | None:
    """Return the commit that the model of a plan is pinned at, if the plan is for another one."""
    if plan.model_id is None or plan.options.to is not None:
        return None
    with context.open_database() as db, suppress(UnknownModelError):
        model = db.get_model(plan.model_id)
        return model.commit if model.pinned and model.commit != plan.commit else None
    return None


def plan_listed(context: Context, listing: Listing, *, draft_after: float | None) -> PullPlan:
    """Return the plan for the listed files, or a draft if the headers and the scan reports take too long."""
    ref, options, details, freshness = listing.ref, listing.options, listing.details, listing.freshness
    signature_checks.refuse_new_owner(context, listing.requested_repo, ref.repo)
    context = replace(context, is_patient=not freshness.stale)
    timed = context.limit_time(draft_after)
    hub = timed.hub()
    guessed: tuple[Variant | None, str] = (
        (None, "") if options.file_only else variant_choice.guess_variant(timed, hub, ref, details)
    )
    # The scan reports are requested for the variant that will probably be chosen, while its header is read.
    scans = (
        None if freshness.stale else hub_scans.ScanRequest(hub, ref.repo, details.commit, _list_paths(ref, guessed[0]))
    )
    try:
        variant, reason = variant_choice.settle_variant(timed, hub, ref, details, guessed)
        variant, left_out = _settle_projector(timed, hub, listing, variant)
        plan = _plan_listed_files(timed, hub, listing, variant, reason)
        plan = _complete(timed, hub, replace(plan, left_out=left_out), details, scans)
        if draft_after is None or plan.scan_problem is None or timed.count_seconds_left():
            return plan
    except (NetworkError, SlowHeaderError) as error:
        can_wait = is_transient(error) or isinstance(error, SlowHeaderError)
        if draft_after is None or guessed[0] is None or not can_wait:
            raise
    return _make_draft(context, _plan_listed_files(timed, hub, listing, *guessed))


def complete_draft(context: Context, draft: PullPlan) -> PullPlan:
    """Read the headers and the scan reports for a draft, and return the complete plan.

    It has the same files, or fewer: a projector is left out if its header shows that it is another model's.

    Raises:
        HfModelsError: An error of `plan_pull`.
        InterruptedByUserError: The context's stop event was set.
    """
    context, ref = replace(context, is_patient=True), ModelRef.parse(draft.ref)
    details, freshness = repo_info.fetch_details(context, replace(ref, revision=draft.commit))
    listing = Listing(ref, ref.repo, draft.options, details, freshness, draft.note)
    hub = context.hub()
    scans = hub_scans.ScanRequest(hub, ref.repo, draft.commit, [file.path for file in draft.files])
    variant, left_out = _settle_projector(context, hub, listing, _rebuild_variant(draft))
    if variant is not None and variant.mmproj != draft.mmproj:  # another one may be larger than the agreed download
        variant = replace(variant, mmproj=None, mmproj_size=0)
    plan = _plan_listed_files(context, hub, listing, variant, draft.reason)
    plan = _complete(context, hub, replace(plan, model_id=draft.model_id, left_out=left_out), details, scans)
    return plan if draft.switch is None else bind_to_model(plan, str(draft.model_id), draft.switch)


def bind_to_model(plan: PullPlan, model_id: str, switch: VersionSwitch) -> PullPlan:
    """Return a plan that replaces the version of a local model, which keeps its id and its aliases."""
    return replace(plan, model_id=model_id, aliases=(), refused_aliases={}, switch=switch)


@dataclass(frozen=True)
class Listing:
    """A request for a pull, and the repo's files that the Hub listed for it."""

    ref: ModelRef
    requested_repo: RepoId  # as the user wrote it
    options: PullOptions
    details: RepoDetails
    freshness: Freshness
    note: str | None


def _settle_projector(
    context: Context, hub: Hub, listing: Listing, variant: Variant | None
) -> tuple[Variant | None, tuple[str, ...]]:
    """Return the variant with the projector that its header fits, and the projectors that were left out."""
    if variant is None or not listing.options.mmproj:
        return variant, ()
    return projector_choice.settle_projector(
        context, hub, listing.ref.repo, listing.details, variant, allow_invalid=listing.options.allow_invalid
    )


def _plan_listed_files(context: Context, hub: Hub, listing: Listing, variant: Variant | None, reason: str) -> PullPlan:
    """Return the plan for a variant, or for a single file, as far as the list of the repo's files tells."""
    ref, options, details = listing.ref, listing.options, listing.details
    if variant is not None and not options.mmproj:
        variant = replace(variant, mmproj=None, mmproj_size=0)
    chosen = [_get_complete_file(context, hub, ref.repo, details, path) for path in _list_paths(ref, variant)]
    model_id = _choose_model_id(context, ref, listing.requested_repo, variant) if variant else None
    plan_checks.refuse_by_policy(context, details, chosen)
    hub_scans.refuse_unsafe(details, chosen, (), allowed=options.allow_unsafe, endpoint=context.endpoint())
    planned = plan_files(context, ref.repo, details.commit, chosen, options)
    return PullPlan(
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
        folder=str(choose_folder(context, ref.repo, details.commit, options)),
        options=options,
        replaces=find_replaced(planned, options),
        hub=collect_repo_facts(details),
        freshness=listing.freshness,
        already_complete=is_complete(context, model_id, details.commit, planned, options),
        cache_dir=str(context.cache_dir().absolute()),
        endpoint=context.endpoint(),
        note=listing.note,
        unusable=tuple(variant_choice.list_left_out(details)),
    )


def _complete(
    context: Context, hub: Hub, plan: PullPlan, details: RepoDetails, scans: hub_scans.ScanRequest | None
) -> PullPlan:
    """Return the plan with the facts from the header and the signature, and the scan reports."""
    if plan.model_id is not None:
        plan = _add_model(context, hub, plan, details)
    plan = _add_scans(plan, details, scans)
    plan = signature_checks.add_signature(context, hub, plan, details)
    plan_checks.refuse_place(context, plan)
    return plan


def _make_draft(context: Context, plan: PullPlan) -> PullPlan:
    """Return a plan without the header, after the checks that don't need it."""
    plan_checks.refuse_place(context, plan)
    plan = _add_aliases(context, plan, "chat")
    return replace(plan, is_draft=True, fit=_assess_fit(context, plan))


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
    unsafe = hub_scans.refuse_unsafe(
        details, plan.files, scans, allowed=plan.options.allow_unsafe, endpoint=str(plan.endpoint)
    )
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


def _rebuild_variant(plan: PullPlan) -> Variant:
    sizes = {file.path: file.size for file in plan.files}
    size, mmproj_size = sum(sizes[path] for path in plan.weights), sizes[plan.mmproj] if plan.mmproj else 0
    return Variant(str(plan.quant), plan.weights, size, plan.mmproj, mmproj_size)


def _assess_fit(context: Context, plan: PullPlan, facts: ModelFacts | None = None) -> Fit:
    tokens, memory = context.settings().context, variant_choice.get_memory_for_models(context)
    return variant_choice.assess_fit(_rebuild_variant(plan), facts, tokens, memory)


def _add_model(context: Context, hub: Hub, plan: PullPlan, details: RepoDetails) -> PullPlan:
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
        preview = variant_choice.fetch_preview(context, hub, repo, details, _rebuild_variant(plan))
        facts, findings = _determine_kind(plan, details, preview.facts), preview.findings
    except InvalidGgufError as error:  # the header can't be read at all
        if not plan.options.allow_invalid:
            error.hint = ALLOW_INVALID_HINT
            raise
    if not plan.already_complete and not plan.options.allow_invalid:
        refuse_invalid(plan.ref, findings)
    return replace(
        _add_aliases(context, plan, facts.kind if facts else "chat"),
        findings=() if plan.already_complete else findings,
        facts=facts,
        hub=plan.hub if plan.already_complete else add_sampling(context, hub, repo, details, plan.hub or {}),
        fit=_assess_fit(context, plan, facts),
    )


def _determine_kind(plan: PullPlan, details: RepoDetails, facts: ModelFacts) -> ModelFacts:
    """Return the facts with the kind by the Hub's task, or by the options of the pull.

    Raises:
        BadInputError: An option is not for this kind of model.
    """
    facts = apply_kind(apply_task(facts, details.task), plan.options.kind)
    validate_for_model(plan.options.model_options, plan.ref, embedding=facts.kind == "embedding")
    return facts


def _list_short_names(plan: PullPlan) -> tuple[str, ...]:
    return make_short_names(plan.repo, str(plan.quant)) if plan.revision is None else ()


def _add_aliases(context: Context, plan: PullPlan, kind: str) -> PullPlan:
    """Return the plan with the requested aliases and the short names that no other model has.

    Raises:
        NameTakenError: Another model has a requested alias.
    """
    models_names.refuse_taken_names(plan.options.aliases, kind)
    with context.open_database() as db:
        models = db.list_models()
    requested = [parse_alias(alias) for alias in plan.options.aliases]
    if taken := explain_taken_aliases(models, requested, plan.model_id):
        name, reason = next(iter(taken.items()))
        raise NameTakenError(f"{name!r} {reason}", hint=f"llm hf alias --remove {name}")
    short = _list_short_names(plan)
    taken = explain_taken_aliases(models, short, plan.model_id)
    aliases = dict.fromkeys((*requested, *(name for name in short if name not in taken)))
    return replace(plan, aliases=tuple(aliases), refused_aliases=taken)
