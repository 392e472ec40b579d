"""`--collection` of list, pull, verify, test and rm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import mcp_hub
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub
Q4_ID, Q8_ID, OWN_ID = f"hf/{REPO}:Q4_K_M", f"hf/{REPO}:Q8_0", "hf/local/own:Q8_0"


def list_results(*words: str, code: int = 0) -> list[dict[str, Any]]:
    """Run a command with `--json`, and return its results."""
    found: list[dict[str, Any]] = run_json(*words, code=code)["results"]
    return found


@pytest.fixture(autouse=True)
def _collections(hub: HubServer, tmp_path: Path) -> None:
    """Create `work` with a model of the Hub, and `work/own` with an imported one and one of an endpoint."""
    assert hub.endpoint
    run("import", tiny_chat(tmp_path / "own.Q8_0.gguf"), "-q")
    run("attach", "far", "--endpoint", "http://127.0.0.1:9/v1", "--model", "x", "-q")
    run("collection", "create", "work/own", "-q")
    run("collection", "add", "work", f"{REPO}:Q4_K_M", "--note", "small", "-q")
    run("collection", "add", "work/own", "own", "hf/remote/far", "-q")


def test_pull_gets_what_is_missing_and_nothing_else(hub: HubServer) -> None:
    assert [plan["id"] for plan in list_results("pull", "--collection", "work", "--dry-run")] == [Q4_ID]
    pulled = run("pull", "--collection", "WORK")
    assert pulled.stdout == f"{Q4_ID}\n"
    assert "2 of 3 models of WORK are here already." in pulled.stderr
    sent = len(hub.requests)
    again = run("pull", "--collection", "work")
    assert (again.stdout, len(hub.requests)) == ("", sent)
    assert list_results("pull", "--collection", "work") == []
    Path(run("path", Q4_ID).stdout.strip()).unlink()
    assert run("pull", "--collection", "work").stdout == f"{Q4_ID}\n", "its file was removed by another tool"


def test_pull_names_dead_repos_and_gets_the_rest(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("owner/plain", {"README.md": "no weights"})
    hub.add_repo("owner/other-GGUF", {"other-Q8_0.gguf": tiny_chat(tmp_path / "other.gguf")})
    run("collection", "add", "work", "owner/dead", "owner/plain", "owner/other-GGUF", "-q")
    failed = run("pull", "--collection", "work", code=1)
    assert failed.stdout.split() == [Q4_ID, "hf/owner/other-GGUF:Q8_0"]
    assert failed.stderr.count("Error: ") == 2
    again = run_json("pull", "--collection", "work", code=1)
    assert [(each["name"], each["error"]["code"]) for each in again["errors"]] == [
        ("owner/dead", "repo_not_found"), ("owner/plain", "no_gguf"),
    ]  # fmt: skip
    run("collection", "remove", "work", "owner/dead", "owner/plain", "-q")
    forget = run("rm", "--collection", "work", "-y")
    assert forget.stderr.count("Removed ") == 4
    lost = run("pull", "--collection", "work")
    assert "local/own:Q8_0 is not on the Hub. Import or attach it again." in lost.stderr
    assert sorted(lost.stdout.split()) == ["hf/owner/other-GGUF:Q8_0", Q4_ID]


def test_name_of_a_collection_or_a_role_is_not_sent_to_the_hub_as_a_repo(hub: HubServer, tmp_path: Path) -> None:
    """Anyone could own the account `work`."""
    for name in ("own", "best"):
        hub.add_repo(f"work/{name}", {f"{name}-Q8_0.gguf": tiny_chat(tmp_path / f"theirs-{name}")})
    run("collection", "add", "work", f"{REPO}:Q4_K_M", "--role", "best", "-q")
    for command in ("pull", "info", "inspect", "check"):
        refused = run(command, "Work/OWN", code=2).stderr
        assert "work/own is a collection on this machine" in refused
        assert "llm hf pull --collection work/own" in refused
        assert "hf://Work/OWN" in refused
    assert run_json_one("info", "work/best")["id"] == REPO
    assert run_json_one("pull", "work/best", "--dry-run")["id"] == Q4_ID
    assert run("pull", "work/BEST", "-q").stdout == f"{Q4_ID}\n"
    run("collection", "add", "work", "hf://work/own", "-q")
    (theirs,) = [
        each for each in run_json_one("collection", "show", "work")["members"] if each["ref"].startswith("hf://")
    ]
    assert (theirs["ref"], theirs["fix"]) == ("hf://work/own", "llm hf pull hf://work/own")
    assert run("pull", "--collection", "work", "-q").stdout == "hf/work/own:Q8_0\n"
    run("collection", "add", "work/own", OWN_ID, "--role", "first", "-q")
    run("rm", OWN_ID, "-y", "-q")
    assert "local/own:Q8_0, which is work/own/first, is not on" in run("pull", "work/own/first", code=None).stderr


def test_list_shows_the_models_of_a_collection() -> None:
    run("pull", f"{REPO}:Q4_K_M", f"{REPO}:Q8_0", "-q")
    assert run("list", "--collection", "work", "-q").stdout.split() == [Q4_ID, "hf/remote/far", OWN_ID]
    assert run("list", "--collection", "work/own", "-q").stdout.split() == ["hf/remote/far", OWN_ID]
    found = {model["id"]: model["collections"] for model in run_json("list")["models"]}
    assert found == {Q4_ID: ["work"], Q8_ID: [], OWN_ID: ["work/own"], "hf/remote/far": ["work/own"]}
    survey = run_json("list", "--updates", "--collection", "work/own")
    assert [model["collections"] for model in survey["models"]] == [["work/own"], ["work/own"]]
    assert "COLLECTIONS" not in run("list").stdout
    (row,) = [line for line in run("list", "--collections").stdout.splitlines() if Q4_ID in line]
    assert "work" in row.split()
    assert "Collections    work\n" in run("show", Q4_ID).stdout
    assert run_json_one("show", Q4_ID)["collections"] == ["work"]
    run("rm", Q4_ID, "-y")
    assert "1 of 3 models of work are not on this machine: llm hf pull --collection work" in (
        run("list", "--collection", "work").stderr
    )


def test_verify_and_test_check_the_files_of_a_collection() -> None:
    run("pull", f"{REPO}:Q4_K_M", "-q")
    done = list_results("verify", "--collection", "work", code=1)  # an imported model was never compared with the Hub
    assert [each["id"] for each in done] == [Q4_ID, OWN_ID]
    assert "1 of 2 match." in run("verify", "--collection", "work", code=1).stdout
    run("collection", "remove", "work/own", OWN_ID, "-q")
    assert [each["source"] for each in list_results("test", "--collection", "work")] == [Q4_ID]
    run("collection", "create", "empty", "-q")
    assert "The collection empty has no models." in run("verify", "--collection", "empty").stderr
    assert list_results("test", "--collection", "empty") == []


def test_rm_shows_the_whole_plan_and_keeps_the_refs() -> None:
    run("pull", f"{REPO}:Q4_K_M", "-q")
    asked = run("rm", "--collection", "work", code=1, stdin="n\n")
    assert asked.stderr.count("Would remove ") == 3
    assert "Remove these 3 models?" in asked.stderr
    assert len(list_results("rm", "--collection", "work", "--dry-run")) == 3
    assert len(run_json("list")["models"]) == 3
    assert [each["done"] for each in list_results("rm", "--collection", "work", "-y")] == [True, True, True]
    members = run_json_one("collection", "show", "work")["members"]
    assert [(each["ref"], each["id"]) for each in members] == [
        (f"{REPO}:Q4_K_M", None), ("local/own:Q8_0", None), ("remote/far", None),
    ]  # fmt: skip
    nothing = run("rm", "--collection", "work", "-y")
    assert (nothing.stdout, nothing.stderr.count("Removed")) == ("", 0)


@pytest.mark.parametrize("words", [["pull"], ["rm"], ["verify"], ["test"]])
def test_names_and_a_collection_exclude_each_other(words: list[str]) -> None:
    assert "Give either " in run(*words, code=2).stderr
    assert "Give either " in run(*words, "own", "--collection", "work", code=2).stderr
    assert "There is no collection 'wrk'" in run(*words, "--collection", "wrk", code=1).stderr
