"""Variants in the Hugging Face cache: other tools, several processes, kills."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from llm_hf_models.downloads.local_files import find_local_files
from llm_hf_models.hub.cache_layout import cache_path, repo_folder
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.servers.catalog import ServedRepo
from llm_hf_models.transfer import segments
from llm_hf_models.transfer.types import Event
from tests.conftest import Home
from tests.support import cache_pulls
from tests.support.cache_pulls import (
    FILES,
    LIMITS,
    MB,
    REPO,
    SHARDS,
    assert_whole,
    list_files,
    list_leftovers,
    pull,
    run_hf,
)
from tests.support.hub_server import HubServer, Throttle

hub = cache_pulls.hub
repo = cache_pulls.repo


def test_hf_command_accepts_the_cache(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    pull(hub, repo, home.cache)
    listed = run_hf("cache", "ls", "--format", "json")
    assert [entry["repo_id"] for entry in json.loads(listed.stdout)] == [str(REPO)], listed
    verified = run_hf("cache", "verify", str(REPO), hub=hub)
    assert verified.returncode == 0, verified
    before = hub.sent(side="storage")
    downloaded = run_hf("download", str(REPO), hub=hub)
    assert downloaded.returncode == 0, downloaded
    assert hub.sent(side="storage") == before
    pruned = run_hf("cache", "prune", "-y")
    assert pruned.returncode == 0, pruned
    assert set(find_local_files(home.cache, REPO, repo.commit, list_files(repo))) == set(FILES)


def test_files_from_snapshot_download_are_used(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    fetched = run_hf("download", str(REPO), hub=hub)
    assert fetched.returncode == 0, fetched
    before = hub.sent(side="storage")
    events: list[Event] = []
    stored = pull(hub, repo, home.cache, progress=events.append)
    assert_whole(stored)
    assert not any(file.fetched for file in stored)
    assert hub.sent(side="storage") == before
    hashed = {event.file: event.done for event in events if event.kind == "verifying"}
    assert hashed == {file.path: file.size for file in repo.files}, "and it was seen how far the digest was"


def test_damaged_blob_of_another_tool_is_fetched_again(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    assert run_hf("download", str(REPO), hub=hub).returncode == 0
    path = cache_path(home.cache, REPO, repo.commit, next(iter(SHARDS))).resolve()
    damaged = bytearray(path.read_bytes())
    damaged[5] ^= 1
    path.write_bytes(damaged)
    stored = pull(hub, repo, home.cache)
    assert_whole(stored)
    assert sum(file.fetched for file in stored) == 1


def test_good_blob_of_another_repo_replaces_a_damaged_one(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    name, content = next(iter(SHARDS.items()))
    other = hub.add_repo("other/copy-GGUF", {name: content})
    for pulled in (repo, other):
        assert run_hf("download", pulled.id, hub=hub).returncode == 0
    path = cache_path(home.cache, REPO, repo.commit, name).resolve()
    path.write_bytes(bytes(len(content)))
    before, events = hub.sent(side="storage"), list[Event]()
    assert_whole(pull(hub, repo, home.cache, progress=events.append))
    assert hub.sent(side="storage") == before
    begun = [event for event in events if (event.kind, event.file, event.done) == ("verifying", name, 0)]
    assert len(begun) == 2, "each file is hashed once"


def test_another_commit_of_the_repo_shares_its_blobs(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    pull(hub, repo, home.cache)
    newer = hub.add_repo(str(REPO), {**FILES, "README.md": "# Tiny, better described\n"})
    hub.forget_requests()
    stored = pull(hub, newer, home.cache, revision="main")
    assert hub.sent(side="storage") == 0
    assert [file.path for file in stored if file.fetched] == ["README.md"]
    assert (repo_folder(home.cache, REPO) / "refs" / "main").read_text() == newer.commit
    assert run_hf("cache", "prune", "-y").returncode == 0
    assert set(find_local_files(home.cache, REPO, repo.commit, list_files(repo))) == set(FILES)


def test_connections_move_from_finished_files_to_missing_ones(
    hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MIN_SHARE_BYTES", 1 << 18)
    repo = hub.add_repo("owner/unequal", {"large.gguf": random.Random(7).randbytes(16 * MB), "small.gguf": b"s" * MB})
    hub.fault(Throttle(MB), side="storage", times=None)
    seen = {"beside another": [0], "alone": [0]}
    here: set[str] = set()

    def watch(event: Event) -> None:
        if event.kind == "done":
            here.add(event.file)
        phase = "alone" if "small.gguf" in here else "beside another"
        seen[phase].append(sum(thread.name == "connection" for thread in threading.enumerate()))

    pull(hub, repo, home.cache, progress=watch)
    assert max(seen["beside another"]) <= LIMITS.connections
    assert max(seen["alone"]) == LIMITS.connections


def test_cache_removed_during_a_pull_is_created_again(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    first = pull(hub, repo, home.cache)
    hub.fault(Throttle(4 * MB), side="storage", times=None)
    newer = hub.add_repo(str(REPO), {**FILES, "more-Q8_0.gguf": random.Random(5).randbytes(2 * MB)})

    def watch(event: Event) -> None:
        if event.file == "more-Q8_0.gguf" and event.done > MB:
            shutil.rmtree(repo_folder(home.cache, REPO), ignore_errors=True)

    stored = pull(hub, newer, home.cache, progress=watch)
    assert_whole(stored)
    assert len(stored) == len(first) + 1


CHILD = """
import json, os, signal, sys, threading
from pathlib import Path
from llm_hf_models.downloads.fetch_variant import fetch_into_cache
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.types import HubFile
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.transfer.types import TransferLimits
endpoint, repo, commit, files, cache, kill_at = sys.argv[1:7]
seen = {}
def progress(event):
    seen[event.file] = event.done
    if sum(seen.values()) >= int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
