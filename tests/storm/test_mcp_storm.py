"""Fuzzed calls of every MCP tool, with arguments from the schemas and hostile ones: each is answered, the server stays.

`make storm` makes 2,000 calls, STORM_SHARE=0.1 a tenth.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, Tool

from llm_hf_models import Library
from llm_hf_models.system.text import is_hidden
from tests.support import mcp_hub
from tests.support.http_servers import ServerProcess, run_server_command
from tests.support.hub_server import HubServer
from tests.support.mcp_hosts import get_text, run_async
from tests.support.mcp_hub import REPO
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.storm, pytest.mark.timeout(7200)]

hub = mcp_hub.hub

SHARE = float(os.environ.get("STORM_SHARE") or 1)
CALLS = max(60, int(2000 * SHARE))
RAW_CALLS = max(40, int(1000 * SHARE))
HTTP_REQUESTS = max(100, int(5000 * SHARE))
GROWTH_BYTES = 32 << 20
AT_ONCE = 4
SEED = 44
CALL_SECONDS = 50
MAX_ANSWER_CHARS = 10_000
LOCAL = f"hf/{REPO}:Q4_K_M"

# Names that exist, or nearly exist.
NAMES = (LOCAL, REPO, f"{REPO}:Q8_0", f"{REPO}:Q4_K_M", f"{REPO}@main", "owner/nothing-GGUF", "small", "tiny-GGUF")
WORDS = ("tiny", "small", "owner", "apache-2.0", "text-generation", "en", "8B", "main", "Hello", "Ünï \U0001f600")
HOSTILE_TEXTS = (
    *("", " ", "\0", "\x1b[2J\x1b]0;x\a", "\u202eevil\u2066", "\ufeff", "\U000e0041\U000e0042", "a\nb\r\nc\u2028d"),
    *("../../../../etc/passwd", "/etc/passwd", "~/.ssh/id_rsa", "C:\\x", "file:///etc/passwd", "hf://", "owner/x:../y"),
    *("%2e%2e%2f", "$(id)", "-rf", "--help", "1; drop table downloads", "owner/name@", "@", ":", "/", "owner/"),
    *("x" * 300, "x" * 1000, "x" * 30_000, "é" * 999, "\U0001f600" * 500, "</untrusted-text>", "NaN", "null", "1e400"),
)
HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**53, 2**63, 10**30, -(2**70), 1e308, [], {}, [None], [[]], {"a": {}}),
    *([["x"] * 100], {"": None}, [{"name": LOCAL}], {"$ref": "#"}),
)
# Values that only a client without the SDK sends.
RAW_VALUES = (
    *("NaN", "Infinity", "-1e400", r'"\ud800"', r'"x\udfff"', "1" * 5000),
    *("[" * 300 + "]" * 300, '{"a":' * 90 + "1" + "}" * 90),
    *('{"a": 1, "a": 2}', "-0", "1e5", "0.1", r'"\u0000"'),
)
RAW_MARK = "\ufdd0"  # stands for such a value until the JSON is written


@dataclass(frozen=True)
class Fuzzer:
    """Makes calls of each tool in turn, from its schema."""

    random: random.Random
    tools: Sequence[Tool]
    made: Iterator[int] = field(default_factory=count)

    def make_call(self) -> tuple[str, dict[str, Any]]:
        """Return a tool and its arguments. One half of all calls follow the schema."""
        tool, wild = self.tools[next(self.made) % len(self.tools)], self.random.random() < 0.5
        properties = tool.input_schema.get("properties", {})
        required = set(tool.input_schema.get("required", ()))
        arguments = {
            name: self._make_argument(name, schema, wild=wild)
            for name, schema in properties.items()
            if self.random.random() < (0.3 if name not in required else 0.95 if wild else 1)
        }
        if wild and self.random.random() < 0.1:
            arguments[self.random.choice(["confirm", "path", "token", "", "__class__", "\x1b[31m" * 100])] = 1
        return tool.name, arguments

    def _make_argument(self, name: str, schema: dict[str, Any], *, wild: bool) -> Any:
        if name in ("name", "model", "repo", "ref", "confirm") and not (wild and self.random.random() < 0.5):
            return LOCAL if self.random.random() < 0.4 else self.random.choice(NAMES)
        if name in ("id", "wait_seconds") and not wild:
            return self.random.randint(1, 5)
        if wild and self.random.random() < 0.3:
            return self.random.choice((*HOSTILE_VALUES, *HOSTILE_TEXTS))
        return self._make_value(schema, wild=wild)

    def _make_value(self, schema: dict[str, Any], *, wild: bool) -> Any:
        """Return a value that follows the schema, often at its limits; if `wild`, perhaps beyond them."""
        if "anyOf" in schema:
            return self._make_value(self.random.choice(schema["anyOf"]), wild=wild)
        texts = (*HOSTILE_TEXTS, *NAMES) if wild else WORDS
        match schema.get("type"):
            case "integer" | "number":
                limits = (schema.get("minimum", -(10**6)), schema.get("maximum", 10**6))
                beyond = (limits[0] - 1, limits[1] + 1) if wild else ()
                choices: Sequence[Any] = (*limits, self.random.randint(1, 8), *beyond)
            case "boolean":
                choices = (True, False)
            case "array":
                size = self.random.choice([0, 1, 1, 2, 12] if wild else [0, 1, 2])
                choices = ([self._make_value(schema.get("items", {}), wild=wild) for _ in range(size)],)
            case "null":
                choices = (None,)
            case _:
                choices = schema.get("enum", texts)
        return self.random.choice(choices)


@asynccontextmanager
async def connect(log: IO[str]) -> AsyncIterator[Client]:
    """Connect a client without forms to a server whose stderr is written to a file."""
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "llm_hf_mcp", "--allow-delete"], env=dict(os.environ)
    )
    async with Client(stdio_client(command, errlog=log)) as client:
        yield client


def restore_model() -> None:
    """Pull the model again if a call has deleted it."""
    if LOCAL not in [model.id for model in Library().list()]:
        Library().pull(f"{REPO}:Q4_K_M")


def check_text(text: str) -> None:
    assert text.strip()
    assert len(text) < MAX_ANSWER_CHARS, f"{len(text)} characters"
    assert "Traceback" not in text
    assert not [char for char in text if is_hidden(char) and char not in "\n\t"]


def check_answer(result: CallToolResult) -> str:
    check_text(get_text(result))
    if result.structured_content is not None:
        check_text(json.dumps(result.structured_content, ensure_ascii=False))
    assert result.is_error or result.structured_content is not None
    return "refused" if result.is_error else "answered"


@run_async
async def test_every_fuzzed_call_is_answered(hub: HubServer, tmp_path: Path) -> None:  # noqa: ARG001
    ends: Counter[str] = Counter()
    faults: list[str] = []
    log = tmp_path / "stderr"
    with log.open("w") as errors:
        async with connect(errors) as client:
            fuzzer = Fuzzer(random.Random(SEED), (await client.list_tools()).tools)

            async def make_calls() -> None:
                while sum(ends.values()) + len(faults) < CALLS:
                    name, arguments = fuzzer.make_call()
                    started = time.monotonic()
                    try:
                        ends[f"{name} {check_answer(await client.call_tool(name, arguments))}"] += 1
                        assert time.monotonic() - started < CALL_SECONDS, f"{time.monotonic() - started:.0f} s"
                    except (AssertionError, MCPError, ValueError, RuntimeError) as error:
                        faults.append(f"{name}({str(arguments)[:300]}): {type(error).__name__}: {str(error)[:300]}")
                    if sum(ends.values()) % 20 == 0:
                        await asyncio.to_thread(restore_model)

            async with anyio.create_task_group() as tasks:
                for _ in range(AT_ONCE):
                    tasks.start_soon(make_calls)
            assert not (await client.call_tool("hf_status", {})).is_error
    print(f"MCP storm: {CALLS} calls, {dict(sorted(ends.items()))}")  # noqa: T201
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)
    assert "Traceback" not in log.read_text()
    assert {name.split()[0] for name in ends} == {tool.name for tool in fuzzer.tools}


class RawSession:
    """A session with the server, in lines of JSON-RPC."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server, self._number = server, 0
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}
        self.request("initialize", json.dumps(hello))
        self._send('{"jsonrpc": "2.0", "method": "notifications/initialized"}')

    def _send(self, line: str) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()

    def request(self, method: str, params: str) -> dict[str, Any]:
        """Send a request, whose parameters are JSON text, and return the response to it."""
        self._number += 1
        self._send(f'{{"jsonrpc": "2.0", "id": {self._number}, "method": "{method}", "params": {params}}}')
        assert self._server.stdout is not None
        while line := self._server.stdout.readline():
            message: dict[str, Any] = json.loads(line)
            if message.get("id") in (self._number, None) and "method" not in message:
                return message
        raise AssertionError("the server has ended")


