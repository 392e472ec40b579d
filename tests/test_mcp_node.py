"""The MCP server through clients that are not ours: TypeScript's of both generations, the Inspector, the conformance
suite. Slow: it fetches them from the npm registry (make storm)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.test_mcp import REPO, hub, pulled  # noqa: F401 - fixtures
from tests.test_mcp_http import served

PACKAGES = (
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/inspector@2.12.0",
    "@modelcontextprotocol/conformance@0.1.16",
    "node@22",  # the conformance suite needs a newer one than many machines have
)
# Scenarios that call tools, read resources and get prompts which only the suite's own example server has,
# and one of a capability that 2026-07-28 deprecates and this server does not offer (logging).
NOT_OURS = {
    "logging-set-level", "tools-call-image", "tools-call-audio", "tools-call-embedded-resource",
    "tools-call-mixed-content", "tools-call-with-logging", "tools-call-with-progress", "tools-call-sampling",
    "tools-call-elicitation", "elicitation-sep1034-defaults", "elicitation-sep1330-enums", "resources-read-text",
    "resources-read-binary", "resources-templates-read", "prompts-get-simple", "prompts-get-with-args",
    "prompts-get-embedded-resource", "prompts-get-with-image",
}  # fmt: skip
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
const { structuredContent: here } = await client.callTool({ name: "list_models", arguments: {} });
const gone = await client.callTool({ name: "delete_model", arguments: { name: here.models[0].model_id } });
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

pytestmark = [pytest.mark.storm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, and a Node that runs them all."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm here")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}", encoding="utf-8")
    done = subprocess.run(
        [npm, "install", "--silent", *PACKAGES], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"the npm registry can't be reached: {done.stderr[-200:]}")
    return folder


def run(node: Path, *words: str) -> str:
    command = [str(node / "node_modules/node/bin/node"), *words]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("imports", [FIRST, SECOND], ids=["1.x", "2.x"])
@pytest.mark.usefixtures("pulled")
def test_typescript_clients_call_tools_and_ask_their_person(node: Path, imports: str) -> None:
    (node / "host.mjs").write_text(imports + SCRIPT, encoding="utf-8")
    told: dict[str, Any] = json.loads(run(node, "host.mjs", sys.executable))
    assert told["tools"] == 12
    assert told["gone"]["done"]
    assert len(told["asked"]) == 1
    assert Library().list() == ()


@pytest.mark.usefixtures("pulled")
def test_the_inspector_lists_and_calls_tools(node: Path, home: Home) -> None:
    inspector = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    # It hands a server next to nothing of its own environment.
    server = ("--cli", "-e", f"LLM_USER_PATH={home.llm}", sys.executable, "-m", "llm_hf_mcp")
    tools = json.loads(run(node, inspector, *server, "--method", "tools/list"))["tools"]
    assert len(tools) == 11
    called = run(node, inspector, *server, "--method", "tools/call", "--tool-name", "list_models")
    assert json.loads(called)["structuredContent"]["models"][0]["repo"] == REPO


def test_no_conformance_scenario_fails_that_needs_no_example_server(node: Path) -> None:
    suite = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    with served("--no-auth") as server:
        said = run(node, suite, "server", "--url", server.url)
    results = dict(re.findall(r"^[✓✗] ([\w-]+): \d+ passed, (\d+) failed$", said, re.MULTILINE))
    assert len(results) >= 30, said[-2000:]
    failed = {name for name, count in results.items() if count != "0"}
    assert failed <= NOT_OURS
