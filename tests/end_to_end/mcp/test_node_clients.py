"""The MCP server through third-party clients: both generations of TypeScript's, the Inspector, the conformance
suite. Slow: it fetches them from the npm registry (make storm)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llm_hf_mcp.server import TOOLS

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.mcp_conformance import NOT_PASSED, PARTLY, SUITE
from tests.support.mcp_hosts import serve_http
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub
pulled = mcp_hub.pulled

PACKAGES = (
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/inspector@2.12.0",
    SUITE,
    "node@22",  # the conformance suite needs a newer version than many machines have
)
SCRIPT = """
const asked = [];
const client = new Client({ name: "typescript", version: "1" }, { capabilities: { elicitation: { form: {} } } });
client.setRequestHandler(ELICIT, async (request) => {
  asked.push(request.params.message);
  return { action: "accept", content: { agree: true } };
});
const args = ["-m", "llm_hf_mcp", "--allow-delete"];
await client.connect(new StdioClientTransport({ command: process.argv[2], args, env: process.env }));
const { tools } = await client.listTools();
const { structuredContent: here } = await client.callTool({ name: "hf_list_models", arguments: {} });
const gone = await client.callTool({ name: "hf_delete_model", arguments: { name: here.models[0].id } });
console.log(JSON.stringify({ tools: tools.length, gone: gone.structuredContent, asked }));
await client.close();
"""
FIRST = """
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { ElicitRequestSchema as ELICIT } from "@modelcontextprotocol/sdk/types.js";
"""
SECOND = """
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
const ELICIT = "elicitation/create";
"""

pytestmark = [pytest.mark.storm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder with the packages, and a Node that runs them all."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}", encoding="utf-8")
    done = subprocess.run(
        [npm, "install", "--silent", *PACKAGES], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"the npm registry can't be reached: {done.stderr[-200:]}")
    return folder


def run_node(node: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(node / "node_modules/node/bin/node"), *words]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=250, check=False)
    assert done.stdout, done.stderr[-2000:]
    return done


@pytest.mark.parametrize("imports", [FIRST, SECOND], ids=["1.x", "2.x"])
@pytest.mark.usefixtures("pulled")
def test_typescript_clients_call_tools_and_ask_their_user(node: Path, imports: str) -> None:
    (node / "host.mjs").write_text(imports + SCRIPT, encoding="utf-8")
    reported: dict[str, Any] = json.loads(run_node(node, "host.mjs", sys.executable).stdout)
    assert reported["tools"] == len(TOOLS)
    assert reported["gone"]["done"]
    assert len(reported["asked"]) == 1
    assert Library().list() == ()


@pytest.mark.usefixtures("pulled")
def test_inspector_calls_tools_and_finds_only_portable_schemas(node: Path, home: Home) -> None:
    # It passes a server almost nothing of its own environment.
    inspector = ("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js", "--cli")
    inspector += (
        "--connect-timeout",
        "120000",
        "-e",
        f"LLM_USER_PATH={home.llm}",
        *(["-e", f"PYTHONPATH={os.environ['PYTHONPATH']}"] if os.environ.get("PYTHONPATH") else []),
    )
    server = (sys.executable, "-m", "llm_hf_mcp", "--allow-delete")
    listed = run_node(node, *inspector, "--method", "tools/list", "--strict", *server)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert len(json.loads(listed.stdout)["tools"]) == len(TOOLS)
    called = run_node(node, *inspector, "--method", "tools/call", "--tool-name", "hf_list_models", *server)
    assert json.loads(called.stdout)["structuredContent"]["models"][0]["id"] == f"hf/{REPO}:Q4_K_M"


@pytest.mark.parametrize("revision", NOT_PASSED)
def test_conformance_suite_passes_except_for_its_own_example_server(revision: str, node: Path, tmp_path: Path) -> None:
    suite = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    with serve_http("--no-auth") as server:
        output = run_node(
            node, suite, "server", "--url", server.url, "--requirements", revision, "-o", str(tmp_path / "out")
        ).stdout
    results = dict(re.findall(r"^[✓✗] ([\w-]+): \d+ passed, (\d+) failed$", output, re.MULTILINE))
    assert len(results) >= 33, output[-2000:]
    assert {name for name, failed in results.items() if failed != "0"} == NOT_PASSED[revision].keys()
    for name in PARTLY.keys() & results.keys():
        (checks,) = (tmp_path / "out").glob(f"server-{name}-*/checks.json")
        found = json.loads(checks.read_text("utf-8"))
        assert {check["id"] for check in found if check["status"] == "FAILURE"} == PARTLY[name]
