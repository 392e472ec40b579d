"""Every error of `serve`, `mirror` and the MCP server is JSON: malformed HTTP, limits, bad JSON, the server's end."""

from __future__ import annotations

import json
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.servers import connections, request_limits
from llm_hf_models.servers.catalog import ServedRepo
from llm_hf_models.servers.hub_mirror import make_server
from tests.conftest import Home
from tests.support import mirror_repos
from tests.support.http_servers import COMMANDS, KEY, POST_PATHS, ServerProcess, read_all, run_server_command
from tests.support.mirror_repos import RepoList, run_server
from tests.support.waiting import wait_until

folder = mirror_repos.folder
repo_list = mirror_repos.repo_list

CLOSE, JSON_TYPE = "Connection: close", "Content-Type: application/json"


@pytest.fixture(params=COMMANDS)
def server(request: pytest.FixtureRequest, home: Home, tmp_path: Path) -> Iterator[ServerProcess]:  # noqa: ARG001
    with run_server_command(request.param, tmp_path) as server:
        yield server


def parse_error(command: str, response: bytes) -> tuple[int, str]:
    """Return the status and the message of an error, which must be one response in the server's format."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), response
    assert response.count(b"HTTP/1.1 ") == 1
    error = json.loads(body)["error"]
    return int(head.split()[1]), error if command == "mirror" else error["message"]


def read_message(connection: socket.socket) -> bytes:
    """Return a response that ends in an object, on a connection that stays open."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65536)
    return received


def build_malformed(server: ServerProcess) -> list[tuple[bytes, int]]:
    """Return requests that are not valid, and the status of each."""
    path = POST_PATHS[server.command]
    return [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Big: " + b"a" * 200_000 + b"\r\n\r\n", 400),
        (server.build_head("POST", "Content-Length: 2", "Content-Length: 3", path=path) + b"{}", 400),
        (server.build_head("POST", "Content-Length: -1", path=path), 400),
        (server.build_head("POST", "Content-Length: 0x2", path=path) + b"{}", 400),
        (server.build_head("POST", "Transfer-Encoding: chunked", path=path) + b"zz\r\n", 400),
        *(
            (server.build_head("GET", CLOSE, f"Host: {host}", path=path), 400)
            for host in ("[::1", "[zz]", "[1:2]:80", "a:b", "a:99999", "a b", "a/b", "a@b", "")
        ),
        (server.build_head("GET", CLOSE, path="http://[::1/"), 400),
        (server.build_head("GET", CLOSE, path="http://127.0.0.1/health"), 400),
        (server.build_head("OPTIONS", CLOSE, path="*"), 400),
        (server.build_head("GET", CLOSE, path="/nothing/here/[::1"), 404),
        (server.build_head("PUT", CLOSE, path=path), 405),
        (server.build_head("POST", CLOSE, "Content-Length: 99999999999999999999", path=path), 413),
    ]


def test_malformed_requests_get_errors_as_json(server: ServerProcess) -> None:
    for data, status in build_malformed(server):
        found, message = parse_error(server.command, server.exchange(data))
        assert (data[:200], found) == (data[:200], status)
        assert message
    assert server.answers(5)


def test_body_in_chunks_beyond_the_limit_gets_an_error(server: ServerProcess) -> None:
    if server.command == "serve":
        pytest.skip("its limit of 256 MiB takes too long to send")
    head = server.build_head("POST", JSON_TYPE, "Transfer-Encoding: chunked", path=POST_PATHS[server.command])
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with server.connect() as connection:
        connection.sendall(head)
        for _ in range(5):
            connection.sendall(chunk)
        assert parse_error(server.command, read_message(connection))[0] == 413


