"""A name of another plugin's model, requested through the MCP server."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models.service import Library
from tests.support import taken_names
from tests.support.mcp_hosts import call, in_a_loop, refusal, stdio_host
from tests.support.taken_names import OWNER, REPO, THEIRS

hub = taken_names.hub
gguf = taken_names.gguf


@pytest.mark.usefixtures("hub")
@in_a_loop
async def test_agents_can_not_use_names_of_other_plugins(gguf: Path) -> None:
    Library().import_file(gguf)
    async with stdio_host() as client:
        for tool, words in (
            ("organise", {"name": "walrus", "add": [THEIRS]}),
            ("download_model", {"ref": REPO, "aliases": [THEIRS]}),
        ):
            assert OWNER in await refusal(client, tool, **words)
        assert "seal" in (await call(client, "organise", name="walrus", add=["seal"]))["aliases"]
