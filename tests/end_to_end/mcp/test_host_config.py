"""The configuration printed by `llm hf mcp` starts the MCP server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from llm_hf_models.cli import mcp_hosts
from llm_hf_models.cli.mcp_environment import CARRIED
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import folders
from tests.support.commands import run
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hosts import call_tool, run_async
from tests.support.proxies import Proxy

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
        assert "hf_download_model" not in {tool.name for tool in (await client.list_tools()).tools}


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (("--max-download", "lots"), "argument --max-download: 'lots' is"),
        (("--yes-to", "everything"), "argument --yes-to: Setting 'agent_yes_to': there is no action 'everything'"),
        (("--bogus",), "unrecognized arguments: --bogus"),
        (("--help",), "can't serve"),
        (("--check", "--read-only"), "argument --check: a host needs a server that keeps running"),
        (("--http",), "argument --http: a host uses the server's stdin and stdout, not HTTP"),
        (("--http=8765", "--no-auth"), "argument --http: a host uses the server's stdin and stdout, not HTTP"),
        (("--host", "127.0.0.1"), "argument --host: it needs --http"),
        (("--no-auth",), "argument --no-auth: it needs --http"),
        (("--allowed-host", "a.example"), "argument --allowed-host: it needs --http"),
        (("--allowed-origin", "https://a.example"), "argument --allowed-origin: it needs --http"),
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
    if flags[0].partition("=")[0] not in ("--help", "--http", "--check"):
        started = subprocess.run(
            [sys.executable, "-m", "llm_hf_mcp", *flags], capture_output=True, text=True, check=False, timeout=60
        )
        assert (started.returncode, output in started.stderr) == (2, True)
        assert "LLM_HF_" not in started.stderr


# A host that starts servers with an empty environment


def start_in_empty_environment(entry: dict[str, Any]) -> StdioServerParameters:
    """Return the command that starts the server with the entry's variables and no others, not even HOME or PATH."""
    variables = [f"{name}={value}" for name, value in entry["env"].items()]
    return StdioServerParameters(
        command=shutil.which("env") or "env", args=["-i", *variables, entry["command"], *entry["args"]], cwd="/"
    )


def install_for_cursor(home: Home) -> dict[str, Any]:
    run("mcp", "cursor", "--install", "-y")
    entry: dict[str, Any] = json.loads((home.root / ".cursor/mcp.json").read_text("utf-8"))["mcpServers"]["hf-models"]
    return entry


def find_cache(library: Library) -> str:
    return str(Path(library.status().cache_dir).absolute())


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that an entry carries, in upper and lower case, except HOME."""
    for name in CARRIED - {"HOME", "XDG_RUNTIME_DIR"}:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.skipif(os.name != "posix", reason="Windows needs more variables to start a process")
@pytest.mark.usefixtures("no_variables")
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CONFIG_HOME": "/{root}/config", "XDG_CACHE_HOME": "/{root}/cache"},
        {"HUGGINGFACE_HUB_CACHE": "/{root}/legacy", "LLM_USER_PATH": "relative"},
        {"HF_HOME": "$SCRATCH/hf", "SCRATCH": "/{root}/scratch"},
        {"HF_HUB_CACHE": "~/hub", "HF_HUB_OFFLINE": "1"},
    ],
    ids=" ".join,
)
@run_async
async def test_server_in_an_empty_environment_sees_the_same_models(
    variables: dict[str, str], home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("/{root}", str(home.root)))
    library = Library()
    library.import_file(tiny_chat(tmp_path / "tiny-F16.gguf"))
    (model,) = library.list()
    expected = find_cache(library)
    async with Client(start_in_empty_environment(install_for_cursor(home))) as client:
        (found,) = (await call_tool(client, "hf_list_models"))["models"]
        status = await call_tool(client, "hf_status")
    assert (found["id"], found["state"]) == (model.id, model.state)
    assert status["cache_dir"] == expected


@pytest.mark.skipif(os.name != "posix", reason="Windows needs more variables to start a process")
@pytest.mark.usefixtures("no_variables")
@run_async
async def test_server_in_an_empty_environment_uses_proxy_and_certificates(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy() as proxy, HubServer(tls=True) as hub:
        hub.add_repo("owner/tiny-GGUF", {"tiny-Q4_K_M.gguf": b"GGUF"}, tags=("gguf",))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(hub.ca_file))
        monkeypatch.setenv("https_proxy", proxy.make_url())
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        entry = install_for_cursor(home)
        assert not any(secret in json.dumps(entry) for secret in ("hf_secret", "cret@"))
        entry["env"]["https_proxy"] = proxy.make_url()
        (home.root / ".cursor/mcp.json").write_text(json.dumps({"mcpServers": {"hf-models": entry}}))
        assert install_for_cursor(home) == entry
        async with Client(start_in_empty_environment(entry)) as client:
            (found,) = (await call_tool(client, "hf_search_models", query="tiny"))["results"]
    assert found["id"] == "owner/tiny-GGUF"
    assert proxy.lines[0].startswith("CONNECT 127.0.0.1:")
