"""Signature files that are malformed, contradict themselves, or were changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_hf_models.signatures import bundle, statement
from llm_hf_models.signatures.verify import judge_signature
from tests.support.signatures import (
    encode,
    make_certificate,
    make_chain_material,
    make_key,
    make_keyless_material,
    make_payload,
    sign_payload,
    to_public_pem,
)

KEY = make_key()
PEM = to_public_pem(KEY)
SHARDS = {
    "predicate.serialization.method": "shards",
    "predicate.serialization.shard_size": 10,
    "predicate.resources.0.name": "a.gguf:0:10",
    "predicate.resources.1.name": "a.gguf:10:15",
}


def judge(data: bytes) -> tuple[str, str | None]:
    facts = judge_signature(data, [PEM]).facts
    return facts.verdict, facts.reason


def test_unchanged_statement_is_valid() -> None:
    judged = judge_signature(sign_payload(make_payload(), KEY), [PEM])
    assert (judged.facts.verdict, judged.facts.reason, judged.facts.method) == ("valid", None, "key")
    assert judged.manifest is not None
    assert judged.manifest.paths == ("a.gguf", "b.gguf")


@pytest.mark.parametrize(
    "changes",
    [
        SHARDS,
        {**SHARDS, "predicate.serialization.shard_size": 10.0},
        {**SHARDS, "predicate.resources.0.name": "a:1:b.gguf:0:10", "predicate.resources.1.name": "a:1:b.gguf:10:20"},
        {**SHARDS, "predicate.resources.0.algorithm": "sha256-sharded-10"},
        {"predicate.serialization.ignore_paths": ...},
        {"predicate.resources.0.annotations": {"a": 1}},
        {"predicate.resources.0.name": "ünï/a:1.gguf"},
        {"subject.0.name": "any name"},
    ],
)
def test_variants_of_the_format_are_valid(changes: dict[str, Any]) -> None:
    assert judge(sign_payload(make_payload(changes), KEY)) == ("valid", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://model_signing/Digests/v0.1"},
        {"predicateType": ...},
        {"predicate": []},
        {"subject": []},
        {"subject": [{"name": "a"}, {"name": "b"}]},
        {"subject.0": "model"},
        {"subject.0.name": ""},
        {"subject.0.digest": {}},
        {"subject.0.digest.sha256": "0" * 64},
        {"subject.0.digest.sha256": 1},
        {"predicate.resources": []},
        {"predicate.resources": {}},
        {"predicate.resources.0": "a.gguf"},
        {"predicate.resources.1.name": "a.gguf"},
        {"predicate.resources.0.name": ""},
        {"predicate.resources.0.name": 5},
        *(
            {"predicate.resources.0.name": name}
            for name in ("/a", "../a", "a/../b", "a//b", "./a", "a/", "..", ".", "a\\b")
        ),
        *({"predicate.resources.0.name": name} for name in ("a\0b", "a\nb", "a\x1b[31m", "\ud800", "a" * 1025)),
        {"predicate.resources.0.digest": "A" * 64},
        {"predicate.resources.0.digest": "a" * 63},
        {"predicate.resources.0.digest": "g" * 64},
        {"predicate.resources.0.digest": None},
        {"predicate.resources.0.algorithm": "blake2b"},
        {"predicate.resources.0.algorithm": "md5"},
        {"predicate.serialization": ...},
        {"predicate.serialization.hash_type": "md5"},
        {"predicate.serialization.hash_type": "blake2b"},
        {"predicate.serialization.method": "archive"},
        {"predicate.serialization.method": "shards"},
        {"predicate.serialization.shard_size": 10},
        {"predicate.serialization.allow_symlinks": ...},
        {"predicate.serialization.allow_symlinks": "false"},
        {"predicate.serialization.ignore_paths": "a"},
        {"predicate.serialization.ignore_paths": [1]},
        {**SHARDS, "predicate.serialization.shard_size": 0},
        {**SHARDS, "predicate.serialization.shard_size": True},
        {**SHARDS, "predicate.serialization.shard_size": "10"},
        {**SHARDS, "predicate.serialization.shard_size": 10.5},
        {**SHARDS, "predicate.serialization.shard_size": 10**21},
        {**SHARDS, "predicate.resources.0.name": "a.gguf"},
        {**SHARDS, "predicate.resources.1.name": "a.gguf:11:15"},
        {**SHARDS, "predicate.resources.1.name": "a.gguf:5:15"},
        {**SHARDS, "predicate.resources.1.name": "a.gguf:10:25"},
        {**SHARDS, "predicate.resources.1.name": "a.gguf:10:10"},
        {**SHARDS, "predicate.resources.1.name": "a.gguf:10:015"},
        {**SHARDS, "predicate.resources.0.name": "a.gguf:-1:10"},
        {**SHARDS, "predicate.resources.1.name": "../a.gguf:0:10"},
        {**SHARDS, "predicate.resources.1.name": "a.gguf:9223372036854775807:9999999999999999999"},
    ],
    ids=lambda changes: json.dumps(changes, default=lambda _: "removed")[-90:],
)
def test_malformed_statement_is_invalid_even_if_signed(changes: dict[str, Any]) -> None:
    verdict, reason = judge(sign_payload(make_payload(changes), KEY))
    assert verdict == "invalid"
    assert reason
    assert "\x1b" not in reason


@pytest.mark.parametrize(
    "changes",
    [
        {"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"},
        {"mediaType": "application/vnd.dev.sigstore.bundle.v0.4+json"},
        {"mediaType": ...},
        {"unknown": 1},
        {"dsseEnvelope": ...},
        {"dsseEnvelope": ..., "messageSignature": {"signature": encode(b"s")}},
        {"dsseEnvelope.payload": ...},
        {"dsseEnvelope.payload": ""},
        {"dsseEnvelope.payload": "e30"},
        {"dsseEnvelope.payload": "e31="},
        {"dsseEnvelope.payload": "e3\n0="},
        {"dsseEnvelope.payload": encode(b"{}")},
        {"dsseEnvelope.payload": encode(b"[]")},
        {"dsseEnvelope.payload": encode(b"\xff")},
        {"dsseEnvelope.payloadType": "application/json"},
        {"dsseEnvelope.signatures": []},
        {"dsseEnvelope.signatures": [{"sig": encode(b"1")}, {"sig": encode(b"2")}]},
        {"dsseEnvelope.signatures.0": "sig"},
        {"dsseEnvelope.signatures.0.sig": encode(b"0")},
        {"dsseEnvelope.signatures.0.sig": "ü"},
        {"dsseEnvelope.signatures.0.keyid": 5},
        {"dsseEnvelope.signatures.0.more": 5},
        {"verificationMaterial": ...},
        {"verificationMaterial": {}},
        {"verificationMaterial": None},
        {"verificationMaterial.publicKey": "hint"},
        {"verificationMaterial.publicKey": {}},
        {"verificationMaterial.publicKey": {"hint": "0"}},
        {"verificationMaterial.publicKey": {"hint": 5}},
        {"verificationMaterial.publicKey": {"hint": None}},
        {"verificationMaterial.tlogEntries": 5},
        {"verificationMaterial.certificate": {"rawBytes": encode(b"c")}},
        {"verificationMaterial": {"x509CertificateChain": {"certificates": []}}},
        {"verificationMaterial": {"x509CertificateChain": {"certificates": [5]}}},
        {"verificationMaterial": {"x509CertificateChain": {"certificates": [{"rawBytes": encode(b"c")}]}}},
        {"verificationMaterial": {"x509CertificateChain": {"certificates": [{"rawBytes": encode(b"c" * 70_000)}]}}},
        {"verificationMaterial": {"x509CertificateChain": {"certificates": [{"rawBytes": encode(b"c")}] * 2}}},
        {"verificationMaterial": {"x509CertificateChain": {"certificates": [{"rawBytes": encode(b"c")}] * 11}}},
        {"verificationMaterial": {"certificate": {"rawBytes": encode(b"c")}}},
        {"verificationMaterial": {"certificate": {"rawBytes": encode(b"c")}, "tlogEntries": []}},
        {"verificationMaterial": {"certificate": {"rawBytes": encode(b"c")}, "tlogEntries": [5]}},
    ],
    ids=lambda changes: json.dumps(changes, default=lambda _: "removed")[-90:],
)
def test_malformed_signature_file_is_invalid(changes: dict[str, Any]) -> None:
    verdict, reason = judge(sign_payload(make_payload(), KEY, changes=changes))
    assert (verdict, bool(reason)) == ("invalid", True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"5",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": NaN}',
        b'{"a": 1e999999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"{" + b" " * bundle.MAX_BUNDLE_BYTES + b"}",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_data_that_is_not_strict_json_is_invalid(data: bytes) -> None:
    assert judge(data)[0] == "invalid"


def test_key_that_occurs_twice_is_invalid() -> None:
    valid = sign_payload(make_payload(), KEY)
    assert judge(valid)[0] == "valid"
    assert judge(valid.replace(b'{"mediaType"', b'{"mediaType": "a", "mediaType"', 1))[0] == "invalid"
    payload = make_payload().replace(b'"predicateType"', b'"predicateType": "a", "predicateType"', 1)
    assert judge(sign_payload(payload, KEY))[0] == "invalid"


def test_too_many_files_are_invalid() -> None:
    resource = {"name": "a", "algorithm": "sha256", "digest": "a" * 64}
    payload = make_payload({"predicate.resources": [resource] * (statement.MAX_FILES + 1)})
    with pytest.raises(Exception, match="has 50001 values"):
        statement.parse_statement(payload)


def test_log_entry_of_another_kind_is_invalid() -> None:
    material, leaf = make_keyless_material("a@example.com", "https://login.example.com")
    material["tlogEntries"][0]["kindVersion"]["kind"] = "hashedrekord"
    verdict, reason = judge(sign_payload(make_payload(), leaf.key, material=material))
    assert (verdict, reason) == ("invalid", "A log entry of the signature is not about a DSSE envelope.")


def test_two_methods_in_one_file_are_invalid() -> None:
    leaf = make_certificate("Signer", usages=["digital_signature"])
    material = {"publicKey": {"hint": "0" * 64}, **make_chain_material(leaf)}
    assert judge(sign_payload(make_payload(), leaf.key, material=material))[0] == "invalid"
