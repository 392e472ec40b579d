"""llm's hooks: registered models and options, names of others, and that `llm` stays fast and working."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import llm
import pytest
from llm.cli import cli

from llm_hf_models import paths, plugin
from llm_hf_models.cli import main as cli_main
from llm_hf_models.library import registered_models
from llm_hf_models.library.database import Database
from llm_hf_models.library.migrations import MIGRATIONS
from tests.conftest import Home
from tests.support.commands import run_llm
from tests.support.damaged_libraries import (
    drop_a_table,
    execute_sql,
    register_model,
    replace_with_a_folder,
    set_newer_version,
    store_invalid_json,
    write_garbage,
)


def list_ids(command: str) -> list[str]:
    return [line for line in run_llm(command).output.splitlines() if "hf/" in line]


def test_lazy_group_becomes_the_real_one_when_called() -> None:
    lazy = cli.commands["hf"]
    assert isinstance(lazy, click.Group)
    assert lazy.help == cli_main.hf.help
    context = click.Context(lazy, info_name="hf")
    assert lazy.list_commands(context) == cli_main.hf.list_commands(context)
    assert lazy.get_command(context, "pull") is cli_main.hf.commands["pull"]
    assert "Find and pull" in run_llm("hf", "--help").output
    assert run_llm("hf", "nonsense").exit_code == 2


def test_broken_installation_of_the_commands_gives_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_hf_models.cli.main", None)
    result = run_llm("hf", "list")
    assert result.exit_code == 1
    assert "llm-hf-models could not be loaded" in result.output
    assert run_llm("--help").exit_code == 0


def test_library_from_before_collections_is_read_without_them(home: Home) -> None:
    register_model("kinds/chat:F16")
    for sql in ("drop table collection_members", "pragma user_version = 4"):
        execute_sql(home.llm / "hf/library.db", sql)
    assert list_ids("models") == ["Hugging Face: hf/kinds/chat:F16"]


def test_models_are_listed_by_their_kind() -> None:
    for kind in ("chat", "base", "embedding", "reranker", "mmproj", "other"):
        register_model(f"kinds/{kind}:F16", kind=kind)
    assert list_ids("models") == ["Hugging Face: hf/kinds/chat:F16", "Hugging Face: hf/kinds/base:F16"]
    assert list_ids("embed-models") == ["Hugging Face: hf/kinds/embedding:F16"]


def test_features_of_a_model_follow_from_its_facts() -> None:
    register_model("can/tools:F16", tools=True, modalities=("image",))
    register_model("can/hear:F16", modalities=("audio",))
    register_model("can/complete:F16", kind="base", tools=True)
    tools, hear, complete = (llm.get_model(f"hf/can/{name}:F16") for name in ("tools", "hear", "complete"))
    assert (tools.supports_tools, hear.supports_tools, complete.supports_tools) == (True, False, False)
    assert all(model.supports_schema and model.can_stream for model in (tools, hear, complete))
    assert (tools.supports_conversation, complete.supports_conversation) == (True, False)
    assert "image/png" in tools.attachment_types
    assert "audio/wav" not in tools.attachment_types
    assert "audio/wav" in hear.attachment_types
    assert complete.attachment_types == frozenset()
    assert llm.get_async_model("hf/can/tools:F16").supports_tools


def test_alias_of_another_plugin_stays_with_it() -> None:
    theirs = run_llm("models", "-q", "gpt-4o", "--json")
    taken = json.loads(theirs.output)[0]
    register_model("ours/model:F16", aliases=(taken["model_id"], *taken["aliases"], "ours"))
    (ours,) = json.loads(run_llm("models", "-q", "hf/ours", "--json").output)
    assert ours["aliases"] == ["ours"]
    assert llm.get_model(taken["model_id"]).model_id == taken["model_id"]
    assert llm.get_model("ours").model_id == "hf/ours/model:F16"


def test_embedding_alias_of_another_plugin_stays_with_it() -> None:
    register_model("ours/vectors:F16", kind="embedding", aliases=("3-small", "vectors"))
    assert llm.get_embedding_model("3-small").model_id == "text-embedding-3-small"
    assert llm.get_embedding_model("vectors").model_id == "hf/ours/vectors:F16"


def test_options_are_listed_with_types_and_descriptions() -> None:
    register_model("has/options:F16", tools=True)
    text = run_llm("models", "--options", "-m", "hf/has/options:F16").output
    for words in ("temperature: float", "top_k: int", "stop: str", "think: str", "keep_alive: ", "Features:", "tools"):
        assert words in text
    (described,) = json.loads(run_llm("models", "-q", "hf/has", "--json", "--options").output)
    assert {option for option, about in described["options"].items() if not about.get("description")} == set()


DAMAGES = [write_garbage, set_newer_version, store_invalid_json, drop_a_table, replace_with_a_folder]


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink], ids=lambda f: f.__name__)
def test_unreadable_library_leaves_llm_working(damage: Callable[[Path], None]) -> None:
    register_model("some/model:F16")
    damage(paths.library_path())
    for command in ("models", "embed-models"):
        result = run_llm(command)
        assert result.exit_code == 0
        assert "OpenAI" in result.output
        assert "hf/some" not in result.output


def test_library_without_a_table_suggests_how_to_start_again() -> None:
    register_model("some/model:F16")
    path = paths.library_path()
    drop_a_table(path)
    assert f"Move it away (mv {path} {path}.damaged) and pull again" in run_llm("hf", "list").stderr


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["none", "empty"])
def test_empty_library_prints_nothing(damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_reported", set())
    register_model("some/model:F16")
    damage(paths.library_path())
    assert run_llm("models").stderr == ""


def test_model_with_empty_facts_is_still_listed() -> None:
    register_model("some/model:F16")
    execute_sql(paths.library_path(), "update models set facts = '[]'")
    assert list_ids("models") == ["Hugging Face: hf/some/model:F16"]


def test_broken_installation_of_the_models_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    register_model("some/model:F16")
    register_model("some/vectors:F16", kind="embedding")
    monkeypatch.setitem(sys.modules, "llm_hf_models.llm_plugin.models", None)
    first, second = run_llm("models"), run_llm("embed-models")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "OpenAI" in first.stdout
    assert first.stderr.count("llm-hf-models: the models could not be registered") == 1
    assert second.stderr == ""


def test_listing_models_creates_no_library(home: Home) -> None:
    run_llm("models")
    assert not (home.llm / "hf").exists()


def test_hooks_use_the_current_library_format() -> None:
    assert len(MIGRATIONS) == registered_models.LIBRARY_FORMAT
    register_model("some/model:F16", aliases=("One", "two"), tools=True, reasoning=True, modalities=("image", "audio"))
    (found,) = registered_models.read_registered_models(paths.library_path())
    with Database(paths.library_path()) as db:
        model = db.get_model("hf/some/model:F16")
    expected = replace(model.facts, kind="chat")
    assert (found.kind, found.tools, found.reasoning) == (expected.kind, expected.tools, expected.reasoning)
    assert (found.modalities, sorted(found.aliases)) == (expected.modalities, sorted(model.aliases))
