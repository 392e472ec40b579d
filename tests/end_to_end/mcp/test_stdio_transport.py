"""MCP over stdio as raw lines: each line that is no message gets a JSON-RPC error, and the session goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.hub_server import HubServer, Stall
from tests.support.mcp_hub import BIG_BYTES, Q8, REPO
from tests.support.waiting import wait_until

hub = mcp_hub.hub

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND = -32700, -32600, -32601
PARAMS: Any = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}
# Each invalid line with the code and the id of the error.
LINES: tuple[tuple[bytes, int, object], ...] = (
    (b"garbage", PARSE_ERROR, None),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "ping"', PARSE_ERROR, None),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "ping\xff\xfe"}', PARSE_ERROR, None),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "ping\\ud800"}', PARSE_ERROR, 7),
    (b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping", "params": {"x": NaN}}', PARSE_ERROR, None),
    (b"[" * 100_000, PARSE_ERROR, None),
    (b'{"a":' * 50_000, PARSE_ERROR, None),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "' + b"x" * (5 << 20) + b'"}', PARSE_ERROR, None),
    (b"x" * (9 << 20), PARSE_ERROR, None),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"x": NaN}}', PARSE_ERROR, 7),
    (b'{"jsonrpc": "2.0", "id": "a", "method": "ping", "params": {"x": [-Infinity]}}', PARSE_ERROR, "a"),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"x": 1e400}}', PARSE_ERROR, 7),
    (b'{"jsonrpc": "2.0", "id": Infinity, "method": "ping"}', PARSE_ERROR, None),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"x": ' + b"9" * 5000 + b"}}", PARSE_ERROR, None),
    (b"{}", INVALID_REQUEST, None),
    (b"[]", INVALID_REQUEST, None),
    (b'[{"jsonrpc": "2.0", "id": 7, "method": "ping"}]', INVALID_REQUEST, None),
    (b"null", INVALID_REQUEST, None),
    (b'"text"', INVALID_REQUEST, None),
    (b'{"jsonrpc": "2.0", "id": 7}', INVALID_REQUEST, None),
    (b'{"jsonrpc": "1.0", "id": 7, "method": "ping"}', INVALID_REQUEST, 7),
    (b'{"jsonrpc": 2.0, "id": "seven", "method": "ping"}', INVALID_REQUEST, "seven"),
    (b'{"id": 7, "method": "ping"}', INVALID_REQUEST, 7),
    (b'{"jsonrpc": "2.0", "id": 7, "method": ["ping"]}', INVALID_REQUEST, 7),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": [1]}', INVALID_REQUEST, 7),
    (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', INVALID_REQUEST, None),
    (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', INVALID_REQUEST, None),
    (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', INVALID_REQUEST, None),
)


class RawSession:
    """A client that sends lines and reads the server's lines."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        self._server = server

    @property
    def pid(self) -> int:
        return self._server.pid

    def send_line(self, line: bytes) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(line + b"\n")
        self._server.stdin.flush()

    def read(self) -> Any:
        assert self._server.stdout is not None
        return json.loads(self._server.stdout.readline())

    def ask(self, method: str, params: Any = None, request_id: int = 1) -> Any:
        content = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
        self.send_line(json.dumps(content).encode())
        answer = self.read()
        assert answer["id"] == request_id, answer
        return answer["result"]


@pytest.fixture
def session(home: Home) -> Iterator[RawSession]:  # noqa: ARG001
    command = [sys.executable, "-m", "llm_hf_mcp"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        raw = RawSession(server)
        yield raw
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(20) == 0


def test_each_invalid_line_gets_an_error_and_the_session_goes_on(session: RawSession) -> None:
    session.ask("initialize", PARAMS)
    session.send_line(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')
    for line, code, request_id in LINES:
        session.send_line(line)
        answer = session.read()
        assert (answer["jsonrpc"], answer["id"], answer["error"]["code"]) == ("2.0", request_id, code), line[:80]
        assert answer["error"]["message"]
        assert len(json.dumps(answer)) < 300
    for blank in (b"", b"  ", b"\r"):
        session.send_line(blank)  # no message, and no answer
    session.send_line(b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "no"}}')  # no answer either
    assert len(session.ask("tools/list", request_id=9)["tools"]) > 5


def test_invalid_line_before_the_handshake_is_answered(session: RawSession) -> None:
    session.send_line(b"\xef\xbb\xbf{")
    assert session.read()["error"]["code"] == PARSE_ERROR
    assert session.ask("initialize", PARAMS)["serverInfo"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no zombies")
def test_worker_that_was_killed_is_no_zombie(hub: HubServer, session: RawSession) -> None:
    hub.fault(Stall(after=BIG_BYTES // 2), on=Q8, side="storage", times=None)
    session.ask("initialize", PARAMS)
    session.ask("tools/call", {"name": "hf_download_model", "arguments": {"ref": f"{REPO}:Q8_0"}})
    hub.wait_until(lambda: hub.sent(Q8, side="storage") >= BIG_BYTES // 2)
    (worker,) = psutil.Process(session.pid).children()
    worker.kill()
    wait_until(lambda: not worker.is_running(), message="the worker is still there")
    hub.clear()
    assert [event.kind for event in Library().follow(1)][-1] == "done"
