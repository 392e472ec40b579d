"""`llm hf mcp`: its output starts the server, and its changes to files lose nothing."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.cli import mcp_hosts
from llm_hf_models.cli.config_file import MAX_BYTES
from tests.conftest import Home
from tests.support import folders
from tests.support.commands import run, run_json, run_process

HOSTS = [key for key in mcp_hosts.HOST_KEYS if key != "json"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")

project = folders.project


@pytest.fixture
def cursor(home: Home) -> Path:
    """Provide the path of Cursor's file, whose folder exists."""
    path = home.root / ".cursor/mcp.json"
    path.parent.mkdir()
    return path


def get_entry(path: Path, section: str = "mcpServers") -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(path.read_text("utf-8"))[section]["hf-models"]
    return entry


# The entry


def test_token_is_never_written_but_the_library_folder_is(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("LLM_HF_PASSPHRASE", "pass-secret")
    monkeypatch.setenv("LLM_HF_AGENT_READ_ONLY", "on")
    done = run("mcp")
    assert "secret" not in done.output
    assert json.loads(done.stdout)["mcpServers"]["hf-models"]["env"]["LLM_USER_PATH"] == str(home.llm)
    assert "The token in the environment is left out. Store it for the server with: llm hf login" in done.stderr
    assert "The server does not receive LLM_HF_AGENT_READ_ONLY from this shell." in done.stderr


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_password_in_an_address_is_omitted_and_reported(
    name: str, monkeypatch: pytest.MonkeyPatch, cursor: Path
) -> None:
    monkeypatch.setenv(name, "https://mirror.example/hub")
    assert "left out" not in run("mcp").stderr
    monkeypatch.setenv(name, "https://seal:s3cret@mirror.example/hub")
    printed, installed = run("mcp"), run("mcp", "cursor", "--install", "-y")
    for text, output in ((printed.stdout, printed.stderr), (cursor.read_text("utf-8"), installed.stderr)):
        env = json.loads(text)["mcpServers"]["hf-models"]["env"]
        assert env[name] == "https://mirror.example/hub"
        assert "s3cret" not in text + output
        assert f"The user name and password in {name} are left out" in output


def test_password_that_a_person_adds_to_the_entry_is_kept(monkeypatch: pytest.MonkeyPatch, cursor: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://seal:s3cret@mirror.example/hub")
    run("mcp", "cursor", "--install", "-y")
    edited = cursor.read_text("utf-8").replace("https://mirror", "https://seal:s3cret@mirror")
    cursor.write_text(edited, encoding="utf-8")
    done = run("mcp", "cursor", "--install", "-y")
    assert "already contains this" in done.stderr
    assert "Kept from" not in done.stderr
    assert "s3cret" not in done.output
    assert cursor.read_text("utf-8") == edited


# The file around the entry


@pytest.mark.parametrize("host", HOSTS)
def test_installation_keeps_existing_entries(host: str) -> None:
    path, section = mcp_hosts.find_host(host).path, mcp_hosts.find_host(host).section
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    before = {"theme": "dunkel ü", section: {"other": {"command": "x", "env": {"KEY": "s3cret"}}}}
    path.write_text(json.dumps(before, indent=2), encoding="utf-8")
    path.chmod(0o640)
    original = path.read_bytes()
    assert "+" in run_json("mcp", host, "--install", "--dry-run")["diff"]
    assert path.read_bytes() == original
    output = run("mcp", host, "--install", stdin="y\n").output
    after = json.loads(path.read_text("utf-8"))
    assert after[section].pop("hf-models")["command"]
    assert after == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (backup,) = path.parent.glob("*.bak")
    assert backup.read_bytes() == original
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert '+    "hf-models": {' in output
    assert "s3cret" not in output
    assert str(backup) in output
    assert "already contains this" in run("mcp", host, "--install", stdin="y\n").output
    assert len(list(path.parent.glob("*.bak"))) == 1


COMMENTED = """\ufeff// My servers\r
{\r
\t"limit": 1.0, "limit": 1e3, /* twice */ "big": 123456789012345678901234567890,\r
\t"mcpServers": {\r
\t\t"other": {"command": "x",}, // a comment\r
\t},\r
}"""


def test_every_byte_outside_the_entry_is_kept(cursor: Path) -> None:
    original = COMMENTED.encode()
    cursor.write_bytes(original)
    run("mcp", "cursor", "--install", "-y")
    head, tail = original.split(b" // a comment")
    written = cursor.read_bytes()
    assert written.startswith(head + b' // a comment\r\n\t\t"hf-models": {\r\n\t\t\t"command": ')
    assert written.endswith(b"\r\n\t\t}" + tail)
    assert b"\n" not in written.replace(b"\r\n", b"")
    assert "already contains this" in run("mcp", "cursor", "--install", "-y").stderr
    assert cursor.read_bytes() == written


def test_edits_in_the_entry_are_kept_and_reported(monkeypatch: pytest.MonkeyPatch, cursor: Path) -> None:
    run("mcp", "cursor", "--install", "-y", "--", "--downloads", "2")
    whole = json.loads(cursor.read_text("utf-8"))
    entry = whole["mcpServers"]["hf-models"]
    entry |= {"autoApprove": ["search_models"], "disabled": False, "command": "/old/venv/bin/llm-hf-mcp"}
    entry["args"] = ["--read-only", "--ask-above", "5GB", *entry["args"]]
    entry["env"] |= {"MY_KEY": "s3cret", "HF_HOME": "/mine"}
    del entry["env"]["LLM_USER_PATH"]
    cursor.write_text(json.dumps(whole, indent=4), encoding="utf-8")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run("mcp", "cursor", "--install", "-y", "--", "--ask-above", "9GB")
    merged = get_entry(cursor)
    assert merged["args"] == ["--read-only", "--ask-above", "9GB", "--downloads", "2"]
    assert merged["env"] == {**entry["env"], "LLM_USER_PATH": os.environ["LLM_USER_PATH"], "HF_HUB_OFFLINE": "1"}
    assert Path(merged["command"]).exists()
    assert (merged["autoApprove"], merged["disabled"]) == (["search_models"], False)
    kept = re.search(r"Kept from the existing entry: (.*)\. To replace the whole entry, add --reset\.", done.stderr)
    assert kept
    assert kept.group(1) == (
        "--read-only, --downloads, HF_HOME, MY_KEY, autoApprove, disabled. "
        "The server may use other files than this shell because of HF_HOME"
    )
    assert '-            "command": "/old/venv/bin/llm-hf-mcp"' in done.stderr
    assert "s3cret" not in done.output
    run("mcp", "cursor", "--install", "--reset", "-y")
    assert get_entry(cursor) == json.loads(run("mcp", "cursor").stdout)["mcpServers"]["hf-models"]


@pytest.mark.parametrize(
    ("command", "args"), [("uvx", ["llm-hf-models"]), ("llm-hf-mcp", []), ("/home/me/start.sh", ["x"])]
)
def test_command_of_a_person_is_kept(command: str, args: list[str], cursor: Path) -> None:
    cursor.write_text(json.dumps({"mcpServers": {"hf-models": {"command": command, "args": args}}}), encoding="utf-8")
    assert (
        "Kept from the existing entry: command" in run("mcp", "cursor", "--install", "-y", "--", "--read-only").stderr
    )
    entry = get_entry(cursor)
    assert (entry["command"], entry["args"]) == (command, [*args, "--read-only"])


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"url": "http://127.0.0.1:8765/mcp"}, "connects to a running server by its address"),
        ({"type": "sse", "command": "x"}, "connects to a running server by its address"),
        ({"command": ["llm-hf-mcp"]}, "'command' of the entry 'hf-models' is not a string"),
        ({"args": "--read-only"}, "'args' of the entry 'hf-models' is not an array"),
        ({"env": []}, "'env' of the entry 'hf-models' is not an object"),
        ({"command": "/x/llm-hf-mcp", "args": ["--http", "8765"]}, "argument --http: a host uses the server's stdin"),
        ({"command": "llm-hf-mcp", "args": ["--bogus"]}, "unrecognized arguments: --bogus"),
        ("llm-hf-mcp", "is not an object"),
    ],
)
def test_entry_that_cannot_be_merged_needs_reset(entry: Any, reason: str, cursor: Path) -> None:
    text = json.dumps({"mcpServers": {"hf-models": entry}})
    cursor.write_text(text, encoding="utf-8")
    refused = run("mcp", "cursor", "--install", "-y", code=2).stderr
    assert reason in refused
    assert "--reset" in refused
    assert cursor.read_text("utf-8") == text
    run("mcp", "cursor", "--install", "--reset", "-y")
    assert Path(get_entry(cursor)["command"]).exists()


