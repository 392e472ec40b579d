"""Read the keys of signatures, and verify signatures by key: ECDSA on the curves P-256, P-384 and P-521."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llm_hf_models.errors import BadKeyError
from llm_hf_models.signatures.bundle import Bundle
from llm_hf_models.signatures.statement import encode_for_signing
from llm_hf_models.signatures.types import SignatureFacts

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_CURVES = "The OMS format uses ECDSA keys on the curves P-256, P-384 and P-521."
_MAKE_KEY = "To make one, run: openssl ecparam -name prime256v1 -genkey -noout -out signing.pem"


def load_public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a PEM file.

    Raises:
        BadKeyError: the file has no public key that OMS uses.
    """
    if b"PRIVATE KEY-----" in pem:
        raise BadKeyError(
            "This file has a private key, and only the public key is needed",
            hint="To extract it, run: openssl pkey -in signing.pem -pubout -out public.pem",
        )
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise BadKeyError("This file is not a public key in PEM format") from None
    return check_public_key(key)


def load_private_key(pem: bytes, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a PEM file.

    Raises:
        BadKeyError: the file has no private key that OMS uses, or the passphrase is wrong or missing.
    """
    try:
        key = serialization.load_pem_private_key(pem, passphrase if is_encrypted(pem) else None)
    except TypeError:
        raise BadKeyError("The private key is encrypted, and its passphrase is missing") from None
    except (ValueError, UnsupportedAlgorithm):
        if is_encrypted(pem):
            raise BadKeyError("The passphrase of the private key is wrong, or the file is damaged") from None
        raise BadKeyError("This file is not a private key in PEM format", hint=_MAKE_KEY) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadKeyError("This kind of key can't sign models", cause=_CURVES, hint=_MAKE_KEY)
    check_public_key(key.public_key())
    return key


def is_encrypted(pem: bytes) -> bool:
    """Return whether a private key in PEM format needs a passphrase."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem or b"Proc-Type: 4,ENCRYPTED" in pem


def check_public_key(key: object) -> ec.EllipticCurvePublicKey:
    """Return a key that OMS uses.

    Raises:
        BadKeyError: the key is of another kind.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise BadKeyError("This kind of key can't sign models", cause=_CURVES)
    return key


def encode_public_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the PEM form of a key."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def compute_hint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the fingerprint by which a signature names its key: the sha256 of the PEM form."""
    return hashlib.sha256(encode_public_key(key)).hexdigest()


def choose_hash(key: ec.EllipticCurvePublicKey) -> ec.ECDSA:
    """Return the signature algorithm for a key's curve."""
    return ec.ECDSA(_HASHES[key.curve.name])


def is_signed_by(bundle: Bundle, key: ec.EllipticCurvePublicKey) -> bool:
    """Return whether the key made the signature of the statement."""
    try:
        key.verify(bundle.signature, encode_for_signing(bundle.payload), choose_hash(key))
    except InvalidSignature:
        return False
    return True


def judge_key_signature(bundle: Bundle, pems: Sequence[bytes]) -> SignatureFacts:
    """Return the facts about a signature of the method `key`.

    Args:
        bundle: the signature.
        pems: public keys in PEM format, of which the signature names one or none.

    Raises:
        BadKeyError: one of `pems` is not a public key.
    """
    hint, digest = bundle.manifest.key_hint, bundle.manifest.digest
    for key in map(load_public_key, pems):
        if compute_hint(key) == hint:
            if is_signed_by(bundle, key):
                return SignatureFacts("valid", method="key", key_hint=hint, digest=digest)
            reason = "The signature does not match its content."
            return SignatureFacts("invalid", reason, "key", key_hint=hint, digest=digest)
    reason = f"No known key has the fingerprint {hint}."
    return SignatureFacts("not_checked", reason, "key", key_hint=hint, digest=digest)
