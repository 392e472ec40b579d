"""The transfer against a faulty server, over real sockets and files."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

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
)
from llm_hf_models.hub.types import Location
from llm_hf_models.transfer.download_file import download_file, journal_path
from llm_hf_models.transfer.journal import read_journal
from llm_hf_models.transfer.types import Event, ExpectedFile, TransferLimits
from tests.support import transfers
from tests.support.storage_server import COMMIT, Fault, StorageServer
from tests.support.transfers import LIMITS, MB, WEATHER, interrupt_transfer, list_names, make_content, make_stop, pull

server = transfers.server
partial = transfers.partial


def test_transfer_leaves_only_the_whole_file(server: StorageServer, partial: Path) -> None:
    events = pull(server, partial)
    assert partial.read_bytes() == server.content
    assert list_names(partial) == {partial.name}
    assert [event.kind for event in events if event.kind not in ("progress", "verifying")] == ["started", "done"]
    assert (events[-1].done, events[-1].total) == (len(server.content), len(server.content))


def test_empty_file_is_verified_without_a_request(partial: Path) -> None:
    with StorageServer(b"") as server:
        pull(server, partial)
        assert partial.read_bytes() == b""
        assert server.requests == []


def test_small_file_is_verified_by_its_git_blob_id(partial: Path) -> None:
    content = b"# a card\n"
    sha1 = hashlib.sha1(b"blob 9\0" + content, usedforsecurity=False).hexdigest()
    with StorageServer(content) as server:
        download_file(
            lambda: Location(server.url, {}, 9, sha1, COMMIT),
            ExpectedFile("README.md", 9, git_sha1=sha1),
            partial,
            limits=LIMITS,
            progress=lambda _: None,
            stop=threading.Event(),
        )
    assert partial.read_bytes() == content


def test_stopped_transfer_resumes(server: StorageServer, partial: Path) -> None:
    interrupt_transfer(server, partial, len(server.content) // 2)
    server.sent = 0
    events = pull(server, partial)
    assert partial.read_bytes() == server.content
    assert events[0].done >= len(server.content) // 2
    assert server.sent <= len(server.content) * 0.51


def test_stop_ends_a_silent_connection_at_once(server: StorageServer, partial: Path) -> None:
    server.always = Fault(after=1000, end="stall")
    stop, watch = make_stop(1000)
    limits = TransferLimits(connections=1, stall_seconds=60)
    began = time.monotonic()
    with pytest.raises(InterruptedByUserError):
        pull(server, partial, limits=limits, progress=watch, stop=stop)
    assert time.monotonic() - began < 5


def test_bytes_of_another_file_are_not_reused(server: StorageServer, partial: Path) -> None:
    interrupt_transfer(server, partial, MB)
    with StorageServer(make_content(len(server.content), seed=2)) as other:
        pull(other, partial)
        assert partial.read_bytes() == other.content
        assert other.sent >= len(other.content)


# Verification


def test_flipped_bit_is_refused_and_refetched_once(server: StorageServer, partial: Path) -> None:
    server.faults.append(Fault(flip=77))
    events = pull(server, partial)
    assert partial.read_bytes() == server.content
    assert [event.kind for event in events].count("retrying") == 1


def test_bytes_wrong_twice_give_an_error_with_both_digests(server: StorageServer, partial: Path) -> None:
    wrong = bytearray(server.content)
    wrong[77] ^= 1
    server.always = Fault(flip=77)
    with pytest.raises(DigestMismatchError) as caught:
        pull(server, partial)
    assert server.sha256 in caught.value.message
    assert hashlib.sha256(wrong).hexdigest() in caught.value.message
    assert list_names(partial) == set()


def test_partial_damaged_on_disk_is_fetched_again(server: StorageServer, partial: Path) -> None:
    interrupt_transfer(server, partial, MB)
    done = read_journal(journal_path(partial))
    assert done is not None
    first = next(iter(done.done))[0]
    with partial.open("r+b") as file:
        file.seek(first)
        file.write(bytes([server.content[first] ^ 1]))
    pull(server, partial)
    assert partial.read_bytes() == server.content


def test_whole_file_without_a_journal_is_verified_without_a_fetch(server: StorageServer, partial: Path) -> None:
    partial.parent.mkdir()
    partial.write_bytes(server.content)
    pull(server, partial)
    assert server.requests == []


def test_sparse_file_without_a_journal_is_not_accepted(server: StorageServer, partial: Path) -> None:
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
    interrupt_transfer(server, partial, 1)
    server.faults.append(fault)
    pull(server, partial)
    assert partial.read_bytes() == server.content


def test_file_changed_upstream_is_never_mixed(server: StorageServer, partial: Path) -> None:
    interrupt_transfer(server, partial, MB)
    old, before = server.expected, server.content
    server.content = make_content(len(server.content), seed=2)
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


def test_new_etag_for_the_same_bytes_does_not_restart(server: StorageServer, partial: Path) -> None:
    interrupt_transfer(server, partial, 3 * MB)
    server.etag = '"storage-2"'
    server.requests.clear()
    pull(server, partial)
    assert partial.read_bytes() == server.content
    assert all(request.range and request.range[0] >= MB for request in server.requests)


def test_server_without_ranges_is_read_in_one_stream(server: StorageServer, partial: Path) -> None:
    server.ranges = False
    pull(server, partial)
    assert partial.read_bytes() == server.content
    assert [request.range is None for request in server.requests] == [False, True]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_chunked_body_is_read_to_its_end(server: StorageServer, partial: Path, ranges: bool) -> None:
    server.chunked, server.ranges = True, ranges
    pull(server, partial, limits=TransferLimits(connections=1, retry_seconds=0.02, network_wait_seconds=2))
    assert partial.read_bytes() == server.content
    assert len(server.requests) == (1 if ranges else 2)


def test_whole_file_in_response_to_a_range_starts_over(server: StorageServer, partial: Path) -> None:
    interrupt_transfer(server, partial, MB)
    server.ranges = False
    server.faults.append(Fault(after=2 * MB))
    pull(server, partial)
    assert partial.read_bytes() == server.content


def test_one_response_that_ignores_a_range_does_not_restart(partial: Path) -> None:
    with StorageServer(make_content(6 * MB), etag='W/"none to compare with"') as server:
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
def test_response_that_is_not_the_file_is_retried(partial: Path, etag: str, page: Fault) -> None:
    """The page of a network that requires a login first."""
    with StorageServer(make_content(6 * MB), etag=etag) as server:
        server.faults.extend([Fault(after=3 * MB), page, page])
        pull(server, partial, limits=TransferLimits(connections=1, retry_seconds=0.01))
        assert partial.read_bytes() == server.content
        assert all(request.range and request.range[0] > 0 for request in server.requests[1:])


# Network errors


@pytest.mark.parametrize("fault", WEATHER.values(), ids=WEATHER)
def test_transient_errors_are_retried(server: StorageServer, partial: Path, fault: Fault) -> None:
    server.faults.append(fault)
    pull(server, partial)
    assert partial.read_bytes() == server.content


def test_link_that_moves_is_never_given_up(partial: Path) -> None:
    with StorageServer(make_content(60_000)) as server:
        server.always = Fault(after=1000)  # sixty resets in a row, each after a few bytes more
        limits = TransferLimits(connections=1, retry_seconds=0.001, network_wait_seconds=2)
        pull(server, partial, limits=limits)
        assert partial.read_bytes() == server.content
        assert len(server.requests) >= 60


def test_wait_that_is_too_long_is_an_error_with_its_length(server: StorageServer, partial: Path) -> None:
    server.always = Fault(status=429, headers=(("Retry-After", "3600"),))
    with pytest.raises(RateLimitedError) as caught:
        pull(server, partial)
    assert caught.value.retry_after == 3600
    assert "network_wait_seconds" in str(caught.value)


def test_expired_link_is_renewed(server: StorageServer, partial: Path) -> None:
    interrupt_transfer(server, partial, MB)
    location = server.locate()
    server.expire()
    links = [location]
    download_file(
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
def test_refusal_is_not_retried(
    server: StorageServer, partial: Path, status: int, kind: type[HfModelsError], most: int
) -> None:
    server.always = Fault(status=status)
    with pytest.raises(kind):
        pull(server, partial)
    assert len(server.requests) <= most


def test_server_that_only_fails_is_given_up(server: StorageServer, partial: Path) -> None:
    server.always = Fault(status=500)
    limits = TransferLimits(connections=4, retry_seconds=0.001)
    with pytest.raises(HubUnavailableError):
        pull(server, partial, limits=limits)


def test_lost_network_is_waited_for(server: StorageServer, partial: Path) -> None:
    server.rate = 2 * MB
    gone = threading.Event()

    def watch(event: Event) -> None:
        if event.kind == "waiting" and gone.is_set():
            server.rate = 0
            gone.clear()
            server.reconnect()
        elif event.done >= MB and not gone.is_set() and server.rate:
            gone.set()
            server.disconnect()

    events = pull(server, partial, progress=watch)
    assert partial.read_bytes() == server.content
    assert any(event.kind == "waiting" for event in events)


def test_network_that_stays_lost_is_given_up_and_the_bytes_kept(server: StorageServer, partial: Path) -> None:
    interrupt_transfer(server, partial, MB)
    server.disconnect()
    limits = TransferLimits(network_wait_seconds=0.5, retry_seconds=0.02, connect_seconds=1)
    with pytest.raises(OfflineError):
        pull(server, partial, limits=limits)
    state = read_journal(journal_path(partial))
    assert state is not None
    assert state.done.total >= MB
    server.reconnect()


def test_host_without_an_address_is_waited_for(server: StorageServer, partial: Path) -> None:
    links = [Location("http://no-such-host.invalid/x", {}, len(server.content), server.sha256, COMMIT)]
    limits = TransferLimits(network_wait_seconds=0.3, retry_seconds=0.02)
    with pytest.raises(OfflineError):
        download_file(
            lambda: links[0],
            server.expected,
            partial,
            limits=limits,
            progress=lambda _: None,
            stop=threading.Event(),
        )


def test_requests_to_the_hub_are_retried_too(server: StorageServer, partial: Path) -> None:
    failures = [HubUnavailableError("HTTP 502"), OfflineError("no route"), NetworkError("reset")]

    def locate() -> Location:
        if failures:
            raise failures.pop()
        return server.locate()

    download_file(locate, server.expected, partial, limits=LIMITS, progress=lambda _: None, stop=threading.Event())
    assert partial.read_bytes() == server.content


# Disk space and rate


def test_full_disk_is_noticed_before_the_first_byte(server: StorageServer, partial: Path) -> None:
    with pytest.raises(DiskFullError) as caught:
        pull(server, partial, limits=TransferLimits(disk_reserve=10**18))
    assert caught.value.missing_bytes > 10**17
    assert server.requests == []


def test_stop_does_not_wait_for_a_silent_hub(server: StorageServer, partial: Path) -> None:
    stop, answered = threading.Event(), threading.Event()

    def locate() -> Location:
        stop.set()
        answered.wait()
        return server.locate()

    try:
        with pytest.raises(InterruptedByUserError):
            download_file(locate, server.expected, partial, limits=LIMITS, progress=lambda _: None, stop=stop)
    finally:
        answered.set()
    assert server.requests == []


# One owner


def test_finished_file_is_reported_if_its_owner_file_can_not_be_removed(
    server: StorageServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.unlink

    def unlink(path: Path, *arguments: Any, **options: Any) -> None:
        if path.suffix == ".owner":  # as on Windows while a waiting process reads it
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
    assert list_names(partial) == {partial.name}
