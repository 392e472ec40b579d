"""The name of a pulled repo as a name of its model in llm, and the short names that a model does not get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import llm
import pytest

from llm_hf_models import Library
from tests.support.commands import run, run_json_one, run_llm
from tests.support.ggufs import ANSWER, tiny_chat, tiny_embedding
from tests.support.hub_server import HubServer, run_hub
from tests.support.taken_names import REPO as TAKEN_REPO
from tests.support.taken_names import THEIRS

REPO, OTHER, EMBEDDING = "acme/Walrus-GGUF", "other/Walrus-GGUF", "acme/Embed-GGUF"
Q4, Q8 = f"hf/{REPO}:Q4_K_M", f"hf/{REPO}:Q8_0"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with run_hub(monkeypatch) as hub:
        files = {f"w-{quant}.gguf": tiny_chat(tmp_path / quant, seed=n) for n, quant in enumerate(("Q4_K_M", "Q8_0"))}
        hub.add_repo(REPO, files)
        hub.add_repo(OTHER, files)
        hub.add_repo(TAKEN_REPO, files)
        hub.add_repo(EMBEDDING, {"e-Q8_0.gguf": tiny_embedding(tmp_path / "e")})
        yield hub


def test_name_of_a_repo_is_the_name_of_its_model_while_unique() -> None:
    run("pull", REPO, "-q")
    for name in (REPO, f"hf/{REPO}"):
        assert llm.get_model(name).model_id == llm.get_async_model(name).model_id == Q4
        assert json.loads(run_llm("aliases", "list", "--json").stdout)[name] == Q4
    assert run_llm("-m", REPO.upper(), "hello", code=0).stdout.strip() == ANSWER
    assert Q4 in run_llm("models", "-m", f"HF/{REPO.lower()}").stdout
    run_llm("-m", REPO, "-s", "be short", "--save", "short", code=0)
    assert run_llm("-t", "short", "hello", code=0).stdout.strip() == ANSWER
    run("pull", f"{REPO}:Q8_0", "-q")
    with pytest.raises(llm.UnknownModelError):
        llm.get_model(REPO)
    done = run_llm("-m", REPO, "hello", code=1)
    assert f"'{REPO}' names 2 local models\n" in done.stderr
    assert f"{Q8}, {Q4}" in done.stderr
    run("rm", "-y", Q4)
    assert llm.get_model(REPO).model_id == Q8


def test_alias_in_the_form_of_a_repo_comes_before_the_repo() -> None:
    run("pull", REPO, "-q")
    run("pull", OTHER, "-q", "-a", REPO.lower())
    assert llm.get_model(REPO.lower()).model_id == f"hf/{OTHER}:Q4_K_M"
    assert run_json_one("show", REPO)["id"] == f"hf/{OTHER}:Q4_K_M"
    with pytest.raises(llm.UnknownModelError):
        llm.get_model(REPO)


def test_name_of_a_repo_is_the_name_of_its_embedding_model() -> None:
    run("pull", EMBEDDING, "-q")
    for name in (EMBEDDING, f"hf/{EMBEDDING}"):
        assert llm.get_embedding_model(name).model_id == f"hf/{EMBEDDING}:Q8_0"
    assert run_llm("embed", "-m", EMBEDDING.upper(), "-c", "cat", code=0).stdout.startswith("[")


def test_pull_explains_each_alias_that_another_model_has() -> None:
    run("pull", REPO, "-q")
    refused = dict.fromkeys(("Walrus", "Walrus:Q4_K_M"), f"is already an alias of {Q4}")
    assert Library().plan(OTHER).refused_aliases == refused
    assert f"Walrus: it is already an alias of {Q4}" in run("pull", OTHER, "--dry-run").stdout
    assert f"Walrus is already an alias of {Q4}.\n" in run("pull", OTHER, "--background").stderr
    done = run("pull", OTHER)
    for name, reason in refused.items():
        assert f"{name} {reason}.\n" in done.stderr
    assert f"Give this model another name: llm hf alias hf/{OTHER}:Q4_K_M NAME\n" in done.stderr
    result = run_json_one("pull", OTHER)
    assert (result["aliases"], result["plan"]["refused_aliases"]) == ([], refused)
    assert Library().plan(REPO).refused_aliases == {}


def test_pull_explains_an_alias_that_another_plugin_has() -> None:
    stderr = run("pull", TAKEN_REPO).stderr
    assert f"{THEIRS} is a name of another model in llm: OpenAI Chat: {THEIRS}.\n" in stderr


def test_import_explains_each_alias_that_another_model_has(tmp_path: Path) -> None:
    run("pull", REPO, "-q")
    path = tiny_chat(tmp_path / "Walrus.gguf", seed=7)
    assert f"Walrus is already an alias of {Q4}.\n" in run("import", path).stderr
    assert run_json_one("import", path)["refused_aliases"] == {"Walrus": f"is already an alias of {Q4}"}


def test_invalid_address_does_not_suggest_a_search() -> None:
    done = run("pull", f"https://huggingface.co/{REPO}?unknown=1", code=2)
    assert "The part 'unknown' after the ? is unknown. Remove it." in done.stderr
    assert "llm hf search" not in done.stderr
    address = f"https://huggingface.co/{REPO}?show_file_info=w-Q8_0.gguf"
    assert run("pull", address, "-q").stdout == f"{Q8}\n"
