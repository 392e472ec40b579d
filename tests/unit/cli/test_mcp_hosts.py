"""`llm hf mcp`: its output starts the server, and its changes to files lose nothing."""

from __future__ import annotations

import json
import os
import stat
import sys

import pytest

from llm_hf_models.cli import mcp_hosts
from tests.conftest import Home
from tests.support import folders
from tests.support.commands import run

project = folders.project


def test_token_is_never_written_but_the_library_folder_is(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    printed = run("mcp").stdout
    assert "hf_secret" not in printed
    assert json.loads(printed)["mcpServers"]["hf-models"]["env"]["LLM_USER_PATH"] == str(home.llm)


def test_password_in_the_hub_address_is_omitted_and_reported(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hub")
    assert "left out" not in run("mcp").stderr
    monkeypatch.setenv("HF_ENDPOINT", "https://seal:s3cret@mirror.example/hub")
    printed, installed = (
        run("mcp"),
        run("mcp", "cursor", "--install", "-y"),
    )
    written = (home.root / ".cursor/mcp.json").read_text("utf-8")
    for text, output in ((printed.stdout, printed.stderr), (written, installed.stderr)):
        env = json.loads(text)["mcpServers"]["hf-models"]["env"]
        assert env["HF_ENDPOINT"] == "https://mirror.example/hub"
        assert "s3cret" not in text + output
        assert "The user name and password in HF_ENDPOINT are left out" in output


@pytest.mark.parametrize("host", [key for key in mcp_hosts.HOST_KEYS if key != "json"])
def test_installation_keeps_existing_entries(host: str) -> None:
    path = mcp_hosts.list_hosts()[host].path
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    section = mcp_hosts.list_hosts()[host].section
    before = {"theme": "dunkel ü", section: {"other": {"command": "x", "env": {"KEY": "v"}}}}
    path.write_text(json.dumps(before), encoding="utf-8")
    path.chmod(0o600)
    output = run("mcp", host, "--install", stdin="y\n").output
    after = json.loads(path.read_text("utf-8"))
    assert after[section].pop("hf-models")["command"]
    assert after == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (backup,) = path.parent.glob("*.bak")
    assert json.loads(backup.read_text("utf-8")) == before
    assert '+    "hf-models": {' in output
    assert str(backup) in output
    assert "already contains this" in run("mcp", host, "--install", stdin="y\n").output
    assert len(list(path.parent.glob("*.bak"))) == 1


def test_missing_file_is_created(home: Home) -> None:
    run("mcp", "cursor", "--install", "-y")
    whole = json.loads((home.root / ".cursor/mcp.json").read_text("utf-8"))
    assert list(whole) == ["mcpServers"]
    assert not list((home.root / ".cursor").glob("*.bak"))


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("", 2)])
def test_nothing_is_written_without_consent(answer: str, code: int, home: Home) -> None:
    assert "Nothing was written" in run("mcp", "cursor", "--install", stdin=answer, code=code).output
    assert not (home.root / ".cursor").exists()


@pytest.mark.parametrize(
    "text", ['{"a": 1, // why\n}', "[1]", '{"mcpServers": []}', "\x00\xff", '{"mcpServers": ' + "[" * 100_000]
)
def test_file_that_could_lose_data_is_not_changed(text: str, home: Home) -> None:
    path = home.root / ".cursor/mcp.json"
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    output = run("mcp", "cursor", "--install", "-y", code=2).output
    assert "was not changed" in output
    assert path.read_bytes() == text.encode("latin-1")
    assert [each.name for each in path.parent.iterdir()] == ["mcp.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_link_stays_a_link(home: Home) -> None:
    real = home.root / "dotfiles.json"
    real.write_text("{}", encoding="utf-8")
    link = home.root / ".cursor/mcp.json"
    link.parent.mkdir()
    link.symlink_to(real)
    run("mcp", "cursor", "--install", "-y")
    assert link.is_symlink()
    assert "hf-models" in real.read_text("utf-8")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_gives_a_clear_error(home: Home) -> None:
    folder = home.root / ".cursor"
    folder.mkdir(mode=0o500)
    assert "Can't write" in run("mcp", "cursor", "--install", "-y", code=1).output
