"""The transfer against a server that misbehaves, over real sockets and files, and with processes that are killed."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_hf_models import fetching, segments
from llm_hf_models import journal as journals
from llm_hf_models.errors import (
    AccessError,
    DigestMismatchError,
    DiskFullError,
    FileChangedError,
    FileNotFoundInRepoError,
    HfModelsError,
    HubUnavailableError,
    InterruptedByUserError,
    NetworkError,
    OfflineError,
    RateLimitedError,
    StorageError,
)
from llm_hf_models.hub import Location
from llm_hf_models.journal import Identity, Journal, JournalState, Ranges, read_journal
from llm_hf_models.owner import is_owned, owning
from llm_hf_models.transfer import Event, Expected, TransferLimits, fetch, journal_path
from tests.support.storage_server import COMMIT, Fault, Request, StorageServer

MB = 1_000_000
LIMITS = TransferLimits(connections=4, connect_seconds=2, stall_seconds=0.4, network_wait_seconds=4, retry_seconds=0.02)


def made_content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def server() -> Iterator[StorageServer]:
    with StorageServer(made_content(6 * MB + 123)) as server:
        yield server


@pytest.fixture(params=["pipe", "memory"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bytes' way: where the system splices, the other one has to be forced."""
    if request.param == "memory":
        monkeypatch.delattr(os, "splice", raising=False)
    elif not hasattr(os, "splice"):
        pytest.skip("this system splices nothing")
    return str(request.param)


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "work" / "file.part"


def pull(
    server: StorageServer,
    partial: Path,
    *,
    limits: TransferLimits = LIMITS,
    progress: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
    expected: Expected | None = None,
) -> list[Event]:
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if progress:
            progress(event)

    fetch(
        server.locate,
        expected or server.expected,
        partial,
        limits=limits,
        progress=tell,
        stop=stop or threading.Event(),
    )
    return events


def stop_at(done: int) -> tuple[threading.Event, Callable[[Event], None]]:
    stop = threading.Event()
    return stop, lambda event: stop.set() if event.done >= done else None


def interrupted(server: StorageServer, partial: Path, done: int) -> None:
    """Leaves a partial with at least `done` bytes, fetched slowly enough to be stopped on the way."""
    stop, watch = stop_at(done)
    server.rate = 8 * MB
    with pytest.raises(InterruptedByUserError):
        pull(server, partial, progress=watch, stop=stop)
    server.rate = 0


def names(partial: Path) -> set[str]:
    return {path.name for path in partial.parent.iterdir()} - {f"{partial.name}.lock"}


def test_the_file_is_whole_and_nothing_but_it_is_left(server: StorageServer, partial: Path) -> None:
    events = pull(server, partial)
    assert partial.read_bytes() == server.content
    assert names(partial) == {partial.name}
    assert [event.kind for event in events if event.kind not in ("progress", "verifying")] == ["started", "done"]
    assert (events[-1].done, events[-1].total) == (len(server.content), len(server.content))


def test_an_empty_file_is_proven_without_a_request(partial: Path) -> None:
    with StorageServer(b"") as server:
        pull(server, partial)
        assert partial.read_bytes() == b""
        assert server.requests == []


def test_a_small_file_is_proven_by_its_git_blob_id(partial: Path) -> None:
    content = b"# a card\n"
    sha1 = hashlib.sha1(b"blob 9\0" + content, usedforsecurity=False).hexdigest()
    with StorageServer(content) as server:
        fetch(
            lambda: Location(server.url, {}, 9, sha1, COMMIT),
            Expected("README.md", 9, git_sha1=sha1),
            partial,
            limits=LIMITS,
            progress=lambda _: None,
            stop=threading.Event(),
        )
    assert partial.read_bytes() == content


