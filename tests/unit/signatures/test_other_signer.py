"""Signatures that another implementation wrote, and its verdict about ours."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from llm_hf_models.service import Library
from llm_hf_models.signatures.hashing import ManifestHasher
from llm_hf_models.signatures.matching import KnownFile, match_files
from llm_hf_models.signatures.verify import judge_signature
from tests.support.signatures import (
    OTHER_SIGNER,
    SIGNED_FILES,
    make_certificate,
    make_key,
    to_private_pem,
    to_public_pem,
)

KEYS = [(OTHER_SIGNER / f"{name}.pem").read_bytes() for name in ("p256", "p384", "p521")]
ROOT = (OTHER_SIGNER / "root.pem").read_bytes()
DIGESTS = {path: hashlib.sha256(content).hexdigest() for path, content in SIGNED_FILES.items()}


@pytest.mark.parametrize("path", sorted(OTHER_SIGNER.glob("*.sig")), ids=lambda path: path.stem)
def test_signatures_of_another_implementation_are_valid(path: Path) -> None:
    if path.stem.startswith("blake3"):
        pytest.importorskip("blake3")
    judged = judge_signature(path.read_bytes(), KEYS, [ROOT])
    assert judged.facts.verdict == "valid", judged.facts.reason
    assert judged.manifest is not None
    files = []
    for name, content in SIGNED_FILES.items():
        hasher = ManifestHasher(judged.manifest, name)
        for start in range(0, len(content), 5):
            hasher.update(content[start : start + 5])
        files.append(KnownFile(name, len(content), DIGESTS[name], hasher.get_digests()))
    coverage = match_files(judged.manifest, files)
    assert (coverage.matching, coverage.differing) == (1 if path.stem == "single-file" else 3, ())


@pytest.mark.parametrize("method", ["key", "certificate"])
def test_another_implementation_accepts_our_signature(method: str, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    key, chain, root = make_key("P-384"), None, None
    if method == "certificate":
        root = make_certificate("Root", is_authority=True, usages=["key_cert_sign"])
        leaf = make_certificate("Signer", root, usages=["digital_signature"])
        key, chain = leaf.key, leaf.pem
    (tmp_path / "trusted.pem").write_bytes(root.pem if root else to_public_pem(key))
    (tmp_path / "key.pem").write_bytes(to_private_pem(key))
    if chain:
        (tmp_path / "chain.pem").write_bytes(chain)
    model = tmp_path / "model"
    for name, content in {**SIGNED_FILES, ".git/config": b"left out", ".cache/huggingface/x": b"left out"}.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)
    signature = (
        Library().sign(str(model), tmp_path / "key.pem", certificates=tmp_path / "chain.pem" if chain else None).file
    )
    option = "--public_key" if method == "key" else "--certificate_chain"
    command = [sys.executable, "-m", "model_signing", "verify", method, "model", "--signature", signature]

    def verify() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, option, "trusted.pem"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    accepted = verify()
    assert (accepted.returncode, "Verification succeeded" in accepted.stdout) == (0, True), accepted
    (model / "a.gguf").write_bytes(b"GGUF two\n")
    assert verify().returncode != 0
