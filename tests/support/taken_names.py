"""A name that llm gives to another plugin's model, and a repo that would take it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer

THEIRS = "gpt-4o-mini"  # a name that llm itself brings
OWNER = f"The model is OpenAI Chat: {THEIRS}"
REPO = "owner/gpt-4o-mini-GGUF"  # a pull would name it like theirs


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("LLM_HF_DISK_RESERVE", "0")
        hub.add_repo(REPO, {"m-Q8_0.gguf": tiny_chat(tmp_path / "m-Q8_0.gguf")})
        yield hub


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return tiny_chat(tmp_path / "walrus.Q8_0.gguf")
