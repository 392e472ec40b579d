"""Transfers that take seconds or several processes: limits, full disks, killed owners."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llm_hf_models.errors import NetworkError, RateLimitedError, StorageError
from llm_hf_models.hub.types import Location
from llm_hf_models.transfer import fetch_threads, segments
from llm_hf_models.transfer.download_file import download_file, journal_path
from llm_hf_models.transfer.journal import read_journal
from llm_hf_models.transfer.pacing import RateLimiter
from llm_hf_models.transfer.types import Event, TransferLimits
from tests.support import transfers
from tests.support.storage_server import Fault, Request, StorageServer
from tests.support.transfers import MB, list_names, make_content, pull

server = transfers.server
partial = transfers.partial


# Verification


def test_second_fetch_has_its_own_retries(partial: Path) -> None:
    with StorageServer(make_content(2 * MB), ranges=False, rate=2 * MB) as server:
        server.faults += [Fault(), Fault(flip=5), Fault(after=3 * MB // 2)]
        pull(server, partial, limits=TransferLimits(retry_seconds=0.02, network_wait_seconds=0.5))
        assert partial.read_bytes() == server.content


def test_part_without_bytes_is_retried_a_limited_number_of_times(partial: Path) -> None:
    with StorageServer(make_content(6 * MB)) as server:
        size = len(server.content)
        server.always = Fault(raw=f"HTTP/1.0 206 X\r\nContent-Range: bytes 0-{size - 1}/{size}\r\n\r\n".encode())
        limits = TransferLimits(connections=1, retry_seconds=0.1, network_wait_seconds=1)
        with pytest.raises(NetworkError):
            pull(server, partial, limits=limits)
        assert len(server.requests) < 20


# Network errors


def test_wait_requested_by_status_429_is_reported(server: StorageServer, partial: Path) -> None:
    server.faults.append(Fault(status=429, headers=(("Retry-After", "1"),)))
    began = time.monotonic()
    events = pull(server, partial)
    assert time.monotonic() - began >= 1
    assert any(event.kind == "waiting" and "1 s" in (event.message or "") for event in events)


# Disk space and rate


FULL_DISK = """
import sys, threading
from pathlib import Path
from llm_hf_models.errors import DiskFullError
from llm_hf_models.hub.types import Location
from llm_hf_models.transfer.journal import read_journal
from llm_hf_models.transfer.types import ExpectedFile, TransferLimits
from llm_hf_models.transfer.download_file import download_file, journal_path
url, sha256, size, folder = sys.argv[1:5]
partial, hog = Path(folder, "part"), Path(folder, "hog")
def progress(event):
    if event.done > 1_000_000 and not hog.exists():
        try:
            with hog.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError:
            pass
def run():
    expected = ExpectedFile("model.gguf", int(size), sha256=sha256)
    download_file(lambda: Location(url, {}, int(size), sha256, "c" * 40), expected, partial,
          limits=TransferLimits(connections=2), progress=progress, stop=threading.Event())
try:
    run()
except DiskFullError as error:
    kept = read_journal(journal_path(partial)).done.total
    print("full", error.missing_bytes, kept)
