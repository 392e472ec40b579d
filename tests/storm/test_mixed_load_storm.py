"""Mixed load with kills: pulls, prompts, agents, servers and their clients use one library while processes are killed.

`make storm` runs five minutes, STORM_SHARE=0.02 ten seconds. At the end: no traceback anywhere, no server has grown, no
process or file is left behind, and every model is verified.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.inference.engine_child import GRACE_SECONDS
from llm_hf_models.paths import library_path
from tests.conftest import Home
from tests.support.commands import run_process
from tests.support.ggufs import tiny_chat
from tests.support.http_servers import COMMANDS, ServerProcess, run_server_command
from tests.support.hub_server import HubServer, Throttle
from tests.support.mixed_load import ACTIONS, REPOS, Load, repeat
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.storm,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a signal"),
]

SHARE = float(os.environ.get("STORM_SHARE") or 1)
SECONDS = max(10.0, 300 * SHARE)
WARM_UP_SHARE = 0.4  # of the time, after which no server may grow
GROWTH_BYTES, GROWTH_FILES, GROWTH_THREADS = 24 << 20, 8, 8
KEEP_ALIVE = 2
LAST_ACTION_SECONDS = 180
RATE = 300_000  # bytes per second of one connection
SEED = 99


@dataclass(frozen=True)
class Footprint:
    """What a server uses."""

    memory: int
    files: int
    threads: int

    @classmethod
    def measure(cls, server: ServerProcess) -> Footprint:
        process = server.process
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    for name, value in {
        "HEARTBEAT_SECONDS": "0.2", "RETRY_SECONDS": "0.05", "DISK_RESERVE": "0", "KEEP_ALIVE": str(KEEP_ALIVE),
        "ORPHAN_SECONDS": "0", "METADATA_LIFETIME_SECONDS": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LLM_HF_{name}", value)
    with HubServer() as hub:
        weights = tmp_path / "weights"
        weights.mkdir()
        one = tiny_chat(weights / "one-Q4_K_M.gguf", seed=1, weights_bytes=6_000_000)
        tiny_chat(weights / "split-Q4_K_M.gguf", seed=2, weights_bytes=9_000_000, shards=3)
        small = tiny_chat(weights / "small-Q4_K_M.gguf", seed=3)
        hub.add_repo(REPOS[0], {one.name: one, "README.md": "# One"})
        hub.add_repo(REPOS[1], {path.name: path for path in weights.glob("split-*")})
        hub.add_repo(REPOS[2], {small.name: small})
        hub.add_repo("acme/tiny", {"tiny-Q8_0.gguf": tiny_chat(weights / "tiny-Q8_0.gguf")})  # served, imported
        hub.fault(Throttle(RATE), side="storage", times=None)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def test_library_survives_mixed_load_with_kills(hub: HubServer, home: Home, tmp_path: Path) -> None:  # noqa: ARG001
    with ExitStack() as stack:
        servers = {command: stack.enter_context(run_server_command(command, tmp_path)) for command in COMMANDS}
        load = Load(home.llm, tmp_path, servers, time.monotonic() + SECONDS)
        threads = [
            threading.Thread(target=repeat, args=(load, action, SEED + number), name=action.__name__)
            for number, action in enumerate(ACTIONS)
        ]
        for thread in threads:
            thread.start()
        threads[0].join(SECONDS * WARM_UP_SHARE)
        before = {command: Footprint.measure(server) for command, server in servers.items()}
        for thread in threads:
            thread.join(SECONDS + LAST_ACTION_SECONDS)
            assert not thread.is_alive(), f"{thread.name} does not end: {load.commands}"
        print(f"mixed load: {SECONDS:g} s, {dict(sorted(load.ends.items()))}")  # noqa: T201
        assert not load.faults, f"{len(load.faults)} faults\n" + "\n".join(load.faults)
        assert load.ends["stdio: ended early"] <= load.ends["killed llm_hf_mcp"]
        settle(load)
        check_growth(servers, before)
    check_remains(load, home)


def settle(load: Load) -> None:
    """Cancel what was interrupted, and wait for the ends of all workers and idle engines."""
    library = Library()
    for row in library.downloads():
        library.cancel(row.id)
    kept = {server.process.pid for server in load.servers.values()}
    wait_until(
        lambda: {process.pid for process in load.find_processes()} <= kept,
        KEEP_ALIVE + GRACE_SECONDS + 30,
        message=lambda: [(process.pid, process.cmdline()) for process in load.find_processes()],
        poll_seconds=0.2,
    )
    assert library.downloads() == ()
    assert library.list_engines() == ()


def check_growth(servers: Mapping[str, ServerProcess], before: Mapping[str, Footprint]) -> None:
    for command, server in servers.items():
        assert server.answers(10)
        after = Footprint.measure(server)
        print(f"  {command}: {before[command]} before, {after} after")  # noqa: T201
        assert after.memory - before[command].memory < GROWTH_BYTES
        assert after.files - before[command].files < GROWTH_FILES
        assert after.threads - before[command].threads < GROWTH_THREADS
        assert server.process.children() == []


def check_remains(load: Load, home: Home) -> None:
    """Check that no process and no partial file is left, and that library and cache agree."""
    assert load.find_processes() == []
    for log in home.llm.rglob("*.log"):
        assert "Traceback" not in log.read_text("utf-8"), log.read_text("utf-8")[-3000:]
    library = Library()
    library.gc()
    assert library.gc().files == ()
    assert list(cache_work_folder(home.cache).iterdir()) == []
    assert {path.name for path in home.runtime.rglob("*")} <= {"llm-hf", "start.lock"}
    assert [path for path in home.llm.rglob("*") if path.name.endswith(".tmp")] == []
    with closing(sqlite3.connect(library_path())) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    run_process("llm", "hf", "verify", "--all")
    models = library.list()
    assert {model.state for model in models} == {"ready"}
    folders = {str(model.repo): library.path(model.id)[0] for model in models}
    pulled = {repo for repo, folder in folders.items() if folder.startswith(str(home.cache))}  # others: --to
    cached = {path.name.removeprefix("models--").replace("--", "/") for path in home.cache.glob("models--*")}
    assert cached == pulled
    for repo in pulled:
        run_process("hf", "cache", "verify", repo, "--cache-dir", home.cache)
