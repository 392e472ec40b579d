"""`llm hf uninstall` and `llm hf status --files`: everything that the product stores is listed, and can be removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models.agent_library import AgentLibrary
from llm_hf_models.downloads.plan_types import PullOptions
from llm_hf_models.errors import PolicyError
from llm_hf_models.hub import tokens
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import mcp_hub
from tests.support.commands import run, run_json, run_process
from tests.support.engines import wait_for_exit
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.hub_server import HubServer
from tests.support.mcp_hub import REPO

hub = mcp_hub.hub


def list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def used(hub: HubServer, tmp_path: Path) -> Path:
    """Provide a library with a model from the Hub, an imported file, an engine, a waiting download and a token."""
    mine = tiny_chat(tmp_path / "mine-F16.gguf")
    Library().pull(f"{REPO}:Q4_K_M", options=PullOptions(aliases=("small",)))
    Library().import_file(mine, aliases=["mine"])
    Library().import_file(tiny_chat(tmp_path / "other-F16.gguf", answer="Other"), aliases=["copied"], copy=True)
    tokens.store_token(hub.add_token("hf_secret"), ask_passphrase=lambda: "open sesame")
    run("settings", "context", "512")
    assert run_process("llm", "-m", "small", "hi", "-o", "keep_alive", "-1").stdout.strip() == ANSWER
    return mine


def test_everything_is_listed_then_removed(used: Path, home: Home) -> None:
    (engine,) = run_json("ps")["engines"]
    files = run_json("status", "--files")["files"]
    assert [file["path"] for file in files if not file["description"]] == []
    listed = {file["path"] for file in files}
    resolved = {Path(path).resolve() for path in listed}
    for file in [*list_files(home.llm / "hf"), *list_files(home.runtime), *list_files(home.cache)]:
        assert resolved & {file.resolve(), *file.parents} or not is_ours(file, home), file
    planned = run_json("uninstall", "--dry-run")
    assert {file["path"] for file in planned["files"]} == listed
    assert list_files(home.llm / "hf")
    assert "Nothing was removed" in run("uninstall", code=2).stderr
    run("mcp", "cursor", "--install", "-y")
    removed = run("uninstall", "-y")
    assert "    llm hf mcp cursor --uninstall\nThen remove the package: llm uninstall llm-hf-models" in removed.stderr
    assert "hosts" not in run("mcp", "cursor", "--uninstall", "-y").stderr
    wait_for_exit(engine["pid"])
    assert not (home.llm / "hf").exists()
    assert list_files(home.runtime) == []
    assert [file for file in list_files(home.cache) if is_ours(file, home)] == []
    assert used.exists()
    assert run_json("list")["models"] == []


def is_ours(file: Path, home: Home) -> bool:
    """Return whether a file is more than a mark or a branch's commit, which every tool of the cache leaves there."""
    shared = file.name in ("CACHEDIR.TAG", "main") or ".locks" in file.parts
    return home.cache not in file.parents or not shared


def test_models_can_be_kept(used: Path, home: Home) -> None:
    cached = Path(run("path", "small").stdout.strip())
    copied = Path(run("path", "copied").stdout.strip())
    done = run_json("uninstall", "--keep-models", "-y")
    assert str(copied) in {file["path"] for file in done["kept"]}
    assert cached.exists()
    assert copied.exists()
    assert used.exists()
    assert list_files(home.llm / "hf") == [copied]


def test_agent_can_not_uninstall(home: Home) -> None:
    with pytest.raises(PolicyError, match="Agents may not uninstall"):
        AgentLibrary("a bot").uninstall()
    assert (home.llm / "hf/agents.log").exists()


@pytest.mark.usefixtures("hub")
def test_download_in_progress_is_cancelled(home: Home) -> None:
    queued = Library().enqueue(f"{REPO}:Q8_0")
    assert queued.id
    run("uninstall", "-y")
    assert not (home.llm / "hf").exists()
    assert list(home.cache.glob("models--*/blobs/*")) == []
