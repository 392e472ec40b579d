"""Plan a pull that replaces the version of a local model: by a newer one, or by one that it had before."""

from __future__ import annotations

from dataclasses import replace

from llm_hf_models.context import Context
from llm_hf_models.downloads import signature_checks
from llm_hf_models.downloads.plan import Listing, bind_to_model, plan_files, plan_listed
from llm_hf_models.downloads.plan_types import PullOptions, PullPlan, VersionSwitch
from llm_hf_models.errors import BadInputError, NotFoundError
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.refs import ModelRef, RepoId
from llm_hf_models.hub.types import HubFile, RepoDetails
from llm_hf_models.library.records import LocalModel, ModelVersion
from llm_hf_models.models import repo_info
from llm_hf_models.models.repairs import format_pull_ref
from llm_hf_models.models.repo_signature import judge_again
from llm_hf_models.models.types import Freshness
from llm_hf_models.models.variant_choice import group_variants


def refuse_other_place(model: LocalModel) -> None:
    """Refuse to replace the version of a model whose files are not in the cache.

    Raises:
        BadInputError: The files are the user's own, or in a folder that the user chose.
    """
    model.refuse_if_remote()
    if model.place == "cache":
        return
    how = "was pulled to a folder" if model.place == "folder" and model.commit else "was imported"
    hint = f"Pull it into the cache, which replaces the entry: llm hf pull {format_pull_ref(model.model_id)}"
    raise BadInputError(f"{model.model_id} {how}, and only models in the cache are replaced", hint=hint)


def plan_new_version(
    context: Context,
    model: LocalModel,
    details: RepoDetails,
    variant: Variant,
    switch: VersionSwitch,
    *,
    draft_after: float | None = None,
) -> PullPlan:
    """Plan the pull of a variant at another commit, which becomes the version of a local model.

    Args:
        context: The context with the Hub and the library.
        model: The local model.
        details: The repo at that commit.
        variant: The variant in it. Without a projector, none is pulled.
        switch: How the current version is replaced.
        draft_after: As in `plan_pull`.

    Raises:
        HfModelsError: An error of `plan_pull`.
    """
    ref = ModelRef(RepoId.parse(details.id), revision=model.revision, quant=variant.quant)
    options = PullOptions(mmproj=variant.mmproj is not None)
    listing = Listing(ref, ModelRef.parse(format_pull_ref(model.model_id)).repo, options, details, Freshness(), None)
    switch = replace(switch, replaces=model.commit)
    return bind_to_model(plan_listed(context, listing, draft_after=draft_after), model.model_id, switch)


def plan_old_version(context: Context, model: LocalModel, version: ModelVersion, switch: VersionSwitch) -> PullPlan:
    """Plan the return to an earlier version. Without its files on this machine, they are pulled at its commit.

    Raises:
        NotFoundError: The files are gone, and the Hub no longer has that commit.
        SignatureRefusedError: The setting require_signature forbids that version.
        HfModelsError: An error of `plan_pull`.
    """
    plan = _plan_recorded(context, model, version, switch)
    if not plan.fetch_bytes:
        # The Hub is not asked, so the recorded signature counts, with the signers who are trusted now.
        report = judge_again(context, replace(model, files=version.files, checks=version.checks))
        signature_checks.refuse_signature(context, RepoId.parse(plan.repo).owner, report)
        return plan
    ref = ModelRef(RepoId.parse(plan.repo), revision=plan.commit)
    try:
        details, _ = repo_info.fetch_details(context, ref)
    except NotFoundError as error:
        error.cause = f"The files of {plan.commit[:12]} are no longer on this machine."
        error.hint = "Only the current version is left. `llm hf update --keep-old` keeps the files of old versions."
        raise
    variant = Variant(str(plan.quant), plan.weights, 0, plan.mmproj)
    by_label = next((one for one in group_variants(details) if one.files == variant.files), None)
    if by_label is None:
        raise NotFoundError(f"{plan.repo} does not list the files of {plan.commit[:12]}")
    return plan_new_version(context, model, details, replace(by_label, mmproj=plan.mmproj), switch)


def _plan_recorded(context: Context, model: LocalModel, version: ModelVersion, switch: VersionSwitch) -> PullPlan:
    """Return the plan for the recorded files of a version, without asking the Hub."""
    repo, commit = RepoId.parse(str(version.repo)), str(version.commit)
    files = [HubFile(file.path, file.size, file.sha256, file.git_sha1) for file in version.files]
    options = PullOptions(mmproj=any(file.role == "mmproj" for file in version.files))
    planned = plan_files(context, repo, commit, files, options)
    revision = f"@{model.revision}" if model.revision else ""
    return PullPlan(
        ref=f"{repo}{revision}:{model.quant}",
        repo=str(repo),
        revision=model.revision,
        commit=commit,
        model_id=model.model_id,
        quant=model.quant,
        reason="the version before",
        files=planned,
        weights=tuple(file.path for file in version.files if file.role == "weights"),
        mmproj=next((file.path for file in version.files if file.role == "mmproj"), None),
        total_bytes=sum(file.size for file in planned),
        fetch_bytes=sum(file.size - file.partial for file in planned if not file.local),
        folder=str(cache_layout.cache_path(context.cache_dir(), repo, commit, "x").parent),
        options=options,
        facts=version.facts,
        hub=version.hub,
        scan_problem="the version was scanned when it was pulled",
        cache_dir=str(context.cache_dir().absolute()),
        endpoint=context.endpoint(),
        switch=switch,
    )
