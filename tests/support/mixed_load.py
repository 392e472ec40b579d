"""Actions of the people, agents and programs that use one library at once, and the kills of their processes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult

from tests.support.commands import SCRIPTS
from tests.support.http_servers import KEY, ServerProcess
from tests.support.mcp_hosts import HttpServer, connect_http, get_text

REPOS = ("tests/one-GGUF", "tests/split-GGUF", "tests/small-GGUF")
SERVED, PROMPTED = "tiny", ("tiny", "tiny", REPOS[2])
COMMAND_SECONDS = 120
MAX_ANSWER_CHARS = 10_000
# Exit codes: success, an error with a message, bad usage, interrupted, and killed by this storm.
EXIT_CODES = (0, 1, 2, 130, -9)
# A response of `serve` whose engine was killed: an error of the gateway.
SERVE_STATUSES = (200, 502, 503)
Action = Callable[["Load", random.Random], None]


@dataclass
class Load:
    """The library that is used, until a time, and the results of all actions."""

    home: Path  # LLM_USER_PATH
    folder: Path
    servers: Mapping[str, ServerProcess]
    until: float  # on time.monotonic()
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    commands: set[subprocess.Popen[str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_over(self) -> bool:
        return time.monotonic() >= self.until

    def count(self, end: str) -> None:
        with self._lock:
            self.ends[end] += 1

    def report(self, fault: str) -> None:
        with self._lock:
            self.faults.append(fault[-3000:])

    def run_llm(self, *words: str) -> str:
        """Run `llm` to its end, or until it is killed. Return what it printed."""
        process = subprocess.Popen(
            [str(SCRIPTS / "llm"), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with self._lock:
            self.commands.add(process)
        try:
            printed, errors = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, errors = process.communicate()
            self.report(f"llm {' '.join(words)} did not end: {printed}{errors}")
        with self._lock:
            self.commands.discard(process)
        verb = " ".join(words[:2]) if words[0] == "hf" else "prompt"
        self.count(f"{verb}: {process.returncode}")
        if process.returncode not in EXIT_CODES or "Traceback" in errors + printed:
            self.report(f"llm {' '.join(words)} ended with {process.returncode}: {printed}{errors}")
        if process.returncode in (1, 2) and "Error: " not in errors + printed:
            self.report(f"llm {' '.join(words)} failed without an error: {printed}{errors}")
        return printed

    def find_processes(self) -> list[psutil.Process]:
        """Return the running processes that use the library, except the storm's own."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                uses = process.environ().get("LLM_USER_PATH") == str(self.home)
                # Engines do not receive the variable.
                is_engine = "llm_hf_models.inference.engine_child" in process.cmdline() and process.cwd().startswith(
                    os.environ["XDG_RUNTIME_DIR"]
                )
                if (uses or is_engine) and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def find_victims(self) -> list[tuple[str, psutil.Process]]:
        """Return the processes that may be killed, and what they are: all except the servers that stay."""
        kept = {server.process.pid for server in self.servers.values()}
        found = []
        for process in self.find_processes():
            with suppress(psutil.Error):
                kinds = ("downloads.worker", "inference.engine_child", "llm_hf_mcp", "bin/llm")
                line = " ".join(process.cmdline())
                kind = next((kind for kind in kinds if kind in line), None)
                if kind and process.pid not in kept:
                    found.append((kind, process))
        return found


def repeat(load: Load, action: Action, seed: int) -> None:
    """Repeat an action until the time is over. An error of the action itself is a fault."""
    chance = random.Random(seed)
    while not load.is_over():
        try:
            action(load, chance)
        except Exception as error:  # noqa: BLE001 - reported at the end
            load.report(f"{action.__name__}: {type(error).__name__}: {error}")


# People at terminals


def pull(load: Load, chance: random.Random) -> None:
    flags = chance.choice([[], ["--background"], ["--connections", "2"], ["--to", str(load.folder / "copy")]])
    load.run_llm("hf", "pull", chance.choice(REPOS), "-y", *flags)


def manage(load: Load, chance: random.Random) -> None:
    number, repo = str(chance.randint(1, 8)), chance.choice(REPOS)
    load.run_llm(
        "hf",
        *chance.choice([
            ["downloads", "--json"], ["pause", "--all"], ["resume", number], ["retry", "--all"], ["cancel", number],
            ["cancel", "--all"], ["rm", repo, "-y"], ["gc", "-y"], ["list", "--json"], ["verify", "--all"], ["ps"],
            ["limit", "off"], ["alias", repo, "nick"], ["stop", "--all"], ["downloads", "clear"], ["show", repo],
        ]),
    )  # fmt: skip


def prompt(load: Load, chance: random.Random) -> None:
    load.run_llm("-m", chance.choice(PROMPTED), "Hello", *chance.choice([[], ["--no-stream"]]))


# Programs