def test_null_members_of_the_entry_are_replaced() -> None:
    path = Path(".vscode/mcp.json")
    path.parent.mkdir()
    entry = {"type": None, "command": None, "args": None, "env": None}
    path.write_text(json.dumps({"servers": {"hf-models": entry}}), encoding="utf-8")
    run("mcp", "vscode", "--install", "-y")
    assert get_entry(path, "servers") == json.loads(run("mcp", "vscode").stdout)["servers"]["hf-models"]


# The file itself


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
@pytest.mark.parametrize("host", ["cursor", "vscode"])
def test_missing_file_is_created(host: str, umask: int) -> None:
    path = mcp_hosts.find_host(host).path
    assert path is not None
    before = os.umask(umask)
    try:
        run("mcp", host, "--install", "-y")
    finally:
        os.umask(before)
    assert list(json.loads(path.read_text("utf-8"))) == [mcp_hosts.find_host(host).section]
    assert [one.name for one in path.parent.iterdir()] == ["mcp.json"]
    if os.name == "posix":
        mode = 0o600 if host == "cursor" else 0o666 & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("", 2)])
def test_nothing_is_written_without_consent(answer: str, code: int, home: Home) -> None:
    assert "Nothing was written" in run("mcp", "cursor", "--install", stdin=answer, code=code).output
    assert not (home.root / ".cursor").exists()


