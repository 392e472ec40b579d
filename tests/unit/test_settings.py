"""The settings and their sources, compared with llm's and huggingface_hub's own paths."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llm_hf_models import settings
from llm_hf_models.errors import BadInputError, NotWritableError
from llm_hf_models.transfer.retry import MAX_PAUSE_SECONDS
from tests.conftest import Home
from tests.support.commands import run, run_json

# One child for all environments: huggingface_hub's constants are read again for each, as at import.
ASK = """
import importlib, json, os, pathlib, sys
from llm_hf_models import paths
from llm_hf_models import settings
import llm
from huggingface_hub import constants
base = dict(os.environ)
answers = []
for environment in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(base | environment)
    importlib.reload(constants)
    answers.append({
        "user_dir": [str(paths.user_dir()), str(llm.user_dir())],
        "hf_home": [str(settings.hf_home()), str(pathlib.Path(constants.HF_HOME))],
        "cache_dir": [str(settings.cache_dir()), str(pathlib.Path(constants.HF_HUB_CACHE))],
        "offline": [settings.is_offline(), constants.HF_HUB_OFFLINE],
        "endpoint": [settings.endpoint(), constants.ENDPOINT],
    })
print(json.dumps(answers))
"""
PLACES = ("LLM_USER_PATH", "HF_HOME", "HF_HUB_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
ENVIRONMENTS = [
    {},
    {"XDG_CONFIG_HOME": "conf", "XDG_CACHE_HOME": "cache"},
    {"XDG_CONFIG_HOME": "~/conf", "XDG_CACHE_HOME": "~/cache"},
    {"XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "LLM_USER_PATH": ""},
    {"LLM_USER_PATH": "mine", "HF_HOME": "~/hf", "HF_HUB_OFFLINE": "1"},
    {"HF_HOME": "$PLACE/hf", "PLACE": "there", "HF_HUB_OFFLINE": "Yes"},
    {"HF_HOME": "", "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"},
    {"HF_HUB_CACHE": "~/weights", "HF_ENDPOINT": "http://127.0.0.1:9/"},
    {"HUGGINGFACE_HUB_CACHE": "${PLACE}/old", "PLACE": "there", "TRANSFORMERS_OFFLINE": "true"},
    {"HF_HUB_CACHE": "new", "HUGGINGFACE_HUB_CACHE": "old", "HF_HUB_OFFLINE": "maybe"},
    {"HF_HUB_CACHE": "", "HF_HOME": "~nobody-of-that-name/hf"},
]


def test_paths_match_those_of_llm_and_huggingface_hub(tmp_path: Path) -> None:
    child = {name: value for name, value in os.environ.items() if name not in PLACES}
    answer = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(ENVIRONMENTS),
        env=child,
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    )
    for environment, answers in zip(ENVIRONMENTS, json.loads(answer.stdout), strict=True):
        for name, (ours, theirs) in answers.items():
            assert ours == theirs, f"{name} under {environment}"


def test_empty_endpoint_is_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert settings.endpoint() == settings.DEFAULT_ENDPOINT


def test_environment_precedes_the_file_and_the_file_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (settings.load().connections, settings.find_source("connections")) == (8, "default")
    settings.store("connections", 4)
    assert (settings.load().connections, settings.find_source("connections")) == (4, "settings.toml")
    monkeypatch.setenv("LLM_HF_CONNECTIONS", "2")
    assert (settings.load().connections, settings.find_source("connections")) == (2, "environment")
    monkeypatch.setenv("LLM_HF_CONNECTIONS", "")
    settings.store("connections", None)
    assert (settings.load().connections, settings.find_source("connections")) == (8, "default")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("limit_rate", "5M", 5_000_000),
        ("limit_rate", "5 MB/s", 5_000_000),
        ("limit_rate", "Off", 0),
        ("disk_reserve_bytes", "2GiB", 2 * 2**30),
        ("keep_alive", "10m", 600),
        ("keep_alive", "-1", -1),
        ("keep_alive", "0", 0),
        ("stall_seconds", "1.5m", 90),
        ("sandbox", "required", "required"),
        ("agent_read_only", "on", True),
        ("context", "4096", 4096),
        ("context", "16k", 16384),
        ("agent_max_prompt_tokens", "1.5K", 1536),
        ("transport", "xet", "xet"),
        ("allowed_owners", "Qwen, unsloth", "Qwen, unsloth"),
    ],
)
def test_readable_values_round_trip_from_every_source(
    key: str, text: str, value: object, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.parse_value(key, text) == value
    settings.store(key, settings.parse_value(key, text))
    assert getattr(settings.load(), key) == value
    (home.llm / "hf/settings.toml").write_text(f'{key} = "{text}"\n')
    assert getattr(settings.load(), key) == value
    (home.llm / "hf/settings.toml").unlink()
    monkeypatch.setenv(f"LLM_HF_{key.upper()}", text)
    assert getattr(settings.load(), key) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("nonsense", "1"),
        ("connections", "0"),
        ("connections", "65"),
        ("connections", "many"),
        ("connections", "8.5"),
        ("limit_rate", "-1"),
        ("limit_rate", "0.9"),
        ("limit_rate", "5"),
        ("limit_rate", "999.5"),
        ("context", "8192.5"),
        ("context", "16kB"),
        ("agent_max_prompt_tokens", "-1"),
        ("disk_reserve_bytes", "5M/s"),
        ("limit_rate", "9" * 400),
        ("stall_seconds", "0"),
        ("stall_seconds", "nan"),
        ("stall_seconds", "-5"),
        ("keep_alive", "-2"),
        ("keep_alive", "-inf"),
        ("sandbox", "perhaps"),
        ("agent_read_only", "perhaps"),
        ("transport", "carrier pigeon"),
        ("engine", ""),
    ],
)
def test_invalid_value_is_refused_and_changes_nothing(key: str, text: str) -> None:
    with pytest.raises(BadInputError):
        settings.store(key, settings.parse_value(key, text))
    assert not settings.settings_path().exists()


def test_error_in_a_variable_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_CONNECTIONS", "many")
    with pytest.raises(BadInputError, match="connections"):
        settings.load()


@pytest.mark.parametrize(
    "content",
    [
        b"connections = ",
        b"connections = 0\n",
        b"connections = [1]\n",
        b"unknown = 1\n",
        b"stall_seconds = inf\n",
        b"stall_seconds = nan\n",
        b"limit_rate = 'lots'\n",
        b"\xff\xfe",
        b"[connections]\n",
        b"connections = " + b"[" * 5000,
    ],
)
def test_broken_settings_file_gives_one_error_with_a_fix(content: bytes, home: Home) -> None:
    (home.llm / "hf").mkdir()
    (home.llm / "hf/settings.toml").write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        settings.load()
    assert caught.value.hint


@given(st.binary(max_size=60))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_the_settings_file_are_parsed_or_refused(home: Home, content: bytes) -> None:
    (home.llm / "hf").mkdir(exist_ok=True)
    (home.llm / "hf/settings.toml").write_bytes(content)
    try:
        settings.load()
    except BadInputError as error:
        assert error.hint  # noqa: PT017 - either outcome is right; anything else fails the test


def test_old_name_of_a_setting_works_in_every_source(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_settings(home, "disk_reserve = 3\n")
    assert (settings.load().disk_reserve_bytes, settings.find_source("disk_reserve_bytes")) == (3, "settings.toml")
    done = run("settings", "disk_reserve", "2G")
    assert done.stderr == "The setting disk_reserve is now called disk_reserve_bytes.\n"
    assert path.read_text() == "disk_reserve_bytes = 2000000000\n"
    path.write_text("disk_reserve_bytes = 4\ndisk_reserve = 3\n")
    assert settings.load().disk_reserve_bytes == 4
    monkeypatch.setenv("LLM_HF_DISK_RESERVE", "5")
    assert (settings.load().disk_reserve_bytes, settings.find_source("disk_reserve_bytes")) == (5, "environment")
    monkeypatch.setenv("LLM_HF_DISK_RESERVE_BYTES", "6")
    assert settings.load().disk_reserve_bytes == 6
    run("settings", "disk_reserve", "--unset")
    assert path.read_text() == ""


def test_settings_show_where_they_are_stored(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    path = str(home.llm / "hf/settings.toml")
    assert run("settings").stdout.endswith(f"\nStored in {path}.\n")
    assert re.search(rf"^Stored in +{re.escape(path)}$", run("settings", "context").stdout, re.MULTILINE)
    assert {one["file"] for one in run_json("settings")["settings"]} == {path}


def write_settings(home: Home, text: str) -> Path:
    path = home.llm / "hf/settings.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("line", ["gone = 1", "context = 'many'", "context = -1", "stall_seconds = nan", "[context]"])
def test_wrong_entry_error_names_the_command_that_removes_it(home: Home, line: str) -> None:
    path = write_settings(home, f"connections = 3\n{line}\n")
    with pytest.raises(BadInputError) as caught:
        settings.load()
    assert str(path) in str(caught.value.cause)
    command = re.search(r"llm hf settings (\w+) --unset", str(caught.value.hint))
    assert command
    settings.store(command[1], None)
    assert settings.load().connections == 3


def test_several_wrong_settings_can_be_removed_one_by_one(home: Home) -> None:
    write_settings(home, "gone = 1\ncontext = 'many'\nconnections = 3\n")
    settings.store("context", None)
    with pytest.raises(BadInputError, match="gone"):
        settings.load()
    settings.store("gone", None)
    assert settings.load().connections == 3


def test_wrong_value_can_be_replaced_and_blocks_other_changes(home: Home) -> None:
    path = write_settings(home, "context = 'many'\n")
    with pytest.raises(BadInputError, match="context"):
        settings.store("connections", 3)
    assert path.read_text() == "context = 'many'\n"
    settings.store("context", 4096)
    assert settings.load().context == 4096


def test_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_CONTEXT", "many")
    with pytest.raises(BadInputError) as caught:
        settings.load()
    assert "LLM_HF_CONTEXT" in str(caught.value.cause)
    assert caught.value.hint == "Change or unset LLM_HF_CONTEXT."


def test_agent_permissions_are_known_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="there is no action 'delet'") as caught:
        settings.parse_value("agent_yes_to", "large, delet")
    assert "Did you mean 'delete'?" in str(caught.value.hint)
    assert settings.parse_value("agent_yes_to", "Large,delete") == "Large,delete"
    monkeypatch.setenv("LLM_HF_AGENT_YES_TO", "everything")
    with pytest.raises(BadInputError, match="there is no action 'everything'"):
        settings.load()


def test_mistyped_setting_gets_the_nearest_one() -> None:
    with pytest.raises(BadInputError) as caught:
        settings.parse_value("contxt", "4096")
    assert "Did you mean 'context'?" in str(caught.value.hint)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions of a common user")
def test_unwritable_folder_gives_a_clear_error(home: Home) -> None:
    home.llm.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(NotWritableError):
        settings.store("connections", 4)


def test_file_in_place_of_the_folder_gives_a_clear_error(home: Home) -> None:
    (home.llm / "hf").write_text("in the way")
    with pytest.raises((NotWritableError, BadInputError)):
        settings.store("connections", 4)


def test_storing_leaves_no_other_file_behind(home: Home) -> None:
    settings.store("connections", 4)
    settings.store("limit_rate", 5)
    assert [path.name for path in (home.llm / "hf").iterdir()] == ["settings.toml"]
    assert settings.load().connections == 4


def test_every_setting_is_described_and_accepts_its_default() -> None:
    for key, field in settings.Settings.model_fields.items():
        assert field.description, key
        settings.store(key, getattr(settings.load(), key))
    assert settings.load() == settings.Settings()


@pytest.mark.parametrize(
    ("key", "wrong", "takes"),
    [
        ("engine", "steam", "auto, xllamacpp, llama-server"),
        ("sandbox", "perhaps", "on, off, required"),
        ("agent_read_only", "perhaps", "on, off"),
        ("connections", "65", "a whole number, from 1 to 64"),
        ("stall_seconds", "0", "a time such as 30s or 5m, above 0"),
        ("keep_alive", "-2", "a time such as 30s or 5m, from -1"),
    ],
)
def test_suggested_command_shows_a_valid_value(key: str, wrong: str, takes: str) -> None:
    refused = run("settings", key, wrong, code=2).stderr
    (named,) = re.findall(r"`llm hf (settings \w+)`", refused)
    assert re.search(rf"^Values +{re.escape(takes)}$", run(*named.split()).stdout, re.MULTILINE)


def test_every_setting_says_which_values_it_accepts() -> None:
    assert [one["key"] for one in run_json("settings")["settings"] if not one["accepts"]] == []


def test_list_is_split_at_commas_and_spaces_in_any_case() -> None:
    assert settings.split_list("Qwen, unsloth  ,, ggml-org") == {"qwen", "unsloth", "ggml-org"}
    assert settings.split_list(" ") == frozenset()


def test_ten_minute_network_loss_does_not_end_a_download() -> None:
    given_up = settings.Settings().network_wait_seconds
    # The silence is noticed late, and a request tried just before the network is back is retried a pause later.
    assert given_up >= 600 + settings.Settings().connect_seconds + MAX_PAUSE_SECONDS


@pytest.mark.parametrize(
    ("key", "accepts"),
    [
        ("allowed_owners", "names of users or organisations, comma-separated"),
        ("allowed_licenses", "licences such as apache-2.0, comma-separated"),
        ("agent_yes_to", "any of delete, large, token, unverified, interrupt, endpoint, alias, comma-separated"),
    ],
)
def test_list_setting_describes_its_elements(key: str, accepts: str) -> None:
    assert [one["accepts"] for one in run_json("settings", key)["settings"]] == [accepts]
