"""A Hub with one model, and downloads of it in worker processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llm_hf_models import Library
from llm_hf_models.downloads.types import DownloadEvent, DownloadView, PullPlan
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Stall
from tests.support.waiting import wait_until

REPO = "tests/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"
MODEL = f"hf/{REPO}:Q4_K_M"
WAIT_SECONDS = 60
STALL_AFTER = 400_000  # bytes: more than reading a header takes


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with one model of four megabytes, and a short heartbeat interval."""
    with HubServer() as server:
        server.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE, seed=1, weights_bytes=4_000_000)})
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "0.1")
        monkeypatch.setenv("LLM_HF_RETRY_SECONDS", "0.05")
        monkeypatch.setenv("LLM_HF_DISK_RESERVE", "0")
        yield server


def follow_to_end(library: Library, number: int) -> list[DownloadEvent]:
    """Return every event until the download ends; stop after a time limit."""
    stop = threading.Event()
    alarm = threading.Timer(WAIT_SECONDS, stop.set)
    alarm.start()
    try:
        return list(library.follow(number, stop=stop))
    finally:
        alarm.cancel()


def wait_for_state(library: Library, number: int, *states: str) -> None:
    """Wait until a row has one of the states. Other processes write the rows, so they are polled."""
    wait_until(
        lambda: library.get_download(number).state in states,
        message=lambda: f"download {number} is {library.get_download(number)}, not {states}",
    )


def start_stalled_download(library: Library, hub: HubServer, plan: PullPlan) -> DownloadView:
    """Start a background download that stalls after some bytes until the fault is cleared."""
    before = count_weights_sent(hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    row = library.enqueue(plan)
    hub.wait_until(lambda: count_weights_sent(hub) >= before + 50_000)
    return row


def count_weights_sent(hub: HubServer) -> int:
    return hub.sent(FILE, side="storage")


def is_stalled(hub: HubServer) -> bool:
    """Return whether the pull itself (not the request for the header) has reached the stall of the storage host."""
    return any(request.sent >= STALL_AFTER for request in hub.matching(FILE, side="storage"))


def plan_download(library: Library, hub: HubServer, ref: str = REPO) -> PullPlan:
    """Return a plan, and forget the requests for its header."""
    plan = library.plan(ref)
    hub.forget_requests()
    return plan


def find_workers() -> list[psutil.Process]:
    """Return the worker processes of this test's home."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get("LLM_USER_PATH") == os.environ["LLM_USER_PATH"]
            if ours and "llm_hf_models.downloads.worker" in process.cmdline():
                found.append(process)
    return found
