"""Questions that an agent asks about the local models: which are outdated, old or large, and how many there are."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from llm_hf_models import paths
from llm_hf_models.library.database import Database
from llm_hf_models.service import Library
from llm_hf_models.system.json_values import format_utc
from tests.support import mcp_hub
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, get_text, run_async
from tests.support.mcp_hub import Q4, Q8, REPO

hub = mcp_hub.hub
pulled = mcp_hub.pulled

COUNT = 33
LEVELS = ("short", "normal", "full")


def add_models(hub: HubServer, file: Path) -> list[str]:
    """Add many local models of different repos, which share one file."""
    with Database(paths.library_path()) as db:
        first = db.get_model(f"hf/{REPO}:Q4_K_M")
        ids = []
        for number in range(COUNT - 1):
            name = f"bartowski-{number}/Some-Model-{number}B-Instruct-GGUF"
            hub.add_repo(name, {Q4: file})
            ids.append(f"hf/{name}:Q4_K_M")
            aliases = (
                f"Some-Model-{number}B-Instruct",
                f"Some-Model-{number}B-Instruct:Q4_K_M",
            )  # as a pull gives them
            more = {"aliases": aliases, "repo": name, "added": 1.6e9 + number}
            db.register(replace(first, model_id=ids[-1], **more))  # type: ignore[arg-type]
    return ids


async def read_pages(client: Client, tool: str, name: str, **arguments: Any) -> list[list[dict[str, Any]]]:
    pages, cursor = [], None
    while True:
        result = await client.call_tool(tool, {**arguments, "cursor": cursor})
        page = result.structured_content
        assert page is not None, get_text(result)
        assert max(len(json.dumps(page, ensure_ascii=False)), len(get_text(result))) < 10_000
        assert page["totals"][name]["shown"] == len(page[name])
        pages.append(page[name])
        cursor = page["next_cursor"]
        if cursor is None:
            return pages


@run_async
async def test_thirty_models_fit_on_a_page_with_all_answers(pulled: HubServer, tmp_path: Path) -> None:
    ids = add_models(pulled, tmp_path / Q4)
    pulled.add_repo("bartowski-3/Some-Model-3B-Instruct-GGUF", {Q4: tiny_chat(tmp_path / "new.gguf", seed=9)})
    async with connect_stdio() as client:
        result = await client.call_tool("hf_list_models", {})
        page, text = result.structured_content, get_text(result)
        assert page is not None
        assert len(page["models"]) == 30
        size = (tmp_path / Q4).stat().st_size
        assert page["totals"] == {"models": {"total": COUNT, "shown": 30, "size_bytes": size}}
        assert (page["freed_bytes"], page["outdated"], page["unknown"]) == (size, 1, 0)
        assert f"30 of {COUNT} models" in text
        rows = {row["id"]: row for row in page["models"]}
        for name in (row for row in ids if row in rows):
            row = rows[name]
            assert row["update_available"] is ("Model-3B" in name)
            assert (row["freed_bytes"], row["last_used"], len(row["commit"])) == (0, None, 12)
            assert len(row["aliases"]) == 1
            line = next(line for line in text.splitlines() if line.startswith(f"{name}: "))
            assert ("UPDATE AVAILABLE" in line, "never used" in line) == ("Model-3B" in name, True)
            added = datetime.fromisoformat(row["added"].replace("Z", "+00:00"))
            assert f"added {added.astimezone():%Y-%m-%d}" in line
            assert f"commit {row['commit']}" in line
        for level in LEVELS:
            pages = await read_pages(client, "hf_list_models", "models", verbosity=level, limit=50)
            shown = [row["id"] for rows in pages for row in rows]
            assert (len(shown), set(shown)) == (COUNT, {f"hf/{REPO}:Q4_K_M", *ids})


@run_async
async def test_unreachable_hub_is_one_warning_for_many_models(
    pulled: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_models(pulled, tmp_path / Q4)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    async with connect_stdio() as client:
        page = await call_tool(client, "hf_list_models")
        assert len(page["models"]) == 30
        known = {row["id"]: row["update_available"] for row in page["models"]}
        assert known.pop(f"hf/{REPO}:Q4_K_M") is False, "its cached response is still fresh"
        assert set(known.values()) == {None}
        assert page["unknown"] == COUNT - 1
        assert [line for line in page["warnings"] if "HF_HUB_OFFLINE" in line]
        (row,) = (await call_tool(client, "hf_list_models", name="Model-7B"))["models"]
        assert row["update_note"] == "Offline mode is on (HF_HUB_OFFLINE)"


@run_async
async def test_models_are_sorted_by_use_and_size(pulled: HubServer, tmp_path: Path) -> None:
    library, started = Library(), format_utc(time.time())
    library.pull(f"{REPO}:Q8_0")
    library.import_file(tiny_chat(tmp_path / "own-F16.gguf"))
    with Database(paths.library_path()) as db:
        db.touch_model(f"hf/{REPO}:Q4_K_M")
    assert pulled
    async with connect_stdio() as client:

        async def order(sort: str) -> list[str]:
            rows = (await call_tool(client, "hf_list_models", sort=sort, verbosity="short"))["models"]
            return [row["id"].rpartition(":")[2] for row in rows]

        assert await order("newest") == ["F16", "Q8_0", "Q4_K_M"]
        assert await order("unused") == ["Q8_0", "F16", "Q4_K_M"]
        assert (await order("largest"))[0] == "Q8_0"
        (used,) = (await call_tool(client, "hf_list_models", name="Q4_K_M"))["models"]
        assert started <= used["last_used"] <= format_utc(time.time())


@run_async
async def test_search_and_get_model_show_updates(pulled: HubServer, tmp_path: Path) -> None:
    async with connect_stdio() as client:

        async def find() -> tuple[Any, Any, str]:
            (row,) = (await call_tool(client, "hf_search_models", query="tiny"))["results"]
            result = await client.call_tool("hf_get_model", {"repo": REPO})
            assert result.structured_content is not None
            variants = {each["quant"]: each for each in result.structured_content["variants"]}
            return row["update_available"], variants["Q4_K_M"]["update_available"], get_text(result)

        row, variant, text = await find()
        assert (row, variant, "up to date" in text) == (False, False, True)
    pulled.add_repo(REPO, {Q4: tiny_chat(tmp_path / "new.gguf", seed=9), Q8: tmp_path / Q8})
    with Database(paths.library_path()) as db:
        db.delete_old_metadata(older_than=time.time() + 60)
    async with connect_stdio() as client:
        row, variant, text = await find()
        assert (row, variant, "UPDATE AVAILABLE" in text) == (True, True, True)
        listed = await call_tool(client, "hf_list_models")
        assert listed["next_step"].startswith(f"hf_download_model(ref='{REPO}:Q4_K_M')")
        await call_tool(client, "hf_download_model", ref=f"{REPO}:Q4_K_M", wait_seconds=45)
        assert (await find())[0] is False


def list_names(rows: Iterable[dict[str, Any]]) -> set[str]:
    return {name for row in rows for name in row}


@pytest.mark.usefixtures("pulled")
@run_async
async def test_each_level_of_verbosity_adds_fields() -> None:
    Library().pull(f"{REPO}:Q8_0")
    calls: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("hf_search_models", "results", {"query": "tiny"}),
        ("hf_get_model", "variants", {"repo": REPO}),
        ("hf_list_models", "models", {}),
        ("hf_get_downloads", "downloads", {"finished": True}),
    )
    async with connect_stdio() as client:
        schemas = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        for tool, name, arguments in calls:
            answers = [await call_tool(client, tool, **arguments, verbosity=level) for level in LEVELS]
            sizes = [len(json.dumps(answer)) for answer in answers]
            assert sizes == sorted(set(sizes)), tool
            short, normal, full = (list_names(answer[name]) for answer in answers)
            assert short < normal < full, tool
            assert len({answer["totals"][name]["total"] for answer in answers}) == 1
            assert schemas[tool]["properties"]["verbosity"]["enum"] == list(LEVELS)
            assert "verbosity" in await call_refused(client, tool, **arguments, verbosity="huge")


@pytest.mark.usefixtures("pulled")
@run_async
async def test_cursor_past_the_end_gives_an_empty_page() -> None:
    async with connect_stdio() as client:
        first = await call_tool(client, "hf_inspect_gguf", model=REPO, metadata=True, tensors=True)
        assert first["totals"]["tensors"]["total"] == first["tensor_count"]
        past = "YWZ0ZXI6OTk5"  # after:999
        for tool, name, arguments in (
            ("hf_list_models", "models", {}),
            ("hf_get_downloads", "downloads", {"finished": True}),
            ("hf_get_model", "variants", {"repo": REPO}),
            ("hf_search_models", "results", {"query": "tiny"}),
        ):
            result = await client.call_tool(tool, {**arguments, "cursor": past})
            assert result.structured_content is not None
            totals = result.structured_content["totals"][name]
            assert (result.structured_content[name], totals["shown"]) == ([], 0)
            assert totals["total"] > 0
            assert "no more" in get_text(result) or f"0 of {totals['total']}" in get_text(result)


@pytest.mark.usefixtures("pulled")
@run_async
async def test_tools_that_are_not_offered_name_the_command() -> None:
    for flags, tool, command in (
        ((), "hf_delete_model", "llm hf rm NAME"),
        (("--read-only",), "hf_delete_model", "llm hf rm NAME"),
        (("--read-only",), "hf_download_model", "llm hf pull owner/name:QUANT"),
        (("--read-only",), "hf_run_prompt", "llm -m NAME PROMPT"),
    ):
        async with connect_stdio(*flags) as client:
            told = {each.name: each.description or "" for each in (await client.list_tools()).tools}
            for text in (client.instructions or "", told["hf_list_models"], told["hf_status"]):
                assert f"`{command}`" in text
                assert "hf_delete_model" not in text
            refusal = await call_refused(client, tool, name="x", confirm="x")
            assert refusal.startswith(f"Unknown tool: {tool} is not offered by this server. The setting agent_")
            assert f"`{command}`" in refusal
    async with connect_stdio("--allow-delete") as client:
        assert "Not offered" not in (client.instructions or "")
