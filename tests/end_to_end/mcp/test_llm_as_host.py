"""llm itself as the MCP server's host: a local model calls our tools and pulls another model.

Slow: it fetches llm-mcp-client, llm's plugin for MCP servers, from the package index (make storm). The plugin is
installed in a folder of its own, because every `llm` command of its environment imports it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hosts import serve_http
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub

CLIENT = "llm-mcp-client==0.1a0"
ASSISTANT = "owner/assistant-GGUF"
ARGUMENTS = {"ref": f"{REPO}:Q4_K_M", "aliases": ["brought"], "wait_seconds": 45}
TOOL_CALL = f"<tool_call>\n{json.dumps({'name': 'hf_download_model', 'arguments': ARGUMENTS})}\n</tool_call>"

pytestmark = [pytest.mark.storm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder with llm's MCP client."""
    folder = tmp_path_factory.mktemp("llm-mcp-client")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), CLIENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the package index can't be reached: {done.stderr[-200:]}")
    return folder


@pytest.mark.parametrize("mode", ["legacy", "stateless"])
def test_local_model_downloads_another_through_llm(
    mode: str,
    plugin: Path,
    hub: HubServer,
    home: Home,
    tmp_path: Path,
) -> None:
    # Its tokens are bytes: the tool descriptions are a few thousand tokens for a real model and many more for this
    # one.
    weights = tiny_chat(tmp_path / "it.gguf", tool_call=TOOL_CALL, tool_answer="It is here.", context=32_768)
    hub.add_repo(ASSISTANT, {"assistant-Q4_K_M.gguf": weights})
    Library().pull(ASSISTANT)
    with serve_http("--no-auth") as server:
        toolbox = f'MCP(server="{server.url}", mode="{mode}")'
        path = os.pathsep.join(filter(None, (str(plugin), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [sys.executable, "-m", "llm", "-m", "assistant", "-T", toolbox, "--td", "Bring the tiny model here."],
            env={**os.environ, "PYTHONPATH": path, "LLM_HF_CONTEXT": "32768"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "It is here."
    assert "Tool call: hf_download_model" in done.stderr
    brought = Library().show("brought")
    assert (brought.repo, brought.quant, brought.state) == (REPO, "Q4_K_M", "ready")
    (line,) = map(json.loads, (home.llm / "hf/agents.log").read_text("utf-8").splitlines())
    assert (line["what"], line["outcome"]) == ("download", "done")
