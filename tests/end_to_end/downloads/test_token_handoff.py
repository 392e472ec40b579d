"""An encrypted token, and a worker that can't ask for the passphrase."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from llm_hf_models import Library
from llm_hf_models.downloads import token_handoff
from llm_hf_models.downloads.types import PullPlan
from llm_hf_models.downloads.worker import lock_path
from llm_hf_models.errors import InterruptedByUserError
from llm_hf_models.hub import tokens
from tests.conftest import Home
from tests.support.downloads import FILE, count_weights_sent, find_workers, follow_to_end, wait_for_state
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Stall
from tests.support.waiting import wait_until

REPO = "tests/gated-GGUF"
TOKEN = "hf_kept_encrypted"
PASSPHRASE = "walrus"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with a gated model, and its token, encrypted because there is no keychain."""
    with HubServer() as server:
        path = tiny_chat(tmp_path / FILE, seed=1, weights_bytes=4_000_000)
        server.add_repo(REPO, {FILE: path}, gated="manual")
        server.add_token(TOKEN, access=[REPO])
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("LLM_HF_DISK_RESERVE", "0")
        assert tokens.store_token(TOKEN, ask_passphrase=lambda: PASSPHRASE) == "encrypted file"
        yield server


def make_plan(hub: HubServer) -> PullPlan:
    """Return the plan of a user, and forget the requests for the header."""
    plan = Library(ask_passphrase=lambda: PASSPHRASE).plan(REPO)
    hub.forget_requests()
    return plan


def test_pull_sent_to_the_background_passes_its_token_on(hub: HubServer) -> None:
    library, stop = Library(ask_passphrase=lambda: PASSPHRASE), threading.Event()
    plan = make_plan(hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)

    def press_the_key() -> None:
        hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
        library.continue_in_background(plan)
        stop.set()

    presses = threading.Thread(target=press_the_key)
    presses.start()
    with pytest.raises(InterruptedByUserError):
        library.pull(plan, stop=stop)
    presses.join()
    hub.clear()
    row = library.enqueue(plan)
    assert follow_to_end(library, row.id)[-1].kind == "done", library.get_download(row.id)


@pytest.mark.skipif(sys.platform == "win32", reason="reads another process")
def test_new_worker_gets_the_token_that_nobody_else_can_read(hub: HubServer, home: Home) -> None:
    plan = make_plan(hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    library = Library(ask_passphrase=lambda: PASSPHRASE)
    row = library.enqueue(plan)
    hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
    (process,) = find_workers()
    assert TOKEN not in " ".join(process.cmdline())
    assert TOKEN not in " ".join(process.environ().values())
    written = [path for path in home.root.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    hub.clear()
    assert follow_to_end(library, row.id)[-1].kind == "done", library.get_download(row.id)


def test_worker_without_the_passphrase_names_the_command_in_the_row(hub: HubServer) -> None:
    row = Library().enqueue(make_plan(hub))
    assert follow_to_end(Library(), row.id)[-1].kind == "failed"
    output = str(Library().get_download(row.id).error)
    assert "no passphrase for the token" in output
    assert output.endswith(f"llm hf pull {REPO}")
    result = Library(ask_passphrase=lambda: PASSPHRASE).pull(REPO)
    assert (result.download_id, Library().get_download(row.id).state) == (row.id, "done")


def test_retry_passes_the_token_to_its_new_worker(hub: HubServer) -> None:
    row = Library().enqueue(make_plan(hub))
    wait_for_state(Library(), row.id, "failed")
    wait_until(lambda: not find_workers(), message="the worker did not exit")
    library = Library(ask_passphrase=lambda: PASSPHRASE)
    library.retry(row.id)
    assert follow_to_end(library, row.id)[-1].kind == "done", library.get_download(row.id)


@pytest.mark.skipif(not token_handoff.HAS_NAMED_PIPES, reason="needs named pipes")
def test_running_worker_uses_the_token_of_the_next_request(
    hub: HubServer, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.remove_stored_token()
    hub.add_repo("tests/open-GGUF", {"open-Q4_K_M.gguf": tiny_chat(tmp_path / "open.gguf", weights_bytes=4_000_000)})
    plan = Library().plan("tests/open-GGUF")
    hub.fault(Stall(after=50_000), on="open-Q4_K_M.gguf", side="storage", times=None)
    first = Library().enqueue(plan)
    wait_for_state(Library(), first.id, "running")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    row = Library().enqueue(REPO)
    assert follow_to_end(Library(), row.id)[-1].kind == "done", Library().get_download(row.id)
    assert len(find_workers()) == 1
    assert not [path for path in home.root.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    Library().cancel(first.id)


@pytest.mark.skipif(not token_handoff.HAS_NAMED_PIPES, reason="needs named pipes")
def test_token_is_written_only_to_our_own_pipe(
    hub: HubServer, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    plan = Library().plan(REPO)
    pipe, elsewhere = home.llm / "hf/worker.pipe", tmp_path / "elsewhere"
    os.mkfifo(elsewhere)
    listener = os.open(elsewhere, os.O_RDWR | os.O_NONBLOCK)
    for lay in (pipe.touch, lambda: pipe.symlink_to(elsewhere)):
        with FileLock(lock_path()):  # a worker seems to be running
            lay()
            Library().enqueue(plan)
            assert pipe.read_bytes() == b"" if pipe.is_file() else not select.select([listener], [], [], 0)[0]
            pipe.unlink()
    os.close(listener)


def test_forgotten_token_is_not_used_again(hub: HubServer) -> None:
    plan = make_plan(hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    library = Library(ask_passphrase=lambda: PASSPHRASE)
    row = library.enqueue(plan)
    hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
    library.pause(row.id)
    wait_for_state(library, row.id, "paused")
    tokens.remove_stored_token()
    hub.clear()
    hub.expire_links()
    library.resume(row.id)
    assert follow_to_end(library, row.id)[-1].kind == "failed"
    assert "gated" in str(library.get_download(row.id).error)
