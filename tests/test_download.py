"""Variants into the Hugging Face cache, from the tests' Hub, and what other tools then say of that cache."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import download as downloads
from llm_hf_models import segments
from llm_hf_models.cache_layout import repo_folder, work_folder
from llm_hf_models.download import StoredFile, already_here, cache_path, download, download_to, pending_bytes
from llm_hf_models.errors import (
    DigestMismatchError,
    DiskFullError,
    FileChangedError,
    InterruptedByUserError,
    NotWritableError,
)
from llm_hf_models.hub import Hub, HubFile
from llm_hf_models.mirror import ServedRepo
from llm_hf_models.refs import RepoId
from llm_hf_models.transfer import Event, TransferLimits
from tests.conftest import Home
from tests.support.commands import run_process
from tests.support.hub_server import BLOCK_BYTES, FlipBit, HubServer, Reset, Status, Throttle

MB = 1_000_000
LIMITS = TransferLimits(connections=4, connect_seconds=2, stall_seconds=1, network_wait_seconds=3, retry_seconds=0.02)
REPO = RepoId("owner", "tiny-GGUF")
SHARDS = {
    f"sub/tiny-Q4_K_M-0000{i}-of-00003.gguf": random.Random(i).randbytes(size)
    for i, size in enumerate((2 * MB, 3 * MB + 7, 1 * MB), 1)
}
FILES: dict[str, bytes | str | Path] = {**SHARDS, "README.md": "# Tiny\n"}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture
def repo(hub: HubServer) -> ServedRepo:
    return hub.add_repo(str(REPO), FILES)


def files_of(repo: ServedRepo) -> list[HubFile]:
    return [HubFile(file.path, file.size, sha256=file.sha256, git_sha1=file.git_sha1) for file in repo.files]


def pull(hub: HubServer, repo: ServedRepo, cache: Path, **options: Any) -> list[StoredFile]:
    arguments: dict[str, Any] = {
        "cache_dir": cache,
        "revision": None,
        "limits": LIMITS,
        "progress": lambda _: None,
        "stop": threading.Event(),
    }
    arguments.update(options)
    return download(Hub(hub.endpoint), RepoId.parse(repo.id), repo.commit, files_of(repo), **arguments)


def assert_whole(stored: list[StoredFile], *, content: dict[str, bytes] = SHARDS) -> None:
    for file in stored:
        if file.path in content:
            assert file.location.read_bytes() == content[file.path]


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in work_folder(cache).iterdir() if path.suffix not in (".checked", ".lock"))


def run_hf(*words: str, hub: HubServer | None = None) -> subprocess.CompletedProcess[str]:
    """Run huggingface_hub's own command."""
    return run_process("hf", *words, code=None, environment={"HF_ENDPOINT": hub.endpoint} if hub else {})


