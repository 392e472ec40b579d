"""Sign the files of a model with a private key, in the format that other implementations of OMS v1.0 accept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from cryptography.hazmat.primitives.asymmetric import ec

from llm_hf_models.errors import BadKeyError
from llm_hf_models.signatures.bundle import FILE_NAME, build_bundle
from llm_hf_models.signatures.certificates import encode_certificate, find_signing_problem, load_pem_certificates
from llm_hf_models.signatures.keys import choose_hash, compute_hint, load_private_key
from llm_hf_models.signatures.statement import DEFAULT_IGNORED, build_statement, encode_for_signing


class Signer:
    """A private key, with its certificates if it signs by certificate.

    Args:
        key_pem: the private key.
        passphrase: of the private key, if it is encrypted.
        chain_pem: the certificate of the key, and those between it and its root, to sign by certificate.

    Raises:
        BadKeyError: the key or certificate can't be used.
    """

    def __init__(self, key_pem: bytes, passphrase: bytes | None = None, chain_pem: bytes | None = None) -> None:
        self._key = load_private_key(key_pem, passphrase)
        self.hint = compute_hint(self._key.public_key())
        self._chain = _order_chain(chain_pem, self.hint) if chain_pem is not None else ()

    def sign(self, digests: Mapping[str, str], name: str, ignored: Sequence[str]) -> bytes:
        """Return a signature file, as `sign_files` does."""
        payload = build_statement(name, digests, ignored)
        signature = self._key.sign(encode_for_signing(payload), choose_hash(self._key.public_key()))
        return build_bundle(payload, signature, self.hint, self._chain)


def sign_files(
    digests: Mapping[str, str],
    key_pem: bytes,
    *,
    name: str = "model",
    passphrase: bytes | None = None,
    chain_pem: bytes | None = None,
    ignored: Sequence[str] = (*DEFAULT_IGNORED, FILE_NAME),
) -> bytes:
    """Return a signature file for files whose digests are known.

    Args:
        digests: the sha256 of each file, by its path relative to the model's folder, with `/` between its parts.
        key_pem: the private key.
        name: the name of the model, for people.
        passphrase: of the private key, if it is encrypted.
        chain_pem: the certificate of the key, and those between it and its root, to sign by certificate.
        ignored: the paths that a verifier leaves out when it lists the model's folder.

    Raises:
        BadKeyError: the key or certificate can't be used.
        BadSignatureError: there is no file, or a path or digest can't be signed.
    """
    return Signer(key_pem, passphrase, chain_pem).sign(digests, name, ignored)


def _order_chain(pem: bytes, hint: str) -> tuple[bytes, ...]:
    """Return the certificates in DER form, first the one of the key with this fingerprint.

    Raises:
        BadKeyError: none is of the key, or that one can't sign.
    """
    certificates = load_pem_certificates(pem)
    own = [each for each in certificates if _compute_certificate_hint(each.public_key()) == hint]
    if not own:
        raise BadKeyError("The certificate does not belong to the private key")
    problem = find_signing_problem(own[0], datetime.now(timezone.utc))
    if problem:
        raise BadKeyError("The certificate can't sign models", cause=problem)
    return tuple(map(encode_certificate, [own[0], *(each for each in certificates if each != own[0])]))


def _compute_certificate_hint(key: object) -> str | None:
    return compute_hint(key) if isinstance(key, ec.EllipticCurvePublicKey) else None
