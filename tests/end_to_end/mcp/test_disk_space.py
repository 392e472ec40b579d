"""The tools about disk space: what they show, and that deleting needs consent to exactly these models."""

from __future__ import annotations

import pytest

from llm_hf_models.service import Library
from tests.support import mcp_hub
from tests.support.mcp_hosts import User, call_refused, call_tool, connect_stdio, run_async
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub
pulled = mcp_hub.pulled


@pytest.mark.usefixtures("pulled")
@run_async
async def test_pruning_needs_a_criterion_and_consent() -> None:
    model = f"hf/{REPO}:Q4_K_M"
    async with connect_stdio("--allow-delete") as client:
        usage = await call_tool(client, "hf_get_disk_usage")
        assert [row["name"] for row in usage["rows"]] == [model]
        assert "No criterion" in await call_refused(client, "hf_prune_models")
        assert (await call_tool(client, "hf_prune_models", unused_days=90))["models"] == []
        words = await call_refused(client, "hf_prune_models", larger_gb=0)
        assert "confirm='prune 1 models'" in words
        assert len(Library().list()) == 1
        done = await call_tool(client, "hf_prune_models", larger_gb=0, confirm="prune 1 models")
        assert (done["done"], [each["id"] for each in done["models"]]) == (True, [model])
    assert Library().list() == ()


@pytest.mark.usefixtures("pulled")
@run_async
async def test_person_sees_the_models_that_would_be_deleted() -> None:
    person = User("decline")
    async with connect_stdio("--allow-delete", person=person) as client:
        assert "did not agree" in await call_refused(client, "hf_prune_models", larger_gb=0)
    assert f"hf/{REPO}:Q4_K_M" in person.questions[0]
    assert len(Library().list()) == 1
