"""Messages about names that people type, about llm's default model, and about single shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support.commands import run, run_json_one, run_llm
from tests.support.ggufs import tiny_chat, tiny_embedding, tiny_split
from tests.support.hub_server import HubServer, run_hub

REPO, MODEL = "owner/tiny-GGUF", "hf/owner/tiny-GGUF:Q8_0"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with run_hub(monkeypatch) as hub:
        hub.add_repo(REPO, {"tiny-Q8_0.gguf": tiny_chat(tmp_path / "x.gguf")})
        yield hub


# Names


@pytest.mark.parametrize("command", ["pull", "info"])
@pytest.mark.parametrize("name", ["SmolLM2", "SmolLM2:Q4_K_M"])
def test_name_without_an_owner_suggests_the_search(command: str, name: str) -> None:
    done = run(command, name, code=2)
    assert "A repo has the form owner/name." in done.stderr
    assert "llm hf search SmolLM2" in done.stderr
    assert "llm hf search" not in run(command, "https://huggingface.co/datasets/a/b", code=2).stderr


@pytest.mark.parametrize("command", ["check", "inspect"])
def test_unknown_name_of_a_file_or_model_suggests_the_search(command: str) -> None:
    assert "llm hf search SmolLM2" in run(command, "SmolLM2", code=1).stderr


def test_file_without_an_owner_suggests_the_import() -> None:
    assert "llm hf import tiny.gguf" in run("pull", "tiny.gguf", code=2).stderr


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("command", ["pull", "info"])
def test_local_name_says_that_the_model_is_here(command: str) -> None:
    Library().pull(REPO)
    for name in ("tiny", "TINY", "tiny:Q8_0", "tiny-GGUF"):
        done = run(command, name, code=2)
        assert f"{name!r} is on this machine already" in done.stderr
        assert f"llm -m {MODEL}" in done.stderr
        assert "llm hf pull owner/tiny-GGUF:Q8_0" in done.stderr


@pytest.mark.usefixtures("hub")
def test_local_name_of_missing_files_says_how_to_get_them() -> None:
    Library().pull(REPO)
    Path(Library().path("tiny")[0]).unlink()
    done = run("pull", "tiny", code=2)
    assert "are missing on this machine" in done.stderr
    assert "llm hf pull owner/tiny-GGUF:Q8_0" in done.stderr


def test_alias_in_the_form_of_a_repo_says_that_the_model_is_here(hub: HubServer) -> None:
    Library().pull(REPO)
    Library().add_alias("tiny", "my/alias")
    assert f"my/alias is the name of the local model {MODEL}" in run("pull", "my/alias", code=1).stderr
    hub.remove_repo(REPO)
    assert f"llm -m {MODEL}" in run("pull", REPO, code=1).stderr


# llm's default model


@pytest.mark.parametrize(("kind", "command"), [("models", "llm models"), ("embed-models", "llm embed-models")])
def test_removing_the_default_model_says_so(home: Home, tmp_path: Path, kind: str, command: str) -> None:
    write = tiny_chat if kind == "models" else tiny_embedding
    model_id = run("import", write(tmp_path / "x.gguf"), "--alias", "small").stdout.strip()
    run_llm(kind, "default", "small", code=0)
    assert run_json_one("rm", "-y", model_id)["llm_default"] == f"{command} default NAME"
    run("import", tmp_path / "x.gguf")
    done = run("rm", model_id, code=None, stdin="n\n")
    assert f"It is llm's default model. Choose another one: {command} default NAME" in done.stderr
    assert "It was llm's default model" in run("rm", "-y", model_id).stderr
    (home.llm / "default_model.txt").write_text("other")
    (home.llm / "default_embedding_model.txt").unlink(missing_ok=True)
    run("import", tmp_path / "x.gguf")
    assert "llm's default" not in run("rm", "-y", model_id).stderr


# Shards


def test_check_of_a_shard_checks_the_whole_set(tmp_path: Path) -> None:
    shards = tiny_split(tmp_path)
    report = run_json_one("check", shards[1])
    assert (report["errors"], report["part"]) == (0, "shard 2 of 3; all 3 shards were checked")
    assert "shard 2 of 3" in run("check", shards[1]).stdout
    shards[2].write_bytes(b"GGUF" + bytes(20))
    assert run_json_one("check", shards[1], code=1)["errors"] > 0


def test_check_of_a_lone_shard_says_that_it_is_a_part(tmp_path: Path) -> None:
    first, second, third = tiny_split(tmp_path)
    third.unlink()
    for number, shard in ((1, first), (2, second)):
        report = run_json_one("check", shard)
        assert report["part"] == f"shard {number} of 3; other shards are missing, so only this one was checked"
        assert report["errors"] == 0
        assert "split-part" in {finding["code"] for finding in report["findings"]}
    assert run_json_one("check", tiny_chat(tmp_path / "whole.gguf"))["part"] is None


def test_check_of_a_shard_on_the_hub_checks_all_headers(hub: HubServer, tmp_path: Path) -> None:
    shards = tiny_split(tmp_path)
    hub.add_repo("owner/split-GGUF", {path.name: path for path in shards})
    report = run_json_one("check", f"owner/split-GGUF:{shards[1].name}")
    assert (report["errors"], report["part"]) == (0, "shard 2 of 3; all 3 shards were checked")
    assert report["findings"] == []
    hub.add_repo("owner/half-GGUF", {path.name: path for path in shards[:2]})
    report = run_json_one("check", f"owner/half-GGUF:{shards[1].name}")
    assert report["part"] == "shard 2 of 3; other shards are missing, so only this one was checked"