def test_result_as_json(cursor: Path) -> None:
    cursor.write_text("{}", encoding="utf-8")
    dry = run_json("mcp", "cursor", "--install", "--dry-run")
    assert {**dry, "diff": ""} == {
        "path": str(cursor), "changed": True, "written": False, "kept": [], "differing": [], "backup": None, "diff": "",
    }  # fmt: skip
    done = run_json("mcp", "cursor", "--install", "-y")
    assert (done["written"], done["diff"]) == (True, dry["diff"])
    assert Path(done["backup"]).read_text("utf-8") == "{}"
    again = run_json("mcp", "cursor", "--install", "-y")
    assert (again["changed"], again["written"], again["diff"]) == (False, False, "")
    assert run_json("mcp", "cursor") == json.loads(cursor.read_text("utf-8"))


@pytest.mark.parametrize("option", ["-y", "--reset", "--dry-run"])
def test_options_of_install_need_it(option: str) -> None:
    assert "needs --install" in run("mcp", "cursor", option, code=2).stderr


# Removal


@pytest.mark.parametrize("host", HOSTS)
def test_removal_leaves_the_file_as_it_was(host: str, project: Path) -> None:
    path, section = mcp_hosts.find_host(host).path, mcp_hosts.find_host(host).section
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    before = (
        f'// mine\r\n{{"{section}": {{\r\n\t"other": {{"command": "x", "env": {{"KEY": "secret"}}}} // note\r\n}}}}'
    )
    path.write_bytes(before.encode())
    run("mcp", host, "--install", "-y")
    installed = path.read_bytes()
    dry = run("mcp", host, "--uninstall", "--dry-run")
    assert '-\t"hf-models": {' in dry.stderr
    assert "secret" not in dry.output
    assert path.read_bytes() == installed
    done = run_json("mcp", host, "--uninstall", "-y")
    assert path.read_bytes().decode() == before
    assert (done["written"], Path(done["backup"]).read_bytes()) == (True, installed)
    again = run("mcp", host, "--uninstall", "-y")
    assert f"{path.resolve()} has no entry `hf-models`." in again.stderr
    assert project.exists()


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("", 2)])
def test_nothing_is_removed_without_consent(answer: str, code: int, cursor: Path) -> None:
    run("mcp", "cursor", "--install", "-y")
    before = cursor.read_bytes()
    assert "Nothing was written" in run("mcp", "cursor", "--uninstall", stdin=answer, code=code).output
    assert cursor.read_bytes() == before


def test_missing_file_has_no_entry_to_remove(home: Home) -> None:
    assert "has no entry `hf-models`." in run("mcp", "cursor", "--uninstall").stderr
    assert not (home.root / ".cursor").exists()


@pytest.mark.parametrize("words", [("json", "--uninstall"), ("cursor", "--uninstall", "--install"),
                                   ("cursor", "--uninstall", "--", "--read-only"),
                                   ("cursor", "--uninstall", "--reset")])  # fmt: skip
def test_invalid_removal_is_refused(words: tuple[str, ...]) -> None:
    run("mcp", *words, code=2)


@pytest.mark.parametrize("content", [b'{"a": 1,, }', b"[1]", b'{"mcpServers": []}', b"\x00\xff"])
def test_removal_changes_no_file_that_is_not_understood(content: bytes, cursor: Path) -> None:
    cursor.write_bytes(content)
    output = run("mcp", "cursor", "--uninstall", "-y", code=2).stderr
    assert "was not changed" in output
    assert "Remove the entry `hf-models` from the file by hand." in output
    assert cursor.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1,, }', b"[1]", b'{"mcpServers": []}', b"\x00\xff", b'{"mcpServers": ' + b"[" * 100_000, b"{'a': 1}",
        "{}".encode("utf-16"),
    ],
)  # fmt: skip
def test_file_that_could_lose_data_is_not_changed(content: bytes, cursor: Path) -> None:
    cursor.write_bytes(content)
    output = run("mcp", "cursor", "--install", "-y", code=2).output
    assert "was not changed" in output
    assert cursor.read_bytes() == content
    assert [each.name for each in cursor.parent.iterdir()] == ["mcp.json"]


