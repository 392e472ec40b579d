"""Tokens that a worker can't find itself, such as an encrypted one, and downloads that need different tokens."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.errors import InterruptedByUserError
from llm_hf_models.hub import encrypted_token, tokens
from tests.conftest import Home
from tests.support.commands import run, run_json_one
from tests.support.downloads import FILE, STALL_AFTER, count_weights_sent, find_workers, follow_to_end, wait_for_state
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Stall
from tests.support.waiting import wait_until

REPO = "tests/gated-GGUF"
TOKEN = "hf_kept_encrypted"
OPEN, OTHER_REPO, OTHER_TOKEN = "tests/open-GGUF", "tests/other-GGUF", "hf_of_another_terminal"
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
        monkeypatch.setenv("LLM_HF_UNLOCK_SECONDS", "0")
        assert tokens.store_token(TOKEN, ask_passphrase=lambda: PASSPHRASE) == "encrypted file"
        yield server


def make_plan(hub: HubServer) -> PullPlan:
    """Return the plan of a user, and forget the requests for the header."""
    plan = Library(ask_passphrase=lambda: PASSPHRASE).plan(REPO)
    encrypted_token.lock()
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
    assert "no passphrase for the encrypted token" in output
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


@pytest.fixture
def gated_by_two_tokens(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """Provide an open model, and two gated ones that need different tokens. Nothing is stored on this machine."""
    tokens.remove_stored_token()
    for repo, gated, seed in ((OPEN, False, 2), (OTHER_REPO, "manual", 3)):
        name = f"{repo.split('/')[1]}-Q4_K_M.gguf"
        path = tiny_chat(tmp_path / name, seed=seed, weights_bytes=4_000_000)
        hub.add_repo(repo, {name: path}, gated=gated)
    hub.add_token(OTHER_TOKEN, access=[OTHER_REPO])
    monkeypatch.setenv("LLM_HF_CONCURRENT_DOWNLOADS", "4")
    return hub


def enqueue_stalled(hub: HubServer, repo: str) -> int:
    """Enqueue a download through the CLI. It stalls until the faults are cleared. Return its id."""
    hub.forget_requests()
    hub.fault(Stall(after=STALL_AFTER), side="storage", times=None)
    row = run_json_one("pull", repo, "--background")
    hub.wait_until(lambda: any(request.sent >= STALL_AFTER for request in hub.matching(side="storage")))
    return int(row["id"])


def list_files_with(text: str, home: Home) -> list[Path]:
    files = (path for path in home.root.rglob("*") if path.is_file())
    return [path for path in files if text.encode() in path.read_bytes()]


def test_download_with_another_token_starts_its_own_worker(
    gated_by_two_tokens: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, library = gated_by_two_tokens, Library()
    first = enqueue_stalled(hub, OPEN)
    ids = []
    for number, (token, repo) in enumerate([(TOKEN, REPO), (OTHER_TOKEN, OTHER_REPO)], start=2):
        monkeypatch.setenv("HF_TOKEN", token)
        ids.append(enqueue_stalled(hub, repo))
        assert len(find_workers()) == number
        assert not list_files_with(token, home)
        assert not [process for process in find_workers() if token in " ".join(process.cmdline())]
    hub.clear()
    for number in (first, *ids):
        assert follow_to_end(library, number)[-1].kind == "done", library.get_download(number)


def test_downloads_with_the_same_token_or_none_share_a_worker(
    gated_by_two_tokens: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, library = gated_by_two_tokens, Library()
    hub.add_token(TOKEN, access=[REPO, OTHER_REPO])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    ids = [enqueue_stalled(hub, REPO), enqueue_stalled(hub, OTHER_REPO)]
    monkeypatch.delenv("HF_TOKEN")
    ids.append(enqueue_stalled(hub, OPEN))
    assert len(find_workers()) == 1
    hub.clear()
    for number in ids:
        assert follow_to_end(library, number)[-1].kind == "done", library.get_download(number)


def test_workers_share_the_limit_of_simultaneous_downloads(
    gated_by_two_tokens: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_CONCURRENT_DOWNLOADS", "1")
    hub, library = gated_by_two_tokens, Library()
    first = enqueue_stalled(hub, OPEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    second = run_json_one("pull", REPO, "--background")["id"]
    wait_until(lambda: len(find_workers()) == 2, message="no second worker")
    hub.clear()
    assert follow_to_end(library, second)[-1].kind == "done", library.get_download(second)
    end = next(note.at for note in library.get_download_log(first) if note.kind == "done")
    starts = [note.at for note in library.get_download_log(second) if note.kind == "started"]
    assert min(starts) >= end


def test_other_worker_takes_over_when_the_worker_with_the_token_is_killed(
    gated_by_two_tokens: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "1")
    hub, library = gated_by_two_tokens, Library()
    enqueue_stalled(hub, OPEN)
    others = find_workers()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    number = enqueue_stalled(hub, REPO)
    (killed,) = (process for process in find_workers() if process not in others)
    killed.kill()
    hub.expire_links()
    monkeypatch.delenv("HF_TOKEN")
    assert follow_to_end(library, number)[-1].kind == "failed"
    error = str(library.get_download(number).error)
    assert "the worker with the token of this download has ended" in error
    assert error.endswith(f"llm hf retry {number}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.clear()
    run("retry", number)
    assert follow_to_end(library, number)[-1].kind == "done", library.get_download(number)


def test_killed_worker_is_replaced_by_one_with_the_current_token(
    gated_by_two_tokens: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, library = gated_by_two_tokens, Library()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    number = enqueue_stalled(hub, REPO)
    (killed,) = find_workers()
    killed.kill()
    hub.expire_links()
    hub.clear()
    assert follow_to_end(library, number)[-1].kind == "done", library.get_download(number)


def test_token_is_sent_only_to_its_own_hub(
    gated_by_two_tokens: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, library = gated_by_two_tokens, Library()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    first = enqueue_stalled(hub, REPO)
    with HubServer() as other:
        path = tiny_chat(tmp_path / "elsewhere-Q4_K_M.gguf", seed=4, weights_bytes=4_000_000)
        other.add_repo("tests/elsewhere-GGUF", {path.name: path}, gated="manual")
        other.add_token(OTHER_TOKEN, access=["tests/elsewhere-GGUF"])
        monkeypatch.setenv("HF_ENDPOINT", other.endpoint)
        monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
        second = run_json_one("pull", "tests/elsewhere-GGUF", "--background")["id"]
        assert follow_to_end(library, second)[-1].kind == "done", library.get_download(second)
        hub.clear()
        assert follow_to_end(library, first)[-1].kind == "done", library.get_download(first)
        for server, foreign in ((other, TOKEN), (hub, OTHER_TOKEN)):
            sent = [request.headers.get("authorization", "") for request in server.requests]
            assert not [value for value in sent if foreign in value]


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
