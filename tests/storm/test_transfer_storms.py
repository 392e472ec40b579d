"""Slow tests: thousands of seeded faults. `make storm` runs them all, STORM_SHARE=0.1 a tenth."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.downloads.fetch_variant import fetch_into_cache
from llm_hf_models.errors import DigestMismatchError, FileChangedError, HfModelsError, NetworkError
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.servers.catalog import ServedRepo
from llm_hf_models.transfer.download_file import download_file, journal_path
from llm_hf_models.transfer.fetch_threads import RECORD_BYTES
from llm_hf_models.transfer.types import Event, ExpectedFile, TransferLimits
from tests.conftest import Home
from tests.support.cache_pulls import list_files, pull
from tests.support.hub_server import HubServer, Throttle
from tests.support.processes import ByteCounter, kill_this_process, kill_this_process_in, run_processes
from tests.support.storage_server import Fault, StorageServer
from tests.support.transfers import WEATHER

pytestmark = [pytest.mark.storm, pytest.mark.timeout(3600)]

SHARE = float(os.environ.get("STORM_SHARE") or 1)
KILLS = max(1, int(300 * SHARE))
COMBINATIONS = max(1, int(500 * SHARE))
CORRUPTIONS = max(1, int(1000 * SHARE))
KILLS_PER_PULL = 6
LANES = 2  # parallel storms, each with a Hub of its own
TRIES = 4
MB = 1_000_000
SHARD_BYTES = (12 * MB, 20 * MB, 8 * MB)
RATE = 4 * MB  # bytes per second of one connection
CONNECTIONS = 6
# The cost of a kill: the unrecorded bytes of each connection. The sockets' buffers are empty at that rate.
SEGMENT_BYTES = CONNECTIONS * RECORD_BYTES


@dataclass(frozen=True)
class Task:
    """The pull of one process of the kill storm, and the moment of its kill."""

    endpoint: str
    repo: str
    commit: str
    files: list[HubFile]
    cache: Path
    after_bytes: int | None = None  # killed after this many new bytes,
    after_seconds: float | None = None  # or this long after the start,
    after_end: float | None = None  # or this long after the last file is complete, while links and refs are made


def pull_until_killed(task: Task) -> None:
    """Run one process: pull until the planned kill, or to the end."""
    counter = ByteCounter()

    def watch(event: Event) -> None:
        counter.add(event)
        if task.after_bytes is not None and counter.new >= task.after_bytes:
            kill_this_process()
        if task.after_end is not None and counter.total == sum(file.size for file in task.files):
            kill_this_process_in(task.after_end)

    if task.after_seconds is not None:
        kill_this_process_in(task.after_seconds)
    fetch_into_cache(
        Hub(task.endpoint), RepoId.parse(task.repo), task.commit, task.files, cache_dir=task.cache, revision=None,
        limits=TransferLimits(connections=CONNECTIONS, retry_seconds=0.02), progress=watch, stop=threading.Event(),
    )  # fmt: skip


def add_random_end(task: Task, random_: random.Random, size: int) -> Task:
    """Return the task with a random end: mostly during the transfer, sometimes when all bytes are there."""
    kind = random_.choice(["bytes", "bytes", "seconds", "end"])
    if kind == "bytes":
        return replace(task, after_bytes=random_.randrange(size // 3))
    if kind == "seconds":
        return replace(task, after_seconds=random_.uniform(0, 1))
    return replace(task, after_bytes=None, after_end=random_.uniform(0, 0.03))


@dataclass
class Tally:
    """The counts of a kill storm."""

    kills: int = 0
    pulls: int = 0
    wanted: int = 0
    fetched: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Tally)))


def kill_pulls(folder: Path, seed: int, kills: int) -> Tally:
    """Pull again and again until there were that many kills; each pull must end well."""
    random_, tally = random.Random(seed), Tally()
    content = {f"m-Q8_0-0000{i}-of-00003.gguf": random_.randbytes(size) for i, size in enumerate(SHARD_BYTES, 1)}
    nursery = multiprocessing.get_context("forkserver")
    nursery.set_forkserver_preload([__name__])
    with HubServer() as hub:
        repo = hub.add_repo("owner/storm-GGUF", dict(content))
        while tally.kills < kills:
            cache = folder / f"cache-{seed}-{tally.pulls}"
            task = Task(hub.endpoint, repo.id, repo.commit, list_files(repo), cache)
            hub.forget_requests()
            hub.fault(Throttle(RATE), side="storage", times=None)
            here = 0
            for _ in range(KILLS_PER_PULL):
                fates = [add_random_end(task, random_, sum(SHARD_BYTES)) for _ in range(1 + tally.pulls % 2)]
                processes = [nursery.Process(target=pull_until_killed, args=(fate,)) for fate in fates]
                for status in run_processes(processes):
                    assert status in (0, -signal.SIGKILL), (seed, tally, fates)
                    here += status == -signal.SIGKILL
            hub.clear()
            tally += finish_pull(hub, repo, cache, content, here)
            assert run_processes([nursery.Process(target=run_gc, args=(cache,))]) == [0]
            assert list(cache_work_folder(cache).iterdir()) == []
            shutil.rmtree(cache)
    return tally


def run_gc(cache: Path) -> None:
    """Run `llm hf gc` without its waiting time, in a process of its own."""
    os.environ.update(HF_HUB_CACHE=str(cache), LLM_USER_PATH=str(cache / "llm"), LLM_HF_ORPHAN_SECONDS="0")
    Library().gc()


def finish_pull(hub: HubServer, repo: ServedRepo, cache: Path, content: dict[str, bytes], kills: int) -> Tally:
    """Let the last pull finish, and check the result."""
    for file in pull(hub, repo, cache):
        assert file.location.read_bytes() == content[file.path]
    size, sent = sum(map(len, content.values())), hub.sent(side="storage")
    assert sent <= size * 1.02 + kills * SEGMENT_BYTES
    assert not [path for path in cache.rglob("*") if path.is_symlink() and not path.exists()]
    return Tally(kills, 1, size, sent)


@pytest.mark.usefixtures("home")
def test_pulls_survive_random_kills(tmp_path: Path) -> None:
    with ThreadPoolExecutor(LANES) as lanes:
        storms = [lanes.submit(kill_pulls, tmp_path, 20 + lane, -(-KILLS // LANES)) for lane in range(LANES)]
        tally = sum((storm.result() for storm in storms), Tally())
    extra = (tally.fetched - tally.wanted) / tally.kills
    print(f"kill storm: {tally.kills} kills over {tally.pulls} pulls, {extra:,.0f} bytes fetched again per kill")  # noqa: T201
    assert tally.kills >= KILLS


def choose_limits(random_: random.Random) -> TransferLimits:
    return TransferLimits(
        connections=random_.choice([1, 2, 4, 8]),
        connect_seconds=1,
        stall_seconds=0.15,
        network_wait_seconds=3,
        retry_seconds=0.005,
    )


def test_transfers_survive_random_network_errors(tmp_path: Path) -> None:
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
                    download_file(
                        server.locate,
                        server.expected,
                        partial,
                        limits=choose_limits(random_),
                        progress=lambda _: None,
                        stop=threading.Event(),
                    )
                    break
                except HfModelsError as error:
                    end = f"{type(error).__name__}, then whole"
                    # A clear error, and the rest can be continued: a retry must succeed.
                    if attempt == TRIES - 1:
                        raise AssertionError(seed) from error
            assert partial.read_bytes() == server.content, seed
        ends[end] = ends.get(end, 0) + 1
        partial.unlink()
    print(f"weather storm: {ends}")  # noqa: T201


def test_corrupted_bytes_are_never_accepted(tmp_path: Path) -> None:
    accepted, ends = 0, {"refused": 0, "right": 0}
    content = random.Random(7).randbytes(2_000_000)
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
                expected = ExpectedFile(expected.name, expected.size, sha256=wrong)
            if random_.random() < 0.5:
                server.always = fault
            else:
                server.faults.append(fault)
            location = replace(server.locate(), etag="no-digest")
            try:
                download_file(
                    lambda location=location: location,
                    expected,
                    partial,
                    limits=choose_limits(random_),
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


def test_pull_leaves_nothing_in_the_work_folder(home: Home) -> None:
    with HubServer() as hub:
        repo = hub.add_repo("owner/tiny-GGUF", {"a-Q8_0.gguf": random.Random(1).randbytes(MB)})
        pull(hub, repo, home.cache)
        assert list(cache_work_folder(home.cache).iterdir()) == []
