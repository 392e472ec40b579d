"""Agents and collections: list, change under the policy, delete with consent."""

from __future__ import annotations

import pytest

from llm_hf_models import Library
from tests.support.local_models import record_model
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, run_async

TINY = "tiny/chat-GGUF:Q4_K_M"


@pytest.fixture(autouse=True)
def _collections() -> None:
    record_model(TINY, "tiny")
    Library().create_collection("coding/small")
    Library().add_to_collection("coding/small", "far/away", "tiny")


@run_async
async def test_agent_lists_pages_and_changes_collections() -> None:
    async with connect_stdio() as client:
        page = await call_tool(client, "hf_list_collections", limit=1)
        rest = await call_tool(client, "hf_list_collections", cursor=page["next_cursor"])
        assert [row["name"] for row in (*page["collections"], *rest["collections"])] == ["coding", "coding/small"]
        one = await call_tool(client, "hf_list_collections", name="Coding", limit=1)
        assert (one["contains"][0]["name"], one["totals"]["members"]["total"]) == ("coding/small", 2)
        assert [each["ref"] for each in one["members"]] == ["far/away"]
        assert "hf_download_model" in one["next_step"] or "cursor" in one["next_step"]
        done = await call_tool(
            client, "hf_edit_collection", action="add", name="coding", members=["tiny"], role="best", note="good"
        )
        assert (done["members"][0]["role"], done["members"][0]["note"]) == ("best", "good")
        await call_tool(client, "hf_edit_collection", action="rename", name="coding", new_name="work")
        left = await call_tool(client, "hf_edit_collection", action="remove", name="work", members=["work/best"])
        assert [each["collection"] for each in left["members"]] == ["work/small", "work/small"]
        assert "needs the argument 'members'" in await call_refused(
            client, "hf_edit_collection", action="add", name="work"
        )
        assert "would contain itself" in await call_refused(
            client, "hf_edit_collection", action="add", name="work/small", members=["work"]
        )


@run_async
async def test_hints_name_the_tools_for_collections() -> None:
    async with connect_stdio() as client:
        unknown = await call_refused(client, "hf_list_collections", name="codin")
        assert "Did you mean 'coding'? List the collections with hf_list_collections." in unknown
        other = await call_refused(client, "hf_edit_collection", action="remove", name="coding", members=["tiny"])
        assert "hf_list_collections('coding')" in other
        repo = await call_refused(client, "hf_download_model", ref="coding/small")
        assert "For its models: hf_list_collections('coding/small')." in repo
        assert "hf://coding/small" in repo


@run_async
async def test_deletion_needs_permission_and_consent() -> None:
    async with connect_stdio() as client:
        refused = await call_refused(client, "hf_edit_collection", action="delete", name="coding", confirm="coding")
        assert "agent_allow_delete" in refused
    async with connect_stdio("--allow-delete") as client:
        asked = await call_refused(client, "hf_edit_collection", action="delete", name="Coding")
        assert "Delete the collection coding and the 1 in it? Its models are kept." in asked
        assert "confirm='coding'" in asked
        done = await call_tool(client, "hf_edit_collection", action="delete", name="coding", confirm="coding")
        assert (done["deletion"]["collections"], done["deletion"]["done"]) == (["coding", "coding/small"], True)
    assert Library().list_collections() == ()
    assert len(Library().list()) == 1


@run_async
async def test_read_only_server_lists_collections_and_changes_none() -> None:
    async with connect_stdio("--read-only") as client:
        assert len((await call_tool(client, "hf_list_collections"))["collections"]) == 2
        assert "hf_edit_collection" not in {tool.name for tool in (await client.list_tools()).tools}
