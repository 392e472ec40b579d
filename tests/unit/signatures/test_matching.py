"""The comparison of a model's files with a manifest, and the digests that are computed while bytes arrive."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import pytest

from llm_hf_models.signatures.hashing import ManifestHasher, find_hash_problem, is_hashing_needed
from llm_hf_models.signatures.matching import KnownFile, match_files
from llm_hf_models.signatures.types import Coverage, SignedFile, SignedManifest

CONTENT = bytes(range(256)) * 5
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def make_manifest(*files: SignedFile, **fields: Any) -> SignedManifest:
    return SignedManifest("key", "model", "0" * 64, files, **{"algorithm": "sha256", **fields})


def make_shards(path: str, content: bytes, shard_bytes: int, algorithm: str = "sha256") -> list[SignedFile]:
    starts = range(0, len(content), shard_bytes)
    parts = [(start, content[start : start + shard_bytes]) for start in starts]
    return [
        SignedFile(path, hashlib.new(algorithm, part).hexdigest(), start, start + len(part)) for start, part in parts
    ]


def test_digests_of_the_hub_are_compared_without_hashing() -> None:
    manifest = make_manifest(
        SignedFile("Q4.gguf", "a" * 64), SignedFile("Q8.gguf", "b" * 64), SignedFile("c.gguf", "c" * 64)
    )
    files = [
        KnownFile("Q4.gguf", 1, "a" * 64),
        KnownFile("c.gguf", 1, "d" * 64),
        KnownFile("new.gguf", 1, "e" * 64),
    ]
    assert match_files(manifest, files) == Coverage(3, 1, ("c.gguf",), ("new.gguf",), not_in_model=1)
    assert not is_hashing_needed(manifest)


def test_file_without_a_known_digest_is_unchecked() -> None:
    manifest = make_manifest(SignedFile("a.gguf", "a" * 128), algorithm="blake2b")
    coverage = match_files(manifest, [KnownFile("a.gguf", 1, SHA256)], "The file was not read.")
    assert coverage == Coverage(1, 0, unchecked=("a.gguf",), unchecked_reason="The file was not read.")


@pytest.mark.parametrize("algorithm", ["sha256", "blake2b"])
@pytest.mark.parametrize("block_bytes", [1, 7, 512, 5000])
def test_shards_are_hashed_while_bytes_arrive(algorithm: str, block_bytes: int) -> None:
    shards = make_shards("a.gguf", CONTENT, 500, algorithm)
    manifest = make_manifest(
        *reversed(shards), SignedFile("b.gguf", "0" * 64, 0, 1), algorithm=algorithm, shard_bytes=500
    )
    assert is_hashing_needed(manifest)
    hasher = ManifestHasher(manifest, "a.gguf")
    for start in range(0, len(CONTENT), block_bytes):
        hasher.update(memoryview(CONTENT)[start : start + block_bytes])
    assert hasher.get_digests() == {shard.name: shard.digest for shard in shards}
    file = KnownFile("a.gguf", len(CONTENT), SHA256, hasher.get_digests())
    assert match_files(manifest, [file]).matching == 1


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"more", b"x" + CONTENT[1:], CONTENT[:-1] + b"x", b""])
def test_changed_file_differs_from_its_shards(content: bytes) -> None:
    manifest = make_manifest(*make_shards("a.gguf", CONTENT, 500), shard_bytes=500)
    hasher = ManifestHasher(manifest, "a.gguf")
    hasher.update(content)
    file = KnownFile("a.gguf", len(content), hashlib.sha256(content).hexdigest(), hasher.get_digests())
    assert match_files(manifest, [file]) == Coverage(1, 0, ("a.gguf",))


def test_shards_do_not_match_by_the_digest_of_the_whole_file() -> None:
    manifest = make_manifest(SignedFile("a.gguf", SHA256, 0, len(CONTENT)), shard_bytes=len(CONTENT))
    assert match_files(manifest, [KnownFile("a.gguf", len(CONTENT), SHA256)]).matching == 0


def test_model_of_one_file_matches_the_file_with_its_digest() -> None:
    manifest = make_manifest(SignedFile(".", SHA256))
    files = [KnownFile("Q4.gguf", 1, SHA256), KnownFile("Q8.gguf", 1, "8" * 64)]
    assert match_files(manifest, files) == Coverage(2, 1, unlisted=("Q8.gguf",))


def test_blake3_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_hash_problem("blake2b") is None
    monkeypatch.setitem(sys.modules, "blake3", None)  # as if it were not installed
    assert find_hash_problem("blake3") == (
        "blake3 needs the package blake3. To install it, run llm install 'llm-hf-models[blake3]'."
    )
