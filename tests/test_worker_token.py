"""A token that is kept encrypted, and a worker that nobody can ask for its passphrase."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llm_hf_models import Library, tokens
from llm_hf_models.pull_plan import PullPlan
from tests.conftest import Home
from tests.ggufs import tiny_chat
from tests.hub_server import HubServer, Stall
from tests.test_downloads import FILE, followed, wait_for_state, wait_until, weights_sent

REPO = "tests/gated-GGUF"
TOKEN = "hf_kept_encrypted"
PASSPHRASE = "walrus"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub with a gated model, and its token kept under a passphrase, since there is no keychain."""
    with HubServer() as server:
        path = tiny_chat(tmp_path / FILE, seed=1, weights_bytes=4_000_000)
        server.add_repo(REPO, {FILE: path}, gated="manual")
        server.add_token(TOKEN, access=[REPO])
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("LLM_HF_DISK_RESERVE", "0")
        assert tokens.store(TOKEN, ask_passphrase=lambda: PASSPHRASE) == "encrypted file"
        yield server


def planned(hub: HubServer) -> PullPlan:
    """A person's plan, with the look at the header left out of the record."""
    plan = Library(ask_passphrase=lambda: PASSPHRASE).plan(REPO)
    hub.forget_requests()
    return plan


def workers(home: Home) -> list[psutil.Process]:
    """The worker of this test's home, while there is one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = "llm_hf_models.worker" in process.cmdline()
            if ours and process.environ().get("LLM_USER_PATH") == str(home.llm):
                found.append(process)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="looks into another process")
def test_who_starts_a_worker_hands_it_the_token_and_nobody_else_can_read_it(hub: HubServer, home: Home) -> None:
    plan = planned(hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    library = Library(ask_passphrase=lambda: PASSPHRASE)
    row = library.enqueue(plan)
    hub.wait_until(lambda: weights_sent(hub) >= 50_000)
    (process,) = workers(home)
    assert TOKEN not in " ".join(process.cmdline())
    assert TOKEN not in " ".join(process.environ().values())
    written = [path for path in home.root.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    hub.clear()
    assert followed(library, row.id)[-1].kind == "done", library.download(row.id)


def test_a_worker_without_the_passphrase_says_in_the_row_which_command_goes_on(hub: HubServer) -> None:
    row = Library().enqueue(planned(hub))
    assert followed(Library(), row.id)[-1].kind == "failed"
    said = str(Library().download(row.id).error)
    assert "no passphrase for the token" in said
    assert said.endswith(f"llm hf pull {REPO}")
    result = Library(ask_passphrase=lambda: PASSPHRASE).pull(REPO)
    assert (result.download_id, Library().download(row.id).state) == (row.id, "done")


def test_a_retry_hands_the_token_to_the_worker_that_it_starts(hub: HubServer, home: Home) -> None:
    row = Library().enqueue(planned(hub))
    wait_for_state(Library(), row.id, "failed")
    wait_until(lambda: not workers(home), "the worker leaves")
    library = Library(ask_passphrase=lambda: PASSPHRASE)
    library.retry(row.id)
    assert followed(library, row.id)[-1].kind == "done", library.download(row.id)


def test_a_token_that_was_forgotten_since_is_not_used_any_more(hub: HubServer) -> None:
    plan = planned(hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    library = Library(ask_passphrase=lambda: PASSPHRASE)
    row = library.enqueue(plan)
    hub.wait_until(lambda: weights_sent(hub) >= 50_000)
    library.pause(row.id)
    wait_for_state(library, row.id, "paused")
    tokens.forget()
    hub.clear()
    hub.expire_links()
    library.resume(row.id)
    assert followed(library, row.id)[-1].kind == "failed"
    assert "gated" in str(library.download(row.id).error)
