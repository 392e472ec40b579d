"""Variants in the Hugging Face cache, from the stand-in Hub, in the cache's own layout."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import errors
from llm_hf_models.downloads.fetch_variant import StoredFile, fetch_into_cache, fetch_into_folder
from llm_hf_models.downloads.local_files import count_partial_bytes
from llm_hf_models.errors import (
    DigestMismatchError,
    DiskFullError,
    FileChangedError,
    InterruptedByUserError,
    NotWritableError,
)
from llm_hf_models.hub.cache_layout import cache_path, cache_work_folder, repo_folder
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.servers.catalog import ServedRepo
from llm_hf_models.transfer.types import Event, TransferLimits
from tests.conftest import Home
from tests.support import cache_pulls
from tests.support.cache_pulls import FILES, LIMITS, MB, REPO, SHARDS, assert_whole, list_files, list_leftovers, pull
from tests.support.hub_server import BLOCK_BYTES, FlipBit, HubServer, Reset, Stall, Status, Throttle

hub = cache_pulls.hub
repo = cache_pulls.repo


def test_variant_has_the_layout_of_the_cache(hub: HubServer, repo: ServedRepo, home: Home) -> None:
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
    assert list_leftovers(home.cache) == []


def test_second_pull_sends_no_request(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    pull(hub, repo, home.cache)
    hub.forget_requests()
    stored = pull(hub, repo, home.cache)
    assert hub.requests == []
    assert not any(file.fetched for file in stored)


def test_same_blob_of_another_repo_is_shared(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    pull(hub, repo, home.cache)
    other = hub.add_repo("other/copy-GGUF", dict(SHARDS))
    hub.forget_requests()
    stored = pull(hub, other, home.cache)
    assert_whole(stored)
    assert hub.sent(side="storage") == 0
    assert not any(file.fetched for file in stored)
    shutil.rmtree(repo_folder(home.cache, REPO))
    assert_whole(stored)


def test_stopped_pull_leaves_no_blob_without_a_snapshot(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    name, content = next(iter(SHARDS.items()))
    other = hub.add_repo("other/copy-GGUF", {name: content})
    pull(hub, other, home.cache)
    hub.fault(Throttle(2 * MB), side="storage", times=None)
    stop, watch = make_stop(MB)
    with pytest.raises(InterruptedByUserError):
        pull(hub, repo, home.cache, progress=watch, stop=stop)
    assert not repo_folder(home.cache, REPO).exists()


def test_two_paths_with_the_same_bytes_are_fetched_once(hub: HubServer, home: Home, tmp_path: Path) -> None:
    content = random.Random(9).randbytes(MB)
    repo = hub.add_repo("owner/twins", {"a.gguf": content, "b/c.gguf": content})
    assert_whole(pull(hub, repo, home.cache), content={"a.gguf": content, "b/c.gguf": content})
    assert hub.sent(side="storage") == MB
    into = pull_to(hub, repo, tmp_path / "plain", tmp_path / "no cache")
    assert hub.sent(side="storage") == 2 * MB
    assert_whole(into, content={"a.gguf": content, "b/c.gguf": content})


def refuse_path_call(name: str, code: int, monkeypatch: pytest.MonkeyPatch, *, ending: str = "") -> None:
    """Make `Path.<name>` fail if its last argument has this ending."""
    real = getattr(Path, name)

    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        if str(arguments[-1]).endswith(ending):
            raise OSError(code, os.strerror(code), str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, name, refused)


def test_snapshot_has_real_files_without_symlinks(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_path_call("symlink_to", errno.EPERM, monkeypatch)
    stored = pull(hub, repo, home.cache)
    assert_whole(stored)
    assert not any(file.location.is_symlink() for file in stored)
    hub.forget_requests()
    assert_whole(pull(hub, repo, home.cache))
    assert hub.requests == []


def test_file_that_can_not_be_moved_is_kept_for_the_next_pull(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as scanned:  # on Windows a virus scanner may hold a new file
        refuse_path_call("symlink_to", errno.EPERM, scanned)
        refuse_path_call("replace", errno.EACCES, scanned, ending=".gguf")
        with pytest.raises(NotWritableError):
            pull(hub, repo, home.cache)
    hub.forget_requests()
    assert_whole(pull(hub, repo, home.cache))
    assert hub.sent(side="storage") == 0


def test_full_disk_during_linking_takes_no_blob_from_other_snapshots(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pull(hub, repo, home.cache)
    newer = hub.add_repo(str(REPO), {**FILES, "README.md": "# Tiny, better described\n"})
    with monkeypatch.context() as full:
        refuse_path_call("symlink_to", errno.ENOSPC, full)
        with pytest.raises(DiskFullError):
            pull(hub, newer, home.cache)
    assert_whole(before)


def test_blob_is_copied_and_verified_without_hard_links(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch)
    rotten = next(file for file in pull(hub, repo, home.cache) if file.path in SHARDS)
    blob = rotten.location.resolve()
    before = blob.stat()
    blob.write_bytes(bytes(rotten.size))
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))  # as power loss leaves unsynced bytes
    other = hub.add_repo("other/copy-GGUF", dict(SHARDS))
    hub.forget_requests()
    stored = pull(hub, other, home.cache)
    assert_whole(stored)
    assert [file.path for file in stored if file.fetched] == [rotten.path]
    assert hub.sent(side="storage") == rotten.size


def test_copy_needs_disk_space_without_hard_links(
    hub: HubServer, repo: ServedRepo, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch)
    pull(hub, repo, home.cache)
    other = hub.add_repo("other/copy-GGUF", dict(SHARDS))
    with pytest.raises(DiskFullError):
        pull(hub, other, home.cache, limits=TransferLimits(disk_reserve=shutil.disk_usage(home.root).free))


def test_duplicate_paths_are_fetched_once_without_hard_links(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch)
    content = {"a.gguf": random.Random(9).randbytes(MB), "b/c.gguf": random.Random(9).randbytes(MB)}
    stored = pull_to(hub, hub.add_repo("owner/twins", dict(content)), tmp_path / "plain", tmp_path / "no cache")
    assert_whole(stored, content=content)
    assert hub.sent(side="storage") == MB
    assert not (tmp_path / "plain" / ".llm-hf").exists()


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: Any, **_options: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)


def make_stop(done: int) -> tuple[threading.Event, Callable[[Event], None]]:
    stop, seen = threading.Event(), {}

    def watch(event: Event) -> None:
        seen[event.file] = event.done
        if sum(seen.values()) >= done:
            stop.set()

    return stop, watch


def test_files_appear_after_all_are_verified_and_a_stop_resumes(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    hub.fault(Throttle(2 * MB), side="storage", times=None)
    stop, watch = make_stop(3 * MB)
    with pytest.raises(InterruptedByUserError):
        pull(hub, repo, home.cache, progress=watch, stop=stop)
    assert not repo_folder(home.cache, REPO).exists()
    pending = count_pending_bytes(home, repo)
    assert 3 * MB <= pending < sum(map(len, SHARDS.values()))
    hub.clear()
    before = hub.sent(side="storage")
    assert_whole(pull(hub, repo, home.cache))
    # Blocks that were being sent at the stop are counted late.
    slack = 8 * BLOCK_BYTES
    assert hub.sent(side="storage") - before <= sum(map(len, SHARDS.values())) - pending + slack
    assert count_pending_bytes(home, repo) == 0


def count_pending_bytes(home: Home, repo: ServedRepo) -> int:
    return sum(count_partial_bytes(cache_work_folder(home.cache), file) for file in list_files(repo))


def test_file_that_never_verifies_leaves_no_trace_of_the_variant(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    hub.fault(FlipBit(5), on="00002-of", side="storage", times=None)
    with pytest.raises(DigestMismatchError):
        pull(hub, repo, home.cache)
    assert not repo_folder(home.cache, REPO).exists()
    hub.clear()
    assert_whole(pull(hub, repo, home.cache))


def test_file_changed_at_its_commit_is_refused(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    files = list_files(repo)
    hub.change_file(repo, next(iter(SHARDS)), b"something else")
    with pytest.raises(FileChangedError):
        fetch_into_cache(
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


def test_expired_links_and_failing_hosts_are_tolerated(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    hub.fault(Reset(after=1000), side="storage", times=3)
    hub.fault(Status(503), side="hub", times=2)
    hub.fault(Status(403), side="storage", times=1)
    assert_whole(pull(hub, repo, home.cache))


def test_failing_file_ends_the_whole_pull_at_once(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    first, second, _ = SHARDS
    hub.fault(Stall(after=1000), on=first.split("/")[1], side="storage", times=None)
    hub.fault(Status(401), on=second.split("/")[1], side="hub", times=None)
    stop, began = threading.Event(), time.monotonic()
    with pytest.raises(errors.AccessError):
        pull(hub, repo, home.cache, stop=stop, limits=TransferLimits(connections=4, stall_seconds=120))
    assert stop.is_set()
    assert time.monotonic() - began < 60


def test_disk_space_is_checked_for_all_files_together(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    free = shutil.disk_usage(home.root).free
    limits = TransferLimits(disk_reserve=free - 5 * MB)  # enough for each shard, not for all
    with pytest.raises(DiskFullError) as caught:
        pull(hub, repo, home.cache, limits=limits)
    assert 0 < caught.value.missing_bytes < 100 * MB
    assert hub.sent(side="storage") == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_is_named(hub: HubServer, repo: ServedRepo, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    with pytest.raises(NotWritableError) as caught:
        pull(hub, repo, cache)
    assert str(cache) in caught.value.message


def test_cache_path_that_is_a_file_is_named(hub: HubServer, repo: ServedRepo, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("no folder")
    with pytest.raises(errors.StorageError) as caught:
        pull(hub, repo, cache)
    assert str(cache) in str(caught.value)


def pull_to(hub: HubServer, repo: ServedRepo, folder: Path, cache: Path) -> list[StoredFile]:
    return fetch_into_folder(
        Hub(hub.endpoint), RepoId.parse(repo.id), repo.commit, list_files(repo), folder, cache_dir=cache,
        limits=LIMITS, progress=lambda _: None, stop=threading.Event(),
    )  # fmt: skip


def test_plain_folder_gets_only_the_files(hub: HubServer, repo: ServedRepo, tmp_path: Path, home: Home) -> None:
    folder = tmp_path / "plain"
    for fetched in (True, False):
        stored = pull_to(hub, repo, folder, home.cache)
        assert_whole(stored)
        assert all(file.fetched is fetched for file in stored)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(FILES)
    assert not (folder / ".llm-hf").exists()


def test_file_with_wrong_content_in_a_plain_folder_is_replaced(
    hub: HubServer, repo: ServedRepo, tmp_path: Path, home: Home
) -> None:
    path = tmp_path / next(iter(SHARDS))
    path.parent.mkdir()
    path.write_bytes(bytes(len(SHARDS[next(iter(SHARDS))])))
    assert_whole(pull_to(hub, repo, tmp_path, home.cache))


def test_cached_files_of_any_repo_are_copied_into_a_plain_folder(hub: HubServer, tmp_path: Path, home: Home) -> None:
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


def test_damaged_blob_is_fetched_and_not_copied(hub: HubServer, repo: ServedRepo, tmp_path: Path, home: Home) -> None:
    damaged = pull(hub, repo, home.cache)[0].location.resolve()
    damaged.write_bytes(bytes(damaged.stat().st_size))
    stored = pull_to(hub, repo, tmp_path / "plain", home.cache)
    assert_whole(stored)
    assert sum(file.fetched for file in stored) == 1
    assert not (tmp_path / "plain" / ".llm-hf").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="without symlinks there is no second name")
def test_second_name_of_a_finished_file_is_removed(hub: HubServer, repo: ServedRepo, home: Home) -> None:
    file, *_ = pull(hub, repo, home.cache)
    blob = file.location.resolve()
    whole = cache_work_folder(home.cache) / f"{blob.name}.whole"
    whole.hardlink_to(blob)  # of a process that was a moment slower
    file.location.unlink()
    assert_whole(pull(hub, repo, home.cache))
    assert not whole.exists()
