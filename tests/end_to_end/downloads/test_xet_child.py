"""`transport = "xet"`: huggingface_hub moves the bytes, and we verify them.

The stand-in Hub stores nothing with Xet, so huggingface_hub uses plain HTTP here. Which of the two it uses is its own
decision behind the same call.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from filelock import FileLock

from llm_hf_models import Library
from llm_hf_models.errors import (
    DigestMismatchError,
    DiskFullError,
    GatedRepoError,
    InterruptedByUserError,
    NotFoundError,
    TimedOutError,
)
from llm_hf_models.transfer.types import Event
from tests.conftest import Home
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import FlipBit, Headers, HubServer, Stall, run_hub, stall_after

REPO = "tests/tiny-GGUF"
FILE = "tiny-Q4_K_M.gguf"
MODEL = f"hf/{REPO}:Q4_K_M"
BYTES = 4_000_000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with one model of four megabytes, and the setting."""
    with run_hub(monkeypatch, transport="xet", retry_seconds="0.05", disk_reserve="0") as server:
        server.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE, seed=1, weights_bytes=BYTES)})
        yield server


def list_agents(hub: HubServer) -> list[str]:
    """Return the User-Agent of each client that fetched (nearly) the whole file from the storage host."""
    whole = [request for request in hub.matching(FILE, side="storage") if request.sent > BYTES // 2]
    return [request.headers.get("user-agent", "") for request in whole]


def test_files_moved_by_huggingface_hub_are_verified_and_registered(hub: HubServer, home: Home) -> None:
    events: list[Event] = []
    result = Library().pull(REPO, progress=events.append)
    assert result.id == MODEL
    assert result.fetched_bytes == Library().show(MODEL).size_bytes
    (agent,) = list_agents(hub)
    assert "hf_hub/" in agent
    kinds = [kind for kind, _ in groupby(event.kind for event in events if event.kind != "progress")]
    assert kinds == ["started", "verifying"]
    assert events[-1].done == events[-1].total
    (digest,) = [check for check in Library().show(MODEL).checks if check.kind == "digest"]
    assert digest.result == "matches"
    reported = subprocess.run(
        [Path(sys.executable).with_name("hf"), "cache", "verify", REPO, "--cache-dir", home.cache],
        capture_output=True,
        text=True,
        check=False,
    )
    assert reported.returncode == 0, reported.stdout + reported.stderr


def test_huggingface_hub_uses_the_configured_certificates(home: Home, tmp_path: Path) -> None:
    assert home
    with HubServer(tls=True) as hub:
        hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE, seed=1, weights_bytes=BYTES)})
        reported = {"HF_ENDPOINT": hub.endpoint, "SSL_CERT_FILE": str(hub.ca_file), "LLM_HF_TRANSPORT": "xet"}
        code = f"from llm_hf_models import Library; print(Library().pull({REPO!r}).id)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **reported, "LLM_HF_DISK_RESERVE": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == MODEL, done.stderr
        (agent,) = list_agents(hub)
        assert "hf_hub/" in agent


@pytest.mark.parametrize("header", ["X-Repo-Commit", "X-Linked-Etag"])
def test_file_whose_headers_are_missing_is_fetched_and_verified(hub: HubServer, header: str) -> None:
    hub.fault(Headers({header: "", "ETag": ""}), on=f"/{FILE}", side="hub", times=None)
    assert Library().pull(REPO).id == MODEL
    assert Library().verify(MODEL).matches


def test_flipped_bit_from_huggingface_hub_is_refused_and_refetched(hub: HubServer) -> None:
    plan = Library().plan(REPO)
    hub.fault(FlipBit(at=3_000_000), on=FILE, side="storage", times=1)
    Library().pull(plan)
    assert Library().verify(MODEL).matches


def test_file_that_stays_wrong_is_never_registered(hub: HubServer) -> None:
    plan = Library().plan(REPO)
    hub.fault(FlipBit(at=3_000_000), on=FILE, side="storage", times=None)
    with pytest.raises(DigestMismatchError):
        Library().pull(plan)
    assert Library().list() == ()


def test_installed_files_are_not_passed_to_huggingface_hub(hub: HubServer) -> None:
    Library().pull(REPO)
    hub.forget_requests()
    assert Library().pull(REPO).fetched_bytes == 0
    assert hub.count(FILE, side="storage") == 0


def test_stop_ends_huggingface_hub_at_once_and_leaves_no_partial(hub: HubServer, home: Home) -> None:
    plan = Library().plan(REPO)
    with stall_after(hub, FILE, 500_000) as stop, pytest.raises(InterruptedByUserError):
        Library().pull(plan, stop=stop)
    assert list(home.cache.glob("**/*.incomplete")) == []
    assert [row.state for row in Library().downloads()] == ["paused"]


def test_stop_keeps_the_partial_of_a_concurrent_hf_download(hub: HubServer, home: Home) -> None:
    stop, plan = threading.Event(), Library().plan(REPO)
    folder = f"models--{REPO.replace('/', '--')}"
    theirs = home.cache / folder / "blobs" / f"{plan.files[0].etag}.0011aabb.incomplete"
    lock = home.cache / ".locks" / folder / f"{plan.files[0].etag}.lock"
    hub.forget_requests()

    def begin() -> None:
        hub.wait_until(lambda: hub.count(FILE) > 0)  # our pull has started and waits for the lock
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.write_text("some bytes")
        stop.set()

    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        another = threading.Thread(target=begin)
        another.start()
        with pytest.raises(InterruptedByUserError):
            Library().pull(plan, stop=stop)
        another.join()
        assert theirs.exists()


def test_endless_silence_is_ended(hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Library().plan(REPO)
    monkeypatch.setenv("LLM_HF_NETWORK_WAIT_SECONDS", "3")
    hub.fault(Stall(after=500_000), on=FILE, side="storage", times=None)
    with pytest.raises(TimedOutError, match="stalled"):
        Library().pull(plan)
    assert list(home.cache.glob("**/*.incomplete")) == []


def test_disk_filled_since_the_plan_is_noticed_before_the_download(
    hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Library().plan(REPO)
    monkeypatch.setenv("LLM_HF_DISK_RESERVE", str(shutil.disk_usage(home.root).free))
    hub.forget_requests()
    with pytest.raises(DiskFullError):
        Library().pull(plan)
    assert hub.count(FILE, side="storage") == 0


def test_refusals_have_the_same_messages_as_our_transfer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Library().plan(REPO)
    (repo,) = hub.list_repos()
    repo = hub.change_repo(repo, gated="manual")
    monkeypatch.setenv("HF_TOKEN", hub.add_token())
    with pytest.raises(GatedRepoError, match="gated"):
        Library().pull(plan)
    hub.change_repo(repo, gated=False)
    hub.remove_repo(REPO)
    with pytest.raises(NotFoundError):
        Library().pull(plan)


def test_token_goes_to_the_hub_and_not_to_the_storage_host(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.add_token("hf_secret"))
    Library().pull(REPO)
    assert any("hf_secret" in request.headers.get("authorization", "") for request in hub.requests)
    assert not any("authorization" in request.headers for request in hub.matching(side="storage"))
