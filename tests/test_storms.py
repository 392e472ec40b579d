"""Slow proofs: thousands of accidents with seeds. `make storm` runs them whole; STORM_SHARE=0.1 runs a tenth."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from llm_hf_models.cache_layout import work_folder
from llm_hf_models.errors import DigestMismatchError, FileChangedError, HfModelsError, NetworkError
from llm_hf_models.hub import HubFile
from llm_hf_models.transfer import Expected, TransferLimits, fetch, journal_path
from tests.conftest import Home
from tests.hub_server import HubServer, Throttle
from tests.storage_server import Fault, StorageServer
from tests.test_download import child, files_of, leftovers, pull
from tests.test_transfer import WEATHER

pytestmark = [pytest.mark.storm, pytest.mark.timeout(3600)]

SHARE = float(os.environ.get("STORM_SHARE") or 1)
KILLS = max(1, int(300 * SHARE))
COMBINATIONS = max(1, int(500 * SHARE))
CORRUPTIONS = max(1, int(1000 * SHARE))
KILLS_PER_PULL = 6
TRIES = 4
MB = 1_000_000
# What a kill may cost: per connection one unrecorded chunk, and what stood in the sockets' buffers.
SEGMENT_BYTES = 4 << 20


@pytest.mark.usefixtures("home")
def test_kill_storm(tmp_path: Path) -> None:
    random_ = random.Random(20)
    content = {
        f"m-Q8_0-0000{i}-of-00003.gguf": random_.randbytes(size) for i, size in enumerate((4 * MB, 6 * MB, 2 * MB), 1)
    }
    size = sum(map(len, content.values()))
    killed = rounds = 0
    with HubServer() as hub:
        repo = hub.add_repo("owner/storm-GGUF", dict(content))
        while killed < KILLS:
            rounds += 1
            cache = tmp_path / f"cache-{rounds}"
            hub.forget_requests()
            hub.fault(Throttle(6 * MB), side="storage", times=None)
            here = 0
            for _ in range(KILLS_PER_PULL):
                at_once = 1 if rounds % 2 else 2
                points = [random_.randrange(1, size) for _ in range(at_once)]
                processes = [child(hub, repo, cache, point) for point in points]
                for process in processes:
                    _, errors = process.communicate(timeout=120)
                    assert process.returncode in (0, -signal.SIGKILL), errors
                    here += process.returncode == -signal.SIGKILL
            hub.clear()
            for file in pull(hub, repo, cache):
                assert file.location.read_bytes() == content[file.path]
            assert hub.sent(side="storage") <= size * 1.02 + here * SEGMENT_BYTES
            assert leftovers(cache) == []
            killed += max(here, 1)
    print(f"kill storm: {killed} kills over {rounds} pulls")  # noqa: T201 - the figure is the point


def limits_for(random_: random.Random) -> TransferLimits:
    return TransferLimits(
        connections=random_.choice([1, 2, 4, 8]),
        connect_seconds=1,
        stall_seconds=0.15,
        network_wait_seconds=3,
        retry_seconds=0.005,
    )


def test_weather_storm(tmp_path: Path) -> None:
    faults = [fault for name, fault in WEATHER.items() if name != "429"]
    faults.append(replace(WEATHER["429"], headers=(("Retry-After", "0"),)))
    ends: dict[str, int] = {}
    for seed in range(COMBINATIONS):
        random_ = random.Random(seed)
        partial = tmp_path / f"{seed}.part"
        with StorageServer(random_.randbytes(random_.choice([1, 5000, 300_000, 9 * MB]))) as server:
            server.faults.extend(random_.choices(faults, k=random_.randrange(1, 9)))
            server.ranges = random_.random() > 0.1
            end = "whole"
            for attempt in range(TRIES):
                try:
                    fetch(
                        server.locate,
                        server.expected,
                        partial,
                        limits=limits_for(random_),
                        progress=lambda _: None,
                        stop=threading.Event(),
                    )
                    break
                except HfModelsError as error:
                    end = f"{type(error).__name__}, then whole"
                    # A clear error, and what is left can be continued: a next try must come through.
                    if attempt == TRIES - 1:
                        raise AssertionError(seed) from error
            assert partial.read_bytes() == server.content, seed
        ends[end] = ends.get(end, 0) + 1
        partial.unlink()
    print(f"weather storm: {ends}")  # noqa: T201


def test_corruption_storm(tmp_path: Path) -> None:
    accepted, ends = 0, {"refused": 0, "right": 0}
    content = random.Random(7).randbytes(200_000)
    for seed in range(CORRUPTIONS):
        random_ = random.Random(seed)
        partial = tmp_path / f"{seed}.part"
        with StorageServer(content) as server:
            expected = server.expected
            kind = random_.randrange(4)
            if kind == 0:
                fault = Fault(flip=random_.randrange(len(content)))
            elif kind == 1:
                fault = Fault(swap=True)
            elif kind == 2:
                fault = Fault(shift=random_.randrange(1, 5000), total=random_.choice([None, len(content) + 1]))
            else:
                fault = Fault()
                wrong = hashlib.sha256(random_.randbytes(8)).hexdigest()
                expected = Expected(expected.name, expected.size, sha256=wrong)
            if random_.random() < 0.5:
                server.always = fault
            else:
                server.faults.append(fault)
            location = replace(server.locate(), etag="no-digest")
            try:
                fetch(
                    lambda location=location: location,
                    expected,
                    partial,
                    limits=limits_for(random_),
                    progress=lambda _: None,
                    stop=threading.Event(),
                )
            except (DigestMismatchError, FileChangedError, NetworkError) as error:
                ends["refused"] += 1
                if isinstance(error, DigestMismatchError):
                    assert not partial.exists()
            else:
                ends["right"] += 1
                accepted += hashlib.sha256(partial.read_bytes()).hexdigest() != expected.sha256
        partial.unlink(missing_ok=True)
        journal_path(partial).unlink(missing_ok=True)
    print(f"corruption storm: {accepted} accepted of {CORRUPTIONS}; {ends}")  # noqa: T201
    assert accepted == 0


def test_a_pull_leaves_only_its_notes(home: Home) -> None:
    with HubServer() as hub:
        repo = hub.add_repo("owner/tiny-GGUF", {"a-Q8_0.gguf": random.Random(1).randbytes(MB)})
        files: list[HubFile] = files_of(repo)
        pull(hub, repo, home.cache)
        left = {path.name for path in work_folder(home.cache).iterdir()}
        assert left == {f"{files[0].etag}.checked"}
