"""Waves of a thousand connections at `ulimit -n 256`: `serve`, `mirror` and the MCP server answer and do not grow.

`make storm` sends 20 waves to each command, STORM_SHARE=0.1 two.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from llm_hf_models.servers import connections
from tests.support.http_servers import COMMANDS, POST_PATHS, ServerProcess, open_connections, run_server_command
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.storm,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform == "win32", reason="sets the limit of file descriptors"),
]

SHARE = float(os.environ.get("STORM_SHARE") or 1)
WAVES = max(2, int(20 * SHARE))
MAX_FILES = 256
MANY = 1000
GROWTH_BYTES = 16 << 20
ANSWER_SECONDS = 5  # while the connections are open
SEED = 15


def make_openings(server: ServerProcess) -> dict[str, bytes]:
    """Return what clients send before they stop, by the kind of the client."""
    path = POST_PATHS[server.command]
    body = server.build_head("POST", "Content-Type: application/json", "Content-Length: 90000", path=path)
    return {
        "silent": b"",
        "part of a head": server.build_head()[:40],
        "part of a body": body + b'{"model": "tiny", "messages": [',
        "idle after a request": server.build_head(),
        "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        "several requests": server.build_head() * 3,
    }


def choose_one(openings: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    return dict([chance.choice(list(openings.items()))])


def start_clients(opened: Sequence[socket.socket], openings: dict[str, bytes], chance: random.Random) -> Counter[str]:
    """Let each connection begin in its own way. Some end at once, by FIN or RST."""
    kinds: Counter[str] = Counter()
    for connection in opened:
        kind = chance.choice(list(openings))
        kinds[kind] += 1
        try:
            connection.send(openings[kind])
            if chance.random() < 0.1:
                connection.shutdown(socket.SHUT_WR)
            elif chance.random() < 0.1:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        except OSError:
            kinds["closed by the server"] += 1
    return kinds


@pytest.mark.parametrize("command", COMMANDS)
def test_server_survives_waves_of_a_thousand_connections(command: str, tmp_path: Path) -> None:
    chance, kinds, waits = random.Random(SEED), Counter[str](), []
    with run_server_command(command, tmp_path, max_files=MAX_FILES) as server:
        assert server.answers(10)
        openings, fds, memory = make_openings(server), server.process.num_fds(), 0
        for wave in range(WAVES):
            with open_connections(server, MANY) as opened:
                kinds += start_clients(opened, chance.choice([openings, choose_one(openings, chance)]), chance)
                started = time.monotonic()
                wait_until(lambda: server.answers(ANSWER_SECONDS), ANSWER_SECONDS, poll_seconds=0.1)
                waits.append(time.monotonic() - started)
                used = sum(server.process.cpu_times()[:2])
                wait_until(lambda: server.answers(ANSWER_SECONDS), ANSWER_SECONDS, poll_seconds=0.1)
                assert sum(server.process.cpu_times()[:2]) - used < 1, "the server spins"
            wait_until(lambda: server.answers(1), 2)
            memory = memory or server.process.memory_info().rss
            assert server.process.memory_info().rss - memory < GROWTH_BYTES, f"grows: wave {wave}"
        wait_until(lambda: server.process.num_fds() <= fds, 10, message=server.process.open_files)
    print(f"connection storm on {command}: {WAVES} waves, {dict(kinds)}, all answered within {max(waits):.2f} s")  # noqa: T201


@pytest.mark.parametrize("command", COMMANDS)
def test_a_thousand_trickling_connections_are_closed(command: str, tmp_path: Path) -> None:
    head = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"a" * 1000
    with run_server_command(command, tmp_path, max_files=MAX_FILES) as server, open_connections(server, MANY) as opened:
        left, started = list(enumerate(opened)), time.monotonic()
        sent = 0
        while left:
            assert time.monotonic() - started < connections.HEAD_SECONDS + 5
            left = [(number, one) for number, one in left if _send_byte(one, head[sent : sent + 1])]
            sent += 1
            assert server.answers(5)
        assert time.monotonic() - started > connections.HEAD_SECONDS - 1  # some were kept that long
        assert server.answers(1)


def _send_byte(connection: socket.socket, byte: bytes) -> bool:
    """Send one byte; return False if the server has closed the connection."""
    try:
        connection.send(byte)
        return connection.recv(65536) != b"" and _send_byte(connection, byte)
    except BlockingIOError:
        return True
    except OSError:
        return False
