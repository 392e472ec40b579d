"""The test vectors of the OMS specification, which are not part of this repository.

To run these tests, check out github.com/ossf/model-signing-spec and set OMS_TEST_VECTORS to its `test-vectors/v1.0`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from llm_hf_models.signatures import keyless
from llm_hf_models.signatures.verify import JudgedSignature, judge_signature

VECTORS = Path(os.environ.get("OMS_TEST_VECTORS") or "not set")
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="OMS_TEST_VECTORS is not set")


def judge(path: str) -> JudgedSignature:
    """Judge a vector with the key and the issuer of the one that is signed by certificate."""
    manifest = judge_signature((VECTORS / "valid/certificate.bundle.json").read_bytes()).manifest
    assert manifest is not None
    leaf, issuer = map(x509.load_der_x509_certificate, manifest.certificates)
    key = leaf.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return judge_signature((VECTORS / path).read_bytes(), [key], [issuer.public_bytes(serialization.Encoding.PEM)])


@pytest.mark.parametrize("method", ["key", "certificate"])
def test_valid_vectors_are_valid(method: str) -> None:
    judged = judge(f"valid/{method}.bundle.json")
    assert (judged.facts.verdict, judged.facts.reason, judged.facts.method) == ("valid", None, method)
    assert judged.manifest is not None
    assert judged.manifest.paths == ("signme-1", "signme-2")


def test_sigstore_vector_is_valid_offline() -> None:
    pytest.importorskip("sigstore")
    facts = judge("valid/sigstore.bundle.json").facts
    assert (facts.verdict, facts.method, facts.issuer) == (
        "valid",
        "keyless",
        "https://sigstore.verify.ibm.com/oauth2",
    )
    assert facts.signed_at == 1760062339


def test_sigstore_vector_has_no_proven_issuer_without_sigstore(monkeypatch: pytest.MonkeyPatch) -> None:
    keyless._create_verifier.cache_clear()
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)
    facts = judge("valid/sigstore.bundle.json").facts
    assert (facts.verdict, facts.issuer) == ("issuer_unproven", "https://sigstore.verify.ibm.com/oauth2")


@pytest.mark.parametrize(
    "path", sorted(str(path.relative_to(VECTORS)) for path in VECTORS.glob("invalid*/*.json")) or ["not set"]
)
def test_invalid_vectors_are_invalid(path: str) -> None:
    assert judge(path).facts.verdict == "invalid"
