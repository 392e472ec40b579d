"""Every request to the MCP server is answered before a host gives up, however slow the Hub is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest
from llm_hf_mcp import server
from mcp import Client

from llm_hf_models.errors import HfModelsError
from llm_hf_models.service import Library
from tests.support import mcp_hub
from tests.support.hub_server import HubServer, Stall, Status
from tests.support.mcp_hosts import User, call_refused, call_tool, run_async
from tests.support.mcp_hub import Q4, REPO
from tests.support.waiting import wait_until

hub = mcp_hub.hub

HUB_CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hf_search_models", {"query": "tiny"}),
    ("hf_get_model", {"repo": REPO, "card": True}),
    ("hf_inspect_gguf", {"model": REPO}),
    ("hf_download_model", {"ref": REPO, "wait_seconds": 45}),
)


@pytest.fixture
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_hf_mcp.tools.hub.PLAN_SECONDS", 0.5)
    monkeypatch.setattr("llm_hf_mcp.library_access.HUB_SECONDS", 1.5)


def read_state(number: int) -> str:
    return Library().get_download(number).state


def wait_for_end(number: int) -> str:
    with suppress(HfModelsError):
        return [event.kind for event in Library().follow(number)][-1]
    return ""


@pytest.mark.usefixtures("_short_times")
@pytest.mark.parametrize("slow", [f"/{Q4}", "paths-info"])
@run_async
async def test_slow_header_or_scan_is_read_by_the_worker(slow: str, hub: HubServer) -> None:
    hub.fault(Stall(), on=slow, times=None)
    async with Client(server.build_server()) as client:
        row = (await call_tool(client, "hf_download_model", ref=REPO, aliases=["small"]))["download"]
        assert (row["state"], row["quant"]) == ("queued", "Q4_K_M")
        await anyio.to_thread.run_sync(lambda: wait_until(lambda: read_state(row["id"]) == "planning"))
        (shown,) = (await call_tool(client, "hf_get_downloads", id=row["id"]))["downloads"]
        assert (shown["state"], shown["total_bytes"], shown["done_bytes"]) == ("planning", row["total_bytes"], 0)
        hub.clear()
        done = await call_tool(client, "hf_get_downloads", id=row["id"], wait_seconds=40)
    assert done["downloads"][0]["state"] == "done"
    model = Library().show("small")
    assert (model.state, model.facts.architecture) == ("ready", "llama")
    assert {check.kind for check in model.checks} >= {"digest", "scan", "structure"}


@pytest.mark.usefixtures("_short_times")
@pytest.mark.parametrize("fault", ["unsafe", "invalid"])
@run_async
async def test_worker_applies_the_same_rules_to_a_slow_header(fault: str, hub: HubServer) -> None:
    hub.fault(Stall(), on=f"/{Q4}", times=None)
    if fault == "invalid":
        hub.add_repo(REPO, {Q4: b"no GGUF" * 100})
    async with Client(server.build_server()) as client:
        row = (await call_tool(client, "hf_download_model", ref=REPO))["download"]
    if fault == "unsafe":
        hub.report(hub.list_repos()[0], Q4, "unsafe", avScan="unsafe: malware")
    hub.clear()
    assert await anyio.to_thread.run_sync(wait_for_end, row["id"]) == "failed"
    error = Library().get_download(row["id"]).error or ""
    assert ("as unsafe" if fault == "unsafe" else "not a GGUF file") in error
    assert not Library().list()


@pytest.mark.usefixtures("_short_times")
@run_async
async def test_consent_for_a_slow_header_depends_on_the_listed_size(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_AGENT_ASK_ABOVE_BYTES", "1000")
    hub.fault(Stall(), on=f"/{Q4}", times=None)
    async with Client(server.build_server()) as client:
        refused = await call_refused(client, "hf_download_model", ref=f"{REPO}:Q4_K_M")
        assert "The user must agree first: Download" in refused
        assert not Library().downloads()
        ref = f"{REPO}:Q4_K_M"
        row = (await call_tool(client, "hf_download_model", ref=ref, confirm=ref))["download"]
    hub.clear()
    assert await anyio.to_thread.run_sync(wait_for_end, row["id"]) == "done"


@pytest.mark.usefixtures("_short_times")
@run_async
async def test_tools_answer_in_time_if_the_hub_stalls(hub: HubServer) -> None:
    hub.fault(Stall(), side="hub", times=None)
    async with Client(server.build_server()) as client:
        for tool, arguments in HUB_CALLS:
            text = await call_refused(client, tool, **arguments)
            assert "did not respond in time" in text, tool
            assert "Next: Try again later" in text, tool
        assert (await call_tool(client, "hf_status"))["models"] == 0
        with pytest.raises(Exception, match="did not respond in time"):
            await client.read_resource(f"hf://models/{REPO}")
    assert not Library().downloads()


@pytest.mark.usefixtures("_short_times", "hub")
@run_async
async def test_nothing_is_queued_in_offline_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Client(server.build_server()) as client:
        assert (await call_tool(client, "hf_get_model", repo=REPO))["facts"]
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert "Offline mode is on" in await call_refused(client, "hf_download_model", ref=f"{REPO}:Q8_0")
    assert not Library().downloads()


@run_async
async def test_answer_that_takes_too_long_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_hf_mcp.time_limit.CALL_SECONDS", 1.0)
    hub.fault(Stall(), side="hub", times=None)
    async with Client(server.build_server()) as client:
        text = await call_refused(client, "hf_get_model", repo=REPO)
    assert "There was no result within" in text
    assert "Next: call again later" in text


@run_async
async def test_time_in_which_the_user_reads_a_form_does_not_count(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_hf_mcp.time_limit.CALL_SECONDS", 6.0)
    monkeypatch.setenv("LLM_HF_AGENT_ASK_ABOVE_BYTES", "1")

    class SlowUser(User):
        async def answer_question(self, context: object, params: Any) -> Any:
            await anyio.sleep(7)  # longer than a request may take
            return await super().answer_question(context, params)

    async with Client(server.build_server(), mode="legacy", elicitation_callback=SlowUser().answer_question) as client:
        row = (await call_tool(client, "hf_download_model", ref=f"{REPO}:Q4_K_M"))["download"]
    assert await anyio.to_thread.run_sync(wait_for_end, row["id"]) == "done"
    assert hub.count(Q4, side="storage")


@run_async
async def test_server_errors_while_a_header_is_read_do_not_end_a_download(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_RETRY_SECONDS", "0.05")
    hub.fault(Status(503), on=f"/{Q4}", side="storage", times=5)
    async with Client(server.build_server()) as client:
        done = await call_tool(client, "hf_download_model", ref=REPO, wait_seconds=45)
    assert done["download"]["state"] == "done"
