"""Random kills of updates and rollbacks: the old or the new version is always complete, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.library.database import Database
from tests.conftest import Home
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import FlipBit, HubServer, Reset, Status, Throttle, Truncate

pytestmark = [pytest.mark.storm, pytest.mark.timeout(7200)]

SHARE = float(os.environ.get("STORM_SHARE") or 1)
KILLS = max(6, int(200 * SHARE))
KILLS_PER_VERSION = 5
SEED = 19
REPO, MODEL = "tests/split-GGUF", "hf/tests/split-GGUF:Q8_0"
SHARDS, WEIGHTS_BYTES = 3, 6_000_000
RATE = 4_000_000  # bytes per second of one connection
LATEST_SECONDS = 5.0
POLL_SECONDS = 0.002
UPDATE = "from llm_hf_models import Library; Library().update()"
ROLLBACK = f"from llm_hf_models import Library; Library().rollback({MODEL!r}, keep_old=KEEP)"


@dataclass
class Storm:
    """One model whose updates are killed again and again."""

    hub: HubServer
    folder: Path
    home: Home
    random: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    versions: int = 0
    shards: list[Path] = field(default_factory=list)

    def commit(self) -> str:
        """Commit a version in which some of the shards are new. Return its commit."""
        self.versions += 1
        new = self.folder / str(self.versions)
        new.mkdir()
        tiny_chat(
            new / "m-Q8_0.gguf", answer=f"Version {self.versions}", seed=self.versions, shards=SHARDS,
            weights_bytes=WEIGHTS_BYTES,
        )  # fmt: skip
        fresh = sorted(new.iterdir())
        changed = {0, *self.random.sample(range(SHARDS), self.random.randint(0, 2))}
        self.shards = [fresh[at] if at in changed or not self.shards else self.shards[at] for at in range(SHARDS)]
        return self.hub.add_repo(REPO, {path.name: path for path in self.shards}).commit

    def run_and_kill(self, command: str, target: str) -> None:
        """Let a process update the model until it is killed or done, and check what it leaves."""
        kind = self.random.choice(["bytes", "bytes", "seconds", "test", "switch", "removal"])
        process = subprocess.Popen([sys.executable, "-c", command], stderr=subprocess.DEVNULL)
        self._wait(kind, target, lambda: process.poll() is not None)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            self.kills[kind] += 1

    def _wait(self, kind: str, target: str, is_over: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        if kind == "seconds":
            until = time.monotonic() + self.random.uniform(0, LATEST_SECONDS)
        elif kind == "bytes":
            sent = self.hub.sent(side="storage") + self.random.randrange(WEIGHTS_BYTES // 3)
            self._poll(lambda: self.hub.sent(side="storage") >= sent or is_over(), until)
            return
        elif kind == "test":  # all files are verified, and the new version is being tested or switched to
            ref = self.home.cache / f"models--{REPO.replace('/', '--')}/refs/llm-hf/{target}"
            self._poll(lambda: ref.exists() or is_over(), until)
            until = time.monotonic() + self.random.uniform(0, 1)
        else:
            self._poll(lambda: read_commit(self.home) == target or is_over(), until)
            until = time.monotonic() + (self.random.uniform(0, 0.05) if kind == "removal" else 0)
        self._poll(is_over, until)

    @staticmethod
    def _poll(is_over: Callable[[], bool], until: float) -> None:
        while time.monotonic() < until and not is_over():
            time.sleep(POLL_SECONDS)


def read_commit(home: Home) -> str | None:
    with Database(home.llm / "hf/library.db") as db:
        return db.get_model(MODEL).commit


def check_version(commits: set[str]) -> None:
    """Check that one of these versions is complete, and that it has the options and names of the model."""
    library = Library()
    model = library.show(MODEL)
    assert model.commit in commits
    assert model.state == "ready", [file.compare_with_disk() for file in model.files]
    assert library.verify(MODEL).matches
    assert ("walrus" in model.aliases, model.options) == (True, {"seed": 7})


def check_end(storm: Storm, commit: str) -> None:
    """Check the final state: the new version answers, and no file of another version is left."""
    library = Library()
    check_version({commit})
    assert library.prompt(MODEL, "Hello").text == f"Version {storm.versions}"
    library.stop_engines()
    # A partial file is left if the kill came while the partial files of a superseded update were removed.
    assert {file.kind for file in library.gc().files} <= {"note", "lock", "engine", "partial"}
    blobs = {path.name for path in storm.home.cache.glob("models--*/blobs/*")}
    assert blobs == {str(file.sha256) for file in library.show(MODEL).files}
    assert [path for path in cache_work_folder(storm.home.cache).iterdir() if path.suffix != ".lock"] == []
    assert {row.state for row in library.downloads(include_finished=True)} <= {"done", "cancelled"}
    reported = subprocess.run(
        [Path(sys.executable).with_name("hf"), "cache", "verify", REPO, "--revision", commit, "--cache-dir",
         storm.home.cache],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert reported.returncode == 0, reported.stdout + reported.stderr


def plan_faults(storm: Storm) -> None:
    """Slow the storage host down, and plan faults that a transfer survives."""
    storm.hub.clear()
    storm.hub.fault(Throttle(RATE), side="storage", times=None)
    for fault in (Reset(after=100_000), Truncate(after=50_000), FlipBit(at=70_000, bit=3)):
        storm.hub.fault(fault, side="storage", times=storm.random.randint(0, 1))
    storm.hub.fault(Status(503), side="storage", times=storm.random.randint(0, 2))


def test_update_survives_random_kills(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HEARTBEAT_SECONDS": "0.2", "RETRY_SECONDS": "0.05", "DISK_RESERVE_BYTES": "0", "ORPHAN_SECONDS": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LLM_HF_{name}", value)
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        storm = Storm(hub, tmp_path / "origin", home, random.Random(SEED))
        storm.folder.mkdir()
        old = storm.commit()
        Library().pull(REPO)
        Library().add_alias(MODEL, "walrus")
        Library().set_options(MODEL, {"seed": 7})
        while storm.kills.total() < KILLS:
            new, commits = storm.commit(), {old}
            for _ in range(KILLS_PER_VERSION):
                plan_faults(storm)
                storm.run_and_kill(UPDATE, new)
                commits.add(new)
                check_version(commits)
                if storm.random.random() < 0.15:  # the repo changes again before the update is complete
                    new = storm.commit()
            hub.clear()
            assert next(each.outcome for each in Library().update().models) in ("updated", "up to date")
            check_end(storm, new)
            if storm.random.random() < 0.3:
                plan_faults(storm)
                keep = storm.random.choice(["True", "False"])
                storm.run_and_kill(ROLLBACK.replace("KEEP", keep), old)
                check_version({*commits, new})  # one may have been in force before the repo changed again
                hub.clear()
                Library().update(keep_old=False)
                check_version({new})
                for version in Library().show(MODEL).other_versions:
                    assert version.commit != new
                if any(version.state == "kept" for version in Library().show(MODEL).other_versions):
                    Library().remove(MODEL)
                    Library().pull(REPO)
                    Library().add_alias(MODEL, "walrus")
                    Library().set_options(MODEL, {"seed": 7})
            old = new
    print(f"update storm: {dict(storm.kills)} kills, {storm.versions} versions")  # noqa: T201
