"""Random kills during `llm hf sync` against a failing Hub: each sync that is run again ends with a complete library."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.transfer.types import Event
from tests.support.commands import run, run_json
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Reset, Throttle, Truncate
from tests.support.lockfiles import read_content, use_machine
from tests.support.processes import ByteCounter, kill_this_process, kill_this_process_in, run_processes

pytestmark = [pytest.mark.storm, pytest.mark.timeout(7200)]

SHARE = float(os.environ.get("STORM_SHARE") or 1)
KILLS = max(4, int(200 * SHARE))
KILLS_PER_SYNC = 6
SEED = 19
SPLIT, SMALL = "acme/split-GGUF", "acme/small-GGUF"
WEIGHTS_BYTES = 6_000_000
RATE = 3_000_000  # bytes per second of one connection


@dataclass(frozen=True)
class Task:
    """The sync of one process, and the moment of its kill."""

    environment: dict[str, str]
    lockfile: str
    after_bytes: int | None = None  # killed after this many new bytes,
    after_seconds: float | None = None  # this long after the start,
    after_file: float | None = None  # or this long after a file is complete: while links, rows and names are written


def sync_until_killed(task: Task) -> None:
    """Run one process: sync until the planned kill, or to the end."""
    os.environ.update(task.environment)
    counter = ByteCounter()

    def watch(event: Event) -> None:
        counter.add(event)
        if task.after_bytes is not None and counter.new >= task.after_bytes:
            kill_this_process()
        if task.after_file is not None and event.kind == "done":
            kill_this_process_in(task.after_file)

    if task.after_seconds is not None:
        kill_this_process_in(task.after_seconds)
    Library().sync(task.lockfile, progress=watch)


def choose_end(task: Task, random_: random.Random) -> Task:
    """Return the task with a random end."""
    kind = random_.choice(["bytes", "bytes", "seconds", "file", "file"])
    if kind == "bytes":
        return replace(task, after_bytes=random_.randrange(WEIGHTS_BYTES // 2))
    if kind == "seconds":
        return replace(task, after_seconds=random_.uniform(0, 3))
    return replace(task, after_file=random_.uniform(0, 0.2))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """Provide a Hub with a split and a single model, which it serves slowly and with faults."""
    (tmp_path / "files").mkdir()
    tiny_chat(tmp_path / "files/m-Q8_0.gguf", seed=1, shards=3, weights_bytes=WEIGHTS_BYTES)
    small = tiny_chat(tmp_path / "files/small-Q4_K_M.gguf", seed=2, weights_bytes=2_000_000)
    hub = HubServer()
    hub.add_repo(SPLIT, {path.name: path for path in (tmp_path / "files").glob("*-of-00003.gguf")}, license="mit")
    hub.add_repo(SMALL, {small.name: small}, license="mit")
    for name, value in {"HEARTBEAT_SECONDS": "0.2", "RETRY_SECONDS": "0.05", "DISK_RESERVE_BYTES": "0"}.items():
        monkeypatch.setenv(f"LLM_HF_{name}", value)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    return hub


def make_weather(hub: HubServer, random_: random.Random) -> None:
    """Let the Hub be slow, and lose a few connections."""
    hub.clear()
    hub.fault(Throttle(RATE), side="storage", times=None)
    for _ in range(random_.randrange(3)):
        hub.fault(Truncate(random_.randrange(300_000)), side="storage")
    hub.fault(Reset(), side="storage", times=random_.randrange(1, 3))


def test_killed_syncs_end_with_a_complete_library(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_ = random.Random(SEED)
    nursery = multiprocessing.get_context("forkserver")
    nursery.set_forkserver_preload([__name__])
    lockfile, kills, syncs = tmp_path / "models.lock.toml", 0, 0
    with hub:
        cache = use_machine(monkeypatch, tmp_path / "first")
        run("pull", SPLIT, SMALL, "-q")
        run("alias", SMALL, "walrus", "--remove", "small")
        run("set", "walrus", "temperature", "0.5", "system", "Be short.")
        run("lock", "-o", lockfile)
        content, size = read_content(cache), run_json("lock")["size_bytes"]
        while kills < KILLS:
            syncs += 1
            cache = use_machine(monkeypatch, tmp_path / f"machine-{syncs}")
            task, here = Task(dict(os.environ), str(lockfile)), 0
            hub.forget_requests()
            for _ in range(KILLS_PER_SYNC):
                make_weather(hub, random_)
                fate = choose_end(task, random_)
                (status,) = run_processes([nursery.Process(target=sync_until_killed, args=(fate,))])
                assert status in (0, -signal.SIGKILL), (syncs, kills, fate)
                here += status != 0
                assert {model.state for model in Library().list()} <= {"ready"}, "a model is registered when complete"
            hub.clear()
            kills += here
            check_end(lockfile, cache, content)
            assert hub.sent(side="storage") <= size * (1 + here), "a kill costs less than the whole"
    print(f"kill storm over sync: {kills} kills, {syncs} machines")  # noqa: T201


def check_end(lockfile: Path, cache: Path, content: dict[str, bytes]) -> None:
    """Check that one more sync makes the machine match, whatever the kills left."""
    assert run_json("sync", lockfile)["complete"]
    assert run_json("sync", lockfile, "--check")["in_sync"]
    assert read_content(cache) == content
    assert all(done["matches"] for done in run_json("verify", "--all")["results"])
    run("lock", "-o", cache / "again.toml")
    run("lock", "--diff", lockfile, cache / "again.toml")
    assert {row.state for row in Library().downloads(include_finished=True)} <= {"done"}
    Library().gc()
    assert list(cache_work_folder(cache).iterdir()) == []
