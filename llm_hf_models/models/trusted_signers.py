"""Store which signers a person trusts for the models of an owner. A signature alone makes nobody trusted."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, BadKeyError, UnknownSignerError
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.library.trust import TrustRow
from llm_hf_models.models.key_files import read_key
from llm_hf_models.models.signature_types import TrustChange, TrustedSigner
from llm_hf_models.system.text import clean_text, suggest_word

MAX_IDENTITY_CHARS = 300
LIST_HINT = "List the trusted signers with `llm hf trust list`."
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class SignerRequest:
    """What a person gave to describe a signer: an identity and its issuer, a key or a certificate."""

    identity: str | None = None
    issuer: str | None = None
    key: Path | None = None
    certificate: Path | None = None


def list_trusted_signers(context: Context, owner: str | None) -> tuple[TrustedSigner, ...]:
    """Return the trusted signers, of one owner or of all."""
    wanted = parse_owner(owner).casefold() if owner is not None else None
    with context.open_database() as db:
        rows = db.list_trusted_signers()
    return tuple(make_signer(row) for row in rows if wanted in (None, row.owner.casefold()))


def add_trusted_signer(context: Context, owner: str, request: SignerRequest, *, dry_run: bool) -> TrustChange:
    """Trust a signer for the models of an owner.

    Raises:
        BadInputError: The owner or the description of the signer is invalid.
        BadKeyError: The file has no key or certificate that signatures use.
    """
    row = _parse_request(parse_owner(owner), request)
    if dry_run:
        return TrustChange(added=(make_signer(row),), done=False)
    with context.open_database() as db:
        return TrustChange(added=(make_signer(db.add_trusted_signer(row)),))


def remove_trusted_signers(context: Context, which: str, *, dry_run: bool) -> TrustChange:
    """Remove one trusted signer by its number, or all signers of an owner.

    Raises:
        UnknownSignerError: There is no such signer.
    """
    with context.open_database() as db, db.transaction():
        rows = db.list_trusted_signers()
        chosen = [row for row in rows if which in (str(row.key), f"#{row.key}")]
        chosen = chosen or [row for row in rows if row.owner.casefold() == which.casefold()]
        if not chosen:
            known = [*(row.owner for row in rows), *(str(row.key) for row in rows)]
            raise UnknownSignerError(
                f"No signer is trusted for the owner {clean_text(which, 80)!r}, and none has this number",
                hint=suggest_word(which, known) + LIST_HINT,
            )
        if not dry_run:
            for row in chosen:
                db.remove_trusted_signer(row.key)
    return TrustChange(removed=tuple(map(make_signer, chosen)), done=not dry_run)


def parse_owner(text: str) -> str:
    """Return the name of an owner on the Hub.

    Raises:
        BadInputError: The text is not such a name.
    """
    try:
        return RepoId.parse(f"{text}/x").owner
    except BadInputError:
        hint = "An owner is the part before the `/` of a repo, such as ibm-granite."
        raise BadInputError(f"{clean_text(text, 80)!r} is not an owner on the Hub", hint=hint) from None


def make_signer(row: TrustRow) -> TrustedSigner:
    """Return the view of a trusted signer, with the fingerprint of its key or certificate."""
    fingerprint = compute_fingerprint(row) if row.pem else None
    return TrustedSigner(row.key, row.owner, row.method, row.identity, row.issuer, fingerprint, row.added)


def compute_fingerprint(row: TrustRow) -> str:
    """Return the sha256 of a stored key or certificate, in the form that signatures name keys by."""
    return hashlib.sha256((row.pem or "").encode()).hexdigest()


def _parse_request(owner: str, request: SignerRequest) -> TrustRow:
    by_login = request.identity is not None or request.issuer is not None
    if by_login + (request.key is not None) + (request.certificate is not None) != 1:
        raise BadInputError(
            "Describe the signer in one way",
            hint=f"llm hf trust add {owner} --identity NAME --issuer URL, or --key FILE, or --cert FILE",
        )
    if by_login:
        if not request.identity or not request.issuer:
            missing = "issuer" if request.identity else "identity"
            raise BadInputError(
                f"The {missing} is missing",
                cause="An identity is only known together with the login service that confirmed it.",
                hint=f"Add --{missing}. `llm hf info {owner}/REPO` shows both for a repo with a signature.",
            )
        return TrustRow(
            owner, "keyless", _parse_text("identity", request.identity), _parse_text("issuer", request.issuer)
        )
    if request.key is not None:
        return TrustRow(owner, "key", pem=_read_key(request.key))
    return TrustRow(owner, "certificate", pem=_read_certificates(Path(str(request.certificate))))


def _parse_text(name: str, text: str) -> str:
    text = text.strip()
    if not text or len(text) > MAX_IDENTITY_CHARS or _CONTROL.search(text):
        raise BadInputError(f"The {name} must have 1 to {MAX_IDENTITY_CHARS} visible characters")
    return text


def _read_key(path: Path) -> str:
    from llm_hf_models.signatures import keys

    return keys.encode_public_key(keys.load_public_key(read_key(path))).decode()


def _read_certificates(path: Path) -> str:
    from llm_hf_models.signatures import certificates

    data = read_key(path)
    if b"PRIVATE KEY-----" in data:
        raise BadKeyError("This file has a private key, and only the certificate is needed")
    return certificates.normalize_pem(data)
