"""The output of every command with `--json` follows the schema of its type, and docs/json.md describes these types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from llm_hf_models.cli.main import hf
from llm_hf_models.cli.output import ErrorReport
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import Download, DownloadState
from llm_hf_models.paths import library_path
from llm_hf_models.system.json_values import build_schema
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.commands import run, run_json, run_llm
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.json_names import list_misnamed_fields
from tests.support.mcp_hub import REPO
from tests.support.other_tools import make_lm_studio_store
from tests.support.signatures import make_key, to_private_pem
from tests.tools import json_reference
from tests.tools.json_reference import OUTPUTS

hub = mcp_hub.hub

STATES: tuple[DownloadState, ...] = ("queued", "queued", "paused", "failed", "done")


def close_objects(schema: Any) -> Any:
    """Return a schema that allows no other members than the described ones, so that the test finds unknown members."""
    if isinstance(schema, dict):
        closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
        return {**{key: close_objects(member) for key, member in schema.items()}, **closed}
    return [close_objects(member) for member in schema] if isinstance(schema, list) else schema


def check_output(name: str, *words: str | Path, stdin: str | None = None, code: int = 0) -> None:
    """Run a command and compare its output with the schema of the type in `OUTPUTS`."""
    done = run(*words, "--json", code=code, stdin=stdin)
    documents = done.stdout.splitlines() if name == "downloads --watch" else [done.stdout]
    assert documents, name
    for document in documents:
        validate(json.loads(document), OUTPUTS[name], name)


def validate(value: Any, kind: Any, name: str) -> None:
    schema = close_objects(build_schema(kind))
    jsonschema.Draft202012Validator.check_schema(schema)
    problems = jsonschema.Draft202012Validator(schema).iter_errors(value)
    assert [f"{name}: {one.json_path}: {one.message}" for one in problems] == []


def add_downloads() -> None:
    """Record a download in each state of `STATES`, with the ids from 2."""
    with Database(library_path()) as db:
        for state in STATES:
            db.add_download(Download(0, "a/b:Q4", state, "a/b", "c" * 40, "Q4", 10, background=True))


def test_type_of_every_command_is_known() -> None:
    def list_names(group: click.Group, before: str = "") -> Iterator[str]:
        for name, command in group.commands.items():
            if any("--json" in parameter.opts for parameter in command.params):
                yield before + name
            if isinstance(command, click.Group):
                yield from list_names(command, f"{before}{name} ")

    assert set(list_names(hf)) <= OUTPUTS.keys()


@pytest.mark.parametrize("command", OUTPUTS)
def test_output_is_an_object_whose_names_follow_the_convention(command: str) -> None:
    schema = build_schema(OUTPUTS[command])
    assert schema["type"] == "object", "a list at the top can't get another member later"
    assert list(list_misnamed_fields(schema, command)) == []


def test_reference_describes_the_current_types() -> None:
    written = json_reference.DOCUMENT.read_text(encoding="utf-8")
    assert written == json_reference.make_document(), "run: make docs"


def test_output_of_commands_about_the_hub_follows_the_schema(hub: HubServer) -> None:
    token = hub.add_token("hf_secret_of_ann", name="ann", organisations=("walruses",))
    check_output("search", "search", "tiny")
    check_output("search", "search", "nothing-has-this-name")
    check_output("info", "info", REPO, "--card", "--files")
    check_output("inspect", "inspect", REPO, "--metadata", "--tensors", "--template")
    check_output("check", "check", REPO)
    check_output("login", "login", stdin=f"{token}\nopen sesame\nopen sesame\n")
    check_output("whoami", "whoami", stdin="open sesame\n")
    check_output("logout", "logout")
    check_output("whoami", "whoami", code=1)


@pytest.mark.usefixtures("hub")
def test_output_of_commands_about_models_follows_the_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM_HF_KEEP_ALIVE", "5m")
    check_output("list", "list")
    check_output("pull --dry-run", "pull", REPO, "--dry-run")
    check_output("pull", "pull", REPO, "-a", "tiny")
    check_output("pull", "pull", REPO, "-q")
    check_output("pull", "pull", f"{REPO}:README.md", "--to", tmp_path / "docs")
    check_output("import", "import", tiny_chat(tmp_path / "own.Q8_0.gguf"), "-a", "walrus")
    check_output("attach", "attach", "big", "--endpoint", "http://127.0.0.1:9/v1", "--model", "x")
    check_output("set", "set", "tiny", "temperature", "0.6")
    check_output("test", "test", "tiny")
    run_llm("-m", "tiny", "hello", "-o", "max_tokens", "3", code=0)
    for words in (("list",), ("list", "--updates"), ("show", "tiny"), ("show", "big"), ("path", "tiny"), ("alias",)):
        check_output(words[0], *words)
    check_output("verify", "verify", "tiny")
    check_output("verify", "verify", "--all", code=1)
    assert run_json("ps")["engines"]
    check_output("ps", "ps")
    check_output("status", "status")
    check_output("stop", "stop", "--all")
    check_output("status --files", "status", "--files")
    check_output("rm", "rm", "walrus", "-y")
    check_output("gc", "gc", "--dry-run")
    check_output("uninstall", "uninstall", "--dry-run")


@pytest.mark.usefixtures("hub")
def test_output_of_commands_about_downloads_follows_the_schema() -> None:
    check_output("pull --background", "pull", REPO, "--background")
    check_output("downloads --watch", "downloads", "--watch", "1")
    add_downloads()
    check_output("pause", "pause", "2")
    check_output("pause", "pause", "--all")
    check_output("pause", "pause", "2", "99", code=1)
    check_output("downloads", "downloads", "--all")
    check_output("downloads log", "downloads", "log", "1")
    check_output("cancel", "cancel", "2")
    check_output("cancel", "cancel", "--all")
    check_output("resume", "resume", "--all")
    check_output("retry", "retry", "--all")
    check_output("downloads clear", "downloads", "clear")


def test_output_of_imports_from_other_tools_follows_the_schema(home: Home, tmp_path: Path) -> None:
    make_lm_studio_store(home.root / ".lmstudio/models")
    (tmp_path / "Modelfile").write_text(f"FROM {tiny_chat(tmp_path / 'own.gguf')}\nADAPTER x\nSYSTEM x\n", "utf-8")
    check_output("import --from --dry-run", "import", "--from", "lmstudio", "--dry-run")
    check_output("import --from", "import", "--from", "lmstudio")
    check_output("import Modelfile --dry-run", "import", tmp_path / "Modelfile", "--dry-run")
    check_output("import Modelfile", "import", tmp_path / "Modelfile")


def test_output_of_commands_about_collections_follows_the_schema(hub: HubServer) -> None:
    hub.add_collection("owner/title", [("model", REPO, "good"), ("dataset", "owner/data")])
    check_output("collection import", "collection", "import", "owner/title")
    check_output("collection create", "collection", "create", "coding/small", "--note", "for work")
    check_output("collection add", "collection", "add", "coding", "owner/name:Q4_K_M", "--role", "best")
    check_output("collection add", "collection", "add", "coding/small", "hf://owner/other")
    for command in ("collection", "collection list"):
        check_output(command, *command.split())
    check_output("collection show", "collection", "show", "coding")
    check_output("collection remove", "collection", "remove", "coding/small", "owner/other")
    check_output("collection rename", "collection", "rename", "coding", "work")
    check_output("collection delete", "collection", "delete", "work", "--dry-run")
    check_output("collection delete", "collection", "delete", "work", "-y")


def test_output_of_commands_about_signatures_follows_the_schema(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(to_private_pem(make_key()))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/a.gguf").write_bytes(b"x")
    for option in ("--dry-run", "-y"):
        check_output("sign", "sign", str(tmp_path / "model"), "--key", str(tmp_path / "key.pem"), option)


@pytest.mark.usefixtures("hub")
def test_output_of_commands_about_lockfiles_follows_the_schema(tmp_path: Path) -> None:
    old, new = tmp_path / "old.lock.toml", tmp_path / "new.lock.toml"
    run("lock", "-o", old)
    run("pull", REPO, "-q")
    check_output("lock", "lock", "-o", new)
    check_output("lock --diff", "lock", "--diff", old, new, code=1)
    check_output("export", "export", tmp_path / "disk")
    run("rm", REPO, "-y")
    check_output("sync --dry-run", "sync", new, "--dry-run")
    check_output("sync", "sync", new)


def test_output_of_commands_about_trust_follows_the_schema() -> None:
    check_output("trust add", "trust", "add", "acme", "--identity", "a@b.example", "--issuer", "https://b.example")
    check_output("trust", "trust")
    check_output("trust list", "trust", "list", "acme")
    check_output("trust remove", "trust", "remove", "acme")


def test_output_of_commands_about_settings_follows_the_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_output("settings", "settings")
    check_output("settings", "settings", "context", "4096")
    check_output("settings", "settings", "context", "--unset")
    check_output("limit", "limit", "5M")
    check_output("mcp", "mcp")
    monkeypatch.chdir(tmp_path)
    check_output("mcp --install", "mcp", "vscode", "--install", "-y")


def test_error_follows_the_schema_of_its_type() -> None:
    for words, code in ((("show", "walrus"), 1), (("show",), 2), (("settings", "context", "many"), 2)):
        found = json.loads(run(*words, "--json", code=code).stdout)
        assert found.keys() == {"error"}
        validate(found["error"], ErrorReport, " ".join(words))
