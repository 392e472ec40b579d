"""The role of a model in a collection as a name of the model, in llm and in every command."""

from __future__ import annotations

import json
from pathlib import Path

import llm
import pytest

from llm_hf_models import Library
from llm_hf_models.errors import NameTakenError
from tests.support.commands import run, run_json_one, run_llm
from tests.support.ggufs import ANSWER, tiny_chat, tiny_embedding
from tests.support.local_models import record_model
from tests.support.taken_names import THEIRS

TINY, OTHER = "hf/local/tiny:Q8_0", "hf/local/other:Q8_0"


@pytest.fixture(autouse=True)
def library(tmp_path: Path) -> Library:
    """Import two models; `tiny` is `coding/best`."""
    library = Library()
    for name in ("tiny", "other"):
        library.import_file(tiny_chat(tmp_path / f"{name}.Q8_0.gguf"))
    library.create_collection("coding")
    library.add_to_collection("coding", "tiny", role="best")
    return library


def test_role_works_as_a_model_in_llm_and_follows_changes(library: Library) -> None:
    assert llm.get_model("coding/best").model_id == llm.get_async_model("coding/best").model_id == TINY
    assert json.loads(run_llm("aliases", "list", "--json").stdout)["coding/best"] == TINY
    assert run_llm("-m", "Coding/BEST", "hello", code=0).stdout.strip() == ANSWER
    library.add_to_collection("coding", "other", role="best")
    assert llm.get_model("coding/best").model_id == OTHER
    library.rename_collection("coding", "work/code")
    assert llm.get_model("work/code/best").model_id == OTHER
    with pytest.raises(llm.UnknownModelError):
        llm.get_model("coding/best")


def test_role_works_in_every_command_that_names_a_model(library: Library) -> None:
    run("set", "coding/best", "seed", "1")
    assert run_json_one("show", "coding/best")["options"] == {"seed": 1}
    assert library.prompt("coding/best", "hello").id == TINY
    assert run_json_one("check", "coding/best")["source"] == TINY
    run("alias", "coding/best", "small")
    assert run("path", "coding/best").stdout == run("path", "small").stdout
    assert run_json_one("rm", "coding/best", "--dry-run")["id"] == TINY


def test_role_of_a_missing_model_names_the_pull_and_llm_does_not_know_it(library: Library) -> None:
    library.add_to_collection("coding", "far/away-GGUF:Q4_K_M", role="best")
    assert "llm hf pull far/away-GGUF:Q4_K_M" in run("show", "coding/best", code=1).stderr
    assert run_llm("-m", "coding/best", "hello", code=1).stderr == "Error: 'Unknown model: coding/best'\n"
    record_model("far/away-GGUF:Q4_K_M")
    assert llm.get_model("coding/best").model_id == "hf/far/away-GGUF:Q4_K_M"
    library.add_to_collection("coding", "hf://far/away-GGUF", role="bare")
    record_model("far/away-GGUF:Q8_0")
    assert library.show("coding/bare").id == "hf/far/away-GGUF:Q4_K_M", "it was added when this one was here"
    library.add_to_collection("coding", "far/later-GGUF", role="bare")
    record_model("far/later-GGUF:Q2_K")
    record_model("far/later-GGUF:Q6_K")
    assert llm.get_model("coding/bare").model_id == library.show("coding/bare").id == "hf/far/later-GGUF:Q6_K"


def test_embedding_model_has_its_role_among_embedding_models(library: Library, tmp_path: Path) -> None:
    library.import_file(tiny_embedding(tmp_path / "vectors.F32.gguf"))
    library.add_to_collection("coding", "vectors", role="search")
    assert llm.get_embedding_model("coding/search").model_id == "hf/local/vectors:F32"
    with pytest.raises(llm.UnknownModelError):
        llm.get_model("coding/search")


def test_real_model_or_alias_wins_over_a_role(library: Library) -> None:
    library.add_alias("other", "coding/best")
    assert llm.get_model("coding/best").model_id == library.show("coding/best").id == OTHER
    assert "coding/best is a name of hf/local/other:Q8_0, which is used" in run("collection", "show", "coding").stderr
    library.remove_alias("coding/best")
    for quant in ("Q4_K_M", "Q8_0"):  # now the name of the repo means two models
        record_model(f"coding/best:{quant}")
    with pytest.raises(llm.UnknownModelError):
        llm.get_model("coding/best")
    assert "names 2 local models" in run("show", "coding/best", code=2).stderr


def test_name_of_another_plugins_model_is_refused_for_a_role(library: Library) -> None:
    """No plugin here has a name with `/`, so an alias of llm is one."""
    run_llm("aliases", "set", "coding/theirs", THEIRS, code=0)
    with pytest.raises(NameTakenError, match=rf"already has the name 'coding/theirs'\n.*{THEIRS}"):
        library.add_to_collection("coding", "other", role="theirs")
    assert [member.ref for member in library.list_collection_members("coding")] == ["local/tiny:Q8_0"]
