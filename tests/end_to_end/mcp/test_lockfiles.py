"""An agent carries the models of one machine to another, as text, within the limits for agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from llm_hf_models.service import Library
from tests.support import lockfiles
from tests.support.commands import run
from tests.support.ggufs import tiny_chat
from tests.support.lockfiles import REPO, SPLIT, SPLIT_ID, TINY_ID, use_machine
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, run_async

hub = lockfiles.hub


async def read_pages(client: Client) -> str:
    text, cursor = "", None
    while True:
        page: dict[str, Any] = await call_tool(client, "hf_lock_models", cursor=cursor)
        text += page["text"]
        cursor = page["next_cursor"]
        if cursor is None:
            return text


@pytest.mark.usefixtures("hub")
@run_async
async def test_agent_locks_one_machine_and_syncs_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", REPO, SPLIT, "-q")
    run("set", TINY_ID, "temperature", "0.5", "system", "Be short.\n" * 900)
    async with connect_stdio() as client:
        text = await read_pages(client)
    assert text == run("lock").stdout, "pages are joined without changes"
    use_machine(monkeypatch, tmp_path / "second")
    async with connect_stdio() as client:
        shown = await call_tool(client, "hf_sync_lockfile", lockfile=text, dry_run=True)
        assert [(one["id"], one["action"]) for one in shown["models"]] == [
            (SPLIT_ID, "download"),
            (TINY_ID, "download"),
        ]
        assert Library().downloads(include_finished=True) == ()
        started = await call_tool(client, "hf_sync_lockfile", lockfile=text)
        for one in started["models"]:
            await call_tool(client, "hf_get_downloads", id=one["download_id"], wait_seconds=45)
        assert (await call_tool(client, "hf_sync_lockfile", lockfile=text))["complete"]
    assert Library().show(TINY_ID).options["temperature"] == 0.5


@pytest.mark.usefixtures("hub")
@run_async
async def test_sync_of_an_agent_deletes_only_with_consent(tmp_path: Path) -> None:
    run("pull", REPO, "-q")
    text = run("lock").stdout
    run("import", tiny_chat(tmp_path / "mine-Q8_0.gguf", seed=5), "-q")
    async with connect_stdio() as client:
        refused = await call_refused(client, "hf_sync_lockfile", lockfile=text, prune=True)
        assert "Agents may not delete models" in refused
    async with connect_stdio("--allow-delete") as client:
        refused = await call_refused(client, "hf_sync_lockfile", lockfile=text, prune=True)
        assert "confirm='lockfile'" in refused
        assert len(Library().list()) == 2
        done = await call_tool(client, "hf_sync_lockfile", lockfile=text, prune=True, confirm="lockfile")
        assert (done["removed"], done["complete"]) == (["hf/local/mine:Q8_0"], True)


@run_async
async def test_sync_of_an_agent_attaches_no_server() -> None:
    run("attach", "far", "--endpoint", "http://127.0.0.1:9/v1", "--model", "big", "--key-env", "HOME")
    text = run("lock").stdout
    run("rm", "far", "-y")
    async with connect_stdio() as client:
        done = await call_tool(client, "hf_sync_lockfile", lockfile=text)
        assert "Agents may not attach" in done["models"][0]["problem"]
        assert "is not valid TOML" in await call_refused(client, "hf_sync_lockfile", lockfile="[[")
    assert Library().list() == ()
