"""Verify keyless signatures, in which Sigstore's authority certified a login and a public log recorded the signature.

This needs the optional package sigstore. It contains Sigstore's roots, so no network is used.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from llm_hf_models.errors import BadKeyError
from llm_hf_models.signatures.bundle import Bundle
from llm_hf_models.signatures.certificates import MALFORMED, load_chain, read_identity
from llm_hf_models.signatures.keys import check_public_key, is_signed_by
from llm_hf_models.signatures.statement import PAYLOAD_TYPE
from llm_hf_models.signatures.types import SignatureFacts, Verdict
from llm_hf_models.system.json_values import UnixTime
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.verify import Verifier

INSTALL_HINT = "llm install 'llm-hf-models[sigstore]'"
ROOTS_FOLDER = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"  # of the roots for public use, in the package sigstore
MAX_REASON_CHARS = 200


class _AnyIdentity:
    """A policy of sigstore that accepts each identity: the caller compares it with those that it trusts."""

    def verify(self, cert: Certificate) -> None:
        """Accept the certificate."""


def judge_keyless_signature(bundle: Bundle) -> SignatureFacts:
    """Return the facts about a keyless signature.

    Raises:
        BadSignatureError: a certificate of the signature is malformed, or its identity is not a plain text.
    """
    leaf = load_chain(bundle)[0]
    identity, issuer = read_identity(leaf)

    def state(verdict: Verdict, reason: str | None = None, signed_at: UnixTime | None = None) -> SignatureFacts:
        digest = bundle.manifest.digest
        return SignatureFacts(verdict, reason, "keyless", identity, issuer, signed_at=signed_at, digest=digest)

    try:
        if not is_signed_by(bundle, check_public_key(leaf.public_key())):
            return state("invalid", "The signature does not match its content.")
    except (BadKeyError, *MALFORMED):
        return state("not_checked", "The signer's key is of a kind that is not supported.")
    try:
        verifier = _create_verifier()
    except (ImportError, OSError):  # it is missing, or has another layout
        return state("issuer_unproven", f"The issuer was not checked. To check it, run {INSTALL_HINT}.")
    problem = _find_problem(verifier, bundle)
    if problem:
        return state("invalid", problem)
    # The certificate is valid for minutes, and the log proves that the signature was made in this time.
    return state("valid", None, leaf.not_valid_before_utc.timestamp())


@cache
def _create_verifier() -> Verifier:
    """Return a verifier with the roots in the package sigstore.

    `Verifier.production(offline=True)` would prefer the copy that an earlier version left in the user's cache.
    """
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    with as_file(files("sigstore._store") / ROOTS_FOLDER / "trusted_root.json") as path:
        return Verifier(trusted_root=TrustedRoot.from_file(str(path)))


def _find_problem(verifier: Verifier, bundle: Bundle) -> str | None:
    """Return why Sigstore's roots do not prove the signature, or None if they do."""
    from sigstore.errors import Error
    from sigstore.models import Bundle as SigstoreBundle

    try:
        proven = verifier.verify_dsse(SigstoreBundle.from_json(bundle.data), _AnyIdentity())
    except (Error, ValueError) as error:  # its errors for malformed entries include pydantic's, which are ValueErrors
        return f"Sigstore's roots do not prove it: {clean_text(str(error), MAX_REASON_CHARS)}"
    return None if proven == (PAYLOAD_TYPE, bundle.payload) else "Sigstore read another statement from the file."
