"""Judge a signature file by its own method, with the keys and root certificates that the caller trusts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_hf_models.errors import BadSignatureError
from llm_hf_models.signatures.bundle import Bundle, parse_bundle
from llm_hf_models.signatures.types import SignatureFacts, SignedManifest


@dataclass(frozen=True)
class JudgedSignature:
    """The facts about a signature file, and its manifest."""

    facts: SignatureFacts
    manifest: SignedManifest | None  # None if the file is malformed; a claim unless the verdict is `valid`


def judge_signature(data: bytes, keys: Sequence[bytes] = (), roots: Sequence[bytes] = ()) -> JudgedSignature:
    """Judge the content of a signature file, which may come from anyone.

    The verdict `valid` says that a given key or root, or Sigstore's roots, prove who signed. Whether that signer may
    sign for a model is for the caller to decide, from the identity and issuer or the key.

    Args:
        data: the content of the file.
        keys: public keys in PEM format.
        roots: root certificates in PEM format, or certificates of signers.

    Raises:
        BadKeyError: one of the keys or roots is not in PEM format.
    """
    try:
        bundle = parse_bundle(data)
        return JudgedSignature(_judge(bundle, keys, roots), bundle.manifest)
    except BadSignatureError as error:
        return JudgedSignature(SignatureFacts("invalid", f"{error.message}."), None)


def _judge(bundle: Bundle, keys: Sequence[bytes], roots: Sequence[bytes]) -> SignatureFacts:
    """Call the module for the method. cryptography is imported only here."""
    if bundle.manifest.method == "key":
        from llm_hf_models.signatures.keys import judge_key_signature

        return judge_key_signature(bundle, keys)
    if bundle.manifest.method == "certificate":
        from llm_hf_models.signatures.certificates import judge_certificate_signature

        return judge_certificate_signature(bundle, roots)
    from llm_hf_models.signatures.keyless import judge_keyless_signature

    return judge_keyless_signature(bundle)
