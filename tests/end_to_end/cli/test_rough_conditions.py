"""Every command with a damaged library or a closed pipe, and first commands that start together."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import pytest

from llm_hf_models.cli.main import hf
from llm_hf_models.paths import library_path
from tests.support.commands import SCRIPTS, run
from tests.support.ggufs import tiny_chat

WORDS = {  # of the commands that need arguments
    "alias": ["alias", "walrus", "tusk"],
    "attach": ["attach", "far", "--endpoint", "http://127.0.0.1:9", "--model", "m"],
    "cancel": ["cancel", "1"], "check": ["check", "walrus"], "gc": ["gc", "-y"], "info": ["info", "o/n"],
    "inspect": ["inspect", "walrus"], "path": ["path", "walrus"], "pause": ["pause", "1"], "pull": ["pull", "o/n"],
    "resume": ["resume", "--all"], "retry": ["retry", "1"], "rm": ["rm", "-y", "walrus"], "set": ["set", "walrus"],
    "show": ["show", "walrus"], "stop": ["stop", "--all"], "test": ["test", "walrus"],
    "uninstall": ["uninstall", "--dry-run"], "verify": ["verify", "--all"],
}  # fmt: skip
SERVERS = {"serve", "mirror", "login"}  # they wait for clients, or for input


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Import a model as `walrus`, with no Hub to ask. Return the library's file."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run("import", tiny_chat(tmp_path / "tiny.Q8_0.gguf"), "-a", "walrus", "-q")
    return library_path()


def fill_with_nonsense(path: Path) -> None:
    """Put a text that no column can have into every column."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                with suppress(sqlite3.IntegrityError):  # a column that accepts no text
                    connection.execute(f"UPDATE {table} SET {column} = '{{nonsense'")


@pytest.mark.parametrize("damage", ["cut", "nonsense"])
def test_no_command_fails_with_a_traceback_on_a_damaged_library(damage: str, library: Path, tmp_path: Path) -> None:
    if damage == "nonsense":
        fill_with_nonsense(library)
    else:
        library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])
    content = library.read_bytes()
    words = {name: WORDS.get(name, [name]) for name in hf.commands if name not in SERVERS}
    words["import"] = ["import", str(tiny_chat(tmp_path / "other.gguf"))]
    for one in words.values():
        library.write_bytes(content)
        run(*one, code=None)  # fails on any exception that is not meant for a person


@pytest.mark.usefixtures("library")
def test_first_commands_that_start_together_all_succeed(tmp_path: Path) -> None:
    fresh = {**os.environ, "LLM_USER_PATH": str(tmp_path / "fresh")}
    commands = [["import", tmp_path / "tiny.Q8_0.gguf", "-q"], ["list"], ["settings", "context", "4k"]]
    started = [
        subprocess.Popen(
            [SCRIPTS / "llm", "hf", *command], env=fresh, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in [*commands, commands[0]]
    ]
    outputs = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), outputs
    listed = subprocess.run(
        [SCRIPTS / "llm", "hf", "list", "--json"], env=fresh, capture_output=True, text=True, check=True, timeout=60
    )
    assert len(json.loads(listed.stdout)["models"]) == 1


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("words", [["list", "--nope", "--json"], ["list"]], ids=str)
def test_closed_pipe_leaves_no_traceback(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [SCRIPTS / "llm", "hf", *words], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    os.close(writer)
    assert done.returncode != 0
    for trace in ("Traceback", "Exception ignored", "BrokenPipe"):
        assert trace not in done.stderr
