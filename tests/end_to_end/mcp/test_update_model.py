"""hf_update_model: an agent updates a model in the background, under the rules for downloads."""

from __future__ import annotations

import pytest

from llm_hf_models import Library
from tests.support import new_versions
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, run_async
from tests.support.new_versions import MODEL, NEW_ANSWER, Q4, Origin

origin = new_versions.origin


@pytest.fixture(autouse=True)
def fresh_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_METADATA_LIFETIME_SECONDS", "0")


@run_async
async def test_agent_updates_a_model_that_the_list_shows_as_outdated(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())
    async with connect_stdio() as client:
        (row,) = (await call_tool(client, "hf_list_models"))["models"]
        assert row["update_available"]
        done = await call_tool(client, "hf_update_model", name=MODEL, wait_seconds=45)
        assert done["download"]["state"] == "done", done
        assert done["model"]["commit"] == origin.hub.list_repos()[0].commit
        again = await call_tool(client, "hf_update_model", name=MODEL)
        assert (again["download"], again["note"]) == (None, f"{MODEL}: up to date.")
    assert Library().prompt(MODEL, "Hello").text == NEW_ANSWER
    Library().stop_engines()


@run_async
async def test_large_update_needs_consent_and_a_pin_is_respected(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())
    before = Library().show(MODEL).commit
    async with connect_stdio("--ask-above", "1") as client:
        assert "Download" in await call_refused(client, "hf_update_model", name=MODEL)
        Library().pin(MODEL)
        assert "pinned" in (await call_tool(client, "hf_update_model", name=MODEL))["note"]
    assert Library().show(MODEL).commit == before


@run_async
async def test_failed_load_test_of_an_update_is_told(origin: Origin) -> None:
    before = Library().show(MODEL).commit
    origin.change(Q4, origin.make_unloadable_weights())
    async with connect_stdio() as client:
        done = await call_tool(client, "hf_update_model", name=MODEL, wait_seconds=45)
        assert done["download"]["state"] == "failed"
        assert "load test" in done["download"]["error"]
    assert Library().show(MODEL).commit == before


@run_async
async def test_hub_that_is_away_gives_an_error(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    async with connect_stdio() as client:
        assert "could not be asked" in await call_refused(client, "hf_update_model", name=MODEL)
