"""A Hub with one repo, and the client that asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoId
from tests.support.hub_server import HubServer

REPO = RepoId("acme", "tiny-GGUF")
CARD = "---\nlicense: mit\n---\n# Tiny\n\nSmall.\n"
WEIGHTS = b"GGUF" + bytes(200_000)
FILES: dict[str, bytes | str | Path] = {
    "README.md": CARD,
    "tiny-Q4_K_M.gguf": WEIGHTS,
    "sub dir/tiny #2.gguf": b"GGUF2",
}
GGUF = {"total": 135_000_000, "architecture": "llama", "context_length": 8192, "chat_template": "{{ x }}"}


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo(
            str(REPO), FILES, license="mit", task="text-generation", tags=("en",), downloads=7, likes=2, gguf=GGUF,
            base_models=("acme/tiny",), scans_done=True, files_with_issues=(("tiny-Q4_K_M.gguf", "unsafe"),),
            created=1_600_000_000.0, updated=1_700_000_000.0,
        )  # fmt: skip
        yield server


def make_client(server: HubServer, token: str | None = None, **more: Any) -> Hub:
    return Hub(server.endpoint, token=token, **more)
