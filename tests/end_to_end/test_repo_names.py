"""Repos under other names than their own: in other capitals, or the name that they had before they were renamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llm_hf_mcp import server
from mcp import Client

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, run_hub
from tests.support.mcp_hosts import call_tool, run_async

REPO, FILE = "owner/tiny-GGUF", "tiny-Q8_0.gguf"
MODEL = f"hf/{REPO}:Q8_0"
CAPITALS, OLD = "Owner/Tiny-gguf", "before/small-GGUF"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with run_hub(monkeypatch) as hub:
        hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE, weights_bytes=500_000), "README.md": "# Tiny"})
        yield hub


@pytest.fixture(params=[(CAPITALS, True), (CAPITALS, False), (OLD, True), (OLD, False)], ids=str)
def other(request: pytest.FixtureRequest, hub: HubServer) -> str:
    """Return another name of the repo, which the Hub redirects or answers."""
    name, redirect = request.param
    hub.add_other_name(name, REPO, redirect=redirect)
    return str(name)


def assert_one_model(home: Home, model_id: str = MODEL) -> None:
    """Check that there is one model, one folder in the cache, and that every interface finds the model."""
    assert [(model["id"], model["repo"]) for model in run_json("list")["models"]] == [(model_id, REPO)]
    (row,) = run_json("search", "tiny", "--refresh")["results"]
    assert (row["id"], row["local_models"]) == (REPO, [model_id])
    info = run_json_one("info", REPO, "--refresh")
    assert [variant["local_model"] for variant in info["variants"]] == [model_id]
    assert len({path.name for path in home.cache.glob("models--*")}) <= 1


def test_pull_adopts_the_name_on_the_hub(home: Home, other: str) -> None:
    done = run("pull", other)
    assert f"{other} is {'written' if other == CAPITALS else 'now'} {REPO} on the Hub" in done.stderr
    assert done.stdout.strip() == MODEL
    assert [path.name for path in home.cache.glob("models--*")] == ["models--owner--tiny-GGUF"]
    assert_one_model(home)
    for name in (other, REPO, f"{other}:{FILE}", f"{other}@main"):
        run("pull", name)
    names = {MODEL, f"hf/{REPO}@main:Q8_0"}
    assert {model["id"] for model in run_json("list")["models"]} == names


def test_info_and_headers_use_the_name_on_the_hub(other: str) -> None:
    Library().pull(REPO)
    info = run_json_one("info", other)
    assert (info["id"], info["variants"][0]["local_model"]) == (REPO, MODEL)
    assert any(f"{REPO} on the Hub" in note for note in info["notes"])
    assert run_json_one("inspect", f"{other}:Q8_0")["file"] in (FILE, str(Path(Library().path(MODEL)[0])))
    run("check", f"{other}@main:Q8_0")


def test_import_adopts_the_name_on_the_hub(hub: HubServer, home: Home, other: str) -> None:
    path = hub.list_repos()[0].files[1].location
    done = run("import", path, "--repo", other)
    assert f"{REPO} on the Hub" in done.stderr
    assert done.stdout.strip() == MODEL
    assert_one_model(home)
    run("import", path, "--repo", REPO)
    assert_one_model(home)


@run_async
async def test_agents_see_one_model_too(hub: HubServer) -> None:
    hub.add_other_name(OLD, REPO, redirect=True)
    async with Client(server.build_server()) as client:
        pulled = await call_tool(client, "hf_download_model", ref=OLD, wait_seconds=45)
        assert pulled["model"]["id"] == MODEL
        assert f"{OLD} is now {REPO} on the Hub" in pulled["note"]
        found = await call_tool(client, "hf_get_model", repo=OLD)
        assert (found["id"], found["variants"][0]["local_model"]) == (REPO, MODEL)
        assert (await call_tool(client, "hf_search_models", query="tiny"))["results"][0]["local_models"] == [MODEL]


def test_model_that_was_pulled_before_a_rename_stays_one_model(hub: HubServer, home: Home) -> None:
    hub.rename_repo(REPO, OLD)  # the repo has its old name at the first pull
    run("pull", OLD)
    old_id = f"hf/{OLD}:Q8_0"
    hub.rename_repo(OLD, REPO)
    assert run("pull", REPO).stdout.strip() == old_id
    assert_one_model(home, old_id)
    for name in (OLD, REPO, old_id):
        assert run_json_one("show", name)["id"] == old_id


def test_info_records_a_new_name_for_the_search(hub: HubServer, home: Home) -> None:
    hub.rename_repo(REPO, OLD)
    run("pull", OLD)
    hub.rename_repo(OLD, REPO)
    run("info", OLD, "--refresh")
    assert_one_model(home, f"hf/{OLD}:Q8_0")


def test_same_files_of_another_repo_are_another_model(hub: HubServer) -> None:
    hub.add_repo("other/copy-GGUF", {FILE: hub.list_repos()[0].files[1].location})
    run("pull", REPO)
    run("pull", "other/copy-GGUF")
    assert {model["repo"] for model in run_json("list")["models"]} == {REPO, "other/copy-GGUF"}


def test_new_version_of_a_renamed_repo_frees_the_old_one(hub: HubServer, home: Home, tmp_path: Path) -> None:
    hub.rename_repo(REPO, OLD)
    run("pull", OLD)
    hub.rename_repo(OLD, REPO)
    hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / "new.gguf", seed=3, weights_bytes=500_000)})
    run("pull", OLD)
    (model,) = run_json("list")["models"]
    assert (model["repo"], model["commit"]) == (REPO, hub.list_repos()[0].commit)
    refs = [path.parent.parent.parent.name for path in home.cache.rglob("refs/llm-hf/*")]
    assert refs == ["models--owner--tiny-GGUF"]