def make_loop(path: Path) -> None:
    path.symlink_to(path.with_name("loop.json"))
    path.with_name("loop.json").symlink_to(path)


UNUSABLE = {
    "loop": (make_loop, "It is a loop of symbolic links."),
    "link to itself": (lambda path: path.symlink_to(path), "It is a loop of symbolic links."),
    "FIFO": (os.mkfifo if os.name == "posix" else None, "It is not a regular file."),
    "device": (lambda path: path.symlink_to("/dev/zero"), "It is not a regular file."),
    "folder": (Path.mkdir, "It is a folder."),
    "too large": (lambda path: path.write_bytes(b" " * (MAX_BYTES + 1)), "It is larger than 1 MB."),
}


@POSIX
@pytest.mark.parametrize("kind", UNUSABLE)
def test_file_of_an_unusable_kind_gives_a_message(kind: str, cursor: Path) -> None:
    make, reason = UNUSABLE[kind]
    make(cursor)
    output = run("mcp", "cursor", "--install", "-y", code=1).stderr
    assert f"Error: {cursor.resolve() if kind == 'device' else cursor} was not changed\n{reason}\n" in output


@POSIX
def test_unreadable_file_gives_a_message(cursor: Path) -> None:
    cursor.write_text("{}", encoding="utf-8")
    cursor.chmod(0)
    done = run_process("llm", "hf", "mcp", "cursor", "--install", "-y", code=1, unprivileged=True)
    assert f"Error: {cursor} was not changed\nPermission denied.\n" in done.stderr


@POSIX
def test_folder_that_is_a_file_gives_a_message(home: Home) -> None:
    (home.root / ".cursor").write_text("")
    assert "was not changed" in run("mcp", "cursor", "--install", "-y", code=1).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_link_stays_a_link(home: Home, cursor: Path) -> None:
    real = home.root / "dotfiles.json"
    real.write_text("{}", encoding="utf-8")
    cursor.symlink_to(real)
    run("mcp", "cursor", "--install", "-y")
    assert cursor.is_symlink()
    assert "hf-models" in real.read_text("utf-8")


@POSIX
def test_planted_links_for_the_new_files_are_not_followed(cursor: Path, home: Home) -> None:
    victim = home.root / "victim"
    cursor.write_text("{}", encoding="utf-8")
    cursor.with_name(f".mcp.json.{os.getpid()}").symlink_to(victim)
    run("mcp", "cursor", "--install", "-y")
    assert not victim.exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give files away")
def test_owner_and_group_stay(cursor: Path) -> None:
    cursor.write_text("{}", encoding="utf-8")
    os.chown(cursor, 12345, 23456)
    cursor.chmod(0o660)
    run("mcp", "cursor", "--install", "-y")
    for path in (cursor, *cursor.parent.glob("*.bak")):
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o660)


@POSIX
def test_unwritable_folder_gives_a_clear_error(cursor: Path) -> None:
    cursor.parent.chmod(0o500)
    done = run_process("llm", "hf", "mcp", "cursor", "--install", "-y", code=1, unprivileged=True)
    assert f"Error: Can't write {cursor}\nPermission denied\n" in done.stderr
    assert list(cursor.parent.iterdir()) == []


@POSIX
def test_deleted_project_folder_gives_a_message(project: Path) -> None:
    project.rmdir()
    assert "The current folder can't be used" in run("mcp", "vscode", "--install", "-y", code=1).stderr


def test_foreign_text_in_the_diff_cannot_control_the_terminal(cursor: Path) -> None:
    cursor.write_text('{\n  // \x1b[2J\u202e evil\n  "a": 1\n}\n', encoding="utf-8")
    done = run("mcp", "cursor", "--install", "--dry-run")
    assert "evil" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


def test_diff_of_a_file_without_line_breaks_is_readable(cursor: Path) -> None:
    servers = {f"server{number}": {"command": "x" * 20} for number in range(100)}
    cursor.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    diff = run_json("mcp", "cursor", "--install", "--dry-run")["diff"]
    assert '+    "hf-models": {' in diff
    assert len(diff) < 3000