files = [HubFile(**file) for file in json.loads(files)]
fetch_into_cache(Hub(endpoint), RepoId.parse(repo), commit, files, cache_dir=Path(cache), revision=None,
         limits=TransferLimits(connections=4, retry_seconds=0.02), progress=progress, stop=threading.Event())
"""


def start_child(hub: HubServer, repo: ServedRepo, cache: Path, kill_at: int = 10**12) -> subprocess.Popen[str]:
    files = json.dumps([asdict(file) for file in list_files(repo)])
    arguments = [hub.endpoint, repo.id, repo.commit, files, str(cache), str(kill_at)]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE, text=True)


def test_next_pull_finishes_a_killed_one(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    hub.fault(Throttle(3 * MB), side="storage", times=None)
    for kill_at in (2 * MB, 4 * MB):
        process = start_child(hub, repo, home.cache, kill_at)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert not repo_folder(home.cache, REPO).exists()
    hub.clear()
    assert_whole(pull(hub, repo, home.cache))
    assert list_leftovers(home.cache) == []


def test_ten_processes_fetch_each_file_once(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    other = hub.add_repo("other/half-GGUF", dict(list(SHARDS.items())[:2]))
    processes = [start_child(hub, repo if i % 2 else other, home.cache) for i in range(10)]
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, errors
    assert hub.sent(side="storage") == sum(map(len, SHARDS.values()))
    for one in (repo, other):
        for file in one.files:
            path = cache_path(home.cache, RepoId.parse(one.id), one.commit, file.path)
            assert path.read_bytes() == file.location.read_bytes()
    assert list_leftovers(home.cache) == []


# One file at a time, slowly. The last argument gives the order.
LIMITED = """
import json, sys, threading
from pathlib import Path
from llm_hf_models.downloads.fetch_variant import fetch_into_cache
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.types import HubFile
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.transfer.types import TransferLimits
endpoint, repo, commit, files, cache, step = sys.argv[1:7]
files = [HubFile(**file) for file in json.loads(files)][:: int(step)]
fetch_into_cache(Hub(endpoint), RepoId.parse(repo), commit, files, cache_dir=Path(cache), revision=None,
         limits=TransferLimits(connections=1), get_rate_limit=lambda: 2_000_000,
         progress=lambda _: None, stop=threading.Event())
"""


def test_processes_share_the_limit_of_their_download(hub: HubServer, home: Home) -> None:
    content = {f"{name}.gguf": random.Random(name).randbytes(4 * MB) for name in "ab"}
    repo = hub.add_repo(str(REPO), content)
    files = json.dumps([asdict(file) for file in list_files(repo)])
    processes = [  # one process begins with the first file, the other with the second
        subprocess.Popen(
            [sys.executable, "-c", LIMITED, hub.endpoint, repo.id, repo.commit, files, str(home.cache), order]
        )
        for order in ("1", "-1")
    ]
    hub.wait_until(lambda: all(hub.sent(name, side="storage") for name in content), seconds=60)
    began = time.monotonic()
    assert [process.wait(60) for process in processes] == [0, 0]
    assert time.monotonic() - began > 0.8 * 8 / 2  # two processes, each at the whole rate, would need half of that
    assert hub.sent(side="storage") == 8 * MB
