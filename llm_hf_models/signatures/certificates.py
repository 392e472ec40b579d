"""Verify signatures by certificate: the chain to a given root, the use and the validity of the signer's certificate."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from llm_hf_models.errors import BadKeyError, BadSignatureError
from llm_hf_models.signatures.bundle import Bundle
from llm_hf_models.signatures.keys import check_public_key, is_signed_by
from llm_hf_models.signatures.types import SignatureFacts, Verdict
from llm_hf_models.system.text import clean_text

MAX_TEXT_CHARS = 300
# Raised while a malformed certificate is read, some of them only when an extension or the key is used.
MALFORMED = (
    ValueError,
    CryptographyDeprecationWarning,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
# Fulcio, Sigstore's certificate authority, names the login service in these extensions. The second is a DER text.
_ISSUER, _ISSUER_V2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_OTHER_NAME = ObjectIdentifier("1.3.6.1.4.1.57264.1.7")
_DER_TEXT_TAG, _DER_LONG_FORM = 0x0C, 0x80


def load_pem_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates of a PEM file.

    Raises:
        BadKeyError: it has none.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except MALFORMED:
        raise BadKeyError("This file has no certificate in PEM format") from None


def normalize_pem(pem: bytes) -> str:
    """Return the certificate of a PEM file in PEM format, without the text around it.

    Raises:
        BadKeyError: it has none, or several: a chain would make its root trusted, and so all that the root certified.
    """
    found = load_pem_certificates(pem)
    if len(found) > 1:
        raise BadKeyError(
            f"This file has {len(found)} certificates", hint="Use a file with only the one that you trust."
        )
    return found[0].public_bytes(serialization.Encoding.PEM).decode()


def encode_certificate(certificate: x509.Certificate) -> bytes:
    """Return the DER form of a certificate."""
    return certificate.public_bytes(serialization.Encoding.DER)


def load_chain(bundle: Bundle) -> list[x509.Certificate]:
    """Return the certificates of a signature, that of the signer first.

    Raises:
        BadSignatureError: one is malformed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)  # about what RFC 5280 forbids
            chain = [x509.load_der_x509_certificate(der) for der in bundle.manifest.certificates]
        for each in chain:  # these fields are parsed when they are read
            _ = each.subject, each.issuer, each.not_valid_before_utc, each.not_valid_after_utc
    except MALFORMED:
        raise BadSignatureError("A certificate of the signature is malformed") from None
    return chain


def judge_certificate_signature(bundle: Bundle, pems: Sequence[bytes], now: datetime | None = None) -> SignatureFacts:
    """Return the facts about a signature of the method `certificate`.

    Args:
        bundle: the signature.
        pems: root certificates in PEM format, or the signer's certificates themselves.
        now: the time at which the certificates must be valid. OMS has no proof of an earlier time.

    Raises:
        BadSignatureError: a certificate of the signature is malformed.
        BadKeyError: one of `pems` has no certificate.
    """
    now = now or datetime.now(timezone.utc)
    leaf, *others = load_chain(bundle)
    if not _is_signed_by_certificate(bundle, leaf):
        reason: str | None = "The signature does not match its content."
    else:
        reason = find_signing_problem(leaf, now)
    if reason:
        return _state_facts(bundle, leaf, "invalid", reason, leaf.issuer)
    roots = [root for pem in pems for root in load_pem_certificates(pem)]
    if not roots:
        return _state_facts(bundle, leaf, "issuer_unproven", "No root certificate is known for it.", leaf.issuer)
    if leaf in roots:
        return _state_facts(bundle, leaf, "valid", None, leaf.issuer)
    try:
        root = _verify_chain(leaf, others, roots, now)[-1]
    except (verification.VerificationError, *MALFORMED):
        reason = "Its certificate was not issued under a known root certificate."
        return _state_facts(bundle, leaf, "issuer_unproven", reason, leaf.issuer)
    return _state_facts(bundle, leaf, "valid", None, root.subject)


