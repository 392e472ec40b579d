"""Errors of commands with `--json`: one JSON object on stdout, none on stderr, and the same exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from llm_hf_models import errors
from llm_hf_models.cli.main import hf
from tests.support.commands import run, run_process
from tests.support.ggufs import tiny_chat

PARTS = {"code", "message", "cause", "hint"}


def list_commands(group: click.Group, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the words of every command that can print JSON."""
    found = []
    for name, command in group.commands.items():
        if any("--json" in parameter.opts for parameter in command.params):
            found.append((*before, name))
        if isinstance(command, click.Group):
            found += list_commands(command, (*before, name))
    return found


def run_failing(*words: str | Path, code: int, stdin: str | None = None) -> dict[str, Any]:
    """Run a command that fails, with and without --json, and return the error that it prints."""
    done = run(*words, "--json", code=code, stdin=stdin)
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)["error"]
    assert found.keys() == PARTS
    assert "Error:" not in done.stderr
    assert found["message"] not in done.stderr
    assert run(*words, code=code, stdin=stdin).stdout == ""
    return found


@pytest.mark.parametrize("words", list_commands(hf), ids=" ".join)
def test_unknown_option_of_every_command_is_a_json_error(words: tuple[str, ...]) -> None:
    ends_options = words[-1] in ("set", "settings")  # an unknown option is a value there
    found = run_failing(*words, *(("--unset",) if ends_options else ("--no-such-option",)), code=2)
    assert found["code"] == "usage"
    assert re.fullmatch(rf"See `hf {' '.join(words)} --help`\.", found["hint"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show",), "Missing argument 'NAME...'"),
        (("no-such-command",), "No such command"),
        (("downloads", "--limit", "0"), "Invalid value for '--limit'"),
        (("verify",), "Give either NAME, --collection or --all"),
        (("--no-such-option", "list"), "No such option"),
    ],
)
def test_usage_errors_are_json_errors(words: tuple[str, ...], message: str) -> None:
    found = run_failing(*words, code=2)
    assert found["code"] == "usage"
    assert message in found["message"]


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (("show", "walrus"), 1, "unknown_model"),
        (("rm", "walrus"), 1, "unknown_model"),
        (("downloads", "log", "7"), 1, "not_found"),
        (("downloads", "--watch", "7"), 1, "not_found"),
        (("pull", "a/b/c/d"), 2, "bad_ref"),
        (("settings", "context", "many"), 2, "bad_input"),
        (("import", "missing.gguf"), 1, "missing_file"),
    ],
)
def test_error_code_is_the_name_of_the_exception(words: tuple[str, ...], code: int, name: str) -> None:
    assert run_failing(*words, code=code)["code"] == name


def test_every_exception_has_its_own_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    names = {kind.get_name() for kind in kinds}
    assert len(names) == len(kinds)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    assert names >= {"repo_not_found", "file_not_found_in_repo", "no_gguf", "tls", "interrupted_by_user"}


def test_json_error_has_cause_and_hint(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no GGUF", encoding="utf-8")
    found = run_failing("import", tmp_path / "text.gguf", code=1)
    assert found["code"] == "invalid_gguf"
    assert found["hint"] is None or isinstance(found["hint"], str)
    assert run_failing("show", "walrus", code=1)["hint"].startswith("List")


def test_refused_removal_is_a_json_error(tmp_path: Path) -> None:
    run("import", tiny_chat(tmp_path / "tiny.Q8_0.gguf"), "-a", "walrus", "-q")
    assert run_failing("rm", "walrus", code=1, stdin="n\n")["code"] == "declined"
    assert run_failing("rm", "walrus", code=2, stdin="")["code"] == "bad_input"
    assert "Nothing was removed." in run("rm", "walrus", code=1, stdin="n\n").stderr
    assert run("show", "walrus").exit_code == 0


def test_json_after_two_dashes_is_a_value() -> None:
    assert "There is no local model '--json'" in run("show", "--", "--json", code=1).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk on request")
def test_json_error_that_stdout_can_not_take_goes_to_stderr() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llm", "hf", "show", "walrus", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "There is no local model 'walrus'" in done.stderr


def test_llm_itself_prints_the_json_error() -> None:
    done = run_process("llm", "hf", "show", "--json", code=2)
    assert json.loads(done.stdout)["error"]["hint"] == "See `llm hf show --help`."
    assert done.stderr == ""
