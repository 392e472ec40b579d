"""A read-only server changes nothing, and its texts name only the tools that it offers."""

from __future__ import annotations

import hashlib
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from llm_hf_mcp import server
from mcp import Client
from mcp_types import PromptReference, ResourceTemplateReference, TextResourceContents

from llm_hf_models.agent_library import AgentLibrary
from llm_hf_models.downloads import worker
from llm_hf_models.errors import PolicyError
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Stall
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, get_text, run_async
from tests.support.mcp_hub import BIG_BYTES, Q8, REPO
from tests.support.waiting import wait_until

hub = mcp_hub.hub

READ: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hf_status", {}),
    ("hf_list_models", {}),
    ("hf_get_disk_usage", {"by": "collection"}),
    ("hf_lock_models", {}),
    ("hf_get_downloads", {}),
    ("hf_get_downloads", {"finished": True}),
    ("hf_get_downloads", {"id": 1, "wait_seconds": 2}),
    ("hf_search_models", {"query": "tiny"}),
    ("hf_get_model", {"repo": REPO, "card": True, "files": True}),
    ("hf_inspect_gguf", {"model": f"{REPO}:Q4_K_M"}),
)
WRITING = {spec.name for spec in server.TOOLS if spec.writes}


def snapshot(folder: Path) -> dict[str, str]:
    """Return the digest of every file and the name of every folder; without SQLite's companions, which readers use."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
        if not path.name.endswith(("-wal", "-shm"))
    }


async def read_everything(client: Client) -> list[str]:
    """Call each tool, read each kind of resource, complete each argument; return all texts."""
    texts = []
    for tool, arguments in READ:
        result = await client.call_tool(tool, arguments)
        texts.append(get_text(result))
        assert not result.is_error or "There is no download 1" in texts[-1], texts[-1]
    uris = [resource.uri for resource in (await client.list_resources()).resources]
    for uri in (*uris, f"hf://models/{REPO}", f"hf://models/{REPO}/card"):
        (content,) = (await client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        texts.append(content.text)
    for uri, name in (("hf://downloads/{id}", "id"), ("hf://library/{name}", "name")):
        await client.complete(ResourceTemplateReference(type="ref/resource", uri=uri), {"name": name, "value": ""})
    reference = PromptReference(type="ref/prompt", name="choose-a-model")
    await client.complete(reference, {"name": "task", "value": "t"})
    return texts


def leave_a_download_without_a_worker(hub: HubServer) -> int:
    """Kill the worker of a download in the middle of it."""
    hub.fault(Stall(after=BIG_BYTES // 2), on=Q8, side="storage", times=None)
    number = Library().enqueue(f"{REPO}:Q8_0").id
    hub.wait_until(lambda: hub.sent(Q8, side="storage") >= BIG_BYTES // 2)
    for child in psutil.Process().children():
        if "llm_hf_models.downloads.worker" in child.cmdline():
            child.send_signal(signal.SIGKILL)
            wait_until(lambda child=child: not child.is_running())  # type: ignore[misc]
    hub.clear()
    return number


@run_async
async def test_reading_changes_no_file_and_starts_no_worker(hub: HubServer, home: Home, tmp_path: Path) -> None:
    Library().import_file(tiny_chat(tmp_path / "mine-F16.gguf"), aliases=["mine"])
    number = leave_a_download_without_a_worker(hub)
    folders = (home.root, home.runtime)
    before = [snapshot(folder) for folder in folders]
    sent = hub.count(Q8, side="storage")
    async with connect_stdio("--read-only") as client:
        await read_everything(client)
        (row,) = (await call_tool(client, "hf_get_downloads", id=number))["downloads"]
        assert (row["state"], row["error"]) == ("queued", "its process ended"), "it shows the state without storing it"
        step = (await call_tool(client, "hf_get_downloads", id=number))["next_step"]
        assert step == "The user can run `llm hf downloads` to continue all downloads that wait for a worker."
    assert [snapshot(folder) for folder in folders] == before
    assert not worker.is_running()
    assert hub.count(Q8, side="storage") == sent
    assert [event.kind for event in Library().follow(number)][-1] == "done"


@run_async
async def test_lost_worker_is_restarted_by_a_change_and_not_by_reading(hub: HubServer, home: Home) -> None:
    number = leave_a_download_without_a_worker(hub)
    before = snapshot(home.llm)
    async with connect_stdio() as client:
        for arguments in ({}, {"id": number, "wait_seconds": 45}):
            result = await client.call_tool("hf_get_downloads", arguments)
            assert result.structured_content["downloads"][0]["needs_worker"]
            assert f"hf_control_download(id={number}, action='resume') continues it." in get_text(result)
            assert "`llm hf downloads`" in get_text(result)
        await client.read_resource(f"hf://downloads/{number}")
        assert snapshot(home.llm) == before
        assert not worker.is_running()
        row = await call_tool(client, "hf_control_download", id=number, action="resume")
        assert not row["needs_worker"]
        done = await call_tool(client, "hf_get_downloads", id=number, wait_seconds=40)
    assert done["downloads"][0]["state"] == "done"


@pytest.mark.new_machine
@pytest.mark.usefixtures("hub")
@run_async
async def test_reading_creates_no_library(home: Home) -> None:
    before = snapshot(home.llm)
    async with connect_stdio("--read-only") as client:
        await read_everything(client)
        assert (await call_tool(client, "hf_list_models"))["models"] == []
    assert snapshot(home.llm) == before
    assert not (home.llm / "hf").exists()


def test_followed_download_is_read_without_changes(hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    number = leave_a_download_without_a_worker(hub)
    Library().cancel(number)
    before = snapshot(home.llm)
    monkeypatch.setenv("LLM_HF_AGENT_READ_ONLY", "on")
    agent = AgentLibrary("a bot")
    assert [event.kind for event in agent.follow(number)][-1] == "cancelled"
    assert agent.list_engines() == ()
    assert snapshot(home.llm) == before
    with pytest.raises(PolicyError):
        agent.retry(number)


@pytest.mark.parametrize("flags", [("--read-only",), ()])
@run_async
async def test_texts_name_only_tools_that_are_offered(flags: tuple[str, ...], hub: HubServer) -> None:
    if flags:
        Library().cancel(leave_a_download_without_a_worker(hub))
    async with connect_stdio(*flags) as client:
        listed = (await client.list_tools()).tools
        texts = [client.instructions or "", *(tool.model_dump_json(exclude={"name"}) for tool in listed)]
        for prompt in (await client.list_prompts()).prompts:
            arguments = {argument.name: "x" for argument in prompt.arguments or ()}
            texts += [prompt.model_dump_json(), (await client.get_prompt(prompt.name, arguments)).model_dump_json()]
        texts += await read_everything(client)
        texts.append(await call_refused(client, "hf_inspect_gguf", model="none"))
        texts.append(await call_refused(client, "hf_get_model", repo="owner/none"))
        texts.append(await call_refused(client, "hf_get_downloads", id=99))
        texts.append(get_text(await client.call_tool("hf_list_models", {"name": "zzz"})))
    hidden = WRITING - {tool.name for tool in listed}
    assert hidden == (WRITING if flags else {"hf_delete_model", "hf_prune_models"})
    named = re.compile("|".join(rf"\b{name}\b" for name in hidden))
    assert [text for text in texts if named.search(text)] == []
    assert ("This server only reads." in texts[0]) == bool(flags)
    assert "Call hf_list_models first" in texts[0]