def find_signing_problem(leaf: x509.Certificate, now: datetime) -> str | None:
    """Return why a certificate can't sign at this time, or None if it can."""
    if now < leaf.not_valid_before_utc:
        return f"The signer's certificate is not valid before {leaf.not_valid_before_utc:%Y-%m-%d}."
    if now > leaf.not_valid_after_utc:
        return f"The signer's certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d}."
    return None if _is_for_signing(leaf) else "The signer's certificate is not for digital signatures."


def read_identity(leaf: x509.Certificate) -> tuple[str | None, str | None]:
    """Return the identity in a certificate of Fulcio, and the login service that confirmed it. Both may be missing.

    Raises:
        BadSignatureError: one of them is too long or has invisible characters, so that it could look like another one.
    """
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identity = next((text for name in names if (text := _read_name(name))), None)
    except (x509.ExtensionNotFound, *MALFORMED):
        identity = None
    issuer = _read_extension(leaf, _ISSUER_V2) or _read_extension(leaf, _ISSUER)
    for text in (identity, issuer):
        if text and not (text.isprintable() and len(text) <= MAX_TEXT_CHARS):
            raise BadSignatureError("The identity in the signer's certificate is too long or has invisible characters")
    return identity, issuer


def _state_facts(
    bundle: Bundle, leaf: x509.Certificate, verdict: Verdict, reason: str | None, issuer: x509.Name
) -> SignatureFacts:
    return SignatureFacts(
        verdict,
        reason,
        "certificate",
        clean_text(leaf.subject.rfc4514_string(), MAX_TEXT_CHARS),
        clean_text(issuer.rfc4514_string(), MAX_TEXT_CHARS),
        digest=bundle.manifest.digest,
    )


def _is_signed_by_certificate(bundle: Bundle, leaf: x509.Certificate) -> bool:
    try:
        return is_signed_by(bundle, check_public_key(leaf.public_key()))
    except (BadKeyError, *MALFORMED):
        return False


def _is_for_signing(leaf: x509.Certificate) -> bool:
    try:
        if leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
            return True
    except x509.ExtensionNotFound:
        pass
    except MALFORMED:
        return False
    try:
        return ExtendedKeyUsageOID.CODE_SIGNING in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, *MALFORMED):
        return False


def _verify_chain(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime
) -> Sequence[x509.Certificate]:
    """Return the chain from the signer's certificate to a root. Private authorities may omit what the web requires."""
    authorities = (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, _check_is_authority)
        .may_be_present(x509.KeyUsage, verification.Criticality.AGNOSTIC, _check_can_issue)
    )
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(list(roots)))
        .time(now.replace(tzinfo=None))
        .extension_policies(ca_policy=authorities, ee_policy=verification.ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    return verifier.verify(leaf, list(others)).chain


def _check_is_authority(_policy: object, _certificate: object, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("not a certificate authority")


def _check_can_issue(_policy: object, _certificate: object, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("not for issuing certificates")


def _read_name(name: x509.GeneralName) -> str | None:
    if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier):
        return name.value
    if isinstance(name, x509.OtherName) and name.type_id == _OTHER_NAME:
        return _read_der_text(name.value)
    return None


def _read_extension(leaf: x509.Certificate, identifier: ObjectIdentifier) -> str | None:
    try:
        value = leaf.extensions.get_extension_for_oid(identifier).value
    except (x509.ExtensionNotFound, *MALFORMED):
        return None
    if not isinstance(value, x509.UnrecognizedExtension):
        return None
    if identifier == _ISSUER_V2:
        return _read_der_text(value.value)
    return value.value.decode("utf-8", "replace")


def _read_der_text(der: bytes) -> str | None:
    """Return the text of a DER UTF8String."""
    if not der.startswith(bytes([_DER_TEXT_TAG])):
        return None
    length, rest = der[1:2], der[2:]
    if length >= bytes([_DER_LONG_FORM]):
        length, rest = rest[: length[0] - _DER_LONG_FORM], rest[length[0] - _DER_LONG_FORM :]
    return rest.decode("utf-8", "replace") if rest and int.from_bytes(length, "big") == len(rest) else None
