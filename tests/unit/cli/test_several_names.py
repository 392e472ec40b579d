"""Commands with several names, and with -q."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llm_hf_models.cli.main import hf
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_base, tiny_chat

pytestmark = pytest.mark.usefixtures("two")


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Import two models, `cat` and `dog`; return their files."""
    paths = [tiny_chat(tmp_path / f"{name}.Q8_0.gguf") for name in ("cat", "dog")]
    for path in paths:
        run("import", path, "-a", path.name[:3], "-q")
    return paths


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["show"], "id"),
        (["path"], "paths"),
        (["verify"], "id"),
        (["inspect"], "file"),
        (["check"], "source"),
    ],
)
def test_one_name_and_several_give_the_same_shape(words: list[str], key: str) -> None:
    code = 1 if words == ["verify"] else 0  # imported models were never compared with the Hub
    one = run_json_one(*words, "cat", code=code)
    two = run_json(*words, "cat", "dog", code=code)["results"]
    assert len(two) == 2
    assert two[0] != two[1]
    assert two[0][key] == one[key]


@pytest.mark.parametrize("command", ["show", "path", "verify", "inspect", "check"])
def test_unknown_name_among_several_is_reported_and_the_others_shown(command: str, two: list[Path]) -> None:
    code = run(command, "nobody", code=None).exit_code
    done = run(command, "cat", "nobody", "dog", code=code)
    assert done.stderr.count("Error: ") == 1
    assert "nobody" in done.stderr
    assert all(path.name[:3] in done.stdout for path in two)
    printed = run_json(command, "cat", "nobody", "dog", "worse", code=code)
    assert len(printed["results"]) == 2
    assert [one["name"] for one in printed["errors"]] == ["nobody", "worse"]
    assert all(one["name"] in one["error"]["message"] for one in printed["errors"])
    assert run_json(command, "nobody", code=code).keys() == {"error"}, "there is no result to hide"


def test_rm_removes_several_after_one_question_or_none_at_all() -> None:
    assert run("rm", "cat", "nobody", "-y", code=1).stderr.startswith("Error: ")
    assert len(run_json("list")["models"]) == 2
    asked = run("rm", "cat", "dog", stdin="n\n", code=1)
    assert "Remove these 2 models?" in asked.stderr
    assert asked.stderr.count("Would remove") == 2
    assert [done["done"] for done in run_json("rm", "cat", "dog", "cat", "-y")["results"]] == [True, True]
    assert run_json("list")["models"] == []


def test_quiet_list_prints_ids_that_other_commands_accept() -> None:
    ids = run("list", "-q").stdout.split()
    assert sorted(ids) == ["hf/local/cat:Q8_0", "hf/local/dog:Q8_0"]
    assert run("rm", "-y", "-q", *ids).output == ""
    assert run("list", "-q").output == ""


@pytest.mark.parametrize(
    "words",
    [
        ["set", "cat", "temperature", "0.5"],
        ["alias", "cat", "kitten"],
        ["limit", "5M"],
        ["settings", "context", "4k"],
        ["settings", "context", "--unset"],
        ["check", "cat"],
        ["gc", "-y"],
        ["ps"],
        ["stop", "--all"],
        ["downloads"],
        ["downloads", "clear"],
        ["downloads", "--watch"],
        ["pause", "--all"],
        ["logout"],
        ["attach", "far", "--endpoint", "http://127.0.0.1:9", "--model", "m"],
        ["rm", "-y", "cat"],
    ],
    ids=" ".join,
)
def test_quiet_command_that_succeeds_prints_nothing(words: list[str]) -> None:
    assert run(*words, "-q").output == ""


def test_quiet_command_still_prints_values_problems_and_questions(tmp_path: Path) -> None:
    assert run("settings", "context", "-q").stdout == "8192\n"
    assert run("verify", "cat", "-q", code=1).stdout
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    assert "broken.gguf" in run("check", broken, "cat", "-q", code=1).output
    assert "Would remove hf/local/cat:Q8_0" in run("rm", "-q", "cat", stdin="n\n", code=1).stderr
    assert run("rm", "-q", "nobody", "-y", code=1).stderr.startswith("Error: ")


def list_commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{name} ")


def test_every_command_has_quiet_unless_it_only_prints_what_was_asked_for() -> None:
    without = {name for name, command in list_commands(hf) if "--quiet" not in str([p.opts for p in command.params])}
    assert without == {"show", "path", "downloads log", "trust", "trust list"}


def test_inspect_template_prints_only_the_template(tmp_path: Path) -> None:
    template = run_json_one("inspect", "cat", "--template")["chat_template"]
    assert run("inspect", "cat", "--template").stdout == f"{template}\n"
    bare = tiny_base(tmp_path / "bare.gguf")
    done = run("inspect", bare, "--template", code=1)
    assert (done.stdout, "has no chat template" in done.stderr) == ("", True)
