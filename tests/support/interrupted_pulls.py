"""Pulls that were interrupted or cancelled, and the partial files that they leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library, PullOptions
from llm_hf_models.errors import InterruptedByUserError
from llm_hf_models.library.database import Database
from llm_hf_models.paths import library_path
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, run_hub, stall_after

REPO = "tests/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with one model of four megabytes, and a short heartbeat interval."""
    with run_hub(monkeypatch, heartbeat_seconds="0.1", disk_reserve="0") as server:
        server.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE, seed=1, weights_bytes=4_000_000)})
        yield server


def interrupt_pull(hub: HubServer, options: PullOptions | None = None) -> int:
    """Interrupt a pull after some bytes; return the number of its row."""
    library = Library()
    plan = library.plan(REPO, options)
    with stall_after(hub, FILE, 500_000) as stop, pytest.raises(InterruptedByUserError):
        library.pull(plan, stop=stop)
    return library.downloads()[0].id


def list_partials(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if ".part" in path.name or ".whole" in path.name)


def cancel_pull(hub: HubServer, options: PullOptions | None = None) -> None:
    """Interrupt and cancel a pull, as a process that is killed before it removes the bytes."""
    number = interrupt_pull(hub, options)
    with Database(library_path()) as db:
        db.update_download(number, state="cancelled")
