"""New commits of a repo on the tests' Hub, for tests of updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.servers.catalog import ServedRepo
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer

REPO = "owner/tiny-GGUF"
Q4, Q8, CARD = "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf", "README.md"
MODEL = f"hf/{REPO}:Q4_K_M"
OLD_ANSWER, NEW_ANSWER = "Hello from the old version.", "Hello from the new version."


@dataclass
class Origin:
    """A repo on the Hub whose files change from commit to commit."""

    hub: HubServer
    folder: Path
    files: dict[str, bytes | str | Path] = field(default_factory=dict)

    def make_weights(self, answer: str = NEW_ANSWER, seed: int = 1) -> Path:
        return tiny_chat(self.folder / f"weights-{len(list(self.folder.iterdir()))}.gguf", answer=answer, seed=seed)

    def make_unloadable_weights(self) -> Path:
        """Return a valid file of an architecture that llama.cpp does not know."""
        path = self.make_weights(seed=5)
        path.write_bytes(path.read_bytes().replace(b"llama", b"lloma"))
        return path

    def commit(self, *removed: str, **about: object) -> ServedRepo:
        """Commit the files, after removing some."""
        for path in removed:
            del self.files[path]
        return self.hub.add_repo(REPO, self.files, **about)

    def change(self, path: str, content: bytes | str | Path) -> ServedRepo:
        """Commit another content of a file."""
        self.files[path] = content
        return self.commit()


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    """Provide a repo with two quantizations, one of which is on this machine."""
    folder = tmp_path / "origin"
    folder.mkdir()
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("LLM_HF_DISK_RESERVE_BYTES", "0")
        monkeypatch.setenv("LLM_HF_RETRY_SECONDS", "0.05")
        repo = Origin(hub, folder)
        repo.files = {Q4: repo.make_weights(OLD_ANSWER), Q8: repo.make_weights(OLD_ANSWER, seed=2), CARD: "one"}
        repo.commit()
        Library().pull(f"{REPO}:Q4_K_M")
        hub.forget_requests()
        yield repo


Change = Callable[[Origin], object]