@contextmanager
def open_raw_session(log: IO[str]) -> Iterator[RawSession]:
    command = [sys.executable, "-m", "llm_hf_mcp", "--allow-delete"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        yield RawSession(server)
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(30) == 0


def test_values_that_no_sdk_sends_are_answered(hub: HubServer, tmp_path: Path) -> None:  # noqa: ARG001
    chance, ends = random.Random(SEED), Counter[str]()
    faults: list[str] = []
    log = tmp_path / "stderr"
    with log.open("w") as errors, open_raw_session(errors) as session:
        listed = session.request("tools/list", "{}")["result"]["tools"]
        fuzzer = Fuzzer(chance, [Tool.model_validate(tool) for tool in listed])
        for _ in range(RAW_CALLS):
            name, arguments = fuzzer.make_call()
            if arguments:
                arguments[chance.choice(list(arguments))] = RAW_MARK
            value = chance.choice(RAW_VALUES)
            params = json.dumps({"name": name, "arguments": arguments}).replace(json.dumps(RAW_MARK), value)
            message = session.request("tools/call", params)
            try:
                if "result" in message:
                    ends[check_answer(CallToolResult.model_validate(message["result"]))] += 1
                else:
                    check_text(message["error"]["message"])
                    ends["protocol error"] += 1
            except (AssertionError, LookupError) as error:
                faults.append(f"{params[:300]}: {str(error)[:300]}")
        assert session.request("tools/call", '{"name": "hf_status", "arguments": {}}')["result"]["isError"] is False
    print(f"MCP storm of raw values: {RAW_CALLS} calls, {dict(ends)}")  # noqa: T201
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)
    assert "Traceback" not in log.read_text()


