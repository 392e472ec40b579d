"""A name of another plugin's model, requested through the MCP server."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models.service import Library
from tests.support import taken_names
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, run_async
from tests.support.taken_names import OWNER, REPO, THEIRS

hub = taken_names.hub
gguf = taken_names.gguf


@pytest.mark.usefixtures("hub")
@run_async
async def test_agents_can_not_use_names_of_other_plugins(gguf: Path) -> None:
    Library().import_file(gguf)
    async with connect_stdio() as client:
        for tool, words in (
            ("hf_edit_aliases", {"name": "walrus", "add": [THEIRS]}),
            ("hf_download_model", {"ref": REPO, "aliases": [THEIRS]}),
        ):
            assert OWNER in await call_refused(client, tool, **words)
        assert "seal" in (await call_tool(client, "hf_edit_aliases", name="walrus", add=["seal"]))["aliases"]