BODIES = [
    (b'{"messages": "\\ud800"}', "surrogate"),
    (b'{"messages": NaN}', "NaN"),
    (b'{"messages": 1e400}', "overflow"),
    (b'{"messages": -Infinity}', "infinity"),
    (b'{"messages": ' + b"1" * 400 + b"}", "big integer"),
    (b'{"messages": ' + b"1" * 5000 + b"}", "huge integer"),
    (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
    (b'{"messages": ' + b"[" * 940 + b"]" * 940 + b"}", "nearly too deep"),
    (b'{"messages": "\xff"}', "not UTF-8"),
    (b"[]", "list"),
    (b'{"a": 1,}', "comma"),
    (b"", "empty"),
]


@pytest.mark.parametrize("command", ["serve", "mcp"])
def test_bodies_that_are_not_usable_json_get_errors(command: str, tmp_path: Path) -> None:
    with run_server_command(command, tmp_path) as server:
        for body, name in BODIES:
            length = f"Content-Length: {len(body)}"
            head = server.build_head("POST", CLOSE, JSON_TYPE, length, path=POST_PATHS[command])
            assert (name, parse_error(command, server.exchange(head + body))[0]) == (name, 400)


def test_last_of_two_equal_keys_counts(tmp_path: Path) -> None:
    body = b'{"model": "tiny", "model": "other", "messages": []}'
    with run_server_command("serve", tmp_path) as server:
        head = server.build_head("POST", CLOSE, f"Content-Length: {len(body)}", path=POST_PATHS["serve"])
        assert parse_error("serve", server.exchange(head + body)) == (404, "The model 'other' is not served")


@pytest.mark.parametrize("command", COMMANDS)
def test_request_that_the_end_of_the_server_cancels_gets_an_error(command: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(run_server_command(command, tmp_path, may_end=True))
        connection = stack.enter_context(server.connect())
        connection.sendall(server.build_head("POST", JSON_TYPE, "Content-Length: 9", path=POST_PATHS[command]) + b"{")
        assert server.answers(10)  # so the request before it has started
        server.process.send_signal(signal.SIGTERM)
        assert parse_error(command, read_all(connection)) == (503, "The server was stopped")
        server.process.wait(10)


def test_key_is_checked_before_a_body_is_read(tmp_path: Path) -> None:
    for command in ("serve", "mcp"):
        with run_server_command(command, tmp_path) as server:
            head = server.build_head("POST", "Content-Length: 1000000", path=POST_PATHS[command])
            data = head.replace(KEY.encode(), b"wrong") + b"{"
            with server.connect() as connection:
                connection.sendall(data)
                received = read_message(connection)
            assert parse_error(command, received)[0] == 401


def post_part(address: Any, size: int, stack: ExitStack) -> socket.socket:
    """Start a request whose body lacks its last byte."""
    connection = stack.enter_context(socket.create_connection(address, timeout=10))
    head = f"POST {POST_PATHS['mirror']} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size + 1}\r\n\r\n"
    connection.sendall(head.encode() + b" " * size)
    return connection


def test_bodies_of_all_requests_have_a_limit(repo_list: RepoList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "ALL_BODIES_BYTES", 0)  # the limit is then two bodies
    server, size = make_server(repo_list), (1 << 20) - 1
    with run_server(server):
        with ExitStack() as stack:
            opened = [post_part(server.server_address[:2], size, stack) for _ in range(3)]
            (refused, *more), _, _ = select.select(opened, [], [], 10)
            received = read_message(refused)
            assert parse_error("mirror", received) == (503, "The requests in progress are too large")
            assert not more
        wait_until(lambda: not server._server.server_state.tasks)
        with ExitStack() as stack:
            again = post_part(server.server_address[:2], size, stack)
            again.sendall(b" ")
            assert again.recv(12) == b"HTTP/1.1 404"


class BusyRepoList(RepoList):
    """A catalogue that does not answer until `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.arrived = threading.Semaphore(0)

    def list_repos(self) -> list[ServedRepo]:
        self.arrived.release()
        assert self.release.wait(30)
        return super().list_repos()


def test_requests_in_progress_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)  # so three requests
    repos = BusyRepoList()
    server = make_server(repos)
    with run_server(server), ExitStack() as stack:
        stack.callback(repos.release.set)
        for _ in range(3):
            post_part(server.server_address[:2], 1, stack).sendall(b" ")
            assert repos.arrived.acquire(timeout=10)
        refused = post_part(server.server_address[:2], 1, stack)
        refused.sendall(b" ")
        received = read_message(refused)
        assert parse_error("mirror", received) == (503, "Too many requests are in progress")
        assert b"retry-after: 1" in received


def test_slow_bodies_do_not_keep_others_out(repo_list: RepoList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(connections, "SLOW_BODY_SECONDS", 0)
    server = make_server(repo_list)
    with run_server(server), ExitStack() as stack:
        slow = [post_part(server.server_address[:2], 1, stack) for _ in range(4)]
        wait_until(lambda: len(server._server.server_state.tasks) == 4)
        other = stack.enter_context(socket.create_connection(server.server_address[:2], timeout=10))
        other.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert other.recv(12) == b"HTTP/1.1 200"
        assert parse_error("mirror", read_message(slow[0])) == (503, "Too many connections")
        slow[1].sendall(b" ")
        assert slow[1].recv(12) == b"HTTP/1.1 404"


def test_client_that_leaves_a_body_unfinished_is_not_logged(tmp_path: Path) -> None:
    with run_server_command("mcp", tmp_path) as server:
        with server.connect() as connection:
            connection.sendall(server.build_head("POST", JSON_TYPE, "Content-Length: 90000", path="/mcp") + b'{"a":')
        assert server.answers(10)
    assert len(server.log.read_text().splitlines()) == 2  # its address, and a hint about the token
