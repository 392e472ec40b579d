"""Names that llm has for other plugins' models: our models and hints never use them."""

from __future__ import annotations

import json
from pathlib import Path

import llm
import pytest

from tests.conftest import Home
from tests.support import taken_names
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_embedding
from tests.support.taken_names import OWNER, REPO, THEIRS

hub = taken_names.hub
gguf = taken_names.gguf


@pytest.mark.usefixtures("hub")
def test_name_of_another_plugin_is_refused_by_every_command(gguf: Path) -> None:
    run("import", gguf, "-q")
    for words in (
        ("alias", "walrus", "seal", THEIRS),
        ("import", gguf, "-a", THEIRS),
        ("attach", THEIRS, "--endpoint", "http://127.0.0.1:9", "--model", "x"),
        ("pull", REPO, "-a", THEIRS),
        ("pull", REPO, "-a", THEIRS, "--background"),
    ):
        done = run(*words, code=2)
        assert f"Another model in llm already has the name {THEIRS!r}" in done.stderr, words
        assert OWNER in done.stderr
    assert [model["id"] for model in run_json("list")["models"]] == ["hf/local/walrus:Q8_0"]
    assert not {THEIRS, "seal"} & run_json("alias")["aliases"].keys()


def test_name_given_to_a_foreign_model_is_refused_and_our_own_is_not(gguf: Path, home: Home) -> None:
    run("import", gguf, "-q")
    given = {"quick": THEIRS, "mine": "hf/local/walrus:Q8_0"}
    (home.llm / "aliases.json").write_text(json.dumps(given), encoding="utf-8")
    assert OWNER in run("alias", "walrus", "quick", code=2).stderr
    run("alias", "walrus", "mine")


def test_names_of_embedding_models_are_a_separate_set(gguf: Path, tmp_path: Path) -> None:
    run("import", gguf, "-q")
    run("import", tiny_embedding(tmp_path / "emb.gguf"), "-q")
    assert "text-embedding-3-small" in run("alias", "emb", "3-small", code=2).stderr
    run("alias", "emb", "4o-mini")
    run("alias", "walrus", "3-small")
    assert llm.get_embedding_model("4o-mini").model_id == run_json_one("show", "emb")["id"]
    assert llm.get_model("3-small").model_id == "hf/local/walrus:Q8_0"


@pytest.mark.usefixtures("hub")
def test_suggested_names_never_belong_to_another_plugin() -> None:
    done = run("pull", REPO)
    (name,) = [line.split()[4] for line in done.stderr.splitlines() if line.startswith("Prompt it: llm -m ")]
    assert llm.get_model(name).model_id == f"hf/{REPO}:Q8_0"


def test_names_work_if_another_plugin_fails(gguf: Path, home: Home) -> None:
    (home.llm / "aliases.json").write_text("{", encoding="utf-8")
    assert "llm -m walrus 'hello'" in run("import", gguf).stderr
    run("alias", "walrus", "seal")
