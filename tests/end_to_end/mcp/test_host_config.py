"""The configuration printed by `llm hf mcp` starts the MCP server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from llm_hf_models.cli import mcp_hosts
from tests.conftest import Home
from tests.support import folders
from tests.support.commands import run
from tests.support.mcp_hosts import run_async

project = folders.project


@pytest.mark.parametrize("host", mcp_hosts.HOST_KEYS)
@run_async
async def test_printed_configuration_of_each_host_starts_the_server(host: str) -> None:
    printed: dict[str, Any] = json.loads(run("mcp", host, "--", "--read-only").stdout)
    (servers,) = printed.values()
    (entry,) = servers.values()
    command = StdioServerParameters(
        command=entry["command"], args=entry["args"], env={"PATH": "/nowhere", **entry["env"]}
    )
    async with Client(command) as client:
        assert "download_model" not in {tool.name for tool in (await client.list_tools()).tools}


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (("--max-download", "lots"), "argument --max-download: 'lots' is"),
        (("--yes-to", "everything"), "argument --yes-to: Setting 'agent_yes_to': there is no action 'everything'"),
        (("--bogus",), "unrecognized arguments: --bogus"),
        (("--help",), "can't serve"),
    ],
)
def test_invalid_server_options_are_neither_printed_nor_written(
    flags: tuple[str, ...], output: str, home: Home
) -> None:
    for words in (("cursor", "--install", "-y"), ("json",)):
        done = run("mcp", *words, "--", *flags, code=2)
        assert output in done.stderr
        assert done.stdout == ""
    assert not (home.root / ".cursor").exists()
    if flags != ("--help",):
        started = subprocess.run(
            [sys.executable, "-m", "llm_hf_mcp", *flags], capture_output=True, text=True, check=False, timeout=60
        )
        assert (started.returncode, output in started.stderr) == (2, True)
        assert "LLM_HF_" not in started.stderr
