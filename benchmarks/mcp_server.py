"""Compare the MCP server with a minimal server of the same SDK, idle and under load.

Run `python benchmarks/mcp_server.py`.

The start time is from launching the process to its first `tools/list` response, over stdio; the servers take turns. The
load is twenty concurrent searches while four downloads run, on a Hub with a latency of half a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from mcp import Client
from mcp.client.stdio import StdioServerParameters

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Throttle

BARE = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("bare", log_level="WARNING")
@server.tool()
def hello(name: str) -> str:
    "Says hello."
    return name
server.run("stdio")
"""
OURS, BARE_SERVER = [sys.executable, "-m", "llm_hf_mcp"], [sys.executable, "-c", BARE]
MAX_RATIO, MAX_IDLE_MB, MAX_SLOWER = 1.3, 120, 2.0
SEARCHES, DOWNLOADS, LATENCY = 20, 4, 0.5
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}}


def measure_start(command: list[str]) -> tuple[float, float, float]:
    """Return the seconds until the first list of tools, the CPU seconds until then, and the idle memory in MB."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin
        assert server.stdout
        for number, (method, params) in enumerate((("initialize", HELLO), ("tools/list", {})), 1):
            server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n")
            server.stdin.flush()
            assert "result" in json.loads(server.stdout.readline())
            if number == 1:
                server.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        seconds, process = time.perf_counter() - begin, psutil.Process(server.pid)
        cpu = process.cpu_times()
        found = seconds, cpu.user + cpu.system, process.memory_info().rss / 1e6
        server.stdin.close()
    return found


def compare_starts(runs: int) -> bool:
    """Print the table of starts, and return whether llm-hf-mcp is within its limits."""
    taken = {name: [] for name in ("bare SDK server", "llm-hf-mcp")}
    for _ in range(runs):
        taken["bare SDK server"].append(measure_start(BARE_SERVER))
        taken["llm-hf-mcp"].append(measure_start(OURS))
    print(f"{'':18}{'first tools/list':>18}{'CPU':>10}{'idle':>10}")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in taken.items()}
    for name, (seconds, cpu, memory) in medians.items():
        print(f"{name:18}{seconds:>16.2f} s{cpu:>8.2f} s{memory:>7.0f} MB")
    ratio = medians["llm-hf-mcp"][1] / medians["bare SDK server"][1]
    print(f"CPU ratio {ratio:.2f} (at most {MAX_RATIO}), idle at most {MAX_IDLE_MB} MB\n")
    return ratio <= MAX_RATIO and medians["llm-hf-mcp"][2] < MAX_IDLE_MB


async def measure_under_load(hub: HubServer) -> bool:
    """Measure single searches, then twenty concurrent ones during four downloads."""
    command = StdioServerParameters(command=OURS[0], args=OURS[1:], env=dict(os.environ))
    async with Client(command) as client:
        number = 0

        async def search() -> float:
            nonlocal number
            number += 1
            begin = time.perf_counter()
            result = await client.call_tool("search_models", {"query": f"tiny {number}"})
            assert not result.is_error, result
            return time.perf_counter() - begin

        await search()
        alone = statistics.median([await search() for _ in range(5)])
        hub.fault(Throttle(500_000), on="big", side="storage", times=None)
        for at in range(DOWNLOADS):
            result = await client.call_tool("download_model", {"ref": f"owner/big-{at}-GGUF"})
            assert not result.is_error, result
        together = statistics.median(await asyncio.gather(*(search() for _ in range(SEARCHES))))
        for at in range(DOWNLOADS):
            await client.call_tool("control_download", {"id": at + 1, "action": "cancel"})
        for at in range(DOWNLOADS):
            await client.call_tool("get_downloads", {"id": at + 1, "wait_seconds": 30})
    slower = together / alone
    print(f"one search {alone:.2f} s; {SEARCHES} at once during {DOWNLOADS} downloads: median {together:.2f} s")
    print(f"{slower:.2f} x (at most {MAX_SLOWER})")
    return slower < MAX_SLOWER


def main() -> None:
    """Print the tables, and exit with 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, HubServer(latency=LATENCY) as hub:
        os.environ.update(
            LLM_USER_PATH=f"{folder}/llm", HF_HOME=f"{folder}/hf", HF_ENDPOINT=hub.endpoint,
            LLM_HF_CONCURRENT_DOWNLOADS=str(DOWNLOADS),
        )  # fmt: skip
        weights = tiny_chat(Path(folder) / "big-Q4_K_M.gguf", weights_bytes=8_000_000)
        for at in range(DOWNLOADS):
            other = tiny_chat(Path(folder) / f"big-{at}-Q4_K_M.gguf", weights_bytes=8_000_000, seed=at)
            hub.add_repo(f"owner/big-{at}-GGUF", {other.name: other})
        hub.add_repo("owner/tiny-GGUF", {"tiny-Q4_K_M.gguf": weights})
        good = [compare_starts(runs), asyncio.run(measure_under_load(hub))]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
