"""One service, two interfaces: a tool returns the fields of `llm hf … --json`, verb by verb.

The command prints text by others unchanged (as JSON escapes). The tool cleans and limits it, and adds its notes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mcp import Client
from mcp_types import TextResourceContents

from llm_hf_models.service import Library
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.text import clean_text
from tests.support import mcp_hub
from tests.support.commands import run
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, get_text, run_async
from tests.support.mcp_hub import REPO
from tests.support.other_tools import add_ollama_model

hub = mcp_hub.hub

LOCAL = f"hf/{REPO}:Q4_K_M"
# Fields that differ between any two calls.
MOVING = {
    "freshness", "updated", "last_used", "free_memory_bytes", "disk_free_bytes", "cache_bytes", "at", "load_seconds",
    "peak_memory_bytes",
    "tokens_per_second", "remaining_seconds", "bytes_per_second", "fetched_bytes",
}  # fmt: skip
NOTES = {"next_cursor", "totals", "untrusted", "warnings", "next_step"}  # of tools, which commands don't print


async def run_command(*words: str, codes: Collection[int] = (0,)) -> Any:
    done = await asyncio.to_thread(run, *words, "--json", code=None)
    assert done.exit_code in codes, done.output
    return drop_changing_fields(json.loads(done.stdout))


async def run_command_for_one(*words: str, codes: Collection[int] = (0,)) -> Any:
    (result,) = (await run_command(*words, codes=codes))["results"]
    return result


def drop_changing_fields(value: Any) -> Any:
    """Return the value without the fields that change or that only tools have, with clean text and without fences."""
    if isinstance(value, dict):
        return {key: drop_changing_fields(member) for key, member in value.items() if key not in MOVING | NOTES}
    if isinstance(value, str):
        fenced = re.fullmatch(r"<untrusted-text [^>]*>\n(.*)\n</untrusted-text>", value, re.DOTALL)
        return clean_text(fenced[1] if fenced else value, len(value) + 1, keep_lines=True)
    return [drop_changing_fields(member) for member in value] if isinstance(value, list) else value


async def read_resource(client: Client, uri: str) -> Any:
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return drop_changing_fields(json.loads(content.text))


async def compare_newer_tools(tool: Callable[..., Awaitable[Any]]) -> None:
    assert (await tool("hf_lock_models"))["text"] == (await run_command("lock"))["text"]
    assert (await tool("hf_sync_lockfile", lockfile=run("lock").stdout, dry_run=True))["complete"]
    add_ollama_model("mario:latest", "You are Mario.")
    printed = await run_command("import", "--from", "ollama", "--dry-run")
    assert (await tool("hf_import_model", program="ollama"))["models"] == printed["models"]
    assert await tool("hf_get_disk_usage") == await run_command("du")
    unused = await tool("hf_prune_models", unused_days=1)
    assert unused == {**await run_command("prune", "--unused", "1d", "--dry-run"), "done": unused["done"]}


async def check_collections(tool: Callable[..., Awaitable[Any]]) -> None:
    await tool("hf_edit_collection", action="create", name="coding")
    edited = await tool("hf_edit_collection", action="add", name="coding", members=[LOCAL, "far/away"])
    shown = await run_command_for_one("collection", "show", "coding")
    assert edited["members"] == shown["members"]
    assert (await tool("hf_list_collections", name="coding"))["members"] == shown["members"]
    listed = await run_command("collection", "list")
    assert (await tool("hf_list_collections"))["collections"] == listed["collections"]


@pytest.mark.usefixtures("hub")
@run_async
async def test_every_tool_returns_the_json_of_its_command() -> None:
    visited: set[str] = set()
    full = {"verbosity": "full"}
    async with connect_stdio("--allow-delete") as client:

        async def tool(name: str, /, **arguments: Any) -> Any:
            visited.add(name)
            return drop_changing_fields(await call_tool(client, name, **arguments))

        assert await tool("hf_search_models", query="tiny", fits=True, **full) == await run_command(
            "search", "tiny", "--fits"
        )
        assert await tool("hf_search_models", query="xyzzy", **full) == await run_command("search", "xyzzy")
        assert await tool("hf_get_model", repo=REPO, files=True, card=True, **full) == await run_command_for_one(
            "info", REPO, "--card"
        )
        everything = {"metadata": True, "tensors": True, "template": True}
        seen = await tool("hf_inspect_gguf", model=REPO, **everything)
        printed = await run_command_for_one("inspect", REPO, "--metadata", "--tensors", "--template")
        assert seen["metadata"].keys() == printed["metadata"].keys()  # long arrays among the values are cut
        assert {**seen, "metadata": None} == {**printed, "metadata": None}
        pulled = await tool("hf_download_model", ref=REPO, wait_seconds=45)
        assert pulled["model"] == await run_command_for_one("show", LOCAL)
        assert [pulled["download"]] == (await run_command("downloads", "--all"))["downloads"]
        finished = await tool("hf_get_downloads", finished=True, **full)
        assert finished["downloads"] == (await run_command("downloads", "--all"))["downloads"]
        alone = await tool("hf_get_downloads", id=pulled["download"]["id"], **full)
        assert (alone["downloads"], alone["log"]) == (
            (await run_command("downloads", "--all"))["downloads"],
            (await run_command("downloads", "log", str(pulled["download"]["id"])))["log"][-20:],
        )
        assert (await tool("hf_list_models", **full))["models"] == (await run_command("list", "--updates"))["models"]
        assert await read_resource(client, f"hf://library/{quote(LOCAL, safe='')}") == await run_command_for_one(
            "show", LOCAL
        )
        info = await run_command_for_one("info", REPO)
        assert await read_resource(client, f"hf://models/{REPO}") == {**info, "files": []}
        proof = await tool("hf_verify_model", name=LOCAL)
        assert proof["digest"] == await run_command_for_one("verify", LOCAL)
        assert proof["structure"] == await run_command_for_one("check", LOCAL)
        assert proof["load_test"] == await run_command_for_one("test", LOCAL, codes=(0, 1))
        names = await tool("hf_edit_aliases", name=LOCAL, add=["another"])
        assert names["aliases"] == (await run_command("alias"))["aliases"]
        await check_collections(tool)
        current = await tool("hf_update_model", name=LOCAL)
        assert (current["download"], current["model"]) == (None, await run_command_for_one("show", LOCAL))
        output = await tool("hf_run_prompt", name=LOCAL, prompt="Hello", max_tokens=30, temperature=0)
        again = Library().prompt(LOCAL, "Hello", options={"max_tokens": 30, "temperature": 0})
        assert output == drop_changing_fields(to_json(again))
        await compare_newer_tools(tool)
        running = await tool("hf_status")
        assert running == await run_command("status")
        removal = Library().plan_removal(LOCAL)
        gone = await tool("hf_delete_model", name=LOCAL, confirm=LOCAL)
        assert gone == to_json(replace(removal, done=True))
        row = Library().enqueue(REPO)
        await tool("hf_control_download", id=row.id, action="cancel", confirm=f"cancel {row.id}")
        await tool("hf_get_downloads", id=row.id, wait_seconds=45)  # until the process that carries it out has noticed
        cancelled = await tool("hf_control_download", id=row.id, action="cancel")
        (row_printed,) = [
            each for each in (await run_command("downloads", "--all"))["downloads"] if each["id"] == row.id
        ]
        assert cancelled == row_printed
        assert visited == {offered.name for offered in (await client.list_tools()).tools}


@pytest.mark.usefixtures("hub")
@run_async
async def test_long_lists_come_in_pages_that_add_up() -> None:
    library = Library()
    library.pull(f"{REPO}:Q4_K_M")
    for number in range(9):
        library.cancel(library.enqueue(f"{REPO}:Q8_0").id)
        library.add_alias("tiny", f"name-{number}")
    whole = (await run_command("downloads", "--all"))["downloads"]
    assert len(whole) == 10
    async with connect_stdio() as client:
        for limit in (1, 4, 50):
            rows, cursor = [], None
            while True:
                page = await call_tool(
                    client, "hf_get_downloads", finished=True, limit=limit, cursor=cursor, verbosity="full"
                )
                assert len(page["downloads"]) <= limit
                rows += page["downloads"]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            assert drop_changing_fields(rows) == whole


@run_async
async def test_pages_of_forty_variants_stay_below_ten_thousand_characters(
    hub: HubServer,
    tmp_path: Path,
) -> None:
    weights = tiny_chat(tmp_path / "weights.gguf")
    hub.add_repo(
        "owner/many-GGUF", {f"many-{size}B-Q{bits}_0.gguf": weights for size in range(1, 11) for bits in (4, 5, 6, 8)}
    )
    whole = (await run_command_for_one("info", "owner/many-GGUF"))["variants"]
    assert len(whole) == 40
    shown, cursor, pages = [], None, 0
    async with connect_stdio() as client:
        while pages == 0 or cursor:
            result = await client.call_tool(
                "hf_get_model", {"repo": "owner/many-GGUF", "cursor": cursor, "verbosity": "full"}
            )
            assert result.structured_content is not None
            assert len(json.dumps(result.structured_content)) < 10_000
            assert len(get_text(result)) < 10_000
            shown += result.structured_content["variants"]
            cursor, pages = result.structured_content["next_cursor"], pages + 1
    assert shown == whole
    assert pages > 1


@run_async
async def test_model_of_another_program_is_listed_and_registered() -> None:
    add_ollama_model("mario:latest", f"You are Mario.{chr(0x202E)}")
    async with connect_stdio() as client:
        text = get_text(await client.call_tool("hf_import_model", {"program": "ollama"}))
        assert "mario:latest: " in text
        assert "Next: hf_import_model(program='ollama', name='mario:latest') registers it." in text
        assert "lm" in await call_refused(client, "hf_import_model", program="lmstudio", name="x")
        assert "Next: " in await call_refused(client, "hf_import_model", program="ollama", name="../mario")
        done = await call_tool(client, "hf_import_model", program="ollama", name="mario")
        shown = await run_command_for_one("show", "mario")
        model = drop_changing_fields(done["imported"]["result"]["model"])
        assert (model["id"], model["options"]) == (shown["id"], {"system": "You are Mario."})
        again = await call_tool(client, "hf_import_model", program="ollama", name="mario")
        assert again["imported"] is None
        assert again["models"][0]["identical_to"] == shown["id"]
        empty = get_text(await client.call_tool("hf_import_model", {"program": "jan"}))
        assert empty.startswith("jan has no models here.")
