"""`llm hf collection`: output, questions and errors. The rules are in tests/end_to_end/library/test_collections.py."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.commands import run, run_json, run_json_one
from tests.support.local_models import record_model

TINY = "tiny/chat-GGUF:Q4_K_M"


@pytest.fixture(autouse=True)
def _collections() -> None:
    record_model(TINY, "tiny")
    run("collection", "create", "coding/small", "--note", "for work", "-q")
    run("collection", "add", "coding", "tiny", "--role", "best", "-q")
    run("collection", "add", "coding/small", "far/away-GGUF:Q8_0", "-q")


def test_show_tells_what_is_here_and_how_to_pull_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("collection", "show", "coding", "coding/small")
    assert [re.split(" {2,}", line) for line in shown.stdout.splitlines() if "this machine" in line] == [
        [f"hf/{TINY}", "best", "on this machine"],
        ["far/away-GGUF:Q8_0", "not on this machine", "coding/small"],
        ["far/away-GGUF:Q8_0", "not on this machine"],
    ]
    assert max(map(len, shown.output.splitlines())) <= 80
    assert (
        shown.stderr.splitlines() == ["far/away-GGUF:Q8_0 is not on this machine: llm hf pull far/away-GGUF:Q8_0"] * 2
    )
    assert run("collection", "show", "-q", "coding").stderr == ""


def test_list_has_numbers_and_names() -> None:
    assert [line.split() for line in run("collection", "list").stdout.splitlines()[1:]] == [
        ["coding", "2", "1"],
        ["coding/small", "1", "0", "for", "work"],
    ]
    assert run("collection").stdout == run("collection", "list").stdout
    assert run("collection", "list", "-q").stdout.split() == ["coding", "coding/small"]
    assert [row["models"] for row in run_json("collection", "list")["collections"]] == [2, 1]


def test_each_change_is_reported_and_has_a_dry_run() -> None:
    planned = run("collection", "add", "coding/small", "tiny", "--note", "first", "--dry-run")
    assert planned.stderr == "Would change coding/small: 2 models, 1 on this machine.\n"
    assert "first" in planned.stdout
    assert len(run_json_one("collection", "show", "coding/small")["members"]) == 1
    assert run_json("collection", "remove", "coding", "coding/best")["members"][0]["ref"] == "far/away-GGUF:Q8_0"
    moved = run("collection", "rename", "coding", "work")
    assert (moved.stdout, moved.stderr) == ("", "Renamed it to work: 1 model, 0 on this machine.\n")
    assert run("collection", "list", "-q").stdout.split() == ["work", "work/small"]


def test_delete_shows_its_plan_and_asks_unless_empty() -> None:
    refused = run("collection", "delete", "coding", code=2)
    assert "Would delete coding and 1 collection in it" in refused.stderr
    assert "No longer names of models: coding/best" in refused.stderr
    assert "Nothing was deleted: no answer was given" in refused.stderr
    assert run("collection", "delete", "coding", code=1, stdin="n\n").stderr.endswith("Nothing was deleted.\n")
    assert run_json_one("collection", "delete", "coding", "--dry-run")["done"] is False
    run("collection", "delete", "coding", "nothing", "-y", code=1)
    assert len(run_json("collection", "list")["collections"]) == 2
    done = run_json("collection", "delete", "coding/small", "coding", "-y")["results"]
    assert [each["collections"] for each in done] == [["coding", "coding/small"]]
    run("collection", "create", "empty")
    assert run("collection", "delete", "empty").stderr.endswith("Deleted empty\n")
    assert "No collections yet" in run("collection", "list").stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["create", "a b"], 2, "is not a valid name of a collection"),
        (["create", "tiny"], 2, "is a name of the local model"),
        (["add", "coding", "coding"], 2, "can't contain"),
        (["add", "nothing", "tiny"], 1, "There is no collection 'nothing'"),
        (["add", "coding", "tiny", "--role", ""], 2, "Use --no-role"),
        (["add", "coding", "tiny", "--role", "a/b"], 2, "is not a valid role"),
        (["remove", "coding", "far/away-GGUF"], 1, "is not in coding"),
        (["lst"], 2, "No such command 'lst'"),
    ],
)
def test_error_is_a_message_and_json(words: list[str], code: int, message: str) -> None:
    assert message in run("collection", *words, code=code).stderr
    failed = run("collection", *words, "--json", code=code)
    assert message in json.loads(failed.stdout)["error"]["message"]
    assert failed.stderr == ""


def test_command_for_models_says_that_a_name_is_a_collection() -> None:
    for command in ("show", "path", "verify"):
        assert "It is a collection: llm hf collection show coding." in run(command, "Coding", code=1).stderr
