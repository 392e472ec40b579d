"""Fetch the signature file of a repo at a commit, judge it, and compare it with files of the repo."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone

from pydantic import TypeAdapter

from llm_hf_models.context import Context
from llm_hf_models.errors import HfModelsError, InterruptedByUserError
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.session import MAX_CARD_BYTES
from llm_hf_models.hub.types import HubFile, RepoDetails
from llm_hf_models.library.records import Check, LocalModel
from llm_hf_models.library.trust import TrustRow
from llm_hf_models.models import metadata_cache
from llm_hf_models.models.signature_types import SignatureReport
from llm_hf_models.models.trusted_signers import compute_fingerprint
from llm_hf_models.signatures.hashing import find_hash_problem
from llm_hf_models.signatures.matching import KnownFile, match_files
from llm_hf_models.signatures.types import Coverage, SignatureFacts, SignedManifest
from llm_hf_models.signatures.verify import JudgedSignature, judge_signature
from llm_hf_models.system.text import clean_text, quote_label

FILE_NAME = "model.sig"
OTHER_ENDINGS = (".sig", ".sigstore", ".sigstore.json")
MAX_CANDIDATES = 3
NOT_CACHED = "The signature file is no longer on this machine. `llm hf info REPO` reads it again."
_KEPT = "signature:"  # with the digest of the file: the key of the cached content
_REPORT = TypeAdapter(SignatureReport)


def find_signature_files(details: RepoDetails) -> list[HubFile]:
    """Return the files of a repo that may be its signature: model.sig, else others at the top with a usual ending."""
    top = [file for file in details.files if "/" not in file.path]
    if main := [file for file in top if file.path == FILE_NAME]:
        return main
    return [file for file in top if file.path.lower().endswith(OTHER_ENDINGS)][:MAX_CANDIDATES]


def judge_repo(context: Context, hub: Hub, details: RepoDetails, files: Iterable[HubFile]) -> SignatureReport | None:
    """Return the facts about a repo's signature for some of its files, or None if the repo has none.

    The signature file is requested at the commit of `details`. Nothing is raised if it can't be read: the report then
    has the problem.

    Raises:
        HfModelsError: The context's time is over, or its stop event was set.
    """
    known = [KnownFile(file.path, file.size, file.sha256) for file in files]
    for file in find_signature_files(details):
        owner = details.author or RepoId.parse(details.id).owner
        try:
            data = _fetch(context, hub, details, file)
        except HfModelsError as error:
            if isinstance(error, InterruptedByUserError) or not context.count_seconds_left():
                raise
            return _make_unread(file.path, owner, error.message)
        if data is None:
            return _make_unread(file.path, owner, "the file is too large for a signature")
        with context.open_database() as db:
            signers = db.list_trusted_signers()
        report, manifest = judge_content(file.path, owner, data, signers, known)
        if manifest is not None or file.path == FILE_NAME:  # another file may be a signature of another format
            return replace(report, file_digest=file.etag or None)
    return None


def judge_content(
    name: str, owner: str, data: bytes, signers: Sequence[TrustRow], files: Sequence[KnownFile]
) -> tuple[SignatureReport, SignedManifest | None]:
    """Judge the content of a signature file of an owner's repo, with the signers that a person trusts.

    Args:
        name: The path of the signature file.
        owner: The owner of the repo.
        data: The content.
        signers: All trusted signers.
        files: The files of the model, with the digests that are known.
    """
    owners: dict[str, list[TrustRow]] = {owner.casefold(): []}
    for row in signers:
        owners.setdefault(row.owner.casefold(), []).append(row)
    own = owners[owner.casefold()]
    judged, trusted = _judge(data, own), []
    for rows in owners.values():
        again = _judge(data, rows) if rows is not own and _may_have_signed(judged.facts, rows) else judged
        if _is_by(again.facts, rows):
            trusted.append(rows[0].owner)
            judged = again if judged.facts.verdict != "valid" else judged
    is_own = any(name.casefold() == owner.casefold() for name in trusted)
    others = tuple(name for name in trusted if name.casefold() != owner.casefold())
    coverage = None
    if judged.manifest:
        coverage = match_files(judged.manifest, files, find_hash_problem(judged.manifest.algorithm))
    is_proven = judged.facts.verdict == "valid"
    report = SignatureReport(
        name, owner, replace(judged.facts, coverage=coverage), is_own if is_proven else None, others
    )
    return _describe(report), judged.manifest


def judge_again(context: Context, model: LocalModel) -> SignatureReport | None:
    """Return the facts about the signature of a local model with the signers that are trusted now.

    No request is sent. If the signature file is no longer cached, the verdict is `not_checked`. None if the model's
    repo had no signature at the pull.
    """
    check = model.latest_check("signature")
    if check is None:
        return None
    old = _REPORT.validate_python(dict(check.detail))
    with context.open_database() as db:
        cached = db.get_metadata(f"{_KEPT}{old.file_digest}")
        signers = db.list_trusted_signers()
    if cached is None:
        facts = old.facts and replace(old.facts, verdict="not_checked", reason=NOT_CACHED)
        return _describe(replace(old, facts=facts, trusted=None, trusted_for=()))
    known = [KnownFile(file.path, file.size, file.sha256) for file in model.files]
    new, _ = judge_content(old.file, old.owner, base64.b64decode(cached.body), signers, known)
    new = replace(new, file_digest=old.file_digest)
    coverage = new.facts.coverage if new.facts else None
    if coverage and coverage.unchecked and old.facts and old.facts.coverage:  # the pull computed their digests
        return replace_coverage(new, old.facts.coverage)
    return new


def judge_stored(
    context: Context, report: SignatureReport, repo: str, commit: str
) -> tuple[SignatureReport, SignedManifest | None]:
    """Judge the signature file of a report again, which is cached or is requested from the repo.

    The reply may be another file than before, so its manifest is a claim until its own verdict is `valid`.
    """
    file = HubFile(report.file, 0, report.file_digest)
    data = _fetch_file(context, context.hub(), RepoId.parse(repo), commit, file)
    with context.open_database() as db:
        signers = db.list_trusted_signers()
    new, manifest = judge_content(report.file, report.owner, data, signers, ())
    return replace(new, file_digest=report.file_digest), manifest


def replace_coverage(report: SignatureReport, coverage: Coverage) -> SignatureReport:
    """Return the report with another comparison of the files, which was made when more digests were known."""
    return _describe(replace(report, facts=report.facts and replace(report.facts, coverage=coverage)))


def _judge(data: bytes, signers: Sequence[TrustRow]) -> JudgedSignature:
    keys, roots = (
        [str(row.pem).encode() for row in signers if row.method == method] for method in ("key", "certificate")
    )
    return judge_signature(data, keys, roots)


def _may_have_signed(facts: SignatureFacts, signers: Sequence[TrustRow]) -> bool:
    """Return whether the signature has to be judged with the keys or certificates of these signers."""
    if facts.method == "key":
        return any(row.method == "key" and compute_fingerprint(row) == facts.key_hint for row in signers)
    return facts.method == "certificate" and any(row.method == "certificate" for row in signers)


def _is_by(facts: SignatureFacts, signers: Sequence[TrustRow]) -> bool:
    """Return whether one of these signers, with whose keys the signature was judged, signed or is named as the signer.

    A keyless identity is compared even if the software that proves it is missing.
    """
    if facts.method != "keyless":
        return facts.verdict == "valid"
    named = (facts.identity, facts.issuer) in {(row.identity, row.issuer) for row in signers if row.method == "keyless"}
    return named and facts.verdict in ("valid", "issuer_unproven")


def _fetch(context: Context, hub: Hub, details: RepoDetails, file: HubFile) -> bytes | None:
    """Return the content of a signature file. None if it is too large."""
    if file.size >= MAX_CARD_BYTES:
        return None
    return _fetch_file(context, hub, RepoId.parse(details.id), details.commit, file)


def _fetch_file(context: Context, hub: Hub, repo: RepoId, commit: str, file: HubFile) -> bytes:
    """Return the content of a signature file, cached by its digest."""

    def fetch() -> bytes:
        return hub.fetch_small_file(repo, RepoFile(file.path), commit)

    return metadata_cache.cache_by_digest(
        context,
        f"{_KEPT}{file.etag}" if file.etag else None,
        lambda: metadata_cache.request_with_retry(context, fetch),
        lambda data: base64.b64encode(data).decode(),
        lambda text: base64.b64decode(text, validate=True),
    )


# The facts in words


def make_check(report: SignatureReport) -> Check:
    """Return the dated record of the facts about a signature. It is plainly `valid` only if the signer is trusted."""
    verdict = report.facts.verdict.replace("_", " ") if report.facts else "not read"
    verdict += ", signer not trusted" if report.trusted is False else ""
    return Check("signature", verdict, time.time(), asdict(report))


def _make_unread(file: str, owner: str, problem: str) -> SignatureReport:
    return _describe(SignatureReport(file, owner, None, None, problem=clean_text(problem, 200)))


def _describe(report: SignatureReport) -> SignatureReport:
    lines = [f"{report.file} was not read: {report.problem}"] if report.facts is None else _list_lines(report)
    return replace(report, summary="\n".join(lines), warnings=tuple(_list_warnings(report)))


def _list_lines(report: SignatureReport) -> list[str]:
    facts = report.facts or SignatureFacts("invalid")
    lines = [_describe_verdict(facts)]
    if facts.method is None:
        return lines
    if report.trusted is not None or report.trusted_for:
        lines.append(_describe_trust(report))
    if facts.coverage is not None:
        lines.append(_describe_coverage(facts.coverage))
    return lines


def _describe_verdict(facts: SignatureFacts) -> str:
    who = _describe_signer(facts)
    when = f", on {_format_day(facts.signed_at)}" if facts.signed_at else ""
    if facts.verdict == "valid":
        return f"valid: a manifest of files signed by {who}{when}"
    titles = {
        "issuer_unproven": f"not proven: it claims to be by {who}",
        "not_checked": "not checked",
        "invalid": "invalid",
    }
    return f"{titles[facts.verdict]}: {clean_text(facts.reason or 'no reason is known', 300)}"


def _describe_signer(facts: SignatureFacts) -> str:
    if facts.identity:
        issuer = f" (confirmed by {clean_text(facts.issuer, 120)})" if facts.issuer else ""
        return f"{clean_text(facts.identity, 120)}{issuer}"
    return f"the key {(facts.key_hint or 'without a name')[:16]}"


def _describe_trust(report: SignatureReport) -> str:
    others = ", ".join(report.trusted_for)
    if report.trusted:
        return f"you trust this signer for {report.owner}"
    if others:
        return f"you trust this signer for {others}, not for {report.owner}: the signature may be copied from {others}"
    return f"this signer is not among those that you trust for {report.owner} (llm hf trust)"


def _describe_coverage(coverage: Coverage) -> str:
    text = f"lists {coverage.matching} of {coverage.files} files of this variant with the same digest"
    for paths, words in ((coverage.differing, "with another digest"), (coverage.unlisted, "not listed")):
        if paths:
            text += f"; {words}: {', '.join(map(quote_label, paths[:3]))}{', …' if paths[3:] else ''}"
    if coverage.unchecked:
        reason = coverage.unchecked_reason or "its digests are computed while the files are downloaded"
        text += f"; {len(coverage.unchecked)} not compared: {clean_text(reason, 200)}"
    return text


def _list_warnings(report: SignatureReport) -> list[str]:
    """Return what a person should know before a pull. A signature that is merely not checked is not one of these."""
    facts = report.facts
    if facts is None or facts.method is None:
        return [report.problem or (facts.reason if facts else None) or "it could not be read"]
    found = [_describe_verdict(facts)] if facts.verdict == "invalid" else []
    if report.trusted_for and not report.trusted:
        found.append(_describe_trust(report))
    coverage = facts.coverage
    if coverage is not None and (coverage.differing or (report.trusted and coverage.unlisted)):
        found.append(_describe_coverage(coverage))
    return found


def _format_day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
