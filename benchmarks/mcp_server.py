"""Compare llm-hf-mcp with a minimal server of the same SDK, idle and under load: `python benchmarks/mcp_server.py`.

The start time runs from launching the process to its first `tools/list` response over stdio; the two servers take
turns. The load is twenty concurrent searches while four downloads run. The Hub of this benchmark takes half a second
for each response.
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

MINIMAL = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("minimal", log_level="WARNING")
@server.tool()
def hello(name: str) -> str:
    "Return the name."
    return name
server.run("stdio")
"""
LLM_HF_MCP, MINIMAL_SERVER = [sys.executable, "-m", "llm_hf_mcp"], [sys.executable, "-c", MINIMAL]
MAX_CPU_RATIO, MAX_IDLE_MB, MAX_SLOWDOWN = 1.3, 120, 2.0
SEARCHES, DOWNLOADS, LATENCY_SECONDS = 20, 4, 0.5
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
        measured = seconds, cpu.user + cpu.system, process.memory_info().rss / 1e6
        server.stdin.close()
    return measured


def compare_starts(runs: int) -> bool:
    """Print a table of the start times. Return whether llm-hf-mcp meets its limits."""
    results = {name: [] for name in ("minimal server", "llm-hf-mcp")}
    for _ in range(runs):
        results["minimal server"].append(measure_start(MINIMAL_SERVER))
        results["llm-hf-mcp"].append(measure_start(LLM_HF_MCP))
    print(f"{'':18}{'first tools/list':>18}{'CPU':>10}{'idle':>10}")
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    for name, (seconds, cpu, memory) in medians.items():
        print(f"{name:18}{seconds:>16.2f} s{cpu:>8.2f} s{memory:>7.0f} MB")
    ratio = medians["llm-hf-mcp"][1] / medians["minimal server"][1]
    print(f"CPU ratio {ratio:.2f} (limit {MAX_CPU_RATIO}); limit of idle memory: {MAX_IDLE_MB} MB\n")
    return ratio <= MAX_CPU_RATIO and medians["llm-hf-mcp"][2] < MAX_IDLE_MB


async def measure_load(hub: HubServer) -> bool:
    """Time single searches, then concurrent searches while downloads run. Return whether the slowdown is acceptable."""
    command = StdioServerParameters(command=LLM_HF_MCP[0], args=LLM_HF_MCP[1:], env=dict(os.environ))
    async with Client(command) as client:
        number = 0

        async def search() -> float:
            nonlocal number
            number += 1
            begin = time.perf_counter()
            result = await client.call_tool("hf_search_models", {"query": f"tiny {number}"})
            assert not result.is_error, result
            return time.perf_counter() - begin

        await search()
        one_search = statistics.median([await search() for _ in range(5)])
        hub.fault(Throttle(500_000), on="big", side="storage", times=None)
        for index in range(DOWNLOADS):
            result = await client.call_tool("hf_download_model", {"ref": f"owner/big-{index}-GGUF"})
            assert not result.is_error, result
        many_searches = statistics.median(await asyncio.gather(*(search() for _ in range(SEARCHES))))
        for index in range(DOWNLOADS):
            await client.call_tool("hf_control_download", {"id": index + 1, "action": "cancel"})
        for index in range(DOWNLOADS):
            await client.call_tool("hf_get_downloads", {"id": index + 1, "wait_seconds": 30})
    slowdown = many_searches / one_search
    print(f"one search: {one_search:.2f} s")
    print(f"{SEARCHES} concurrent searches while {DOWNLOADS} downloads run: median {many_searches:.2f} s")
    print(f"{slowdown:.2f} x (limit {MAX_SLOWDOWN})")
    return slowdown < MAX_SLOWDOWN


def main() -> None:
    """Print the tables. Exit with code 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="runs per median (default 7)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, HubServer(latency=LATENCY_SECONDS) as hub:
        os.environ.update(
            LLM_USER_PATH=f"{folder}/llm", HF_HOME=f"{folder}/hf", HF_ENDPOINT=hub.endpoint,
            LLM_HF_CONCURRENT_DOWNLOADS=str(DOWNLOADS),
        )  # fmt: skip
        weights = tiny_chat(Path(folder) / "big-Q4_K_M.gguf", weights_bytes=8_000_000)
        for index in range(DOWNLOADS):
            big = tiny_chat(Path(folder) / f"big-{index}-Q4_K_M.gguf", weights_bytes=8_000_000, seed=index)
            hub.add_repo(f"owner/big-{index}-GGUF", {big.name: big})
        hub.add_repo("owner/tiny-GGUF", {"tiny-Q4_K_M.gguf": weights})
        within_limits = [compare_starts(runs), asyncio.run(measure_load(hub))]
    sys.exit(0 if all(within_limits) else 1)


if __name__ == "__main__":
    main()
