"""A Hub with two models, and a second machine that shares nothing with the first one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import SCRIPTS
from tests.support.ggufs import tiny_chat, tiny_split
from tests.support.hub_server import HubServer, run_hub

REPO, SPLIT = "acme/tiny-GGUF", "acme/split-GGUF"
TINY, TINY_ID = "tiny-Q8_0.gguf", f"hf/{REPO}:Q8_0"
SPLIT_ID = f"hf/{SPLIT}:Q4_K_M"
WEIGHTS_BYTES = 400_000


def add_repos(hub: HubServer, folder: Path) -> None:
    """Give a Hub a model of one file, and one of three shards."""
    folder.mkdir(exist_ok=True)
    hub.add_repo(
        REPO,
        {TINY: tiny_chat(folder / TINY, weights_bytes=WEIGHTS_BYTES), "README.md": "# Tiny\n"},
        license="mit", task="text-generation",
    )  # fmt: skip
    shards = tiny_split(folder, 3, stem="split-Q4_K_M")
    hub.add_repo(SPLIT, {path.name: path for path in shards}, license="apache-2.0")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide the Hub with the two models."""
    with run_hub(monkeypatch, retry_seconds="0.01", disk_reserve="0") as hub:
        add_repos(hub, tmp_path / "repos")
        yield hub


def use_machine(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """Let the environment point to another machine; return its cache."""
    for name, folder in (("LLM_USER_PATH", "llm"), ("HF_HOME", "huggingface"), ("HF_HUB_CACHE", "huggingface/hub")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(root / folder))
    return Path(os.environ["HF_HUB_CACHE"])


def read_content(cache: Path) -> dict[str, bytes]:
    """Return the content of each file in the snapshots of a cache, by repo, commit and path."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in sorted(cache.glob("models--*/snapshots/**/*"))
        if path.is_file()
    }


@contextmanager
def run_mirror(*flags: str | Path) -> Iterator[str]:
    """Run `llm hf mirror` as a process in the present environment; return its address."""
    process = subprocess.Popen(
        [SCRIPTS / "llm", "hf", "mirror", "--port", "0", "-q", *flags],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
