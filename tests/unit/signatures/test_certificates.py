"""Signatures by certificate."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509

from llm_hf_models.errors import BadKeyError
from llm_hf_models.signatures.sign import sign_files
from llm_hf_models.signatures.verify import judge_signature
from tests.support.signatures import (
    Authority,
    encode,
    make_certificate,
    make_chain_material,
    make_key,
    make_payload,
    sign_payload,
    to_private_pem,
)

ROOT = make_certificate("Root", is_authority=True)  # without KeyUsage, as openssl makes it
MIDDLE = make_certificate("Middle", ROOT, is_authority=True, usages=["key_cert_sign"])
LEAF = make_certificate("Signer", MIDDLE, usages=["digital_signature"])
DIGESTS = {"a.gguf": "a" * 64}


def judge(leaf: Authority, *others: Authority, roots: tuple[Authority, ...] = (ROOT,)) -> Any:
    signature = sign_payload(make_payload(), leaf.key, material=make_chain_material(leaf, *others))
    return judge_signature(signature, roots=[root.pem for root in roots]).facts


def test_chain_to_a_known_root_is_valid() -> None:
    facts = judge(LEAF, MIDDLE)
    assert (facts.verdict, facts.reason, facts.method) == ("valid", None, "certificate")
    assert (facts.identity, facts.issuer, facts.signed_at) == ("CN=Signer", "CN=Root", None)
    assert judge(LEAF, MIDDLE, ROOT).verdict == "valid"


def test_code_signing_certificate_without_key_usage_is_valid() -> None:
    assert judge(make_certificate("Signer", MIDDLE, code_signing=True), MIDDLE).verdict == "valid"


def test_certificate_that_is_itself_known_is_valid() -> None:
    own = make_certificate("Own", usages=["digital_signature"])
    assert judge(own, roots=(own,)).verdict == "valid"
    assert judge(LEAF, roots=(LEAF,)).verdict == "valid"


@pytest.mark.parametrize(
    ("chain", "roots"),
    [
        ((LEAF, MIDDLE), ()),
        ((LEAF,), (ROOT,)),
        ((LEAF, MIDDLE), (make_certificate("Root", is_authority=True),)),
        ((make_certificate("Own", usages=["digital_signature"]),), (ROOT,)),
    ],
    ids=["no root", "no intermediate", "other root of this name", "self-signed"],
)
def test_chain_without_a_known_root_proves_no_issuer(
    chain: tuple[Authority, ...], roots: tuple[Authority, ...]
) -> None:
    facts = judge(*chain, roots=roots)
    assert facts.verdict == "issuer_unproven"
    assert facts.reason


def test_issuer_that_may_not_issue_proves_nothing() -> None:
    for wrong in (
        make_certificate("Wrong", ROOT, usages=["key_cert_sign"]),  # no authority
        make_certificate("Wrong", ROOT, is_authority=True, usages=["digital_signature"]),
        make_certificate("Wrong", ROOT, is_authority=True, valid_days=(-10, -5)),
        LEAF,
    ):
        leaf = make_certificate("Signer", wrong, usages=["digital_signature"])
        assert judge(leaf, wrong, MIDDLE).verdict == "issuer_unproven"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"usages": ["digital_signature"], "valid_days": (-10, -5)}, "expired"),
        ({"usages": ["digital_signature"], "valid_days": (5, 10)}, "not valid before"),
        ({"usages": ["key_agreement"]}, "not for digital signatures"),
        ({}, "not for digital signatures"),
    ],
)
def test_certificate_that_may_not_sign_is_invalid(options: dict[str, Any], reason: str) -> None:
    leaf = make_certificate("Signer", MIDDLE, **options)
    facts = judge(leaf, MIDDLE)
    assert (facts.verdict, reason in facts.reason) == ("invalid", True)
    with pytest.raises(BadKeyError, match="can't sign models"):
        sign_files(DIGESTS, to_private_pem(leaf.key), chain_pem=leaf.pem)


def test_signature_by_another_key_than_the_certificates_is_invalid() -> None:
    signature = sign_payload(make_payload(), make_key(), material=make_chain_material(LEAF, MIDDLE))
    facts = judge_signature(signature, roots=[ROOT.pem]).facts
    assert (facts.verdict, facts.reason) == ("invalid", "The signature does not match its content.")


@pytest.mark.parametrize("part", ["version", "serial number"])
def test_malformed_certificate_is_invalid_without_a_warning(part: str, recwarn: pytest.WarningsRecorder) -> None:
    der = bytearray(LEAF.der)
    at = der.index(b"\xa0\x03\x02\x01\x02") + 4  # the version, and after it the type, length and bytes of the number
    der[at + (0 if part == "version" else 3)] ^= 0x80
    material = {"x509CertificateChain": {"certificates": [{"rawBytes": encode(bytes(der))}]}}
    facts = judge_signature(sign_payload(make_payload(), LEAF.key, material=material), roots=[ROOT.pem]).facts
    assert (facts.verdict, facts.reason) == ("invalid", "A certificate of the signature is malformed.")
    assert not recwarn.list


def test_names_in_certificates_are_cleaned() -> None:
    leaf = make_certificate("\x1b[31mSigner\u202e", MIDDLE, usages=["digital_signature"])
    facts = judge(leaf, MIDDLE)
    assert (facts.verdict, "\x1b" in facts.identity, "\u202e" in facts.identity) == ("valid", False, False)


def test_signing_puts_the_certificate_of_the_key_first() -> None:
    signature = sign_files(DIGESTS, to_private_pem(LEAF.key), chain_pem=MIDDLE.pem + LEAF.pem)
    judged = judge_signature(signature, roots=[ROOT.pem])
    assert (judged.facts.verdict, judged.facts.identity) == ("valid", "CN=Signer")
    assert judged.manifest is not None
    assert x509.load_der_x509_certificate(judged.manifest.certificates[0]) == LEAF.certificate


NOT_CERTIFICATES = [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]


@pytest.mark.parametrize("pem", [*NOT_CERTIFICATES, MIDDLE.pem])
def test_signing_refuses_a_certificate_of_another_key(pem: bytes) -> None:
    with pytest.raises(BadKeyError):
        sign_files(DIGESTS, to_private_pem(LEAF.key), chain_pem=pem)


@pytest.mark.parametrize("pem", NOT_CERTIFICATES)
def test_root_that_is_no_certificate_is_refused(pem: bytes) -> None:
    signature = sign_payload(make_payload(), LEAF.key, material=make_chain_material(LEAF))
    with pytest.raises(BadKeyError):
        judge_signature(signature, roots=[pem])
