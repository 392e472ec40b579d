"""Consent to an agent's change: a person is asked if the host can ask, and the log says how consent was given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hosts import (
    ERAS,
    Era,
    User,
    call_refused,
    call_tool,
    connect_http,
    connect_stdio,
    run_async,
    serve_http,
)
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub

CLOSED = "owner/closed-GGUF"
FLAGS = ("--allow-delete", "--ask-above", "1MB")
# Each action that needs consent: its tool, the arguments, the exact name that confirms it, and a word of the question.
ACTIONS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "delete": ("delete_model", {"name": "mine"}, "hf/local/mine:F16", "Delete"),
    "large": ("download_model", {"ref": f"{REPO}:Q8_0"}, f"{REPO}:Q8_0", "Download 3"),
    "token": ("download_model", {"ref": CLOSED}, CLOSED, "Hub token"),
    "unverified": ("run_prompt", {"name": "mine", "prompt": "Hello"}, "hf/local/mine:F16", "never verified"),
}


@pytest.fixture
def stocked(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """Provide a model of the user's own, a gated repo, and a token that gives access to it."""
    Library().import_file(tiny_chat(tmp_path / "mine-F16.gguf"), aliases=["mine"])
    hub.add_repo(CLOSED, {"closed-Q4_K_M.gguf": tiny_chat(tmp_path / "closed.gguf")}, gated="manual")
    monkeypatch.setenv("HF_TOKEN", hub.add_token("hf_friend", access=[CLOSED]))
    return hub


def read_log(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.llm / "hf/agents.log").read_text("utf-8").splitlines()]


def list_consents(line: dict[str, Any]) -> dict[str, Any]:
    return {way: line[way] for way in ("agreed", "confirmed_in_words", "preapproved") if way in line}


async def refuse_each(client: Client, person: User, home: Home, refused: Callable[[dict[str, Any]], None]) -> None:
    for action, (tool, arguments, name, word) in ACTIONS.items():
        for confirm in (None, name, "yes"):
            asked = len(person.questions)
            words = await call_refused(client, tool, **arguments, **({"confirm": confirm} if confirm else {}))
            assert "The user did not agree, so nothing was changed." in words, (action, confirm, words)
            (question,) = person.questions[asked:]
            assert word in question
            refused(read_log(home)[-1])


@pytest.mark.parametrize("answer", ["decline", "cancel", "disagree"])
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.usefixtures("stocked")
@run_async
async def test_host_that_can_ask_asks_whatever_the_agent_confirms(era: Era, answer: Any, home: Home) -> None:
    def check(line: dict[str, Any]) -> None:
        assert (line["outcome"], list_consents(line)) == ("refused", {})

    person = User(answer)
    async with connect_stdio(*FLAGS, era=era, person=person) as client:
        await refuse_each(client, person, home, check)
    assert [model.model_id for model in Library().list()] == ["hf/local/mine:F16"]
    assert Library().downloads(include_finished=True) == ()
    assert len(read_log(home)) == len(person.questions)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.usefixtures("stocked")
@run_async
async def test_confirmation_is_ignored_over_http_if_the_host_can_ask(era: Era, home: Home) -> None:
    person = User("decline")
    with serve_http(*FLAGS) as server:
        async with connect_http(server, era, person) as client:
            await refuse_each(client, person, home, lambda _: None)
            assert len(Library().list()) == 1
            person.answer = "agree"
            assert (await call_tool(client, "delete_model", name="mine", confirm="whatever"))["done"]
    assert list_consents(read_log(home)[-1]) == {"agreed": ["delete"]}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", ["agreed", "confirmed_in_words", "preapproved"])
@pytest.mark.usefixtures("stocked")
@run_async
async def test_log_separates_a_person_from_words_and_from_the_setting(era: Era, way: str, home: Home) -> None:
    person = User() if way == "agreed" else None
    flags = (*FLAGS, "--yes-to", ",".join(ACTIONS)) if way == "preapproved" else FLAGS
    async with connect_stdio(*flags, era=era, person=person) as client:
        for action, (tool, arguments, name, _) in reversed(ACTIONS.items()):  # the deletion is the last one
            if way == "confirmed_in_words":
                with_words = {**arguments, "confirm": name}
                await call_refused(client, tool, **arguments)
                await call_tool(client, tool, **with_words)
            else:
                await call_tool(client, tool, **arguments)
            assert list_consents(read_log(home)[-1]) == {way: [action]}


@pytest.mark.usefixtures("stocked")
@run_async
async def test_setting_and_person_are_listed_separately_for_one_change(home: Home) -> None:
    async with connect_stdio("--ask-above", "1", "--yes-to", "large", person=User()) as client:
        await call_tool(client, "download_model", ref=CLOSED)
    assert list_consents(read_log(home)[-1]) == {"agreed": ["token"], "preapproved": ["large"]}
