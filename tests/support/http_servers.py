"""The three commands that serve HTTP, as processes, and raw connections to them."""

from __future__ import annotations

import os
import selectors
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from llm_hf_models.service import Library
from tests.support.commands import SCRIPTS
from tests.support.ggufs import tiny_chat
from tests.support.waiting import wait_until

KEY = "a-key-for-these-tests-0123456789"
COMMANDS = ("serve", "mirror", "mcp")
_PATHS = {"serve": "/v1/models", "mirror": "/api/models", "mcp": "/mcp"}
POST_PATHS = {"serve": "/v1/chat/completions", "mirror": "/api/models/acme/tiny/paths-info/main", "mcp": "/mcp"}
# MCP has no GET without a session; the error shows that the server responds.
_STATUSES = {"serve": 200, "mirror": 200, "mcp": 400}
MANY_SECONDS = 30


@dataclass(frozen=True)
class ServerProcess:
    """A running command, and its address."""

    command: str
    process: psutil.Popen
    address: tuple[str, int]
    log: Path

    def connect(self, seconds: float = MANY_SECONDS) -> socket.socket:
        return socket.create_connection(self.address, timeout=seconds)

    def build_head(self, method: str = "GET", *headers: str, path: str | None = None) -> bytes:
        lines = [f"{method} {path or _PATHS[self.command]} HTTP/1.1", f"Authorization: Bearer {KEY}"]
        lines += ["Accept: application/json, text/event-stream", *headers]
        if not any(line.lower().startswith("host:") for line in headers):
            lines.append("Host: 127.0.0.1")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def exchange(self, data: bytes, seconds: float = MANY_SECONDS) -> bytes:
        """Send bytes and return everything that the server sends until it closes the connection."""
        with self.connect(seconds) as connection:
            connection.sendall(data)
            return read_all(connection)

    def answers(self, seconds: float) -> bool:
        """Return whether the server answers a request within a time."""
        try:
            response = self.exchange(self.build_head("GET", "Connection: close"), seconds)
        except OSError:
            return False
        return response.startswith(b"HTTP/1.1 %d " % _STATUSES[self.command])


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


@contextmanager
def run_server_command(
    command: str, folder: Path, *flags: str, max_files: int | None = None, may_end: bool = False
) -> Iterator[ServerProcess]:
    """Run a command that serves a tiny model, with a limit of its file descriptors."""
    model = folder / "tiny-Q8_0.gguf"
    if command != "mcp" and not model.exists():
        Library().import_file(tiny_chat(model), repo="acme/tiny", aliases=["tiny"])
    words = {
        "serve": [SCRIPTS / "llm", "hf", "serve", "tiny", "--port", "0", "--key", KEY],
        "mirror": [SCRIPTS / "llm", "hf", "mirror", "--port", "0", "--allow", "acme/tiny"],
        "mcp": [sys.executable, "-m", "llm_hf_mcp", "--http", "0"],
    }[command]
    limit = [] if max_files is None else ["sh", "-c", f'ulimit -n {max_files} && exec "$@"', "sh"]
    log, output = folder / f"{command}.log", folder / f"{command}.out"
    with log.open("wb") as errors, output.open("wb") as printed:
        process = psutil.Popen(
            [*limit, *map(str, words), *flags],
            stdout=printed,
            stderr=errors,
            env={**os.environ, "LLM_HF_MCP_TOKEN": KEY, "PYTHONUNBUFFERED": "1"},
        )
    try:
        announced = log if command == "mcp" else output
        wait_until(
            lambda: "\n" in announced.read_text() or process.poll() is not None,
            message=lambda: f"{command} printed no address: {log.read_text()}",
        )
        parts = urlsplit(announced.read_text().partition("\n")[0].strip())
        assert parts.hostname, log.read_text()
        yield ServerProcess(command, process, (parts.hostname, parts.port or 0), log)
        assert may_end or process.poll() is None
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(10)
    assert "Traceback" not in log.read_text()


@contextmanager
def open_connections(server: ServerProcess, count: int) -> Iterator[list[socket.socket]]:
    """Open that many connections at once."""
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        opened = []
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(server.address)
            selector.register(connection, selectors.EVENT_WRITE)
            opened.append(connection)
        pending = count
        while pending:
            ready = selector.select(MANY_SECONDS)
            assert ready
            for key, _ in ready:
                selector.unregister(key.fileobj)
            pending -= len(ready)
        yield opened
