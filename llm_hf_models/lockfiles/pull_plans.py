"""Plan the pull of one locked model: at exactly its commit, with exactly its digests, from the Hub or this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_hf_models.context import Context
from llm_hf_models.downloads import plan_checks, signature_checks
from llm_hf_models.downloads.plan import complete_draft
from llm_hf_models.downloads.plan_types import PlannedFile, PullOptions, PullPlan
from llm_hf_models.errors import DigestMismatchError, HfModelsError, RevisionNotFoundError
from llm_hf_models.gguf.filenames import is_quant_name
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.refs import ModelRef, RepoFile
from llm_hf_models.hub.types import HubFile, RepoDetails
from llm_hf_models.lockfiles.local_bytes import get_served_name, make_hub_file
from llm_hf_models.lockfiles.types import LockedModel
from llm_hf_models.models import repo_info
from llm_hf_models.models.types import Freshness

NOT_ASKED = "the files are from this machine or a folder, so the Hub was not asked"


def plan_from_local_bytes(
    context: Context, locked: LockedModel, model_id: str, cached: Mapping[str, Path], sources: Mapping[str, Path]
) -> PullPlan:
    """Plan the registration of a model whose files are all on this machine or in a folder. Sends no request.

    Raises:
        PolicyError: A setting forbids this owner, this licence or this size.
        SignatureRefusedError: A setting requires the signature of a trusted signer.
        NotWritableError, DiskFullError: The cache can't hold the files.
    """
    plan = _build_draft(context, locked, model_id, cached, sources)
    repo, commit = get_served_name(locked)
    details = RepoDetails(id=str(repo), author=repo.owner, license=locked.license, commit=commit)
    plan_checks.refuse_by_policy(context, details, plan.files)
    signature_checks.refuse_unchecked(context, details.author)
    plan = replace(
        plan,
        hub=_describe_repo(locked, {}),
        scan="not asked",
        scan_state="not asked",
        scan_problem=NOT_ASKED,
        freshness=Freshness("cache"),
        local_only=True,
        is_draft=False,
    )
    plan_checks.refuse_place(context, plan)
    return plan


def plan_download(
    context: Context, locked: LockedModel, model_id: str, cached: Mapping[str, Path], sources: Mapping[str, Path]
) -> PullPlan:
    """Plan the download of a model's missing files, with the checks of any pull.

    Raises:
        DigestMismatchError: The Hub's record of a file differs from the lockfile.
        HfModelsError: An error of `complete_draft`.
    """
    repo, commit = get_served_name(locked)
    details, _ = repo_info.fetch_details(context, ModelRef(repo, commit))
    if details.commit != commit:
        raise RevisionNotFoundError(f"{repo} has no commit {commit}", cause=f"It returned {details.commit[:40]}.")
    _refuse_other_files(locked, {file.path: file for file in details.files})
    draft = _build_draft(context, locked, model_id, cached, sources)
    plan = complete_draft(context, draft)
    _refuse_other_files(locked, {file.path: file for file in plan.files})
    partial = {file.path: file.partial for file in plan.files}
    files = tuple(replace(file, partial=partial.get(file.path, 0)) for file in draft.files)
    return replace(
        plan,
        files=files,
        weights=draft.weights,
        mmproj=draft.mmproj,
        fetch_bytes=_count_fetch_bytes(files),
        total_bytes=draft.total_bytes,
        aliases=(),
        refused_aliases={},
        sources=draft.sources,
        hub=_describe_repo(locked, plan.hub or {}),
        from_lockfile=True,
        already_complete=False,
    )


def _describe_repo(locked: LockedModel, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the repo's metadata with that of the lockfile, because a mirror may lack or guess some."""
    rest = {key: value for key, value in found.items() if key != "generation_config"}
    return {
        "tags": (),
        **rest,
        "task": locked.task,
        "license": locked.license,
        "gated": locked.gated or found.get("gated") or False,
        "private": locked.private or bool(found.get("private")),
        **({"generation_config": dict(locked.generation_config)} if locked.generation_config else {}),
    }


def _refuse_other_files(locked: LockedModel, found: Mapping[str, HubFile]) -> None:
    for file in locked.files:
        other = found.get(file.path)
        if other is None:
            continue  # `complete_draft` names similar files
        digest = other.sha256 if file.sha256 else other.git_sha1
        if other.size != file.size_bytes or digest not in (None, file.digest):
            raise DigestMismatchError(
                f"{file.path} of {locked.id} on the Hub is not the file of the lockfile",
                cause=f"The lockfile has {file.digest} ({file.size_bytes} bytes), the Hub {digest} ({other.size}).",
                hint="Nothing was downloaded. Check where the lockfile is from, or use --from with a trusted copy.",
            )


def _build_draft(
    context: Context, locked: LockedModel, model_id: str, cached: Mapping[str, Path], sources: Mapping[str, Path]
) -> PullPlan:
    repo, commit = get_served_name(locked)
    weights = tuple(file.path for file in locked.files if file.role == "weights")
    mmproj = next((file.path for file in locked.files if file.role == "mmproj"), None)
    named = {"quant": locked.quant} if is_quant_name(locked.quant) else {"file": RepoFile(weights[0])}
    files = tuple(
        PlannedFile(
            **vars(make_hub_file(file)),
            local=file.path in cached,
            copy=file.path not in cached and file.path in sources,
        )
        for file in locked.files
    )
    return PullPlan(
        ref=str(ModelRef(repo, locked.revision, **named)),
        repo=str(repo),
        revision=locked.revision,
        commit=commit,
        model_id=model_id,
        quant=locked.quant,
        reason="the lockfile names it",
        files=files,
        weights=weights,
        mmproj=mmproj,
        total_bytes=locked.size_bytes,
        fetch_bytes=_count_fetch_bytes(files),
        folder=str(cache_layout.cache_path(context.cache_dir(), repo, commit, "x").parent),
        options=PullOptions(mmproj=mmproj is not None),
        is_draft=True,
        cache_dir=str(context.cache_dir().absolute()),
        endpoint=context.endpoint(),
        sources={file.path: str(sources[file.path]) for file in files if file.copy},
        from_lockfile=True,
    )


def _count_fetch_bytes(files: tuple[PlannedFile, ...]) -> int:
    return sum(file.size - file.partial for file in files if not file.local and not file.copy)


def explain_missing(error: HfModelsError, kept: Mapping[str, Path]) -> str:
    """Return what the Hub's refusal means for a model, and which of its files are still on this machine."""
    here = f" On this machine: {', '.join(map(str, kept.values()))}." if kept else ""
    return f"{error.message}.{here}" + (f" {error.cause}" if error.cause else "")
