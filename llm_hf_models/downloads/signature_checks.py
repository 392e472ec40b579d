"""Judge the signature of a repo before the first byte of its weights, and refuse a pull that contradicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llm_hf_models.context import Context
from llm_hf_models.downloads.fetch_variant import StoredFile
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.errors import SignatureRefusedError
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.models.repo_signature import judge_repo, judge_stored, replace_coverage
from llm_hf_models.models.signature_types import SignatureReport
from llm_hf_models.signatures.hashing import find_hash_problem
from llm_hf_models.signatures.matching import KnownFile, match_files
from llm_hf_models.signatures.types import SignedManifest
from llm_hf_models.system.text import quote_label

SETTING_HINT = "llm hf settings require_signature"


def add_signature(context: Context, hub: Hub, plan: PullPlan, details: RepoDetails) -> PullPlan:
    """Return the plan with the facts about the repo's signature for its files.

    Raises:
        SignatureRefusedError: The files differ from a proven manifest, or the setting require_signature forbids them.
    """
    if plan.already_complete:
        return plan
    report = judge_repo(context, hub, details, plan.files)
    refuse_signature(context, details.author, report)
    return replace(plan, signature=report)


def find_manifest_to_compare(context: Context, plan: PullPlan) -> tuple[PullPlan, SignedManifest | None]:
    """Return the signed manifest if it lists digests that are only known once the files have arrived.

    The plan has the facts about the signature by the signers who are trusted now.

    Raises:
        SignatureRefusedError: The signature was proven when the pull was planned, and no longer is.
    """
    report = plan.signature
    coverage = report.facts.coverage if report and report.facts else None
    if report is None or coverage is None or not coverage.unchecked:
        return plan, None
    again, manifest = judge_stored(context, report, plan.repo, plan.commit)
    if manifest is None or (_is_proven(report) and not _is_proven(again)):
        raise SignatureRefusedError(
            f"The signature of {plan.repo} is no longer the one that was checked",
            cause=again.summary,
            hint=f"Plan the pull again: llm hf pull {plan.ref}",
        )
    return replace(plan, signature=again), manifest


def compare_stored_files(
    context: Context, plan: PullPlan, manifest: SignedManifest | None, stored: Sequence[StoredFile]
) -> PullPlan:
    """Return the plan with the facts about the signature for the files that have arrived.

    Raises:
        SignatureRefusedError: The files differ from a proven manifest, or the setting require_signature forbids them.
    """
    if manifest is None or plan.signature is None:
        return plan
    files = [KnownFile(file.path, file.size, file.sha256, file.manifest_digests) for file in stored]
    coverage = match_files(manifest, files, find_hash_problem(manifest.algorithm))
    report = replace_coverage(plan.signature, coverage)
    refuse_signature(context, report.owner, report)
    return replace(plan, signature=report)


def refuse_new_owner(context: Context, requested: RepoId, found: RepoId) -> None:
    """Refuse a repo that was moved to another owner, if the settings require a signature for the requested one.

    Raises:
        SignatureRefusedError: The repo has another owner now.
    """
    if requested.owner.casefold() != found.owner.casefold() and requires_signer(context, requested.owner):
        raise SignatureRefusedError(
            f"You trust signers for {requested.owner}, and its repo is now {found}",
            cause="The setting require_signature is `owners`, and another owner's signature does not count.",
            hint=f"If you trust {found.owner}, pull it by its new name: llm hf pull {found}",
        )


def refuse_signature(context: Context, owner: str, report: SignatureReport | None) -> None:
    """Refuse files that differ from a proven manifest, and what the setting require_signature forbids.

    Raises:
        SignatureRefusedError: The files are refused.
    """
    if report is not None and report.facts is not None and _is_proven(report):
        coverage = report.facts.coverage
        if coverage is not None and coverage.differing:
            raise SignatureRefusedError(
                f"{', '.join(map(quote_label, coverage.differing[:5]))}: not the signed content",
                cause=f"The signature of {owner}'s repo is valid, and lists another digest.\n{report.summary}",
                hint="Tell the owner of the repo, or pull another revision.",
            )
    mode = context.settings().require_signature
    if mode == "off":
        return
    problem = _find_problem(report)
    if problem is None and requires_signer(context, owner):
        problem = _find_missing_proof(owner, report)
    if problem:
        raise SignatureRefusedError(
            problem,
            cause=f"The setting require_signature is `{mode}`." + (f"\n{report.summary}" if report else ""),
            hint=f"Choose whom to trust with `llm hf trust`, or change the setting: {SETTING_HINT}",
        )


def refuse_unchecked(context: Context, owner: str) -> None:
    """Refuse files whose repo was not asked for its signature, if the setting require_signature requires one.

    Raises:
        SignatureRefusedError: You trust signers for the owner.
    """
    if requires_signer(context, owner):
        raise SignatureRefusedError(
            f"The signature of {owner}'s repo can't be checked without the Hub",
            cause="The setting require_signature is `owners`, and you trust signers for this owner.",
            hint=f"Sync from the Hub or a mirror, or change the setting: {SETTING_HINT}",
        )


def requires_signer(context: Context, owner: str) -> bool:
    """Return whether the settings require a signature by a signer whom a person trusts for this owner."""
    if context.settings().require_signature != "owners":
        return False
    with context.open_database() as db:
        return any(row.owner.casefold() == owner.casefold() for row in db.list_trusted_signers())


def _is_proven(report: SignatureReport) -> bool:
    return report.facts is not None and report.facts.verdict == "valid"


def _find_problem(report: SignatureReport | None) -> str | None:
    """Return why a signature that is present does not prove who signed the files, or None."""
    if report is None:
        return None
    if not _is_proven(report):
        return f"The repo has a signature, {report.file}, that is not proven"
    if report.trusted_for and not report.trusted:
        return f"The repo's signature is by a signer of another owner, {', '.join(report.trusted_for)}"
    return None


def _find_missing_proof(owner: str, report: SignatureReport | None) -> str | None:
    """Return why no signer whom a person trusts for this owner signed all of the files, or None."""
    if report is None:
        return f"The repo has no signature, and you trust signers for {owner}"
    if not report.trusted:
        return f"The signer is not one that you trust for {owner}"
    coverage = report.facts.coverage if report.facts else None
    if coverage is not None and coverage.unchecked and coverage.unchecked_reason:
        names = ", ".join(map(quote_label, coverage.unchecked[:5]))
        return f"The digests of {names} can't be compared: {coverage.unchecked_reason}".rstrip(".")
    if coverage is None or coverage.unlisted:
        names = ", ".join(map(quote_label, coverage.unlisted[:5])) if coverage else "the files"
        return f"The signature does not list {names}"
    return None