def test_a_variant_stands_in_the_caches_own_layout(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    stored = pull(hub, repo, home.cache)
    assert_whole(stored)
    folder = repo_folder(home.cache, REPO)
    for file in stored:
        assert file.fetched
        assert file.location == cache_path(home.cache, REPO, repo.commit, file.path)
        assert file.location.resolve() == (folder / "blobs" / str(file.sha256 or file.git_sha1)).resolve()
        assert not file.location.readlink().is_absolute()
    assert (folder / "refs" / "main").read_text() == repo.commit
    assert (folder / "refs" / "llm-hf" / repo.commit).read_text() == repo.commit
    assert leftovers(home.cache) == []


def test_the_hf_command_accepts_it(hub: HubServer, repo: ServedRepo, home: Home) -> None:
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
    assert set(already_here(home.cache, REPO, repo.commit, files_of(repo))) == set(FILES)


def test_what_snapshot_download_fetched_is_used(hub: HubServer, repo: ServedRepo, home: Home) -> None:
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


def test_a_damaged_blob_of_another_tool_is_fetched_anew(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    assert run_hf("download", str(REPO), hub=hub).returncode == 0
    path = cache_path(home.cache, REPO, repo.commit, next(iter(SHARDS))).resolve()
    damaged = bytearray(path.read_bytes())
    damaged[5] ^= 1
    path.write_bytes(damaged)
    stored = pull(hub, repo, home.cache)
    assert_whole(stored)
    assert sum(file.fetched for file in stored) == 1


def test_a_good_blob_of_another_repo_is_taken_where_ones_own_is_damaged(
    hub: HubServer, repo: ServedRepo, home: Home
) -> None:
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
    assert len(begun) == 2, "each was hashed once"


def test_a_second_pull_asks_nobody(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    pull(hub, repo, home.cache)
    hub.forget_requests()
    stored = pull(hub, repo, home.cache)
    assert hub.requests == []
    assert not any(file.fetched for file in stored)


def test_the_same_blob_of_another_repo_is_shared(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    pull(hub, repo, home.cache)
    other = hub.add_repo("other/copy-GGUF", dict(SHARDS))
    hub.forget_requests()
    stored = pull(hub, other, home.cache)
    assert_whole(stored)
    assert hub.sent(side="storage") == 0
    assert not any(file.fetched for file in stored)
    shutil.rmtree(repo_folder(home.cache, REPO))
    assert_whole(stored)


def test_a_pull_that_is_stopped_leaves_no_blob_without_a_snapshot(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    name, content = next(iter(SHARDS.items()))
    other = hub.add_repo("other/copy-GGUF", {name: content})
    pull(hub, other, home.cache)
    hub.fault(Throttle(2 * MB), side="storage", times=None)
    stop, watch = stopping_at(MB)
    with pytest.raises(InterruptedByUserError):
        pull(hub, repo, home.cache, progress=watch, stop=stop)
    assert not repo_folder(home.cache, REPO).exists()


def test_another_commit_of_the_repo_shares_its_blobs(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    pull(hub, repo, home.cache)
    newer = hub.add_repo(str(REPO), {**FILES, "README.md": "# Tiny, better described\n"})
    hub.forget_requests()
    stored = pull(hub, newer, home.cache, revision="main")
    assert hub.sent(side="storage") == 0
    assert [file.path for file in stored if file.fetched] == ["README.md"]
    assert (repo_folder(home.cache, REPO) / "refs" / "main").read_text() == newer.commit
    assert run_hf("cache", "prune", "-y").returncode == 0
    assert set(already_here(home.cache, REPO, repo.commit, files_of(repo))) == set(FILES)


def test_two_paths_with_the_same_bytes_are_fetched_once(hub: HubServer, home: Home, tmp_path: Path) -> None:
    content = random.Random(9).randbytes(MB)
    repo = hub.add_repo("owner/twins", {"a.gguf": content, "b/c.gguf": content})
    assert_whole(pull(hub, repo, home.cache), content={"a.gguf": content, "b/c.gguf": content})
    assert hub.sent(side="storage") == MB
    into = pull_to(hub, repo, tmp_path / "plain", tmp_path / "no cache")
    assert hub.sent(side="storage") == 2 * MB
    assert_whole(into, content={"a.gguf": content, "b/c.gguf": content})


def refusing(name: str, code: int, monkeypatch: pytest.MonkeyPatch, *, ending: str = "") -> None:
    """The system refuses what `Path.<name>` asks for, where the last argument ends so."""
    real = getattr(Path, name)

    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        if str(arguments[-1]).endswith(ending):
            raise OSError(code, os.strerror(code), str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, name, refused)


def test_without_symlinks_the_files_themselves_stand_in_the_snapshot(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing("symlink_to", errno.EPERM, monkeypatch)
    stored = pull(hub, repo, home.cache)
    assert_whole(stored)
    assert not any(file.location.is_symlink() for file in stored)
    hub.forget_requests()
    assert_whole(pull(hub, repo, home.cache))
    assert hub.requests == []


def test_a_file_that_cant_be_named_without_symlinks_is_kept_for_the_next_pull(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as scanned:  # on Windows a virus scanner may hold what was just written
        refusing("symlink_to", errno.EPERM, scanned)
        refusing("replace", errno.EACCES, scanned, ending=".gguf")
        with pytest.raises(NotWritableError):
            pull(hub, repo, home.cache)
    hub.forget_requests()
    assert_whole(pull(hub, repo, home.cache))
    assert hub.sent(side="storage") == 0


def test_a_disk_that_has_no_room_for_a_link_takes_no_blob_from_other_snapshots(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pull(hub, repo, home.cache)
    newer = hub.add_repo(str(REPO), {**FILES, "README.md": "# Tiny, better described\n"})
    with monkeypatch.context() as full:
        refusing("symlink_to", errno.ENOSPC, full)
        with pytest.raises(DiskFullError):
            pull(hub, newer, home.cache)
    assert_whole(before)


def test_without_hard_links_a_blob_of_another_repo_is_copied_and_proven_again(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing_links(monkeypatch)
    rotten = next(file for file in pull(hub, repo, home.cache) if file.path in SHARDS)
    blob = rotten.location.resolve()
    before = blob.stat()
    blob.write_bytes(bytes(rotten.size))
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))  # as power loss leaves what was not on the disk yet
    other = hub.add_repo("other/copy-GGUF", dict(SHARDS))
    hub.forget_requests()
    stored = pull(hub, other, home.cache)
    assert_whole(stored)
    assert [file.path for file in stored if file.fetched] == [rotten.path]
    assert hub.sent(side="storage") == rotten.size


def test_without_hard_links_a_copy_needs_room(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing_links(monkeypatch)
    pull(hub, repo, home.cache)
    other = hub.add_repo("other/copy-GGUF", dict(SHARDS))
    with pytest.raises(DiskFullError):
        pull(hub, other, home.cache, limits=TransferLimits(disk_reserve=shutil.disk_usage(home.root).free))


def test_without_hard_links_two_paths_with_the_same_bytes_are_fetched_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing_links(monkeypatch)
    content = {"a.gguf": random.Random(9).randbytes(MB), "b/c.gguf": random.Random(9).randbytes(MB)}
    stored = pull_to(hub, hub.add_repo("owner/twins", dict(content)), tmp_path / "plain", tmp_path / "no cache")
    assert_whole(stored, content=content)
    assert hub.sent(side="storage") == MB
    assert not (tmp_path / "plain" / ".llm-hf").exists()


def refusing_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: Any, **_options: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)


def stopping_at(done: int) -> tuple[threading.Event, Callable[[Event], None]]:
    stop, seen = threading.Event(), {}

    def watch(event: Event) -> None:
        seen[event.file] = event.done
        if sum(seen.values()) >= done:
            stop.set()

    return stop, watch


def test_nothing_shows_before_all_is_checked_and_a_stop_is_continued(
    hub: HubServer, repo: ServedRepo, home: Home
) -> None:
    hub.fault(Throttle(2 * MB), side="storage", times=None)
    stop, watch = stopping_at(3 * MB)
    with pytest.raises(InterruptedByUserError):
        pull(hub, repo, home.cache, progress=watch, stop=stop)
    assert not repo_folder(home.cache, REPO).exists()
    pending = pending_bytes(home.cache, files_of(repo))
    assert 3 * MB <= sum(pending.values()) < sum(map(len, SHARDS.values()))
    hub.clear()
    before = hub.sent(side="storage")
    assert_whole(pull(hub, repo, home.cache))
    # Blocks that were being sent at the stop are counted late.
    slack = 8 * BLOCK_BYTES
    assert hub.sent(side="storage") - before <= sum(map(len, SHARDS.values())) - sum(pending.values()) + slack
    assert pending_bytes(home.cache, files_of(repo)) == {}


def test_a_file_that_never_proves_leaves_no_trace_of_the_variant(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    hub.fault(FlipBit(5), on="00002-of", side="storage", times=None)
    with pytest.raises(DigestMismatchError):
        pull(hub, repo, home.cache)
    assert not repo_folder(home.cache, REPO).exists()
    hub.clear()
    assert_whole(pull(hub, repo, home.cache))


def test_a_file_changed_at_its_commit_is_refused(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    files = files_of(repo)
    hub.change_file(repo, next(iter(SHARDS)), b"something else")
    with pytest.raises(FileChangedError):
        download(
            Hub(hub.endpoint),
            REPO,
            repo.commit,
            files,
            cache_dir=home.cache,
            revision=None,
            limits=LIMITS,
            progress=lambda _: None,
            stop=threading.Event(),
        )
    assert not repo_folder(home.cache, REPO).exists()


def test_links_that_expire_and_hosts_that_stumble_are_no_trouble(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    hub.fault(Reset(after=1000), side="storage", times=3)
    hub.fault(Status(503), side="hub", times=2)
    hub.fault(Status(403), side="storage", times=1)
    assert_whole(pull(hub, repo, home.cache))


def test_connections_of_files_that_are_here_go_to_those_that_are_not(
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


def test_a_full_disk_is_seen_for_all_files_together(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    free = shutil.disk_usage(home.root).free
    limits = TransferLimits(disk_reserve=free - 5 * MB)  # enough for each shard, not for all
    with pytest.raises(DiskFullError) as caught:
        pull(hub, repo, home.cache, limits=limits)
    assert 0 < caught.value.missing_bytes < 100 * MB
    assert hub.sent(side="storage") == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cant_be_written_is_an_error_that_names_it(
    hub: HubServer, repo: ServedRepo, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    with pytest.raises(NotWritableError) as caught:
        pull(hub, repo, cache)
    assert str(cache) in caught.value.message


def test_a_cache_that_is_a_file_is_an_error_that_names_it(hub: HubServer, repo: ServedRepo, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("no folder")
    with pytest.raises(downloads.StorageError) as caught:
        pull(hub, repo, cache)
    assert str(cache) in str(caught.value)


def test_a_cache_removed_under_us_is_built_again(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    first = pull(hub, repo, home.cache)
    hub.fault(Throttle(4 * MB), side="storage", times=None)
    newer = hub.add_repo(str(REPO), {**FILES, "more-Q8_0.gguf": random.Random(5).randbytes(2 * MB)})

    def watch(event: Event) -> None:
        if event.file == "more-Q8_0.gguf" and event.done > MB:
            shutil.rmtree(repo_folder(home.cache, REPO), ignore_errors=True)

    stored = pull(hub, newer, home.cache, progress=watch)
    assert_whole(stored)
    assert len(stored) == len(first) + 1


def pull_to(hub: HubServer, repo: ServedRepo, folder: Path, cache: Path) -> list[StoredFile]:
    return download_to(
        Hub(hub.endpoint), RepoId.parse(repo.id), repo.commit, files_of(repo), folder, cache_dir=cache,
        limits=LIMITS, progress=lambda _: None, stop=threading.Event(),
    )  # fmt: skip


def test_a_plain_folder_gets_the_same_files_and_nothing_else(
    hub: HubServer, repo: ServedRepo, tmp_path: Path, home: Home
) -> None:
    folder = tmp_path / "plain"
    for fetched in (True, False):
        stored = pull_to(hub, repo, folder, home.cache)
        assert_whole(stored)
        assert all(file.fetched is fetched for file in stored)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(FILES)
    assert not (folder / ".llm-hf").exists()


def test_a_file_with_the_wrong_content_in_a_plain_folder_is_replaced(
    hub: HubServer, repo: ServedRepo, tmp_path: Path, home: Home
) -> None:
    path = tmp_path / next(iter(SHARDS))
    path.parent.mkdir()
    path.write_bytes(bytes(len(SHARDS[next(iter(SHARDS))])))
    assert_whole(pull_to(hub, repo, tmp_path, home.cache))


def test_what_the_cache_has_is_copied_into_a_plain_folder_also_from_another_repo(
    hub: HubServer, tmp_path: Path, home: Home
) -> None:
    first, *others = SHARDS
    pull(hub, hub.add_repo("other/half-GGUF", {"a/renamed.gguf": SHARDS[first]}), home.cache)
    pull(hub, hub.add_repo(str(REPO), {path: SHARDS[path] for path in others}), home.cache)  # an older revision of it
    newer = hub.add_repo(str(REPO), FILES)
    hub.forget_requests()
    stored = pull_to(hub, newer, tmp_path / "plain", home.cache)
    assert_whole(stored)
    assert hub.count(side="storage") == 0
    assert [file.path for file in stored if file.fetched] == ["README.md"]
    assert not any(file.location.samefile(path) for file in stored for path in home.cache.glob("models--*/blobs/*"))
    assert not (tmp_path / "plain" / ".llm-hf").exists()


def test_a_damaged_blob_of_the_cache_is_not_copied_but_fetched(
    hub: HubServer, repo: ServedRepo, tmp_path: Path, home: Home
) -> None:
    damaged = pull(hub, repo, home.cache)[0].location.resolve()
    damaged.write_bytes(bytes(damaged.stat().st_size))
    stored = pull_to(hub, repo, tmp_path / "plain", home.cache)
    assert_whole(stored)
    assert sum(file.fetched for file in stored) == 1
    assert not (tmp_path / "plain" / ".llm-hf").exists()


CHILD = """
import json, os, signal, sys, threading
from pathlib import Path
from llm_hf_models.download import download
from llm_hf_models.hub import Hub, HubFile
from llm_hf_models.refs import RepoId
from llm_hf_models.transfer import TransferLimits
endpoint, repo, commit, files, cache, kill_at = sys.argv[1:7]
seen = {}
def progress(event):
    seen[event.file] = event.done
    if sum(seen.values()) >= int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
files = [HubFile(**file) for file in json.loads(files)]
download(Hub(endpoint), RepoId.parse(repo), commit, files, cache_dir=Path(cache), revision=None,
         limits=TransferLimits(connections=4, retry_seconds=0.02), progress=progress, stop=threading.Event())
"""


def child(hub: HubServer, repo: ServedRepo, cache: Path, kill_at: int = 10**12) -> subprocess.Popen[str]:
    files = json.dumps([asdict(file) for file in files_of(repo)])
    arguments = [hub.endpoint, repo.id, repo.commit, files, str(cache), str(kill_at)]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE, text=True)


def test_a_killed_pull_is_finished_by_the_next(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    hub.fault(Throttle(3 * MB), side="storage", times=None)
    for kill_at in (2 * MB, 4 * MB):
        process = child(hub, repo, home.cache, kill_at)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert not repo_folder(home.cache, REPO).exists()
    hub.clear()
    assert_whole(pull(hub, repo, home.cache))
    assert leftovers(home.cache) == []


def test_ten_processes_fetch_each_file_once(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    other = hub.add_repo("other/half-GGUF", dict(list(SHARDS.items())[:2]))
    processes = [child(hub, repo if i % 2 else other, home.cache) for i in range(10)]
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, errors
    assert hub.sent(side="storage") == sum(map(len, SHARDS.values()))
    for one in (repo, other):
        for file in one.files:
            path = cache_path(home.cache, RepoId.parse(one.id), one.commit, file.path)
            assert path.read_bytes() == file.location.read_bytes()
    assert leftovers(home.cache) == []


# One file at a time, slowly; the last argument says in which order.
LIMITED = """
import json, sys, threading
from pathlib import Path
from llm_hf_models.download import download
from llm_hf_models.hub import Hub, HubFile
from llm_hf_models.refs import RepoId
from llm_hf_models.transfer import TransferLimits
endpoint, repo, commit, files, cache, step = sys.argv[1:7]
files = [HubFile(**file) for file in json.loads(files)][:: int(step)]
download(Hub(endpoint), RepoId.parse(repo), commit, files, cache_dir=Path(cache), revision=None,
         limits=TransferLimits(connections=1, bytes_per_second=lambda: 2_000_000),
         progress=lambda _: None, stop=threading.Event())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no symlinks, and so no second name")
def test_a_second_name_of_a_finished_file_does_not_stay_behind(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    file, *_ = pull(hub, repo, home.cache)
    blob = file.location.resolve()
    whole = work_folder(home.cache) / f"{blob.name}.whole"
    whole.hardlink_to(blob)  # of a process that was a moment slower
    file.location.unlink()
    assert_whole(pull(hub, repo, home.cache))
    assert not whole.exists()


def test_processes_that_fetch_files_of_the_same_download_share_its_limit(hub: HubServer, home: Home) -> None:
    content = {f"{name}.gguf": random.Random(name).randbytes(4 * MB) for name in "ab"}
    repo = hub.add_repo(str(REPO), content)
    files = json.dumps([asdict(file) for file in files_of(repo)])
    processes = [  # one begins with the one file, one with the other
        subprocess.Popen(
            [sys.executable, "-c", LIMITED, hub.endpoint, repo.id, repo.commit, files, str(home.cache), order]
        )
        for order in ("1", "-1")
    ]
    hub.wait_until(lambda: all(hub.sent(name, side="storage") for name in content), seconds=60)
    began = time.monotonic()
    assert [process.wait(60) for process in processes] == [0, 0]
    assert time.monotonic() - began > 0.8 * 8 / 2  # two that each took the whole rate would need half of that
    assert hub.sent(side="storage") == 8 * MB