hog.write_bytes(b"")
run()
print("whole", partial.stat().st_size)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a small file system of its own")
def test_full_disk_pauses_the_transfer_which_then_resumes(server: StorageServer, tmp_path: Path) -> None:
    inside = 'mount -t tmpfs -o size=8m none "$1" && shift && exec "$@"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(tmp_path)]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed")
    server.rate = 4 * MB
    arguments = [server.url, server.sha256, str(len(server.content)), str(tmp_path)]
    done = subprocess.run(
        [*unshare, sys.executable, "-c", FULL_DISK, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done
    full, whole = (line.split() for line in done.stdout.splitlines())
    assert full[0] == "full"
    assert int(full[1]) > 0
    assert int(full[2]) > 500_000
    assert whole == ["whole", str(len(server.content))]
    assert server.sent <= len(server.content) * 1.02 + 4 * MB


OTHERS_FILL = """
import os, sys, threading
from pathlib import Path
from llm_hf_models.errors import DiskFullError
from llm_hf_models.hub.types import Location
from llm_hf_models.system.disk import count_free_bytes
from llm_hf_models.transfer.types import ExpectedFile, TransferLimits
from llm_hf_models.transfer.download_file import download_file
url, sha256, size, folder, left = sys.argv[1:6]
partial, hog = Path(folder, "part"), Path(folder, "hog")
reserve = 100_000_000
def progress(event):
    if event.done > 1_000_000 and not hog.exists():
        with hog.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, count_free_bytes(Path(folder)) - int(left))
def run():
    expected = ExpectedFile("model.gguf", int(size), sha256=sha256)
    download_file(lambda: Location(url, {}, int(size), sha256, "c" * 40), expected, partial,
          limits=TransferLimits(connections=2, disk_reserve=reserve), progress=progress, stop=threading.Event())
try:
    run()
except DiskFullError as error:
    print("full", error.missing_bytes, count_free_bytes(Path(folder)))
hog.write_bytes(b"")
run()
print("whole", partial.stat().st_size)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a small file system of its own")
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("left", [80 * MB, 110 * MB], ids=["into the reserve", "almost"])
def test_transfer_pauses_before_others_fill_the_reserved_space(tmp_path: Path, ranges: bool, left: int) -> None:
    inside = 'mount -t tmpfs -o size=260m none "$1" && shift && exec "$@"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(tmp_path)]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed")
    with StorageServer(make_content(140 * MB), ranges=ranges, rate=30 * MB) as server:
        arguments = [server.url, server.sha256, str(len(server.content)), str(tmp_path), str(left)]
        done = subprocess.run(
            [*unshare, sys.executable, "-c", OTHERS_FILL, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done
        full, whole = (line.split() for line in done.stdout.splitlines())
        assert full[0] == "full"
        assert int(full[1]) > 20 * MB
        assert int(full[2]) > min(left, 100 * MB) - 10 * MB
        assert whole == ["whole", str(len(server.content))]
        if ranges:
            assert server.sent <= len(server.content) * 1.02 + 4 * MB


def test_rate_limit_holds_and_can_be_lifted_during_a_transfer(server: StorageServer, partial: Path) -> None:
    rate = [2 * MB]
    marks: list[tuple[float, int]] = []

    def watch(event: Event) -> None:
        if event.kind == "progress" and rate[0]:
            marks.append((time.monotonic(), event.done))
            if event.done > 4.2 * MB:
                rate[0] = 0

    limits = TransferLimits(connections=4)
    pull(server, partial, limits=limits, rate_limiter=RateLimiter(lambda: rate[0]), progress=watch)
    (first, low), (last, high) = marks[1], marks[-1]
    assert (high - low) / (last - first) == pytest.approx(2 * MB, rel=0.05)
    assert partial.read_bytes() == server.content


def test_throttled_connections_are_joined_by_others(partial: Path) -> None:
    with StorageServer(make_content(24 * MB), rate=2 * MB) as server:
        began = time.monotonic()
        pull(server, partial, limits=TransferLimits(connections=8))
        assert partial.read_bytes() == server.content
        assert server.most_at_once > 4
        assert time.monotonic() - began < 6  # one connection would take twelve seconds


def test_connections_are_lent_to_other_downloads_and_taken_back(partial: Path) -> None:
    share = [8]
    seen: dict[str, list[int]] = {"alone": [], "beside another": [], "alone again": []}
    with StorageServer(make_content(32 * MB), rate=2 * MB) as server:

        def watch(event: Event) -> None:
            phase = list(seen)[(event.done > 8 * MB) + (event.done > 16 * MB)]
            share[0] = 2 if phase == "beside another" else 8
            seen[phase].append(server.busy)

        limits = TransferLimits(connections=8)
        pull(server, partial, limits=limits, get_connection_limit=lambda: share[0], progress=watch)
        assert partial.read_bytes() == server.content
        assert max(seen["alone"]) > 2
        assert seen["beside another"][-1] <= 2
        assert max(seen["alone again"]) > 2
        assert server.sent < 1.5 * len(server.content), "started pieces are not fetched again as a whole"


class StrictServer(StorageServer):
    """A server that refuses an empty range as unsatisfiable, as nginx does."""

    def _answer(self, connection: socket.socket, request: Request, fault: Fault) -> bool:
        first, last = request.range or (0, None)
        unsatisfiable = last is not None and last < first
        return super()._answer(connection, request, Fault(status=416) if unsatisfiable else fault)


def test_connection_whose_rest_was_taken_over_requests_nothing(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "RESCUE_SECONDS", 0.3)
    asked_again, answer = threading.Event(), threading.Event()
    stood: list[int] = []

    def watch(event: Event) -> None:
        stood.append(event.done)
        if asked_again.is_set() and stood[-15:].count(event.done) == 15:  # the other connection has finished
            answer.set()

    with StrictServer(make_content(3 * MB), rate=2 * MB) as server:
        server.faults += [Fault(), Fault(status=403)]

        def locate() -> Location:
            if server.located:
                asked_again.set()
                assert answer.wait(20)
            return server.locate()

        limits = TransferLimits(connections=2)
        download_file(locate, server.expected, partial, limits=limits, progress=watch, stop=threading.Event())
        assert partial.read_bytes() == server.content


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_wait_for_other_downloads_is_reported_once_as_such(partial: Path, ranges: bool) -> None:
    events: list[tuple[float, str]] = []

    def watch(event: Event) -> None:
        events.append((time.monotonic(), event.kind))

    def share() -> int:
        """Return no connection until the wait was reported, and for a while after; without ranges, one until the
        restart."""
        held = [at for at, kind in events if kind == "waiting"]
        if held:
            return int(time.monotonic() - held[0] > 2 * limits.network_wait_seconds)
        return int(not ranges and [kind for _, kind in events].count("started") < 2)

    limits = TransferLimits(4, network_wait_seconds=0.4, retry_seconds=0.02)
    with StorageServer(make_content(MB), ranges=ranges) as server:
        server.faults += [Fault(refuse=True)] if ranges else [Fault(), Fault(refuse=True)]
        pull(server, partial, limits=limits, get_connection_limit=share, progress=watch)
        assert partial.read_bytes() == server.content
        assert [kind for _, kind in events if kind in ("waiting", "retrying")] == ["waiting", "retrying"]


def test_complete_file_does_not_wait_for_an_idle_connection(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "RESCUE_SECONDS", 0.3)
    with StorageServer(make_content(5 * MB), rate=4 * MB) as server:
        server.faults += [Fault(), Fault(silent=True)]
        events = pull(server, partial, limits=TransferLimits(connections=2, stall_seconds=15))
        assert partial.read_bytes() == server.content
        assert "stalled" not in {event.kind for event in events}


@pytest.mark.parametrize("status", [403, 429], ids=["like an expired link", "too many"])
def test_too_many_connections_for_a_server_are_reduced(partial: Path, status: int) -> None:
    with StorageServer(make_content(16 * MB), rate=2 * MB, most=2, beyond=status) as server:
        pull(server, partial, limits=TransferLimits(connections=8, retry_seconds=0.05))
        assert partial.read_bytes() == server.content
        assert len(server.requests) < 40  # a few of each that was refused, and then no more


@pytest.mark.parametrize("reported", ["0", "Wed, 21 Oct 2015 07:28:00 GMT", "1"])
def test_endless_retry_after_is_given_up(partial: Path, reported: str) -> None:
    with StorageServer(make_content(MB)) as server:
        server.always = Fault(status=429, headers=(("Retry-After", reported),))
        with pytest.raises(RateLimitedError):
            pull(server, partial, limits=TransferLimits(retry_seconds=0.1, network_wait_seconds=2))
        assert len(server.requests) < 20


def test_bytes_of_a_failed_disk_write_are_not_trusted(
    server: StorageServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system reports it once: here while the last bytes arrive, when nothing checks any more."""
    monkeypatch.setattr(fetch_threads, "CHECKPOINT_BYTES", MB)
    server.rate = 8 * MB  # otherwise all bytes may arrive before the first checkpoint
    reported = threading.Event()
    sync = os.fdatasync

    def refuse(fd: int) -> None:
        if reported.is_set() or threading.current_thread().name != "sync":
            return sync(fd)
        reported.set()
        while any(thread.name == "connection" for thread in threading.enumerate()):
            threading.Event().wait(0.01)
        threading.Event().wait(0.3)  # until the end is called; if it came later, this test would prove nothing
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", refuse)
    with pytest.raises(StorageError):
        pull(server, partial)
    state = read_journal(journal_path(partial))
    assert state is not None
    assert not state.done.total
    pull(server, partial)
    assert partial.read_bytes() == server.content


# One owner


CHILD = """
import os, signal, sys, threading
from pathlib import Path
from llm_hf_models.hub.types import Location
from llm_hf_models.transfer.types import ExpectedFile, TransferLimits
from llm_hf_models.transfer.download_file import download_file
from llm_hf_models.transfer.pacing import RateLimiter
url, sha256, size, partial, kill_at, rate = sys.argv[1:7]
size, kill_at = int(size), int(kill_at)
def progress(event):
    print(event.kind, event.done, flush=True)
    if event.done >= kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
limits = TransferLimits(connections=4, retry_seconds=0.02)
download_file(lambda: Location(url, {}, size, sha256, "c" * 40),
      ExpectedFile("model.gguf", size, sha256=sha256), Path(partial),
      limits=limits, rate_limiter=RateLimiter(lambda: int(rate)), progress=progress, stop=threading.Event())
"""


def start_child(server: StorageServer, partial: Path, *, kill_at: int = 10**12, rate: int = 0) -> subprocess.Popen[str]:
    """Start a process that pulls, and that kills itself (-9) after that many bytes."""
    arguments = [server.url, server.sha256, len(server.content), partial, kill_at, rate]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_kill_costs_at_most_the_unrecorded_tail_per_connection(server: StorageServer, partial: Path) -> None:
    server.rate = 8 * MB
    for kill_at in (MB, 3 * MB, 5 * MB):
        process = start_child(server, partial, kill_at=kill_at)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
    server.rate = 0
    pull(server, partial)
    assert partial.read_bytes() == server.content
    # Per kill: bytes that were read and not yet recorded, and bytes in the sockets' buffers.
    assert server.sent <= len(server.content) * 1.02 + 3 * 4 * MB
    assert list_names(partial) == {partial.name}


def test_two_processes_and_two_threads_fetch_the_file_once(server: StorageServer, partial: Path) -> None:
    server.rate = MB / 4  # slow enough that all processes start before it is complete
    processes = [start_child(server, partial) for _ in range(2)]
    threads = [threading.Thread(target=pull, args=(server, partial)) for _ in range(2)]
    for thread in threads:
        thread.start()
    output = [process.communicate(timeout=60) for process in processes]
    for thread in threads:
        thread.join()
    assert [process.returncode for process in processes] == [0, 0], output
    assert partial.read_bytes() == server.content
    assert server.sent <= len(server.content) * 1.02
    for out, _ in output:  # waiting processes saw the owner's progress
        done = {int(line.split()[1]) for line in out.splitlines() if line.startswith("progress")}
        assert any(0 < at < len(server.content) for at in done)


def test_killed_owner_is_replaced_within_seconds(server: StorageServer, partial: Path) -> None:
    server.rate = 4 * MB
    first = start_child(server, partial, kill_at=3 * MB)
    assert first.stdout is not None
    while not first.stdout.readline().startswith("progress"):
        pass
    pull(server, partial)
    first.communicate(timeout=10)
    assert first.returncode == -signal.SIGKILL
    assert partial.read_bytes() == server.content
    assert server.sent <= len(server.content) * 1.02 + 4 * MB


# The same without flock: the heartbeat decides. This runs before any module of ours is imported.
WITHOUT_FLOCK = """
import errno, fcntl, os, platform
def flock(descriptor, operation):
    raise OSError(errno.WORD, os.strerror(errno.WORD))
fcntl.flock = flock
platform.node = lambda: HOST
"""


def start_remote_child(
    server: StorageServer, partial: Path, host: str, *, kill_at: int = 10**12, word: str = "ENOSYS"
) -> subprocess.Popen[str]:
    """Like `child`, on a machine of another name that shares the folder, whose file system has no flock."""
    code = WITHOUT_FLOCK.replace("HOST", repr(host)).replace("WORD", word) + CHILD
    arguments = [server.url, server.sha256, len(server.content), partial, kill_at, 0]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows never has flock")
@pytest.mark.parametrize("word", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_heartbeat_protects_the_file_without_flock(server: StorageServer, partial: Path, word: str) -> None:
    server.rate = MB
    processes = [start_remote_child(server, partial, host, word=word) for host in ("one", "two", "two")]
    output = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], output
    assert partial.read_bytes() == server.content
    assert server.sent <= len(server.content) * 1.02
    assert list_names(partial) == {partial.name}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows never has flock")
def test_stale_heartbeat_is_replaced_without_flock(server: StorageServer, partial: Path) -> None:
    server.rate = 4 * MB
    first = start_remote_child(server, partial, "one", kill_at=3 * MB)
    first.communicate(timeout=30)
    assert first.returncode == -signal.SIGKILL
    second = start_remote_child(server, partial, "two")
    output = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert partial.read_bytes() == server.content
    assert server.sent <= len(server.content) * 1.02 + 4 * MB
    assert list_names(partial) == {partial.name}


# Disk space and rate


class LateServer(StorageServer):
    """A server whose first response trickles until a second one starts, after the first connection was left."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked_again, self.left = threading.Event(), threading.Event()

    def _send(self, connection: socket.socket, body: memoryview) -> None:
        if len(self.requests) > 1:
            self.asked_again.set()
            assert self.left.wait(20)
            super()._send(connection, body)
            return
        done = len(body) // 8
        super()._send(connection, body[:done])
        while not self.asked_again.wait(0.02):  # as slow as a real network
            super()._send(connection, body[done : done + 1000])
            done += 1000
        super()._send(connection, memoryview(bytes(len(body[done : done + 1000]))))  # correct bytes would hide a write
        connection.recv(1)
        self.left.set()


def test_late_bytes_of_a_replaced_connection_do_no_harm(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "RESCUE_SECONDS", 0.3)
    with LateServer(make_content(MB)) as server:
        events = pull(server, partial, limits=TransferLimits(connections=2))
        assert partial.read_bytes() == server.content
        assert "retrying" not in {event.kind for event in events}
        assert server.sent < 1.1 * MB, "correct bytes are not fetched again"


def test_stream_that_can_not_be_resumed_is_not_interrupted(partial: Path) -> None:
    share = [1]

    def watch(event: Event) -> None:
        if event.done > 2 * MB:
            share[0] = 0
        if event.kind == "waiting":
            share[0] = 1

    limits = TransferLimits(connections=4)
    with StorageServer(make_content(6 * MB), ranges=False, rate=8 * MB) as server:
        events = pull(server, partial, limits=limits, get_connection_limit=lambda: share[0], progress=watch)
        assert partial.read_bytes() == server.content
        assert share == [0]
        assert not {"retrying", "waiting"} & {event.kind for event in events}
