"""Random kills of workers and foreground pulls: the queue loses nothing and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from llm_hf_models import Library
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.transfer.fetch_threads import RECORD_BYTES
from tests.support.downloads import find_workers
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Throttle
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.storm, pytest.mark.timeout(7200)]

SHARE = float(os.environ.get("STORM_SHARE") or 1)
KILLS = max(6, int(300 * SHARE))
KILLS_PER_PULL = 6
SEED = 30
REPO = "tests/split-GGUF"
WEIGHTS_BYTES = 30_000_000
CONNECTIONS = 6
RATE = 2_500_000  # bytes per second of one connection
# The cost of a kill: the unrecorded bytes of each connection. The sockets' buffers are empty at that rate.
SEGMENT_BYTES = CONNECTIONS * RECORD_BYTES
LATEST_SECONDS = 4.0  # for kills at a random time instead of a number of bytes
WAIT_SECONDS = 120
PULL = "import sys; from llm_hf_models import Library; Library().pull(sys.argv[1])"


@dataclass
class Storm:
    """One pull that is killed again and again."""

    hub: HubServer
    random: random.Random
    plan: PullPlan
    home: Path
    kills: int = 0

    def foreground(self, at_once: int) -> None:
        """Let processes pull until they are killed or done."""
        processes = [subprocess.Popen([sys.executable, "-c", PULL, REPO]) for _ in range(at_once)]
        for process in self.random.sample(processes, at_once):
            self._await(lambda process=process: process.poll() is not None)
            process.kill()
            end = process.wait()
            assert end in (0, -signal.SIGKILL), "a kill ends no other pull"
            self.kills += end == -signal.SIGKILL

    def background(self) -> None:
        """Let a worker pull until it is killed or done."""
        row = Library().enqueue(self.plan)
        self._await(lambda: Library().get_download(row.id).state == "done")
        for worker in find_workers():
            with suppress(psutil.NoSuchProcess):
                worker.kill()
                worker.wait()
                self.kills += 1

    def _await(self, over: Callable[[], bool]) -> None:
        """Wait for a random instant: of the transfer, or before, between or after."""
        if self.random.random() < 0.3:
            until = time.monotonic() + self.random.uniform(0, LATEST_SECONDS)
            wait_until(lambda: time.monotonic() >= until or over())
            return
        target = self.hub.sent(side="storage") + self.random.randrange(self.plan.total_bytes // 3)
        wait_until(
            lambda: self.hub.sent(side="storage") >= target or over(),
            WAIT_SECONDS,
            message=lambda: (self.kills, Library().downloads(include_finished=True)),
        )


def test_queue_survives_random_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_ = random.Random(SEED)
    killed = rounds = fetched = wanted = 0
    for name, value in {
        "HEARTBEAT_SECONDS": "0.2",
        "RETRY_SECONDS": "0.05",
        "DISK_RESERVE": "0",
        "CONNECTIONS": str(CONNECTIONS),
    }.items():
        monkeypatch.setenv(f"LLM_HF_{name}", value)
    monkeypatch.setenv("LLM_HF_ORPHAN_SECONDS", "0")  # gc waits for nothing: only owners and rows protect files
    with HubServer() as hub:
        tiny_chat(tmp_path / "m-Q8_0.gguf", seed=1, shards=3, weights_bytes=WEIGHTS_BYTES)
        hub.add_repo(REPO, {path.name: path for path in tmp_path.glob("*-of-00003.gguf")})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        while killed < KILLS:
            rounds += 1
            home = tmp_path / f"home-{rounds}"
            monkeypatch.setenv("LLM_USER_PATH", str(home / "llm"))
            monkeypatch.setenv("HF_HUB_CACHE", str(home / "cache"))
            storm = Storm(hub, random_, Library().plan(REPO), home)
            hub.forget_requests()
            hub.fault(Throttle(RATE), side="storage", times=None)
            for _ in range(KILLS_PER_PULL):
                if rounds % 2:
                    storm.foreground(at_once=random_.choice([1, 2]))
                else:
                    storm.background() if random_.random() < 0.5 else storm.foreground(at_once=2)
                assert [file for file in Library().gc().files if file.size_bytes] == [], (
                    "something that lives was taken"
                )
            hub.clear()
            check_end(storm)
            killed, wanted, fetched = (
                killed + storm.kills,
                wanted + storm.plan.total_bytes,
                fetched + hub.sent(side="storage"),
            )
    extra = (fetched - wanted) / max(1, killed)
    print(f"kill storm over the queue: {killed} kills, {rounds} pulls, {extra:.0f} bytes fetched again per kill")  # noqa: T201


def check_end(storm: Storm) -> None:
    """Check the final state after any number of kills."""
    library = Library()
    result = library.pull(REPO)
    assert library.show(str(result.id)).state == "ready"
    assert library.verify(str(result.id)).matches
    assert {row.state for row in library.downloads(include_finished=True)} <= {"done"}
    assert storm.hub.sent(side="storage") <= storm.plan.total_bytes * 1.02 + storm.kills * SEGMENT_BYTES
    library.gc()
    cache = storm.home / "cache"
    assert list(cache_work_folder(cache).iterdir()) == []
    reported = subprocess.run(
        [Path(sys.executable).with_name("hf"), "cache", "verify", REPO, "--cache-dir", cache],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert reported.returncode == 0, reported.stdout + reported.stderr
