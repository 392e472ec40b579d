"""Mutations of valid signature files by a seeded fuzzer: no crash, no hang, and none is accepted.

`make storm` judges 10,000 files, STORM_SHARE=0.1 a tenth. With OMS_TEST_VECTORS (see tests/unit/signatures), the
keyless signature of the specification is mutated as well.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.errors import BadSignatureError
from llm_hf_models.signatures.bundle import Bundle, parse_bundle
from llm_hf_models.signatures.sign import sign_files
from llm_hf_models.signatures.verify import judge_signature
from tests.support.signatures import (
    CURVES,
    OTHER_SIGNER,
    SIGNED_FILES,
    encode,
    make_certificate,
    make_key,
    make_keyless_material,
    make_payload,
    sign_payload,
    to_private_pem,
    to_public_pem,
)

QUICK_MUTATIONS = 400
STORM_MUTATIONS = int(10_000 * float(os.environ.get("STORM_SHARE") or 1))
SEED = 20_261_130
SECONDS_EACH = 2.0  # of CPU time
DIGESTS = {path: f"{number:x}" * 64 for number, path in enumerate(SIGNED_FILES, 1)}
VECTORS = Path(os.environ.get("OMS_TEST_VECTORS") or "not set")
POOL: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 10**19, 10**30, 1.5, "", " ", "0", "a" * 64, "0" * 64, "\ud800", "\0", "../x",
    ".", "a:0:1", "blake2b", "blake3", "shards", "files", "A" * 100_000, [], {}, [[]], [{}], {"a": 1}, [None] * 1000,
    "https://model_signing/Digests/v0.1", encode(b""), encode(b"{}"), encode(b"\x30\x06\x02\x01\x00\x02\x01\x00"),
]  # fmt: skip


@dataclass(frozen=True)
class Trusted:
    """Signature files, and all keys and roots that are known, so that each file is valid before it is changed."""

    bases: list[bytes]
    keys: list[bytes]
    roots: list[bytes]


@pytest.fixture(scope="module")
def trusted() -> Trusted:
    keys = [make_key(curve) for curve in CURVES]
    root = make_certificate("Root", is_authority=True)
    middle = make_certificate("Middle", root, is_authority=True, usages=["key_cert_sign"])
    leaf = make_certificate("Signer", middle, usages=["digital_signature"], code_signing=True)
    bases = [sign_files(DIGESTS, to_private_pem(key)) for key in keys]
    bases.append(sign_files(DIGESTS, to_private_pem(leaf.key), chain_pem=leaf.pem + middle.pem))
    bases += [path.read_bytes() for path in sorted(OTHER_SIGNER.glob("*.sig"))]
    pems = [*map(to_public_pem, keys), *(path.read_bytes() for path in OTHER_SIGNER.glob("p*.pem"))]
    trusted = Trusted(bases, pems, [root.pem, (OTHER_SIGNER / "root.pem").read_bytes()])
    material, fake = make_keyless_material("a@example.com", "https://login.example.com")
    keyless = [sign_payload(make_payload(), fake.key, material=material)]
    if VECTORS.is_dir():
        keyless = [(VECTORS / "valid/sigstore.bundle.json").read_bytes()] * 4
        assert judge(keyless[0], trusted)[0] == "valid"
    assert {judge(base, trusted)[0] for base in bases} == {"valid"}
    return replace(trusted, bases=bases + keyless)


def judge(data: bytes, trusted: Trusted) -> tuple[str, str | None]:
    facts = judge_signature(data, trusted.keys, trusted.roots).facts
    return facts.verdict, facts.reason


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each member of a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*path, key)
        yield from list_paths(member, (*path, key))


def change_member(value: Any, other: Any, chance: random.Random) -> Any:
    """Replace, remove, copy or garble a member of a JSON value."""
    value = copy.deepcopy(value)
    *parents, last = chance.choice(list(list_paths(value)))
    parent = value
    for key in parents:
        parent = parent[key]
    match chance.randrange(6):
        case 0 | 1:
            parent[last] = chance.choice(POOL)
        case 2:
            del parent[last]
        case 3:
            parent[last] = find_member(other, (*parents, last))
        case 4 if isinstance(parent, list):
            parent.insert(0, copy.deepcopy(parent[last]))
        case _:
            parent[last] = garble(parent[last], chance)
    return value


def find_member(value: Any, path: tuple[Any, ...]) -> Any:
    try:
        for key in path:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        return None
    return copy.deepcopy(value)


def garble(value: Any, chance: random.Random) -> Any:
    """Change a text a little: bytes of its base64, or its characters."""
    if not isinstance(value, str) or not value:
        return [value]
    try:
        data = bytearray(base64.b64decode(value, validate=True))
    except ValueError:
        data = bytearray()
    if data and chance.random() < 0.8:
        return encode(flip(data, chance))
    at = chance.randrange(len(value))
    return value[:at] + chance.choice("0aAzé/.\n=+") + value[at + chance.randrange(2) :]


def flip(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        at = chance.randrange(len(data)) if data else 0
        match chance.randrange(4):
            case 0 | 1:
                data[at : at + 1] = bytes(byte ^ (1 << chance.randrange(8)) for byte in data[at : at + 1])
            case 2:
                del data[at : at + chance.choice([1, 2, 30])]
            case _:
                data[at:at] = data[max(0, at - chance.choice([1, 4, 40])) : at]
    return bytes(data)


def change_bytes(base: bytes, _other: bytes, chance: random.Random) -> bytes:
    return flip(bytearray(base), chance)


def change_file(base: bytes, other: bytes, chance: random.Random) -> bytes:
    return json.dumps(change_member(json.loads(base), json.loads(other), chance)).encode()


def change_statement(base: bytes, other: bytes, chance: random.Random) -> bytes:
    bundle, donor = json.loads(base), json.loads(other)
    statement, foreign = (json.loads(base64.b64decode(each["dsseEnvelope"]["payload"])) for each in (bundle, donor))
    bundle["dsseEnvelope"]["payload"] = encode(json.dumps(change_member(statement, foreign, chance)).encode())
    return json.dumps(bundle).encode()


def repeat_key(base: bytes, _other: bytes, chance: random.Random) -> bytes:
    key = chance.choice(["mediaType", "payload", "payloadType", "signatures", "sig", "verificationMaterial", "hint"])
    spelled = f'"{key}":'.encode()
    return base.replace(spelled, spelled + b' "x", ' + spelled, 1)


def exchange_parts(base: bytes, other: bytes, chance: random.Random) -> bytes:
    """Combine the parts of two signature files, of which both are valid alone."""
    bundle, donor = json.loads(base), json.loads(other)
    part = chance.choice(["payload", "signatures", "verificationMaterial"])
    if part == "verificationMaterial":
        bundle[part] = donor[part]
    else:
        bundle["dsseEnvelope"][part] = donor["dsseEnvelope"][part]
    return json.dumps(bundle).encode()


MUTATIONS: list[Callable[[bytes, bytes, random.Random], bytes]] = [
    change_bytes, change_file, change_file, change_statement, exchange_parts, repeat_key,
]  # fmt: skip


def read_content(data: bytes) -> Bundle | None:
    """Return what a signature file says, without fields that mean nothing, such as `keyid`."""
    try:
        return replace(parse_bundle(data), data=b"")
    except BadSignatureError:
        return None


def judge_mutations(trusted: Trusted, count: int, seed: int) -> Counter[str]:
    """Judge files until `count` of them say something else than a valid signature. Return the number of verdicts."""
    chance, verdicts = random.Random(seed), Counter[str]()
    valid = [read_content(base) for base in trusted.bases]
    while verdicts.total() < count:
        base, other = chance.choice(trusted.bases), chance.choice(trusted.bases)
        data = chance.choice(MUTATIONS)(base, other, chance)
        content = read_content(data)
        if content is not None and content in valid:
            continue  # only an ignored field or the spelling has changed
        started = time.thread_time()
        verdict, reason = judge(data, trusted)
        number = verdicts.total()
        assert time.thread_time() - started < SECONDS_EACH, f"file {number} of seed {seed}"
        assert verdict != "valid", f"file {number} of seed {seed}: {data!r}"
        assert reason
        verdicts[verdict] += 1
    return verdicts


def test_no_changed_signature_is_accepted(trusted: Trusted) -> None:
    assert judge_mutations(trusted, QUICK_MUTATIONS, SEED)["invalid"] > QUICK_MUTATIONS / 2


@pytest.mark.storm
@pytest.mark.timeout(3600)
def test_none_of_ten_thousand_changed_signatures_is_accepted(trusted: Trusted) -> None:
    verdicts = judge_mutations(trusted, STORM_MUTATIONS, SEED + 1)
    print(dict(verdicts))  # noqa: T201 - shown by -rA
    assert verdicts.total() == STORM_MUTATIONS