def request_completion(load: Load, chance: random.Random) -> None:
    """Send a request to `serve`, and sometimes leave before the end of the response."""
    body = {
        "model": SERVED, "messages": [{"role": "user", "content": "Hello " * chance.choice([1, 1, 500])}],
        "stream": chance.random() < 0.5, "max_tokens": 50,
    }  # fmt: skip
    leaves = chance.random() < 0.3
    host, port = load.servers["serve"].address
    try:
        with httpx2.stream(
            "POST", f"http://{host}:{port}/v1/chat/completions", json=body, timeout=COMMAND_SECONDS, trust_env=False,
            headers={"Authorization": f"Bearer {KEY}"},
        ) as response:  # fmt: skip
            text = b""
            for chunk in response.iter_bytes():
                text += chunk
                if leaves:
                    break
    except httpx2.RemoteProtocolError:  # the engine was killed during a stream
        load.count("serve: broken stream")
        return
    load.count(f"serve: {response.status_code}")
    if response.status_code not in SERVE_STATUSES or b"Traceback" in text:
        load.report(f"serve answered {response.status_code}: {text[:500]!r}")


def fetch_from_mirror(load: Load, chance: random.Random) -> None:
    host, port = load.servers["mirror"].address
    path = chance.choice(["/api/models", "/api/models/acme/tiny", "/acme/tiny/resolve/main/tiny-Q8_0.gguf", "/nothing"])
    start = chance.randrange(60_000)
    response = httpx2.get(
        f"http://{host}:{port}{path}", timeout=COMMAND_SECONDS, trust_env=False,
        headers=chance.choice([{}, {"Range": f"bytes={start}-{start + 999}"}]),
    )  # fmt: skip
    load.count(f"mirror: {response.status_code}")
    if response.status_code not in (200, 206, 404):
        load.report(f"mirror answered {response.status_code}: {response.text[:500]}")


# Agents


async def call_tool(load: Load, client: Client, chance: random.Random) -> None:
    repo = chance.choice(REPOS)
    name, arguments = chance.choice([
        ("hf_download_model", {"ref": repo, "wait_seconds": chance.choice([0, 1, 5])}),
        ("hf_get_downloads", {"finished": True}), ("hf_list_models", {}), ("hf_get_model", {"repo": repo}),
        ("hf_run_prompt", {"name": chance.choice(PROMPTED), "prompt": "Hello", "max_tokens": 20}),
        ("hf_control_download", {"id": chance.randint(1, 8), "action": chance.choice(["pause", "resume", "cancel"])}),
        ("hf_delete_model", {"name": repo, "confirm": f"hf/{repo}:Q4_K_M"}), ("hf_status", {}),
        ("hf_get_disk_usage", {}),
        ("hf_verify_model", {"name": repo, "load": chance.random() < 0.2}),
        ("hf_edit_aliases", {"name": repo, "add": ["nick"]}),
    ])  # fmt: skip
    result = await client.call_tool(name, arguments)
    load.count(f"{name}: {'refused' if result.is_error else 'answered'}")
    check_answer(load, name, result)


def check_answer(load: Load, name: str, result: CallToolResult) -> None:
    text = get_text(result)
    structure = json.dumps(result.structured_content) if result.structured_content else ""
    if "Traceback" in text or not text or max(len(text), len(structure)) > MAX_ANSWER_CHARS:
        load.report(f"{name} answered: {text[:500]!r} and {len(structure)} characters")


def use_http_server(load: Load, chance: random.Random) -> None:
    """Use the MCP server that stays, in one session after the other."""
    host, port = load.servers["mcp"].address

    async def talk() -> None:
        async with connect_http(HttpServer(f"http://{host}:{port}/mcp", KEY), "auto") as client:
            for _ in range(10):
                if not load.is_over():
                    await call_tool(load, client, chance)

    asyncio.run(talk())


def use_stdio_server(load: Load, chance: random.Random) -> None:
    """Use an MCP server that may be killed during each call."""
    log = load.folder / f"stdio-{chance.random()}.log"
    parameters: Any = StdioServerParameters(
        command=sys.executable, args=["-m", "llm_hf_mcp", "--allow-delete"], env=dict(os.environ)
    )

    async def talk() -> None:
        with log.open("w") as errors:
            async with Client(stdio_client(parameters, errlog=errors)) as client:
                for _ in range(10):
                    if not load.is_over():
                        await asyncio.wait_for(call_tool(load, client, chance), COMMAND_SECONDS)

    try:
        asyncio.run(talk())
    except Exception:  # noqa: BLE001 - the SDK raises many types; the number of these is compared with the kills
        load.count("stdio: ended early")
    if "Traceback" in log.read_text():
        load.report(f"MCP server over stdio: {log.read_text()}")


# Kills


def kill(load: Load, chance: random.Random) -> None:
    """Kill a random process of a random kind after a random time."""
    time.sleep(chance.uniform(0.3, 3.5))  # the rhythm of the kills; no synchronisation
    victims = load.find_victims()
    if victims and not load.is_over():
        kind = chance.choice(sorted({kind for kind, _ in victims}))
        victim = chance.choice([process for of_kind, process in victims if of_kind == kind])
        with suppress(psutil.Error):
            victim.kill()
            load.count(f"killed {kind}")


ACTIONS: tuple[Action, ...] = (
    pull, pull, manage, prompt, request_completion, fetch_from_mirror, use_http_server, use_stdio_server, kill,
)  # fmt: skip
