"""`AgentLibrary`: no verb that changes something escapes the limits for agents and their log."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.agent_library import AgentLibrary
from llm_hf_models.disk_space.types import Pruning
from llm_hf_models.downloads.plan_types import PullOptions, PullPlan
from llm_hf_models.errors import ConsentError, MissingFileError, PolicyError
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub

PLAN = PullPlan(
    ref=REPO, repo=REPO, revision=None, commit="0" * 40, model_id=None, quant=None, reason="", files=(), weights=(),
    mmproj=None, total_bytes=0, fetch_bytes=0, folder="", options=PullOptions(),
)  # fmt: skip
READING = {
    "check", "check_setting", "downloads", "find_in_other_tools", "follow", "is_modelfile", "plan_import_from",
    "plan_modelfile", "get_download", "get_download_log", "get_hub_host", "get_setting",
    "diff_lockfiles", "lock", "parse_lockfile", "plan_sync", "read_lockfile",
    "list_collection_members", "list_collections", "list_importable", "list_options", "plan_collection_deletion",
    "get_disk_usage", "list_summaries", "plan_deduplication", "plan_pruning",
    "show_collection",
    "info", "inspect", "list", "list_concerns", "list_engines", "list_stored_files", "mirror", "path", "plan",
    "outdated", "plan_gc", "plan_removal", "plan_rollback", "plan_update",
    "list_trusted_signers", "plan_uninstallation", "search", "serve", "settings", "show", "status", "survey", "whoami",
}  # fmt: skip
# Each verb that changes something, with arguments, and its action and target in the log.
CHANGING: dict[str, tuple[tuple[Any, ...], str, str]] = {
    "add_alias": (("tiny", "small"), "alias", "tiny small"),
    "add_trusted_signer": (("acme",), "trust", "acme"),
    "remove_trusted_signers": (("acme",), "stop trusting", "acme"),
    "add_to_collection": (("coding", "tiny"), "change collection", "coding"),
    "attach": (("far", "http://127.0.0.1:1/v1"), "attach", "far"),
    "cancel": ((1,), "cancel", "1"),
    "change_aliases": (("tiny",), "alias", "tiny"),
    "clear_downloads": ((), "clear downloads", ""),
    "continue_in_background": ((PLAN,), "to_background", REPO),
    "create_collection": (("coding",), "create collection", "coding"),
    "delete_collection": (("coding",), "delete", "coding"),
    "deduplicate": ((), "deduplicate", ""),
    "download_file": ((REPO, "README.md"), "fetch", f"{REPO}/README.md"),
    "enqueue": ((REPO,), "download", REPO),
    "gc": ((), "gc", ""),
    "import_collection": (
        ("owner/title-64f9a55bb3115b4f513ec026",),
        "import collection",
        "owner/title-64f9a55bb3115b4f513ec026",
    ),
    "import_file": (("/nowhere/tiny.gguf",), "import", "/nowhere/tiny.gguf"),
    "import_from": (("ollama",), "import", "ollama"),
    "import_modelfile": (("/nowhere/Modelfile",), "import", "/nowhere/Modelfile"),
    "login": (("hf_secret",), "login", ""),
    "logout": ((), "logout", ""),
    "pause": ((1,), "pause", "1"),
    "prune": ((Pruning((), (), 0),), "delete", "prune"),
    "pin": (("tiny",), "pin", "tiny"),
    "prompt": (("tiny", "Hello"), "prompt", "tiny"),
    "pull": ((REPO,), "pull", REPO),
    "remove": (("tiny",), "delete", "tiny"),
    "remove_alias": (("small",), "remove alias", "small"),
    "remove_from_collection": (("coding", "tiny"), "change collection", "coding"),
    "rename_collection": (("coding", "code"), "rename collection", "coding"),
    "resume": ((1,), "resume", "1"),
    "retry": ((1,), "retry", "1"),
    "export": (("/nowhere/models",), "export", "/nowhere/models"),
    "save_lockfile": (("/nowhere/models.lock.toml",), "lock", "/nowhere/models.lock.toml"),
    "sync": (("/nowhere/models.lock.toml",), "sync", "lockfile"),
    "rollback": (("tiny",), "rollback", "tiny"),
    "set_options": (("tiny", {"seed": 1}), "set options", "tiny"),
    "set_setting": (("agent_read_only", "off"), "set", "agent_read_only"),
    "sign": (("tiny", "/nowhere/key.pem"), "sign", "tiny"),
    "stop_engines": ((), "stop engines", "all"),
    "test": (("tiny",), "test", "tiny"),
    "uninstall": ((), "uninstall", ""),
    "update": ((["tiny"],), "update", "tiny"),
    "verify": (("tiny",), "verify", "tiny"),
}


def read_log(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.llm / "hf/agents.log").read_text("utf-8").splitlines()]


def test_every_verb_only_reads_or_is_limited_for_agents() -> None:
    verbs = {name for name in dir(Library) if not name.startswith("_")}
    assert verbs == READING | CHANGING.keys()
    assert CHANGING.keys() <= vars(AgentLibrary).keys(), "AgentLibrary overrides each verb that changes something"


@pytest.mark.parametrize("verb", CHANGING)
def test_no_changing_verb_escapes_the_policy_and_the_log(
    verb: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_AGENT_READ_ONLY", "on")
    arguments, action, target = CHANGING[verb]
    named = {"ask_passphrase": lambda: "open sesame"} if verb == "login" else {}
    with pytest.raises(PolicyError, match="Agents may not change anything"):
        getattr(AgentLibrary("a bot"), verb)(*arguments, **named)
    (line,) = read_log(home)
    assert isinstance(line.pop("at"), float)
    assert line == {
        "who": "a bot", "what": action, "about": target, "outcome": "refused", "why": "Agents may not change anything",
    }  # fmt: skip


def test_prepared_removal_needs_consent_and_is_logged(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Library().import_file(tiny_chat(tmp_path / "tiny-Q8_0.gguf"), aliases=["tiny"])
    model = Library().show("tiny").id
    with pytest.raises(PolicyError, match="may not delete"):
        AgentLibrary("a bot").remove("tiny")
    monkeypatch.setenv("LLM_HF_AGENT_ALLOW_DELETE", "on")
    with pytest.raises(ConsentError, match="must agree"):
        AgentLibrary("a bot").remove("tiny")
    library = AgentLibrary("a bot")
    change = library.prepare_removal("tiny")
    assert [(request.action, request.target) for request in change.requests] == [("delete", model)]
    assert library.remove(replace(change, consent="person")).done
    assert Library().list() == ()
    assert [(line["what"], line["about"], line["outcome"], line.get("agreed")) for line in read_log(home)] == [
        ("delete", "tiny", "refused", None),
        ("delete", model, "refused", None),
        ("delete", model, "done", ["delete"]),
    ]


@pytest.mark.usefixtures("hub")
def test_agent_downloads_a_file_but_runs_no_command(home: Home) -> None:
    assert AgentLibrary("a bot").download_file(REPO, "README.md").read_text("utf-8") == mcp_hub.CARD
    with pytest.raises(PolicyError, match="run a command"):
        AgentLibrary("a bot").enqueue(REPO, on_done="touch ran")
    assert Library().downloads() == ()
    assert [(line["what"], line["about"], line["outcome"]) for line in read_log(home)] == [
        ("fetch", f"{REPO}:README.md", "done"),
        ("download", REPO, "refused"),
    ]


@pytest.mark.usefixtures("hub")
def test_what_a_person_started_is_stopped_only_with_consent(home: Home) -> None:
    person, library = Library(requested_by="cli"), AgentLibrary("a bot")
    number = person.enqueue(REPO).id
    person.cancel(number)
    assert [event.kind for event in person.follow(number)][-1] == "cancelled"
    with pytest.raises(ConsentError, match="must agree"):
        library.clear_downloads()
    person.pull(REPO)
    assert person.prompt("tiny", "Hello").text == ANSWER
    with pytest.raises(ConsentError, match="must agree"):
        library.stop_engines("tiny")
    assert len(person.list_engines()) == 1
    assert person.stop_engines() == 1
    assert library.stop_engines() == 0
    assert person.clear_downloads() == 2
    assert library.clear_downloads() == 0
    assert [(line["what"], line["outcome"]) for line in read_log(home)] == [
        ("clear downloads", "refused"),
        ("stop engines", "refused"),
        ("stop engines", "done"),
        ("clear downloads", "done"),
    ]


def test_name_of_a_model_is_given_to_another_only_with_consent(home: Home, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        Library().import_file(tiny_chat(tmp_path / f"{name}.Q8_0.gguf"), aliases=[name])
    library, cat, dog = AgentLibrary("a bot"), "hf/local/cat:Q8_0", "hf/local/dog:Q8_0"
    assert "kitten" in library.change_aliases("cat", add=["kitten"]).aliases
    with pytest.raises(ConsentError, match="must agree"):
        library.remove_alias("cat")
    with pytest.raises(ConsentError, match="must agree") as caught:
        library.change_aliases(dog, add=["Cat"], remove=["CAT"])
    assert caught.value.cause == f"Take the name CAT from {cat} and give it to {dog}?"
    assert Library().show("cat").id == cat
    change = library.prepare_aliases(dog, add=["cat"], remove=["cat"])
    assert "cat" in library.change_aliases(replace(change, consent="person")).aliases
    assert Library().show("cat").id == dog
    assert [(line["what"], line["outcome"]) for line in read_log(home)] == [
        ("alias", "done"),
        ("remove alias", "refused"),
        ("change aliases", "refused"),
        ("change aliases", "done"),
    ]


def test_agent_names_models_and_never_files(tmp_path: Path) -> None:
    file = str(tiny_chat(tmp_path / "tiny-Q8_0.gguf"))
    assert Library().check(file).errors == 0
    with pytest.raises(MissingFileError, match="no file"):
        AgentLibrary("a bot").check(file)
