"""Each request to the MCP server opens one library, makes one plan, and evaluates the policy once."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from llm_hf_mcp import server
from mcp import Client

from llm_hf_models import policy
from llm_hf_models.agent_library import AgentLibrary
from llm_hf_models.service import Library
from tests.support import mcp_hub
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.mcp_hosts import ERAS, Era, User, call_refused, call_tool, run_async
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub
pulled = mcp_hub.pulled

COUNTED = (
    (AgentLibrary, "__init__"), (Library, "plan"), (Library, "plan_removal"), (policy, "find_prohibition"),
    (policy, "review"),
)  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of the functions in COUNTED."""
    counter: Counter[str] = Counter()

    def count(function: Any) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            counter[function.__name__] += 1
            return function(*args, **kwargs)

        return run

    for owner, name in COUNTED:
        monkeypatch.setattr(owner, name, count(getattr(owner, name)))
    monkeypatch.setenv("LLM_HF_AGENT_ALLOW_DELETE", "on")
    monkeypatch.setenv("LLM_HF_AGENT_ASK_ABOVE_BYTES", "1MB")
    return counter


def expect(requests: int, *plans: str) -> dict[str, int]:
    return dict.fromkeys(("__init__", "find_prohibition", "review", *plans), requests)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.usefixtures("hub")
@run_async
async def test_download_with_consent_is_planned_and_decided_once(era: Era, calls: Counter[str]) -> None:
    person = User()
    async with Client(server.build_server(), mode=era, elicitation_callback=person.answer_question) as client:
        calls.clear()
        await call_tool(client, "hf_download_model", ref=f"{REPO}:Q8_0", wait_seconds=45)
    assert len(person.questions) == 1
    # Since 2026-07-28, the client sends the call again with the answer.
    assert calls == expect(1 if era == "legacy" else 2, "plan")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.usefixtures("pulled")
@run_async
async def test_deletion_with_consent_is_planned_and_decided_once(era: Era, calls: Counter[str]) -> None:
    person = User()
    async with Client(server.build_server(), mode=era, elicitation_callback=person.answer_question) as client:
        calls.clear()
        assert (await call_tool(client, "hf_delete_model", name="tiny"))["done"]
    assert len(person.questions) == 1
    assert calls == expect(1 if era == "legacy" else 2, "plan_removal")


@run_async
async def test_prompt_is_decided_once(calls: Counter[str], tmp_path: Path) -> None:
    Library().import_file(tiny_chat(tmp_path / "mine-F16.gguf"), aliases=["mine"])
    async with Client(server.build_server()) as client:
        calls.clear()
        assert "never verified" in await call_refused(client, "hf_run_prompt", name="mine", prompt="Hello")
        assert calls == expect(1)
        calls.clear()
        name = Library().show("mine").id
        done = await call_tool(client, "hf_run_prompt", name="mine", prompt="Hello", confirm=name)
        assert (done["text"], calls) == (ANSWER, expect(1))
