"""Pulls of one variant into a Hugging Face cache."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.downloads.fetch_variant import StoredFile, fetch_into_cache
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.servers.catalog import ServedRepo
from llm_hf_models.transfer.types import TransferLimits
from tests.support.commands import run_process
from tests.support.hub_server import HubServer

MB = 1_000_000
LIMITS = TransferLimits(connections=4, connect_seconds=2, stall_seconds=1, network_wait_seconds=3, retry_seconds=0.02)
REPO = RepoId("owner", "tiny-GGUF")
SHARDS = {
    f"sub/tiny-Q4_K_M-0000{i}-of-00003.gguf": random.Random(i).randbytes(size)
    for i, size in enumerate((2 * MB, 3 * MB + 7, 1 * MB), 1)
}
FILES: dict[str, bytes | str | Path] = {**SHARDS, "README.md": "# Tiny\n"}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture
def repo(hub: HubServer) -> ServedRepo:
    return hub.add_repo(str(REPO), FILES)


def list_files(repo: ServedRepo) -> list[HubFile]:
    return [HubFile(file.path, file.size, sha256=file.sha256, git_sha1=file.git_sha1) for file in repo.files]


def pull(hub: HubServer, repo: ServedRepo, cache: Path, **options: Any) -> list[StoredFile]:
    arguments: dict[str, Any] = {
        "cache_dir": cache,
        "revision": None,
        "limits": LIMITS,
        "progress": lambda _: None,
        "stop": threading.Event(),
    }
    arguments.update(options)
    return fetch_into_cache(Hub(hub.endpoint), RepoId.parse(repo.id), repo.commit, list_files(repo), **arguments)


def assert_whole(stored: list[StoredFile], *, content: dict[str, bytes] = SHARDS) -> None:
    for file in stored:
        if file.path in content:
            assert file.location.read_bytes() == content[file.path]


def list_leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache_work_folder(cache).iterdir() if path.suffix != ".lock")


def run_hf(*words: str, hub: HubServer | None = None) -> subprocess.CompletedProcess[str]:
    """Run huggingface_hub's own command."""
    return run_process("hf", *words, code=None, environment={"HF_ENDPOINT": hub.endpoint} if hub else {})
