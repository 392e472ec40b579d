"""Rules for every command: help, examples, JSON, exit codes, README."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest

import llm_hf_models
from llm_hf_models.cli.main import hf
from llm_hf_models.cli.usage_errors import OTHER_NAMES
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import Download
from llm_hf_models.paths import library_path
from llm_hf_models.settings import Settings
from tests.conftest import Home
from tests.support.commands import llm_command, run, run_json
from tests.tools import readme_help

SUMMARY_CELLS = 60
# Commands that run a server, or that print only one value.
WITHOUT_JSON = {"mirror", "serve"}


def list_commands(group: click.Group = hf, name: str = "hf") -> Iterator[tuple[str, click.Command]]:
    for command in group.commands.values():
        yield f"{name} {command.name}", command
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{name} {command.name}")


COMMANDS = dict(list_commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_short_summary_and_examples(name: str) -> None:
    command = COMMANDS[name]
    summary = command.get_short_help_str(200)
    assert re.fullmatch(r"[A-Z].*\.", summary)
    assert len(summary) <= SUMMARY_CELLS
    assert "..." not in summary
    assert f"llm {name}" in (command.epilog or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_description(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.help.endswith((".", "all")), parameter.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_returns_a_value_can_print_json(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert ("--json" in options) == (name.rsplit(maxsplit=1)[-1] not in WITHOUT_JSON)


def list_examples() -> Iterator[str]:
    for command in [hf, *COMMANDS.values()]:
        for line in (command.epilog or "").splitlines():
            if found := re.search(r"(?:^|\| |\$\()\s*(?:\w+=\S+ )?(llm hf [^)]*)", line.strip()):
                yield found[1].strip('"')


@pytest.mark.parametrize("line", sorted(set(list_examples())))
def test_every_example_is_a_valid_command_line(line: str) -> None:
    words = shlex.split(line, comments=True)[2:]
    context, command = click.Context(hf, **hf.context_settings), hf
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, name
        context, command = found.make_context(name, words, parent=context), found
        if isinstance(found, click.Group) and not context._protected_args:
            return
        words = [*context._protected_args, *context.args]


def test_group_help_has_a_summary_of_each_command() -> None:
    shown = run("--help", code=None).output
    for name, command in hf.commands.items():
        assert re.search(rf"^  {name} +{re.escape(command.get_short_help_str(200))}$", shown, re.MULTILINE)


def test_help_imports_neither_the_service_nor_rich() -> None:
    code = (
        "import sys\nfrom llm_hf_models.cli.main import hf\n"
        "try: hf(['pull', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'rich', 'huggingface_hub', 'llm_hf_models.service', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


# Wrong input


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["search", "--min-params", "many"], "'many' is not a number of parameters. Use a value such as 7B or 500M."),
        (["search", "--limit", "0"], "0 is not in the range"),
        (["search", "--sort", "fame"], "'fame' is not one of"),
        (["pull", "o/n", "--limit-rate", "fast"], "'fast' is not a rate. Use a value such as 5M or 1.5MB/s"),
        (["pull", "o/n", "--on-done", "true"], "--on-done requires --background."),
        (["search", "--min-params", "9" * 30], f"'{'9' * 30}' is too large.\n"),
        (["pull", "o/n", "--limit-rate", "0.5"], "'0.5' is less than one byte per second."),
        (["limit", "0.9"], "'0.9' is less than one byte per second. `off` means no limit."),
        (["limit", "9" * 30], "is too large. `off` means no limit."),
        (["limit", "fast"], "or `off` for no limit."),
        (["limit", "5"], "'5' has no unit. Write 5M for megabytes per second, or 5B for bytes per second."),
        (["pull", "o/n", "--limit-rate", "5"], "'5' has no unit. Write 5M"),
        (["pull"], "Give either REF or --collection."),
        (["verify"], "Give either NAME, --collection or --all."),
        (["stop", "x", "--all"], "Give either NAME or --all."),
        (["pause"], "Give either ID or --all."),
        (["alias", "x"], "Give the ALIAS too"),
        (["settings", "--unset"], "--unset takes one KEY and no VALUE."),
        (["downloads", "--watch", "x"], "'x' is not the id of a download."),
        (["downloads", "--watch", "²"], "'²' is not the id of a download."),
        (["serach"], "Did you mean 'search'?"),
        (["remove", "x"], "No such command 'remove'. Use: llm hf rm NAME"),
        (["Delete"], "Use: llm hf rm NAME"),
        (["run"], "Use: llm -m NAME 'PROMPT'"),
        (["config"], "Use: llm hf settings"),
        (["version"], "Use: llm hf --version"),
        (["--verison"], "Did you mean '--version'?"),
        (["pull", "o/n", "--dryrun"], "Did you mean '--dry-run'?"),
        (["settings", "contxt"], "Did you mean 'context'?"),
        (["mirror", "--host", ""], "The address to listen on is empty"),
        (["login"], "Use --token-stdin to read it from standard input."),
    ],
)
def test_invalid_usage_exits_with_2_and_a_reason(words: list[str], output: str) -> None:
    done = run(*words, code=None)
    assert done.exit_code == 2
    assert output in done.stderr
    assert done.stdout == ""


def test_commands_of_other_tools_lead_to_existing_commands() -> None:
    for name, command in OTHER_NAMES.items():
        assert name not in hf.commands
        words = command.split()
        if words[1] == "hf":
            assert words[2] in (*hf.commands, "--help", "--version")
        else:
            assert words[1] == "-m" or words[1] in llm_command.commands


def test_usage_error_wraps_at_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = run("search", "--sort", "no such order", code=2).stderr.splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert "'updated'." in lines[-1]


def test_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"llm-hf-models {llm_hf_models.__version__}\n"


@pytest.mark.parametrize("ref", ["no-slash", "a/b:", "../..", "owner/name@..:Q4", "https://example.org/"])
def test_invalid_ref_error_shows_the_accepted_forms(ref: str) -> None:
    for command in ("info", "pull"):
        done = run(command, ref, code=None)
        assert done.exit_code == 2
        assert done.stderr.startswith("Error: ")
        assert "Write owner/name, owner/name:Q4_K_M" in done.stderr


# Settings


def read_setting(*words: str) -> Any:
    (setting,) = run_json("settings", *words)["settings"]
    return setting


def test_settings_can_be_listed_shown_changed_and_unset() -> None:
    listed = run("settings", code=None)
    assert all(key in listed.stdout for key in Settings.model_fields)
    assert run("settings", "keep_alive", "30m", code=None).exit_code == 0
    assert read_setting("keep_alive")["value"] == 1800
    assert re.search(r"^keep_alive +30m$", run("settings", "keep_alive", code=None).stdout, re.MULTILINE)
    assert run("settings", "keep_alive", "-1", code=None).exit_code == 0
    assert read_setting("keep_alive")["value"] == -1
    back = read_setting("keep_alive", "--unset")
    assert (back["value"], back["source"]) == (300, "default")


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["settings", "colour"], "There is no setting 'colour'"),
        (["settings", "colour", "blue"], "There is no setting 'colour'"),
        (["settings", "--colour", "--unset"], "There is no setting '--colour'"),
        (["settings", "engine", "steam"], "Setting 'engine'"),
    ],
)
def test_unknown_setting_or_value_is_refused(words: list[str], output: str) -> None:
    done = run(*words, code=None)
    assert done.exit_code == 2
    assert output in done.stderr


def test_limit_of_all_downloads_can_be_set_shown_and_lifted() -> None:
    assert run("limit", code=None).stdout == "no limit\n"
    assert run("limit", "5M", code=None).stdout == "5 MB/s for all downloads together\n"
    assert run("limit", code=None).stdout == "5 MB/s for all downloads together\n"
    assert run("limit", "off", code=None).stdout == "no limit\n"
    assert run("limit", "2.5 MB/s", code=None).stdout == "2.5 MB/s for all downloads together\n", "as it is shown"
    assert run("limit", "OFF", code=None).stdout == "no limit\n"


@pytest.mark.parametrize("host", ["1.2.3.4", "no-such-host.invalid", "x" * 10_000, "\udcff", "a b"])
def test_foreign_listen_address_is_refused_with_a_suggestion(host: str) -> None:
    done = run("mirror", "--host", host, code=None)
    assert done.exit_code == 1
    assert "Can't listen on" in done.stderr
    assert "--host 127.0.0.1" in done.stderr
    assert len(done.stderr) < 1000


def test_commands_named_by_the_errors_repair_a_settings_file(home: Home) -> None:
    (home.llm / "hf").mkdir()
    (home.llm / "hf/settings.toml").write_text("colour = 'blue'\ncontext = 'many'\n")
    mended = []
    while (done := run("settings", code=None)).exit_code:
        (command,) = re.findall(r"llm (hf settings \w+ --unset)", done.stderr)
        assert command not in mended
        mended.append(command)
        run(*shlex.split(command)[1:], code=None)
    assert len(mended) == 2


def test_token_that_is_not_text_is_refused() -> None:
    done = run("login", "--token-stdin", code=None, stdin=b"hf_\xff\n")
    assert done.exit_code == 2
    assert "This is not a Hub token" in done.stderr


# An empty library


@pytest.mark.parametrize("words", [["show", "walrus"], ["path", "walrus"], ["rm", "-y", "walrus"], ["stop", "walrus"],
                                   ["verify", "walrus"], ["alias", "walrus", "x"]])  # fmt: skip
def test_unknown_model_gives_a_clear_error(words: list[str]) -> None:
    done = run(*words, code=None)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ")
    assert "walrus" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["inspect", "check", "test"])
def test_name_that_matches_nothing_is_reported_as_a_model(command: str) -> None:
    done = run(command, "walrus", code=None)
    assert done.exit_code == 1
    assert "There is no local model 'walrus'" in done.stderr


def test_very_long_name_is_not_repeated_in_full() -> None:
    for command in ("show", "stop", "check"):
        done = run(command, "x" * 10_000, code=None)
        assert done.exit_code == 1
        assert len(done.stderr) < 500


def test_status_works_without_a_readable_library(home: Home) -> None:
    (home.llm / "hf/library.db").mkdir(parents=True)
    done = run("status", code=None)
    assert done.exit_code == 0
    assert "Can't open the library" in done.stdout


def test_empty_library_suggests_a_first_command() -> None:
    assert "llm hf pull owner/name" in run("list", code=None).stderr
    assert run_json("list")["models"] == []
    assert "The next prompt starts one." in run("ps", code=None).stderr
    assert run_json("ps") == {"engines": []}
    assert run("stop", "--all", code=None).stderr == "No engine was running.\n"
    assert "No download is active." in run("downloads", code=None).stderr
    assert run_json("downloads") == {"downloads": [], "more": False}
    assert run("pause", "--all", code=None).stderr == "No download to pause.\n"
    verified = run("verify", "--all", code=None)
    assert (verified.exit_code, verified.stdout) == (0, "")
    assert "Nothing to verify" in verified.stderr
    assert run("verify", "--all", "-q", code=None).stderr == ""
    assert run_json("verify", "--all") == {"results": [], "errors": []}
    assert run("alias", code=None).stdout == ""
    assert "llm hf pull owner/name" in run("alias", code=None).stderr
    assert run_json("alias") == {"aliases": {}}


def test_unknown_download_gives_a_clear_error() -> None:
    for number in ("7", "0", str(2**80)):
        for words in (["pause"], ["downloads", "log"], ["downloads", "--watch"]):
            done = run(*words, number, code=None)
            assert done.exit_code == 1
            assert f"There is no download {number}" in done.stderr


def test_all_includes_an_old_download_behind_150_newer_ones() -> None:
    with Database(library_path()) as db:
        first = db.add_download(Download(0, "o/n:Q4", "paused", "o/n", "c" * 40, "Q4", 1, plan="{}"))
        for _ in range(150):
            db.add_download(Download(0, "o/n:Q4", "done", "o/n", "c" * 40, "Q4", 1, plan="{}"))
    assert [row["id"] for row in run_json("cancel", "--all")["results"]] == [first.id]


def test_damaged_library_gives_one_clear_error(home: Home) -> None:
    folder = home.llm / "hf"
    folder.mkdir(parents=True)
    (folder / "library.db").write_bytes(b"this is no database, whatever its name says" * 100)
    done = run("list", code=None)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ")
    assert "library.db" in done.stderr


# README


def test_readme_contains_the_current_help_and_settings() -> None:
    text = readme_help.README.read_text(encoding="utf-8")
    assert set(readme_help.list_documented(text)) == set(readme_help.make_help_blocks())
    assert readme_help.update_readme(text) == text, "run: make docs"


def test_help_marker_without_a_command_is_refused() -> None:
    with pytest.raises(KeyError, match="help:nonsense"):
        readme_help.update_readme("<!-- help:nonsense -->\n<!-- /help -->")
