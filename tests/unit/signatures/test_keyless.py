"""Keyless signatures, with and without the optional package sigstore."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llm_hf_models.signatures import keyless
from llm_hf_models.signatures.verify import judge_signature
from tests.support.signatures import make_key, make_keyless_material, make_payload, sign_payload

IDENTITY, ISSUER = "models@example.com", "https://login.example.com/oauth2"


@pytest.fixture
def signature() -> bytes:
    """A signature that imitates a keyless one in each part that its maker controls."""
    material, leaf = make_keyless_material(IDENTITY, ISSUER)
    return sign_payload(make_payload(), leaf.key, material=material)


def test_without_sigstore_the_issuer_is_not_checked(signature: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    keyless._create_verifier.cache_clear()
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)  # as if it were not installed
    facts = judge_signature(signature).facts
    assert (facts.verdict, facts.method, facts.identity, facts.issuer) == (
        "issuer_unproven",
        "keyless",
        IDENTITY,
        ISSUER,
    )
    assert facts.reason == "The issuer was not checked. To check it, run llm install 'llm-hf-models[sigstore]'."
    assert facts.signed_at is None


def test_imitated_signature_is_invalid_for_sigstore(
    signature: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("sigstore")
    keyless._create_verifier.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    facts = judge_signature(signature).facts
    assert facts.verdict == "invalid"
    assert facts.reason
    assert facts.reason.startswith("Sigstore's roots do not prove it")
    assert not caplog.records
    assert not (tmp_path / "cache").exists(), (
        "the roots are those of the package, which may be newer than a cached copy"
    )


def test_signature_of_another_key_is_invalid_without_sigstore(monkeypatch: pytest.MonkeyPatch) -> None:
    keyless._create_verifier.cache_clear()
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)
    material, _ = make_keyless_material(IDENTITY, ISSUER)
    facts = judge_signature(sign_payload(make_payload(), make_key(), material=material)).facts
    assert (facts.verdict, facts.reason) == ("invalid", "The signature does not match its content.")