# Over HTTP

METHODS = ("POST",) * 8 + ("GET", "DELETE", "PUT", "OPTIONS", "HEAD", "PATCH")
HEADERS = (
    "Content-Type: application/json", "Content-Type: application/json", "Content-Type: text/plain", "Accept: */*",
    "Content-Type: \xff", "Accept: x", "Origin: http://evil.example", "Last-Event-ID: 7",
    "Mcp-Session-Id: nothing", "Mcp-Session-Id: \xff\xfe", "MCP-Protocol-Version: 2025-11-25",
    "MCP-Protocol-Version: 2026-07-28", "MCP-Protocol-Version: 9999-99-99",
)  # fmt: skip
SESSION_REQUESTS = 20
# 409: a session may have only one open stream (mcp/server/streamable_http.py).
HTTP_STATUSES = {None, 200, 202, 400, 403, 404, 405, 406, 409, 413, 415, 503}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}}


def make_body(fuzzer: Fuzzer) -> bytes:
    """Return the body of a request: a valid one, a damaged one, or none."""
    chance = fuzzer.random
    name, arguments = fuzzer.make_call()
    call: Any = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    if chance.random() < 0.3:
        key = chance.choice(["jsonrpc", "id", "method", "params", "more"])
        call[key] = chance.choice(["1.0", "ping", "tools/list", "initialize", "", "a", 5, 1.5, None, [], {}, HELLO])
    body = json.dumps(call if chance.random() < 0.8 else chance.choice([[call, call], {}, [], None])).encode()
    cut = chance.randrange(len(body) + 1)
    return (
        body if chance.random() < 0.7 else chance.choice([body[:cut], body + b"}", b"\xff" + body, b"", b"[" * 100_000])
    )


def open_session(server: ServerProcess) -> list[str]:
    """Open a session of the older protocol; return the headers of its requests."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO})
    kind = "Content-Type: application/json"
    head = server.build_head("POST", kind, f"Content-Length: {len(body)}", "Connection: close", path="/mcp")
    found = re.search(rb"mcp-session-id: *([0-9a-f]+)", server.exchange(head + body.encode()), re.IGNORECASE)
    assert found
    return [kind, f"Mcp-Session-Id: {found[1].decode()}", "MCP-Protocol-Version: 2025-11-25"]


def make_request(server: ServerProcess, fuzzer: Fuzzer, session: list[str]) -> bytes:
    chance, body = fuzzer.random, make_body(fuzzer)
    headers = session if chance.random() < 0.7 else chance.sample(HEADERS, chance.randrange(4))
    return (
        server.build_head(chance.choice(METHODS), *headers, f"Content-Length: {len(body)}", "Connection: close") + body
    )


def send_request(server: ServerProcess, request: bytes, chance: random.Random) -> int | None:
    """Send a request, and return the status. Some clients leave before, during or after the request (None)."""
    with server.connect(CALL_SECONDS) as connection:
        if chance.random() < 0.3:
            connection.sendall(request[: chance.randrange(len(request))])
            return None
        connection.sendall(request)
        if chance.random() < 0.2:
            return None
        received = b""
        while b"\r\n\r\n" not in received and (data := connection.recv(65536)):
            received += data
        return int(received[9:12] or -1)


def test_http_server_survives_requests_of_all_kinds(hub: HubServer, tmp_path: Path) -> None:  # noqa: ARG001
    chance, ends = random.Random(SEED), Counter[str]()
    faults: list[str] = []
    with (tmp_path / "stderr").open("w") as errors, open_raw_session(errors) as session:
        tools = [Tool.model_validate(tool) for tool in session.request("tools/list", "{}")["result"]["tools"]]
    fuzzer = Fuzzer(chance, tools)
    with run_server_command("mcp", tmp_path) as server:
        memory, files = 0, server.process.num_fds()
        session_headers: list[str] = []
        for number in range(HTTP_REQUESTS):
            if number % SESSION_REQUESTS == 0:
                session_headers = open_session(server)
            request = make_request(server, fuzzer, session_headers)
            try:
                status = send_request(server, request, chance)
            except OSError as error:
                faults.append(f"{request[:500]!r}: {error!r}")
                continue
            ends[str(status or "left")] += 1
            if status not in HTTP_STATUSES:
                faults.append(f"{request[:500]!r}: {status}")
            if number == HTTP_REQUESTS // 3:
                memory = server.process.memory_info().rss
        assert server.answers(10)
        wait_until(lambda: server.process.num_fds() < files + 20, 30)
        assert server.process.memory_info().rss - memory < GROWTH_BYTES
    print(f"MCP storm over HTTP: {HTTP_REQUESTS} requests, {dict(ends)}")  # noqa: T201
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)
