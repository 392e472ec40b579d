"""Owners: which of them are running, and exclusive ownership of a file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from llm_hf_models.errors import StorageError
from llm_hf_models.system import ownership
from llm_hf_models.system.ownership import (
    OwnedByOtherError,
    acquire_ownership,
    count_owning_processes,
    is_owned,
    is_owner_running,
    make_owner_name,
)
from tests.support.waiting import wait_until

HOST = "another-machine"
# Owns a file until its standard input ends; with a host, on another machine, and on a file system without flock.
CHILD = """
import errno, fcntl, os, platform, sys
from pathlib import Path
path, host = sys.argv[1:]
if host:
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock = flock
    platform.node = lambda: host
from llm_hf_models.system.ownership import acquire_ownership, make_owner_name
with acquire_ownership(Path(path)) as owner:
    print(make_owner_name(), flush=True)
    sys.stdin.readline()
    print("lost" if owner.lost.wait(20 if host else 0) else "kept", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "file"


@contextmanager
def own_in_child(path: Path, host: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Own a file in another process. Yield the process and the name of an owner in it."""
    command = [sys.executable, "-c", CHILD, str(path), host]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def age_heartbeat(path: Path, seconds: float) -> None:
    owner_file = path.with_name(f"{path.name}.owner")
    at = owner_file.stat().st_mtime - seconds
    os.utime(owner_file, (at, at))


def list_names(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()}


def test_owner_runs_while_its_heartbeats_are_recent() -> None:
    name = make_owner_name()
    assert name != make_owner_name()
    assert is_owner_running(name, 5, stale_seconds=5)
    assert is_owner_running(name, -5, stale_seconds=5), "the clock was set back a little"
    assert not is_owner_running(name, 6, stale_seconds=5), "the process was suspended"
    assert not is_owner_running(name, -3600, stale_seconds=5)


def test_owner_whose_process_ended_does_not_run(path: Path) -> None:
    with own_in_child(path) as (process, name):
        assert is_owner_running(name, 0, stale_seconds=5)
        process.kill()
        wait_until(lambda: not is_owner_running(name, 0, stale_seconds=5))  # at first, it is a zombie
        process.wait()
        assert not is_owner_running(name, 0, stale_seconds=5)


@pytest.mark.parametrize("name", ["", "another version's name", "1/2/another-machine/boot/pid:[1]/time:[1]/abc"])
def test_only_the_heartbeat_tells_for_a_process_that_is_not_visible(name: str) -> None:
    assert is_owner_running(name, 4, stale_seconds=5)
    assert not is_owner_running(name, 6, stale_seconds=5)


def test_file_has_one_owner_at_a_time(path: Path) -> None:
    with acquire_ownership(path):
        assert is_owned(path)
        with pytest.raises(OwnedByOtherError), acquire_ownership(path):
            pass
        with own_in_child(path) as (process, _):
            assert process.wait() == 1, "neither another thread nor another process can own it"
    assert not is_owned(path)
    assert list_names(path) <= {"file.lock"}


def test_waiting_thread_owns_the_file_next(path: Path) -> None:
    waited = []
    with own_in_child(path) as (process, _):
        assert process.stdin is not None

        def end_the_owner() -> None:
            waited.append(is_owned(path))
            process.kill()
            process.wait()

        with acquire_ownership(path, end_the_owner):
            assert waited == [True]


def test_file_of_a_killed_process_is_free_at_once(path: Path) -> None:
    with own_in_child(path) as (process, _):
        process.kill()
        wait_until(lambda: not is_owned(path), 1)
        with acquire_ownership(path):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_heartbeat_protects_the_file_of_another_machine(path: Path) -> None:
    with own_in_child(path, HOST) as (process, _):
        with pytest.raises(OwnedByOtherError), acquire_ownership(path):
            pass
        process.kill()
        process.wait()
        assert is_owned(path), "its machine may still be running"
        age_heartbeat(path, 2 * ownership.STALE_SECONDS)
        with acquire_ownership(path):
            assert list_names(path) == {"file.lock", "file.owner"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_owner_that_was_replaced_learns_that_it_lost_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_in_child(path, HOST) as (process, _):
        assert process.stdin is not None
        monkeypatch.setattr(ownership, "STALE_SECONDS", -1)  # as if that machine had slept
        with acquire_ownership(path):
            answer, _ = process.communicate("\n")
            assert answer == "lost\n"
            assert list_names(path) == {"file.lock", "file.owner"}, "it removes only its own owner file"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_suspended_process_keeps_its_flock(path: Path) -> None:
    with own_in_child(path) as (_process, _):
        age_heartbeat(path, 3600)
        with pytest.raises(OwnedByOtherError), acquire_ownership(path):
            pass


def test_processes_that_own_several_files_are_counted_once(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    with acquire_ownership(paths[0]), acquire_ownership(paths[1]):
        assert count_owning_processes(paths) == 1
        with own_in_child(paths[2]):
            assert count_owning_processes(paths) == 2
    assert count_owning_processes(paths) == 0


def test_file_is_owned_on_disks_without_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with acquire_ownership(path):
        assert is_owned(path)
        assert list_names(path) == {"file.lock", "file.owner"}
    assert not is_owned(path)


@pytest.mark.parametrize("step", ["os.link", "os.fdopen"])
def test_claim_that_was_killed_halfway_blocks_nobody(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as during:
        during.setattr(step, kill)
        with pytest.raises(Killed), acquire_ownership(path):
            pass
    assert not is_owned(path)
    with acquire_ownership(path):
        pass


def test_owner_file_that_can_not_be_removed_is_stale_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.unlink

    def unlink(file: Path, missing_ok: bool = False) -> None:
        if file.suffix == ".owner":  # as on Windows while a waiting process reads it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        real(file, missing_ok=missing_ok)

    with monkeypatch.context() as read_by_another:
        read_by_another.setattr(Path, "unlink", unlink)
        with acquire_ownership(path):
            pass
    assert "file.owner" in list_names(path)
    assert not is_owned(path)
    with acquire_ownership(path):
        assert is_owned(path)


def test_folder_that_can_not_be_written_is_named(path: Path) -> None:
    path.with_name("file.lock").mkdir()
    with pytest.raises(StorageError) as caught, acquire_ownership(path):
        pass
    assert str(path.parent) in caught.value.message


def test_lock_of_a_process_without_an_owner_file_is_respected(path: Path) -> None:
    with FileLock(path.with_name("file.lock")), pytest.raises(OwnedByOtherError), acquire_ownership(path):
        pass
