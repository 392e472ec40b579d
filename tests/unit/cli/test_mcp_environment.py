"""The variables that a host's entry carries: the list agrees with the code, and no value contains a secret."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_hf_models.cli.mcp_environment import CARRIED, collect_variables, strip_password
from llm_hf_models.errors import BadInputError
from llm_hf_models.inference import launcher
from llm_hf_models.network.tls import BUNDLE_VARIABLES
from llm_hf_models.paths import user_dir
from llm_hf_models.settings import cache_dir, hf_home
from tests.conftest import Home
from tests.support.folders import ROOT

# Variables that the code reads and that an entry does not carry, with the reason.
NOT_CARRIED = {
    **dict.fromkeys(("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "LLM_HF_PASSPHRASE", "LLM_HF_MCP_TOKEN"), "secret"),
    **dict.fromkeys(("LLAMA_API_KEY", "HF_HUB_DISABLE_PROGRESS_BARS"), "set for a child process"),
    **dict.fromkeys(("TERM", "NO_COLOR", "COLUMNS"), "the terminal of a command"),
    **dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"), "the desktop session"),
    **dict.fromkeys(("LLM_HF_DOWNLOAD", "LLM_HF_REF", "LLM_HF_MODEL"), "set for a child process"),
    **dict.fromkeys(launcher._ENVIRONMENT, "passed to an engine, which finds GPUs and libraries by it"),
    **dict.fromkeys(("DETACHED_PROCESS", "CREATE_NEW_PROCESS_GROUP"), "the name of a flag, not of a variable"),
    "APPDATA": "Windows gives it to every process",
}
NAME = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|APPDATA|DISPLAY|HOME|TERM|COLUMNS|TMPDIR")


def list_texts(node: ast.AST) -> Iterator[str]:
    yield from (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


def find_names(path: Path) -> set[str]:
    """Return the names in a module's statements that use the environment, and in the constants that they refer to."""
    module = ast.parse(path.read_text("utf-8"))
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    using = [node for node in ast.walk(module) if isinstance(node, ast.stmt) and not isinstance(node, scopes)]
    using = [node for node in using if re.search(r"\b(?:environ|getenv)\b", ast.unparse(node))]
    referred = {one.id for node in using for one in ast.walk(node) if isinstance(one, ast.Name)}
    constants = [
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Assign)
        and any(isinstance(name, ast.Name) and name.id in referred for name in node.targets)
    ]
    return {text for node in (*using, *constants) for text in list_texts(node) if NAME.fullmatch(text)}


def test_every_variable_that_the_code_reads_is_carried_or_named() -> None:
    modules = [path for folder in ("llm_hf_models", "mcp_server") for path in (ROOT / folder).rglob("*.py")]
    read = {name for path in modules if path.name != "mcp_environment.py" for name in find_names(path)}
    assert len(read) > 20
    assert sorted(read - CARRIED - NOT_CARRIED.keys()) == []
    assert sorted(NOT_CARRIED.keys() - launcher._ENVIRONMENT - read) == []
    assert set(BUNDLE_VARIABLES) <= CARRIED


def test_paths_and_addresses_of_the_dependencies_are_carried() -> None:
    read: set[str] = set()
    for name in ("huggingface_hub.constants", "httpcore2._ssl", "urllib.request", "keyring.util.platform_"):
        spec = util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        read |= find_names(Path(spec.origin))
    decides = {name for name in read if re.search(r"_(?:HOME|CACHE|ENDPOINT|OFFLINE|FILE|DIR)$", name)}
    not_used = {"CLAUDE_CONFIG_DIR", "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE", "HF_INFERENCE_ENDPOINT"}
    assert sorted(decides - CARRIED) == sorted(not_used & decides)


@pytest.fixture
def project(home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in CARRIED:
        monkeypatch.delenv(name, raising=False)
    folder = home.root / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(home.root))
    return folder


@pytest.mark.skipif(os.name != "posix", reason="Windows needs more variables to start a process")
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LLM_USER_PATH": "llm", "HF_HOME": "hf"},
        {"LLM_USER_PATH": "~/llm", "HF_HOME": "~/hf"},
        {"HF_HOME": "$SCRATCH/hf", "SCRATCH": "/scratch"},
        {"XDG_CONFIG_HOME": "/conf", "XDG_CACHE_HOME": "~/cache"},
        {"XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "LLM_USER_PATH": ""},
        {"HUGGINGFACE_HUB_CACHE": "/legacy"},
        {"HUGGINGFACE_HUB_CACHE": "/legacy", "HF_HUB_CACHE": "", "HF_HOME": ""},
    ],
)
def test_an_empty_environment_with_the_variables_finds_the_same_folders(
    variables: dict[str, str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path.cwd() == project
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = [path.absolute() for path in (user_dir(), hf_home(), cache_dir())]
    carried = collect_variables(os.environ).values
    with monkeypatch.context() as host:
        for name in (*CARRIED, *variables):
            host.delenv(name, raising=False)
        for name, value in carried.items():
            host.setenv(name, value)
        host.chdir("/")
        assert [user_dir(), hf_home(), cache_dir()] == expected


def test_only_set_variables_are_carried(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.exists()
    assert set(collect_variables(os.environ).values) == {"HOME"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SSL_CERT_FILE", "ca.pem")
    monkeypatch.setenv("no_proxy", "localhost,.example")
    carried = collect_variables(os.environ).values
    assert {**carried, "HOME": ""} == {
        "HOME": "", "HF_HUB_OFFLINE": "1", "SSL_CERT_FILE": str(project / "ca.pem"), "no_proxy": "localhost,.example",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("address", "is_carried"), [("unix:path=/run/user/1000/bus", True), ("unix:abstract=/tmp/dbus-x,guid=1", False)]
)
def test_session_bus_is_carried_if_it_outlives_the_session(
    address: str, is_carried: bool, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.exists()
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    assert ("DBUS_SESSION_BUS_ADDRESS" in collect_variables(os.environ).values) is is_carried


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has such values")
def test_value_that_is_not_text_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.exists()
    monkeypatch.setenv("HF_HOME", "/data/\udcff")
    with pytest.raises(BadInputError, match="HF_HOME is not valid UTF-8"):
        collect_variables(os.environ)


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("proxy:3128", "proxy:3128"),
        ("http://ann:s3cret@proxy:3128", "http://proxy:3128"),
        ("ann:s3cret@proxy:3128", "proxy:3128"),
        ("http://ann:s3/cret@proxy:3128", None),
        ("http://ann:s3#cret@proxy:3128", None),
        ("http://ann:s3 cret@proxy:3128", None),
        ("https://hub.example/?token=s3cret", None),
        ("socks5h://ann:s3cret@proxy", "socks5h://proxy"),
    ],
)
def test_passwords_are_removed_from_addresses(address: str, written: str | None) -> None:
    assert strip_password(address) == written


@example("://", "")
@given(st.text("s3cret:@/?#%[]\\ .", min_size=1), st.sampled_from(["http://", "https://", ""]))
def test_no_form_of_a_password_is_written(password: str, scheme: str) -> None:
    secret = f"Q{password}Q"
    written = strip_password(f"{scheme}ann:{secret}@proxy.example:3128") or ""
    assert "ann" not in written
    assert "Q" not in written
