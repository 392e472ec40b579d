"""One service, two interfaces: a tool returns the same JSON as `llm hf … --json`, verb by verb."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mcp import Client
from mcp_types import TextResourceContents

from llm_hf_models.service import Library
from llm_hf_models.system.json_values import to_json
from tests.support import mcp_hub
from tests.support.commands import run
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hosts import call, in_a_loop, stdio_host, text_of
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub

LOCAL = f"hf/{REPO}:Q4_K_M"
# Fields that differ between any two calls.
MOVING = {
    "freshness", "updated", "last_used", "free_memory", "disk_free", "cache_bytes", "at", "load_seconds", "peak_memory",
    "tokens_per_second", "seconds_left", "bytes_per_second", "fetched_bytes",
}  # fmt: skip


async def cli(*words: str, codes: Collection[int] = (0,)) -> Any:
    done = await asyncio.to_thread(run, *words, "--json", code=None)
    assert done.exit_code in codes, done.output
    return still(json.loads(done.stdout))


def still(value: Any) -> Any:
    """Return the value without the fields that change."""
    if isinstance(value, dict):
        return {key: still(member) for key, member in value.items() if key not in MOVING | {"next_cursor"}}
    return [still(member) for member in value] if isinstance(value, list) else value


async def resource(client: Client, uri: str) -> Any:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return still(json.loads(content.text))


@pytest.mark.usefixtures("hub")
@in_a_loop
async def test_every_tool_returns_the_json_of_its_command() -> None:
    walked: set[str] = set()
    async with stdio_host("--allow-delete") as client:

        async def tool(name: str, /, **arguments: Any) -> Any:
            walked.add(name)
            return still(await call(client, name, **arguments))

        assert await tool("search_models", query="tiny", fits=True) == await cli("search", "tiny", "--fits")
        assert await tool("search_models", query="xyzzy") == await cli("search", "xyzzy")
        assert await tool("get_model", repo=REPO, files=True, card=True) == await cli("info", REPO, "--card")
        everything = {"metadata": True, "tensors": True, "template": True}
        assert await tool("inspect_gguf", model=REPO, **everything) == await cli(
            "inspect", REPO, "--metadata", "--tensors", "--template"
        )
        pulled = await tool("download_model", ref=REPO, wait_seconds=45)
        assert pulled["model"] == await cli("show", LOCAL)
        assert [pulled["download"]] == await cli("downloads", "--all")
        assert (await tool("get_downloads", finished=True))["downloads"] == await cli("downloads", "--all")
        alone = await tool("get_downloads", id=pulled["download"]["id"])
        assert (alone["downloads"], alone["log"]) == (
            await cli("downloads", "--all"),
            (await cli("downloads", "log", str(pulled["download"]["id"])))[-20:],
        )
        assert (await tool("list_models"))["models"] == await cli("list")
        assert await resource(client, f"hf://library/{quote(LOCAL, safe='')}") == await cli("show", LOCAL)
        info = await cli("info", REPO)
        assert await resource(client, f"hf://models/{REPO}") == {**info, "files": []}
        proof = await tool("verify_model", name=LOCAL)
        assert proof["digest"] == await cli("verify", LOCAL)
        assert proof["structure"] == await cli("check", LOCAL)
        assert proof["load_test"] == await cli("test", LOCAL, codes=(0, 1))
        names = await tool("organise", name=LOCAL, add=["another"])
        assert names["aliases"] == await cli("alias")
        said = await tool("run_prompt", name=LOCAL, prompt="Hello", max_tokens=30, temperature=0)
        again = Library().prompt(LOCAL, "Hello", options={"max_tokens": 30, "temperature": 0})
        assert said == still(to_json(again))
        running = await tool("status")
        assert running == await cli("status")
        removal = Library().plan_removal(LOCAL)
        gone = await tool("delete_model", name=LOCAL, confirm=LOCAL)
        assert gone == to_json(replace(removal, done=True))
        row = Library().enqueue(REPO)
        await tool("control_download", id=row.id, action="cancel")
        await tool("get_downloads", id=row.id, wait_seconds=45)  # until the process that carries it out has noticed
        cancelled = await tool("control_download", id=row.id, action="cancel")
        (printed,) = [each for each in await cli("downloads", "--all") if each["id"] == row.id]
        assert cancelled == printed
        assert walked == {offered.name for offered in (await client.list_tools()).tools}


@pytest.mark.usefixtures("hub")
@in_a_loop
async def test_long_lists_come_in_pages_that_add_up() -> None:
    library = Library()
    library.pull(f"{REPO}:Q4_K_M")
    for number in range(9):
        library.cancel(library.enqueue(f"{REPO}:Q8_0").id)
        library.add_alias("tiny", f"name-{number}")
    whole = await cli("downloads", "--all")
    assert len(whole) == 10
    async with stdio_host() as client:
        for limit in (1, 4, 50):
            rows, cursor = [], None
            while True:
                page = await call(client, "get_downloads", finished=True, limit=limit, cursor=cursor)
                assert len(page["downloads"]) <= limit
                rows += page["downloads"]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            assert still(rows) == whole


@in_a_loop
async def test_pages_of_forty_variants_stay_below_ten_thousand_characters(
    hub: HubServer,
    tmp_path: Path,
) -> None:
    weights = tiny_chat(tmp_path / "weights.gguf")
    hub.add_repo(
        "owner/many-GGUF", {f"many-{size}B-Q{bits}_0.gguf": weights for size in range(1, 11) for bits in (4, 5, 6, 8)}
    )
    whole = (await cli("info", "owner/many-GGUF"))["variants"]
    assert len(whole) == 40
    shown, cursor, pages = [], None, 0
    async with stdio_host() as client:
        while pages == 0 or cursor:
            result = await client.call_tool("get_model", {"repo": "owner/many-GGUF", "cursor": cursor})
            assert result.structured_content is not None
            assert len(json.dumps(result.structured_content)) < 10_000
            assert len(text_of(result)) < 10_000
            shown += result.structured_content["variants"]
            cursor, pages = result.structured_content["next_cursor"], pages + 1
    assert shown == whole
    assert pages > 1
