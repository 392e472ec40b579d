"""Many connections, slow ones and too few file descriptors: `serve`, `mirror` and the MCP server go on."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_hf_models.servers import connections
from llm_hf_models.servers.catalog import ServedRepo
from llm_hf_models.servers.hub_mirror import make_server
from tests.support import mirror_repos
from tests.support.http_servers import COMMANDS, open_connections, read_all, run_server_command
from tests.support.mirror_repos import RepoList, run_server
from tests.support.waiting import wait_until

MAX_FILES = 256
MANY = 1000
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PART = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "

folder = mirror_repos.folder
repo_list = mirror_repos.repo_list


def test_a_thousand_silent_connections_delay_no_request(tmp_path: Path) -> None:
    with run_server_command("mcp", tmp_path, max_files=MAX_FILES) as server:  # all three: tests/storm
        assert server.answers(10)
        with open_connections(server, MANY):
            assert server.answers(5)
            used = sum(server.process.cpu_times()[:2])
            assert server.answers(5)
        assert server.answers(1)
        assert sum(server.process.cpu_times()[:2]) - used < 1
        assert server.process.num_fds() < MAX_FILES // 2


@pytest.mark.skipif(sys.platform != "linux", reason="changes the limit of another process")
@pytest.mark.parametrize("command", COMMANDS)
def test_server_without_file_descriptors_waits_and_goes_on(command: str, tmp_path: Path) -> None:
    import resource

    with run_server_command(command, tmp_path) as server:
        assert server.answers(10)
        pid, fds = server.process.pid, server.process.num_fds()
        _, hard = before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        with server.connect() as waiting:
            assert waiting
            wait_until(lambda: server.process.num_fds() > fds)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (fds + 1, hard))
            used = sum(server.process.cpu_times()[:2])
            assert not server.answers(2)
            assert sum(server.process.cpu_times()[:2]) - used < 0.5
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            assert server.answers(3)


# The deadlines, shortened


@contextmanager
def run_mirror(repo_list: RepoList) -> Iterator[tuple[str, int]]:
    server = make_server(repo_list)
    with run_server(server):
        yield server.server_address[:2]


@pytest.fixture
def address(repo_list: RepoList, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.4)
    monkeypatch.setattr(connections, "READ_SECONDS", 0.4)
    with run_mirror(repo_list) as address:
        yield address


@pytest.mark.parametrize(("first", "sent"), [(b"", b""), (b"", PART), (HEALTH, PART)])
def test_head_has_one_deadline(address: tuple[str, int], first: bytes, sent: bytes) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(first)
        if first:
            received = b""
            while not received.endswith(b"ok\n"):
                received += connection.recv(65536)
        started = time.monotonic()
        connection.sendall(sent)
        stop = _trickle(connection) if sent else threading.Event()
        received = read_all(connection)
        stop.set()
        assert 0.3 < time.monotonic() - started < 3
    if sent:
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body) == {"error": "The request did not arrive in time"}
    else:
        assert received == b""


def _trickle(connection: socket.socket) -> threading.Event:
    """Send a byte every 50 ms until the event is set."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.05):
            try:
                connection.send(b"a")
            except OSError:
                return

    threading.Thread(target=send, daemon=True).start()
    return stop


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/models/acme/tiny-GGUF/paths-info/main", b"408"), ("/api/models", b"405")],  # read, and not read by the app
)
def test_body_must_make_progress(address: tuple[str, int], path: str, status: bytes) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90000\r\n\r\n".encode())
        stop = _trickle(connection)
        received = read_all(connection)
        stop.set()
    assert received.startswith(b"HTTP/1.1 " + status)
    assert received.count(b"HTTP/1.1") == 1


def test_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.4)
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(64 << 20)
    repos = RepoList()
    repos.all = [ServedRepo("acme/big", "a" * 40, (mirror_repos.ServedFile("big.bin", big, 64 << 20, None, "b" * 40),))]
    server = make_server(repos)
    with run_server(server), socket.create_connection(server.server_address[:2], timeout=10) as connection:
        connection.sendall(b"GET /acme/big/resolve/main/big.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(100)
        wait_until(lambda: not server._server.server_state.connections, 10)
        assert len(read_all(connection)) < 64 << 20


def test_newest_connection_replaces_the_one_that_waited_longest(
    repo_list: RepoList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    with run_mirror(repo_list) as address:
        opened = [socket.create_connection(address, timeout=10) for _ in range(6)]
        try:
            assert [one.recv(1) for one in opened[:2]] == [b"", b""]
            for one in opened[2:]:
                one.sendall(HEALTH)
                assert one.recv(65536).startswith(b"HTTP/1.1 200 ")
        finally:
            for one in opened:
                one.close()
