"""The digests of a signed manifest that the Hub does not record, computed during a download."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.downloads.fetch_variant import StoredFile, fetch_into_folder
from llm_hf_models.errors import InterruptedByUserError
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.servers.catalog import ServedRepo
from llm_hf_models.signatures.matching import KnownFile, match_files
from llm_hf_models.signatures.statement import split_into_ranges
from llm_hf_models.signatures.types import Algorithm, SignedFile, SignedManifest
from llm_hf_models.transfer.types import Event
from tests.conftest import Home
from tests.support import cache_pulls
from tests.support.cache_pulls import LIMITS, MB, SHARDS, list_files, pull
from tests.support.hub_server import FlipBit, HubServer, Reset, Throttle

hub = cache_pulls.hub
repo = cache_pulls.repo

SHARD_BYTES = 300_007
KINDS: list[tuple[Algorithm, int | None]] = [("blake2b", None), ("sha256", SHARD_BYTES), ("blake3", None)]


def sign(algorithm: Algorithm, shard_bytes: int | None, files: Mapping[str, bytes] = SHARDS) -> SignedManifest:
    """Return the manifest of a signature, with digests of this kind."""
    if algorithm == "blake3":
        create: Any = pytest.importorskip("blake3").blake3
    else:
        create = getattr(hashlib, algorithm)
    listed = []
    for path, content in files.items():
        if shard_bytes is None:
            listed.append(SignedFile(path, create(content).hexdigest()))
        else:
            for start, end in split_into_ranges(len(content), shard_bytes):
                listed.append(SignedFile(path, create(content[start:end]).hexdigest(), start, end))
    return SignedManifest("key", "model", "0" * 64, tuple(listed), algorithm, shard_bytes)


def count_matching(manifest: SignedManifest, stored: list[StoredFile]) -> int:
    files = [KnownFile(file.path, file.size, file.sha256, file.manifest_digests) for file in stored]
    coverage = match_files(manifest, files)
    assert (coverage.differing, coverage.unchecked) == ((), ())
    return coverage.matching


def list_verified(events: list[Event]) -> set[str]:
    return {event.file for event in events if event.kind == "verifying"}


@pytest.mark.parametrize(("algorithm", "shard_bytes"), KINDS)
def test_digests_are_computed_while_bytes_arrive(
    algorithm: Algorithm, shard_bytes: int | None, hub: HubServer, repo: ServedRepo, home: Home
) -> None:
    hub.fault(Reset(after=100_000), side="storage", times=3)
    hub.fault(FlipBit(5), on="00002-of", side="storage", times=1)  # the digest is wrong once
    manifest, events = sign(algorithm, shard_bytes), list[Event]()
    stored = pull(hub, repo, home.cache, manifest=manifest, progress=events.append)
    assert count_matching(manifest, stored) == len(SHARDS)
    assert any(event.kind == "retrying" for event in events)
    assert {event.done for event in events if event.kind == "verifying" and event.total > event.done} == set()


@pytest.mark.parametrize(("algorithm", "shard_bytes"), KINDS)
def test_resumed_download_has_the_digests_of_all_bytes(
    algorithm: Algorithm, shard_bytes: int | None, hub: HubServer, repo: ServedRepo, home: Home
) -> None:
    manifest, stop = sign(algorithm, shard_bytes), threading.Event()
    hub.fault(Throttle(2 * MB), side="storage", times=None)

    def interrupt(event: Event) -> None:
        if event.done > MB // 2:
            stop.set()

    with pytest.raises(InterruptedByUserError):
        pull(hub, repo, home.cache, manifest=manifest, progress=interrupt, stop=stop)
    hub.clear()
    assert count_matching(manifest, pull(hub, repo, home.cache, manifest=manifest)) == len(SHARDS)


def test_files_that_are_here_are_read_for_the_digests(
    hub: HubServer, repo: ServedRepo, home: Home, tmp_path: Path
) -> None:
    manifest, events = sign("blake2b", None), list[Event]()
    pull(hub, repo, home.cache)
    hub.forget_requests()
    stored = pull(hub, repo, home.cache, manifest=manifest, progress=events.append)
    assert (count_matching(manifest, stored), hub.requests) == (len(SHARDS), [])
    assert list_verified(events) == set(SHARDS)
    copied = fetch_into_folder(
        Hub(hub.endpoint),
        RepoId.parse(repo.id),
        repo.commit,
        list_files(repo),
        tmp_path / "folder",
        cache_dir=home.cache,
        limits=LIMITS,
        progress=lambda _: None,
        stop=threading.Event(),
        manifest=manifest,
    )
    assert count_matching(manifest, copied) == len(SHARDS)


def test_two_paths_with_the_same_bytes_each_have_digests(hub: HubServer, home: Home) -> None:
    content = SHARDS["sub/tiny-Q4_K_M-00001-of-00003.gguf"]
    files = {"a.gguf": content, "b/c.gguf": content}
    repo = hub.add_repo("owner/twins", dict(files))
    manifest = sign("sha256", SHARD_BYTES, files)
    assert count_matching(manifest, pull(hub, repo, home.cache, manifest=manifest)) == len(files)


def test_manifest_with_the_digests_of_the_hub_needs_no_hashing(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    manifest = sign("sha256", None)
    stored = pull(hub, repo, home.cache, manifest=manifest)
    assert not any(file.manifest_digests for file in stored)
    assert count_matching(manifest, stored) == len(SHARDS)