def test_a_stopped_transfer_goes_on_where_it_was(server: StorageServer, partial: Path) -> None:
    interrupted(server, partial, len(server.content) // 2)
    server.sent = 0
    events = pull(server, partial)
    assert partial.read_bytes() == server.content
    assert events[0].done >= len(server.content) // 2
    assert server.sent <= len(server.content) * 0.51


def test_a_stop_ends_a_silent_connection_at_once(server: StorageServer, partial: Path) -> None:
    server.always = Fault(after=1000, end="stall")
    stop, watch = stop_at(1000)
    limits = TransferLimits(connections=1, stall_seconds=60)
    began = time.monotonic()
    with pytest.raises(InterruptedByUserError):
        pull(server, partial, limits=limits, progress=watch, stop=stop)
    assert time.monotonic() - began < 5


def test_bytes_of_another_file_are_not_built_on(server: StorageServer, partial: Path) -> None:
    interrupted(server, partial, MB)
    with StorageServer(made_content(len(server.content), seed=2)) as other:
        pull(other, partial)
        assert partial.read_bytes() == other.content
        assert other.sent >= len(other.content)


# Proof


def test_a_flipped_bit_is_refused_and_refetched_once(server: StorageServer, partial: Path) -> None:
    server.faults.append(Fault(flip=77))
    events = pull(server, partial)
    assert partial.read_bytes() == server.content
    assert [event.kind for event in events].count("retrying") == 1


def test_what_is_fetched_once_more_has_its_own_weather(partial: Path) -> None:
    with StorageServer(made_content(2 * MB), ranges=False, rate=2 * MB) as server:
        server.faults += [Fault(), Fault(flip=5), Fault(after=3 * MB // 2)]
        pull(server, partial, limits=TransferLimits(retry_seconds=0.02, network_wait_seconds=0.5))
        assert partial.read_bytes() == server.content


def test_wrong_bytes_twice_are_an_error_that_names_both_digests_and_keeps_nothing(
    server: StorageServer, partial: Path
) -> None:
    wrong = bytearray(server.content)
    wrong[77] ^= 1
    server.always = Fault(flip=77)
    with pytest.raises(DigestMismatchError) as caught:
        pull(server, partial)
    assert server.sha256 in caught.value.message
    assert hashlib.sha256(wrong).hexdigest() in caught.value.message
    assert names(partial) == set()


def test_a_partial_that_rotted_on_the_disk_is_fetched_again(server: StorageServer, partial: Path) -> None:
    interrupted(server, partial, MB)
    done = read_journal(journal_path(partial))
    assert done is not None
    first = next(iter(done.done))[0]
    with partial.open("r+b") as file:
        file.seek(first)
        file.write(bytes([server.content[first] ^ 1]))
    pull(server, partial)
    assert partial.read_bytes() == server.content


def test_a_whole_file_that_lost_its_journal_is_proven_without_fetching(server: StorageServer, partial: Path) -> None:
    partial.parent.mkdir()
    partial.write_bytes(server.content)
    pull(server, partial)
    assert server.requests == []


def test_a_sparse_file_that_lost_its_journal_is_not_taken_for_the_file(server: StorageServer, partial: Path) -> None:
    partial.parent.mkdir()
    with partial.open("wb") as file:
        file.truncate(len(server.content))
    pull(server, partial)
    assert partial.read_bytes() == server.content


@pytest.mark.parametrize(
    "fault", [Fault(shift=1), Fault(shift=4096), Fault(swap=True)], ids=["one off", "a page off", "halves swapped"]
)
def test_bytes_from_the_wrong_place_are_never_accepted(server: StorageServer, partial: Path, fault: Fault) -> None:
    server.content = server.content[: 2 * MB]
    server.sha256 = hashlib.sha256(server.content).hexdigest()
    interrupted(server, partial, 1)
    server.faults.append(fault)
    pull(server, partial)
    assert partial.read_bytes() == server.content


def test_a_file_changed_upstream_is_never_spliced(server: StorageServer, partial: Path) -> None:
    interrupted(server, partial, MB)
    old, before = server.expected, server.content
    server.content = made_content(len(server.content), seed=2)
    server.sha256 = hashlib.sha256(server.content).hexdigest()
    server.etag = '"storage-2"'
    with pytest.raises(FileChangedError):
        pull(server, partial, expected=old)
    state = read_journal(journal_path(partial))
    assert state is not None
    for start, end in state.done:
        assert partial.read_bytes()[start:end] == before[start:end]


def test_another_size_in_content_range_is_a_changed_file(server: StorageServer, partial: Path) -> None:
    server.always = Fault(total=len(server.content) + 1)
    with pytest.raises(FileChangedError):
        pull(server, partial)


def test_a_new_etag_of_the_storage_host_for_the_same_bytes_is_no_reason_to_start_over(
    server: StorageServer, partial: Path
) -> None:
    interrupted(server, partial, 3 * MB)
    server.etag = '"storage-2"'
    server.requests.clear()
    pull(server, partial)
    assert partial.read_bytes() == server.content
    assert all(request.range and request.range[0] >= MB for request in server.requests)


def test_a_server_without_ranges_is_read_in_one_stream(server: StorageServer, partial: Path) -> None:
    server.ranges = False
    pull(server, partial)
    assert partial.read_bytes() == server.content
    assert [request.range is None for request in server.requests] == [False, True]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_body_in_chunks_is_read_to_its_end(server: StorageServer, partial: Path, ranges: bool) -> None:
    server.chunked, server.ranges = True, ranges
    pull(server, partial, limits=TransferLimits(connections=1, retry_seconds=0.02, network_wait_seconds=2))
    assert partial.read_bytes() == server.content
    assert len(server.requests) == (1 if ranges else 2)


def test_a_whole_file_in_answer_to_a_range_starts_over(server: StorageServer, partial: Path) -> None:
    interrupted(server, partial, MB)
    server.ranges = False
    server.faults.append(Fault(after=2 * MB))
    pull(server, partial)
    assert partial.read_bytes() == server.content


def test_one_server_of_many_that_ignores_ranges_is_no_reason_to_start_over(partial: Path) -> None:
    with StorageServer(made_content(6 * MB), etag='W/"none to compare with"') as server:
        server.faults.extend([Fault(after=3 * MB), Fault(ignore_range=True)])
        pull(server, partial, limits=TransferLimits(connections=1, retry_seconds=0.01))
        assert partial.read_bytes() == server.content
        assert [request.range and request.range[0] > 0 for request in server.requests] == [False, True, True]


CHUNKED_PAGE = Fault(
    raw=b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"14\r\n<!doctype html><p>Hi\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("page", [Fault(status=200), CHUNKED_PAGE], ids=["of another length", "of no told length"])
@pytest.mark.parametrize("etag", ['"storage-1"', 'W/"weak"'])
def test_a_page_that_is_not_the_file_is_weather(partial: Path, etag: str, page: Fault) -> None:
    """What a network that wants a login first answers to everything."""
    with StorageServer(made_content(6 * MB), etag=etag) as server:
        server.faults.extend([Fault(after=3 * MB), page, page])
        pull(server, partial, limits=TransferLimits(connections=1, retry_seconds=0.01))
        assert partial.read_bytes() == server.content
        assert all(request.range and request.range[0] > 0 for request in server.requests[1:])


def test_a_part_without_a_byte_is_weather_and_not_asked_for_without_end(partial: Path) -> None:
    with StorageServer(made_content(6 * MB)) as server:
        size = len(server.content)
        server.always = Fault(raw=f"HTTP/1.0 206 X\r\nContent-Range: bytes 0-{size - 1}/{size}\r\n\r\n".encode())
        limits = TransferLimits(connections=1, retry_seconds=0.1, network_wait_seconds=1)
        with pytest.raises(NetworkError):
            pull(server, partial, limits=limits)
        assert len(server.requests) < 20


# Weather

WEATHER = {
    "reset": Fault(after=100_000),
    "reset before the first byte": Fault(after=0),
    "truncation": Fault(after=100_000, end="close"),
    "stall": Fault(after=100_000, end="stall"),
    "no answer": Fault(silent=True),
    "closed before an answer": Fault(refuse=True),
    "not HTTP": Fault(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503 with Retry-After": Fault(status=503, headers=(("Retry-After", "0"),)),
    "408": Fault(status=408),
    "429": Fault(status=429, headers=(("Retry-After", "1"),)),
    "expired link": Fault(status=403),
    "a 200 to a range": Fault(ignore_range=True),
    "a lying Content-Range": Fault(shift=5),
    "a flipped bit": Fault(flip=4000),
    "a redirect to nowhere": Fault(status=302, headers=(("Location", "http://[::1/"),)),
    "a length of endless digits": Fault(raw=f"HTTP/1.1 200 X\r\nContent-Length: {'9' * 5000}\r\n\r\n".encode()),
    "a range of endless digits": Fault(raw=f"HTTP/1.1 206 X\r\nContent-Range: bytes 0-{'9' * 5000}/*\r\n\r\n".encode()),
    "a limit of endless digits": Fault(status=429, headers=(("RateLimit", f'"api";r={"0" * 5000};t=1'),)),
}


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("fault", WEATHER.values(), ids=WEATHER)
def test_weather_passes(server: StorageServer, partial: Path, fault: Fault) -> None:
    server.faults.append(fault)
    pull(server, partial)
    assert partial.read_bytes() == server.content


def test_a_link_that_moves_is_never_given_up(partial: Path) -> None:
    with StorageServer(made_content(60_000)) as server:
        server.always = Fault(after=1000)  # sixty resets in a row, each after a few bytes more
        limits = TransferLimits(connections=1, retry_seconds=0.001, network_wait_seconds=2)
        pull(server, partial, limits=limits)
        assert partial.read_bytes() == server.content
        assert len(server.requests) >= 60


def test_waiting_as_told_by_429_is_said(server: StorageServer, partial: Path) -> None:
    server.faults.append(Fault(status=429, headers=(("Retry-After", "1"),)))
    began = time.monotonic()
    events = pull(server, partial)
    assert time.monotonic() - began >= 1
    assert any(event.kind == "waiting" and "1 s" in (event.message or "") for event in events)


def test_a_wait_that_is_too_long_is_an_error_that_says_how_long(server: StorageServer, partial: Path) -> None:
    server.always = Fault(status=429, headers=(("Retry-After", "3600"),))
    with pytest.raises(RateLimitedError) as caught:
        pull(server, partial)
    assert caught.value.retry_after == 3600
    assert "network_wait_seconds" in str(caught.value)


def test_an_expired_link_is_asked_for_again(server: StorageServer, partial: Path) -> None:
    interrupted(server, partial, MB)
    location = server.locate()
    server.expire()
    links = [location]
    fetch(
        lambda: links.pop() if links else server.locate(),
        server.expected,
        partial,
        limits=LIMITS,
        progress=lambda _: None,
        stop=threading.Event(),
    )
    assert partial.read_bytes() == server.content


@pytest.mark.parametrize(
    ("status", "kind", "most"), [(404, FileNotFoundInRepoError, 1), (401, AccessError, 3), (403, AccessError, 3)]
)
def test_a_refusal_is_not_retried(
    server: StorageServer, partial: Path, status: int, kind: type[HfModelsError], most: int
) -> None:
    server.always = Fault(status=status)
    with pytest.raises(kind):
        pull(server, partial)
    assert len(server.requests) <= most


def test_a_server_that_only_fails_is_given_up(server: StorageServer, partial: Path) -> None:
    server.always = Fault(status=500)
    limits = TransferLimits(connections=4, retry_seconds=0.001)
    with pytest.raises(HubUnavailableError):
        pull(server, partial, limits=limits)


def test_a_network_that_goes_away_is_waited_for(server: StorageServer, partial: Path) -> None:
    server.rate = 2 * MB
    gone = threading.Event()

    def watch(event: Event) -> None:
        if event.kind == "waiting" and gone.is_set():
            server.rate = 0
            gone.clear()
            server.back()
        elif event.done >= MB and not gone.is_set() and server.rate:
            gone.set()
            server.away()

    events = pull(server, partial, progress=watch)
    assert partial.read_bytes() == server.content
    assert any(event.kind == "waiting" for event in events)


def test_a_network_that_stays_away_is_given_up_and_what_came_is_kept(server: StorageServer, partial: Path) -> None:
    interrupted(server, partial, MB)
    server.away()
    limits = TransferLimits(network_wait_seconds=0.5, retry_seconds=0.02, connect_seconds=1)
    with pytest.raises(OfflineError):
        pull(server, partial, limits=limits)
    state = read_journal(journal_path(partial))
    assert state is not None
    assert state.done.total >= MB
    server.back()


def test_a_host_without_an_address_is_waited_for(server: StorageServer, partial: Path) -> None:
    links = [Location("http://no-such-host.invalid/x", {}, len(server.content), server.sha256, COMMIT)]
    limits = TransferLimits(network_wait_seconds=0.3, retry_seconds=0.02)
    with pytest.raises(OfflineError):
        fetch(
            lambda: links[0],
            server.expected,
            partial,
            limits=limits,
            progress=lambda _: None,
            stop=threading.Event(),
        )


def test_questions_to_the_hub_have_weather_too(server: StorageServer, partial: Path) -> None:
    failures = [HubUnavailableError("HTTP 502"), OfflineError("no route"), NetworkError("reset")]

    def locate() -> Location:
        if failures:
            raise failures.pop()
        return server.locate()

    fetch(locate, server.expected, partial, limits=LIMITS, progress=lambda _: None, stop=threading.Event())
    assert partial.read_bytes() == server.content


# Room and rate


def test_a_full_disk_is_seen_before_anything_is_fetched(server: StorageServer, partial: Path) -> None:
    with pytest.raises(DiskFullError) as caught:
        pull(server, partial, limits=TransferLimits(disk_reserve=10**18))
    assert caught.value.missing_bytes > 10**17
    assert server.requests == []


FULL_DISK = """
import sys, threading
from pathlib import Path
from llm_hf_models.errors import DiskFullError
from llm_hf_models.hub import Location
from llm_hf_models.journal import read_journal
from llm_hf_models.transfer import Expected, TransferLimits, fetch, journal_path
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
    expected = Expected("model.gguf", int(size), sha256=sha256)
    fetch(lambda: Location(url, {}, int(size), sha256, "c" * 40), expected, partial,
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
def test_a_disk_that_fills_up_midway_pauses_and_continues(server: StorageServer, tmp_path: Path) -> None:
    inside = 'mount -t tmpfs -o size=8m none "$1" && shift && exec "$@"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(tmp_path)]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mounts here")
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
from llm_hf_models.hub import Location
from llm_hf_models.space import free_bytes
from llm_hf_models.transfer import Expected, TransferLimits, fetch
url, sha256, size, folder, left = sys.argv[1:6]
partial, hog = Path(folder, "part"), Path(folder, "hog")
reserve = 100_000_000
def progress(event):
    if event.done > 1_000_000 and not hog.exists():
        with hog.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free_bytes(Path(folder)) - int(left))
def run():
    expected = Expected("model.gguf", int(size), sha256=sha256)
    fetch(lambda: Location(url, {}, int(size), sha256, "c" * 40), expected, partial,
          limits=TransferLimits(connections=2, disk_reserve=reserve), progress=progress, stop=threading.Event())
try:
    run()
except DiskFullError as error:
    print("full", error.missing_bytes, free_bytes(Path(folder)))
hog.write_bytes(b"")
run()
print("whole", partial.stat().st_size)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a small file system of its own")
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("left", [80 * MB, 110 * MB], ids=["into the reserve", "almost"])
def test_a_disk_that_others_fill_midway_pauses_the_pull_before_the_reserve_is_gone(
    tmp_path: Path, ranges: bool, left: int
) -> None:
    inside = 'mount -t tmpfs -o size=260m none "$1" && shift && exec "$@"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(tmp_path)]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mounts here")
    with StorageServer(made_content(140 * MB), ranges=ranges, rate=30 * MB) as server:
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


def test_the_rate_limit_holds_and_can_be_lifted_while_running(server: StorageServer, partial: Path) -> None:
    rate = [2 * MB]
    marks: list[tuple[float, int]] = []

    def watch(event: Event) -> None:
        if event.kind == "progress" and rate[0]:
            marks.append((time.monotonic(), event.done))
            if event.done > 4.2 * MB:
                rate[0] = 0

    limits = TransferLimits(connections=4, bytes_per_second=lambda: rate[0])
    pull(server, partial, limits=limits, progress=watch)
    (first, low), (last, high) = marks[1], marks[-1]
    assert (high - low) / (last - first) == pytest.approx(2 * MB, rel=0.05)
    assert partial.read_bytes() == server.content


def test_throttled_connections_are_joined_by_others(partial: Path) -> None:
    with StorageServer(made_content(24 * MB), rate=2 * MB) as server:
        began = time.monotonic()
        pull(server, partial, limits=TransferLimits(connections=8))
        assert partial.read_bytes() == server.content
        assert server.most_at_once > 4
        assert time.monotonic() - began < 6  # one connection would take twelve seconds


class LateServer(StorageServer):
    """Its first answer trickles until there is a second one, which begins once the first one's connection is left."""

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
        while not self.asked_again.wait(0.02):  # the wire is this slow
            super()._send(connection, body[done : done + 1000])
            done += 1000
        super()._send(connection, memoryview(bytes(len(body[done : done + 1000]))))  # right ones would hide a write
        connection.recv(1)
        self.left.set()


@pytest.mark.usefixtures("each_way")
def test_bytes_that_come_after_another_connection_took_them_over_are_no_harm(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "RESCUE_SECONDS", 0.3)
    with LateServer(made_content(MB)) as server:
        events = pull(server, partial, limits=TransferLimits(connections=2))
        assert partial.read_bytes() == server.content
        assert "retrying" not in {event.kind for event in events}
        assert server.sent < 1.1 * MB, "what is right is not fetched again"


def test_connections_are_left_to_other_downloads_while_they_run_and_taken_again_after_them(partial: Path) -> None:
    share = [8]
    seen: dict[str, list[int]] = {"alone": [], "beside another": [], "alone again": []}
    with StorageServer(made_content(32 * MB), rate=2 * MB) as server:

        def watch(event: Event) -> None:
            phase = list(seen)[(event.done > 8 * MB) + (event.done > 16 * MB)]
            share[0] = 2 if phase == "beside another" else 8
            seen[phase].append(server.busy)

        pull(server, partial, limits=TransferLimits(connections=8, connections_now=lambda: share[0]), progress=watch)
        assert partial.read_bytes() == server.content
        assert max(seen["alone"]) > 2
        assert seen["beside another"][-1] <= 2
        assert max(seen["alone again"]) > 2
        assert server.sent < 1.5 * len(server.content), "what the others had begun is not fetched whole again"


class StrictServer(StorageServer):
    """Calls a range without a byte unsatisfiable, as nginx does."""

    def _answer(self, connection: socket.socket, request: Request, fault: Fault) -> bool:
        first, last = request.range or (0, None)
        unsatisfiable = last is not None and last < first
        return super()._answer(connection, request, Fault(status=416) if unsatisfiable else fault)


def test_nothing_is_asked_for_by_a_connection_whose_rest_was_taken_over_while_it_waited(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "RESCUE_SECONDS", 0.3)
    asked_again, answer = threading.Event(), threading.Event()
    stood: list[int] = []

    def watch(event: Event) -> None:
        stood.append(event.done)
        if asked_again.is_set() and stood[-15:].count(event.done) == 15:  # all that the other connection had is here
            answer.set()

    with StrictServer(made_content(3 * MB), rate=2 * MB) as server:
        server.faults += [Fault(), Fault(status=403)]

        def locate() -> Location:
            if server.located:
                asked_again.set()
                assert answer.wait(20)
            return server.locate()

        limits = TransferLimits(connections=2)
        fetch(locate, server.expected, partial, limits=limits, progress=watch, stop=threading.Event())
        assert partial.read_bytes() == server.content


def test_a_stream_that_cant_be_continued_is_not_cut_for_other_downloads(partial: Path) -> None:
    share = [1]

    def watch(event: Event) -> None:
        if event.done > 2 * MB:
            share[0] = 0
        if event.kind == "waiting":
            share[0] = 1

    limits = TransferLimits(connections=4, connections_now=lambda: share[0])
    with StorageServer(made_content(6 * MB), ranges=False, rate=8 * MB) as server:
        events = pull(server, partial, limits=limits, progress=watch)
        assert partial.read_bytes() == server.content
        assert share == [0]
        assert not {"retrying", "waiting"} & {event.kind for event in events}


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_wait_for_other_downloads_is_said_once_and_is_no_wait_for_the_network(partial: Path, ranges: bool) -> None:
    events: list[tuple[float, str]] = []

    def watch(event: Event) -> None:
        events.append((time.monotonic(), event.kind))

    def share() -> int:
        """None until it was said, and for a while after; without ranges, one until it starts over."""
        held = [at for at, kind in events if kind == "waiting"]
        if held:
            return int(time.monotonic() - held[0] > 2 * limits.network_wait_seconds)
        return int(not ranges and [kind for _, kind in events].count("started") < 2)

    limits = TransferLimits(4, share, network_wait_seconds=0.4, retry_seconds=0.02)
    with StorageServer(made_content(MB), ranges=ranges) as server:
        server.faults += [Fault(refuse=True)] if ranges else [Fault(), Fault(refuse=True)]
        pull(server, partial, limits=limits, progress=watch)
        assert partial.read_bytes() == server.content
        assert [kind for _, kind in events if kind in ("waiting", "retrying")] == ["waiting", "retrying"]


def test_a_whole_file_does_not_wait_for_a_connection_that_never_brought_anything(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "RESCUE_SECONDS", 0.3)
    with StorageServer(made_content(5 * MB), rate=4 * MB) as server:
        server.faults += [Fault(), Fault(silent=True)]
        events = pull(server, partial, limits=TransferLimits(connections=2, stall_seconds=15))
        assert partial.read_bytes() == server.content
        assert "stalled" not in {event.kind for event in events}


@pytest.mark.parametrize("status", [403, 429], ids=["like an expired link", "too many"])
def test_more_connections_than_a_server_takes_are_given_up(partial: Path, status: int) -> None:
    with StorageServer(made_content(16 * MB), rate=2 * MB, most=2, beyond=status) as server:
        pull(server, partial, limits=TransferLimits(connections=8, retry_seconds=0.05))
        assert partial.read_bytes() == server.content
        assert len(server.requests) < 40  # a few of each that was refused, and then no more


@pytest.mark.parametrize("told", ["0", "Wed, 21 Oct 2015 07:28:00 GMT", "1"])
def test_a_host_that_asks_for_a_moment_for_ever_is_not_asked_for_ever(partial: Path, told: str) -> None:
    with StorageServer(made_content(MB)) as server:
        server.always = Fault(status=429, headers=(("Retry-After", told),))
        with pytest.raises(RateLimitedError):
            pull(server, partial, limits=TransferLimits(retry_seconds=0.1, network_wait_seconds=2))
        assert len(server.requests) < 20


def test_a_stop_does_not_wait_for_a_hub_that_does_not_answer(server: StorageServer, partial: Path) -> None:
    stop, answered = threading.Event(), threading.Event()

    def locate() -> Location:
        stop.set()
        answered.wait()
        return server.locate()

    try:
        with pytest.raises(InterruptedByUserError):
            fetch(locate, server.expected, partial, limits=LIMITS, progress=lambda _: None, stop=stop)
    finally:
        answered.set()
    assert server.requests == []


def test_bytes_that_the_disk_could_not_take_are_not_trusted(
    server: StorageServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of them once: here while the last bytes arrive, when nobody would look any more."""
    monkeypatch.setattr(fetching, "CHECKPOINT_BYTES", MB)
    server.rate = 8 * MB  # else all may be there before the first checkpoint
    told = threading.Event()
    sync = os.fdatasync

    def refuse(fd: int) -> None:
        if told.is_set() or threading.current_thread().name != "sync":
            return sync(fd)
        told.set()
        while any(thread.name == "connection" for thread in threading.enumerate()):
            threading.Event().wait(0.01)
        threading.Event().wait(0.3)  # until the end is called; were it later, this would pass without proof
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
from llm_hf_models.hub import Location
from llm_hf_models.transfer import Expected, TransferLimits, fetch
url, sha256, size, partial, kill_at, rate = sys.argv[1:7]
size, kill_at = int(size), int(kill_at)
def progress(event):
    print(event.kind, event.done, flush=True)
    if event.done >= kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
limits = TransferLimits(connections=4, retry_seconds=0.02, bytes_per_second=lambda: int(rate))
fetch(lambda: Location(url, {}, size, sha256, "c" * 40), Expected("model.gguf", size, sha256=sha256), Path(partial),
      limits=limits, progress=progress, stop=threading.Event())
"""


def child(server: StorageServer, partial: Path, *, kill_at: int = 10**12, rate: int = 0) -> subprocess.Popen[str]:
    """A process that pulls, and kills itself (-9) when that many bytes are there."""
    arguments = [server.url, server.sha256, len(server.content), partial, kill_at, rate]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_kill_costs_at_most_a_segments_tail_per_connection(server: StorageServer, partial: Path) -> None:
    server.rate = 8 * MB
    for kill_at in (MB, 3 * MB, 5 * MB):
        process = child(server, partial, kill_at=kill_at)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
    server.rate = 0
    pull(server, partial)
    assert partial.read_bytes() == server.content
    # Per kill: what was read and not recorded yet, and what stood in the sockets' buffers.
    assert server.sent <= len(server.content) * 1.02 + 3 * 4 * MB
    assert names(partial) == {partial.name}


def test_two_processes_and_two_threads_fetch_the_file_once(server: StorageServer, partial: Path) -> None:
    server.rate = MB / 4  # slow enough for all to be there before it is whole
    processes = [child(server, partial) for _ in range(2)]
    threads = [threading.Thread(target=pull, args=(server, partial)) for _ in range(2)]
    for thread in threads:
        thread.start()
    output = [process.communicate(timeout=60) for process in processes]
    for thread in threads:
        thread.join()
    assert [process.returncode for process in processes] == [0, 0], output
    assert partial.read_bytes() == server.content
    assert server.sent <= len(server.content) * 1.02
    for out, _ in output:  # those who waited saw the owner's progress
        done = {int(line.split()[1]) for line in out.splitlines() if line.startswith("progress")}
        assert any(0 < at < len(server.content) for at in done)


@pytest.mark.parametrize("step", ["os.link", "pathlib.Path.write_text"])
def test_a_claim_that_was_killed_halfway_holds_nobody_up(
    partial: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    partial.parent.mkdir()
    with monkeypatch.context() as during:
        during.setattr(step, kill)
        with pytest.raises(Killed), owning(partial, threading.Event(), lambda: None):
            pass
    assert not is_owned(partial)


def test_a_file_is_owned_where_the_file_system_has_no_hard_links(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    partial.parent.mkdir()
    monkeypatch.setattr(os, "link", refuse)
    with owning(partial, threading.Event(), lambda: None):
        assert is_owned(partial)
        assert not list(partial.parent.glob("*.owner.*"))
    assert not is_owned(partial)


def test_a_dead_owner_is_followed_within_seconds(server: StorageServer, partial: Path) -> None:
    server.rate = 4 * MB
    first = child(server, partial, kill_at=3 * MB)
    assert first.stdout is not None
    while not first.stdout.readline().startswith("progress"):
        pass
    pull(server, partial)
    first.communicate(timeout=10)
    assert first.returncode == -signal.SIGKILL
    assert partial.read_bytes() == server.content
    assert server.sent <= len(server.content) * 1.02 + 4 * MB


def test_a_finished_file_is_reported_as_such_though_its_owners_name_cant_be_removed(
    server: StorageServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.unlink

    def unlink(path: Path, *arguments: Any, **options: Any) -> None:
        if path.suffix == ".owner":  # as on Windows while one who waits reads it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        real(path, *arguments, **options)

    with monkeypatch.context() as read_by_another:
        read_by_another.setattr(Path, "unlink", unlink)
        pull(server, partial)
    assert partial.read_bytes() == server.content
    with FileLock(partial.with_name(f"{partial.name}.lock"), timeout=0):
        pass
    partial.unlink()
    pull(server, partial)
    assert names(partial) == {partial.name}


# The same where there is no flock: what follows is the machine's, before anything of ours is imported.
WITHOUT_FLOCK = """
import errno, fcntl, os, platform
def flock(descriptor, operation):
    raise OSError(errno.WORD, os.strerror(errno.WORD))
fcntl.flock = flock
platform.node = lambda: HOST
"""


def elsewhere(
    server: StorageServer, partial: Path, host: str, *, kill_at: int = 10**12, word: str = "ENOSYS"
) -> subprocess.Popen[str]:
    """As `child`, on a machine of another name that shares the folder, whose file system knows no flock."""
    code = WITHOUT_FLOCK.replace("HOST", repr(host)).replace("WORD", word) + CHILD
    arguments = [server.url, server.sha256, len(server.content), partial, kill_at, 0]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock to miss")
@pytest.mark.parametrize("word", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_without_flock_the_heartbeat_keeps_other_machines_from_the_file(
    server: StorageServer, partial: Path, word: str
) -> None:
    server.rate = MB
    processes = [elsewhere(server, partial, host, word=word) for host in ("one", "two", "two")]
    output = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], output
    assert partial.read_bytes() == server.content
    assert server.sent <= len(server.content) * 1.02
    assert names(partial) == {partial.name}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock to miss")
def test_without_flock_a_machine_that_died_is_followed_once_its_heartbeat_is_old(
    server: StorageServer, partial: Path
) -> None:
    server.rate = 4 * MB
    first = elsewhere(server, partial, "one", kill_at=3 * MB)
    first.communicate(timeout=30)
    assert first.returncode == -signal.SIGKILL
    second = elsewhere(server, partial, "two")
    output = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert partial.read_bytes() == server.content
    assert server.sent <= len(server.content) * 1.02 + 4 * MB
    assert names(partial) == {partial.name}


# The journal


def test_only_synced_bytes_are_trusted_after_power_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    journal = Journal(path, JournalState(Identity(100, "proof")))
    journal.wrote(0, 10)
    count = journal.count
    journal.wrote(20, 30)
    journal.synced(count)
    journal.close()
    before = read_journal(path)
    assert before is not None
    assert list(before.done) == [(0, 10), (20, 30)]
    another_boot = tmp_path / "boot_id"
    another_boot.write_text("another\n")
    monkeypatch.setattr(journals, "_BOOT_ID", another_boot)
    after = read_journal(path)
    assert after is not None
    assert list(after.done) == [(0, 10)]


def test_a_journal_stays_short_however_long_a_download_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(journals, "MAX_RECORDS", 50)
    path = tmp_path / "x.journal"
    journal = Journal(path, JournalState(Identity(10_000, "proof")))
    journal.validator('"etag"')
    for start in range(0, 2000, 2):
        journal.wrote(start, start + 1)
        if start % 20 == 0:
            journal.wrote(start + 1, start + 2)
            journal.synced(journal.count - 1)
        state = read_journal(path)
        assert state is not None
        assert state.done.end_of_run(start) > start
    journal.close()
    assert state.validator == '"etag"'
    assert state.done.total == 1100
    assert 1090 <= state.durable.total < 1100
    assert path.read_bytes().count(b"w ") < 1000 + 50


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_journal_never_claims_what_was_not_written(tmp_path: Path, data: st.DataObject) -> None:
    size = 1000
    written = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 50)), max_size=12))
    path = tmp_path / "x.journal"
    identity = Identity(size, "proof")
    journal = Journal(path, JournalState(identity))
    true: set[int] = set()
    for start, length in written:
        end = min(size, start + length)
        journal.wrote(start, end)
        true |= set(range(start, end))
        if data.draw(st.booleans()):
            journal.synced(journal.count)
    journal.close()
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    path.write_bytes(bytes(raw[:cut]) + data.draw(st.binary(max_size=40)))
    state = read_journal(path)
    if state is not None:
        assert state.identity == identity
        claimed = {i for start, end in state.done for i in range(start, end)}
        assert claimed <= true


@given(pairs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30))
def test_ranges_are_a_set_of_positions(pairs: list[tuple[int, int]]) -> None:
    ranges, plain = Ranges(), set()
    for start, end in pairs:
        ranges.add(start, end)
        plain |= set(range(start, end))
    assert {i for start, end in ranges for i in range(start, end)} == plain
    assert ranges.total == len(plain)
    assert {i for start, end in ranges.missing(61) for i in range(start, end)} == set(range(61)) - plain
    for i in range(61):
        run = ranges.end_of_run(i)
        assert set(range(i, run)) <= plain
        assert run not in plain
