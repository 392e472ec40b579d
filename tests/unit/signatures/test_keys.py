"""Signatures by key."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from llm_hf_models.errors import BadKeyError, BadSignatureError
from llm_hf_models.signatures.keys import is_encrypted
from llm_hf_models.signatures.sign import sign_files
from llm_hf_models.signatures.verify import judge_signature
from tests.support.signatures import CURVES, encode, make_key, make_payload, sign_payload, to_private_pem, to_public_pem

DIGESTS = {"b/model.gguf": "b" * 64, "a.gguf": "a" * 64}


@pytest.mark.parametrize("curve", CURVES)
def test_own_signature_is_valid_for_its_key_only(curve: str) -> None:
    key = make_key(curve)
    signature = sign_files(DIGESTS, to_private_pem(key), name="model")
    facts = judge_signature(signature, [to_public_pem(make_key(curve)), to_public_pem(key)]).facts
    assert (facts.verdict, facts.key_hint) == ("valid", hashlib.sha256(to_public_pem(key)).hexdigest())
    assert (facts.identity, facts.issuer, facts.signed_at) == (None, None, None)
    other = judge_signature(signature, [to_public_pem(make_key(curve))]).facts
    assert (other.verdict, other.reason) == ("not_checked", f"No known key has the fingerprint {facts.key_hint}.")


def test_manifest_has_the_files_in_order_with_the_root_digest() -> None:
    key = make_key()
    manifest = judge_signature(sign_files(DIGESTS, to_private_pem(key), name="my model"), [to_public_pem(key)]).manifest
    assert manifest is not None
    assert (manifest.name, manifest.paths, manifest.algorithm) == ("my model", ("a.gguf", "b/model.gguf"), "sha256")
    assert manifest.digest == hashlib.sha256(b"\xaa" * 32 + b"\xbb" * 32).hexdigest()
    assert "model.sig" in manifest.ignored


def test_signature_of_another_key_under_this_hint_is_invalid() -> None:
    key = make_key()
    hint = hashlib.sha256(to_public_pem(key)).hexdigest()
    forged = sign_payload(make_payload(), make_key(), material={"publicKey": {"hint": hint}})
    assert judge_signature(forged, [to_public_pem(key)]).facts.verdict == "invalid"


def test_older_form_with_the_key_itself_needs_a_known_key() -> None:
    key = make_key()
    material = {"publicKey": {"rawBytes": encode(to_public_pem(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}}
    signature = sign_payload(make_payload(), key, material=material)
    assert judge_signature(signature, []).facts.verdict == "not_checked"
    assert judge_signature(signature, [to_public_pem(key)]).facts.verdict == "valid"


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "not a public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key"),
        (to_private_pem(make_key()), "has a private key"),
        (to_public_pem(ed25519.Ed25519PrivateKey.generate()), "This kind of key"),
        (to_public_pem(rsa.generate_private_key(65537, 2048)), "This kind of key"),
        (to_public_pem(ec.generate_private_key(ec.SECP256K1())), "This kind of key"),
    ],
)
def test_unusable_public_key_is_refused(pem: bytes, message: str) -> None:
    signature = sign_files(DIGESTS, to_private_pem(make_key()))
    with pytest.raises(BadKeyError, match=message):
        judge_signature(signature, [pem])


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "not a private key"),
        (to_public_pem(make_key()), "not a private key"),
        (to_private_pem(ed25519.Ed25519PrivateKey.generate()), "This kind of key"),
        (to_private_pem(ec.generate_private_key(ec.SECP256K1())), "This kind of key"),
    ],
)
def test_unusable_private_key_is_refused(pem: bytes, message: str) -> None:
    with pytest.raises(BadKeyError, match=message):
        sign_files(DIGESTS, pem)


def test_encrypted_key_needs_its_passphrase() -> None:
    key = make_key()
    pem = to_private_pem(key, b"secret")
    assert (is_encrypted(pem), is_encrypted(to_private_pem(key))) == (True, False)
    with pytest.raises(BadKeyError, match="its passphrase is missing"):
        sign_files(DIGESTS, pem)
    with pytest.raises(BadKeyError, match="is wrong"):
        sign_files(DIGESTS, pem, passphrase=b"other")
    signature = sign_files(DIGESTS, pem, passphrase=b"secret")
    assert judge_signature(signature, [to_public_pem(key)]).facts.verdict == "valid"


@pytest.mark.parametrize(
    "digests",
    [{}, {"../a": "a" * 64}, {"/a": "a" * 64}, {".": "a" * 64}, {"a": "A" * 64}, {"a": "a" * 40}, {"a\n": "a" * 64}],
)
def test_files_that_the_format_can_not_express_are_not_signed(digests: dict[str, str]) -> None:
    with pytest.raises(BadSignatureError):
        sign_files(digests, to_private_pem(make_key()))
