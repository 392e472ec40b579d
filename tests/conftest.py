"""Fixtures for every test: a home of its own, and no network except loopback."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

from llm_hf_models import redaction

# A shell's background job ignores Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Variables that a developer may have set and that tests must not see. LLM_* and LLM_HF_* are removed too.
_FOREIGN = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_STORED_TOKENS_PATH",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_XET_CACHE",
    "HF_ASSETS_CACHE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "LOCALAPPDATA",
    "OLLAMA_MODELS",
    "LLAMA_CACHE",
    "JAN_DATA_FOLDER",
    "JAN_DATA_ROOT",
    "COLUMNS",
    "LINES",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)


@dataclass(frozen=True)
class Home:
    """The folders of one test. The environment points to them, and child processes inherit it."""

    root: Path
    llm: Path  # LLM_USER_PATH
    hf_home: Path  # HF_HOME
    cache: Path  # HF_HUB_CACHE
    runtime: Path  # XDG_RUNTIME_DIR: short, since a unix socket's path has at most 107 bytes


def _make_environment(home: Home) -> dict[str, str]:
    return {
        "HOME": str(home.root),
        "USERPROFILE": str(home.root),
        "APPDATA": str(home.root / "AppData"),
        "LLM_USER_PATH": str(home.llm),
        "HF_HOME": str(home.hf_home),
        "HF_HUB_CACHE": str(home.cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_RUNTIME_DIR": str(home.runtime),
        # No keychain unless a test sets one up, so that the developer's own is never read.
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }


def _list_foreign_variables() -> list[str]:
    named = {name.casefold() for name in _FOREIGN}
    return [name for name in os.environ if name.casefold() in named or name.startswith("LLM_")]


def _make_home(root: Path, runtime: Path) -> Home:
    home = Home(root, root / "llm", root / "huggingface", root / "huggingface/hub", runtime)
    home.llm.mkdir()
    home.cache.mkdir(parents=True)
    return home


def _make_short_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp" if os.name == "posix" else None))


SESSION_FOLDER = _make_short_folder()


def pytest_configure() -> None:
    # A slow machine is not a failure: the time of one example belongs in the benchmarks.
    hypothesis.settings.register_profile("busy", deadline=None)
    hypothesis.settings.load_profile("busy")
    # huggingface_hub reads paths from the environment at import, which may happen while tests are collected.
    for name in _list_foreign_variables():
        del os.environ[name]
    session = SESSION_FOLDER / "session"
    session.mkdir()
    os.environ.update(_make_environment(_make_home(session, SESSION_FOLDER)))


def pytest_unconfigure() -> None:
    shutil.rmtree(SESSION_FOLDER, ignore_errors=True)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Home]:
    """Provide a new machine: empty llm and Hugging Face folders, no token, no settings.

    To save time, a test lists llm's names without another process, and an end-to-end test finds the result of the
    sandbox test that the first engine of the session made. A test with the marker `new_machine` does both itself.
    """
    root = tmp_path / "home"
    root.mkdir()
    runtime = _make_short_folder()
    home = _make_home(root, runtime)
    for name in _list_foreign_variables():
        monkeypatch.delenv(name)
    for name, value in _make_environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(redaction, "_forms", ())  # what other tests have left in memory
    monkeypatch.setattr("llm_hf_models.hub.encrypted_token._keys", {})
    monkeypatch.setattr("llm_hf_models.hub.keychain._closed_until", 0.0)
    monkeypatch.setattr("llm_hf_models.hub.tokens._notified_of_keychain", False)
    saves_time = not request.node.get_closest_marker("new_machine")
    starts_engines = "end_to_end" in request.path.parts
    if saves_time:
        _list_names_in_this_process(monkeypatch)
    if saves_time and starts_engines:
        _copy_sandbox_result(SESSION_FOLDER, home.llm / "hf")
    yield home
    if saves_time and starts_engines:
        _copy_sandbox_result(home.llm / "hf", SESSION_FOLDER)
    if (home.llm / "hf" / "worker.log").exists():
        _end_workers()
    shutil.rmtree(runtime, ignore_errors=True)


def _copy_sandbox_result(source: Path, folder: Path) -> None:
    if (source / "sandbox.json").exists() and not (folder / "sandbox.json").exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(source / "sandbox.json", folder)


def _list_names_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_hf_models.llm_plugin.names import list_taken_names
    from llm_hf_models.models import names

    monkeypatch.setattr(names, "list_names_in_llm", list_taken_names)


def _end_workers() -> None:
    """End the workers that a test has started. Without its Hub, they would wait for the network."""
    from tests.support.downloads import find_workers  # imports huggingface_hub, which needs the environment of a test

    for worker in find_workers():
        with suppress(psutil.NoSuchProcess):  # it may end by itself at any time
            worker.kill()


def _is_loopback(address: Any) -> bool:
    host = str(address[0]).partition("%")[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _restrict_to_loopback(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address):
            raise ConnectionRefusedError(f"tests may only use loopback, but this one connected to {address}")
        return connect(self, address)

    return guarded


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections of this process to anything except loopback. (Child processes are not checked.)"""
    monkeypatch.setattr(socket.socket, "connect", _restrict_to_loopback(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", _restrict_to_loopback(socket.socket.connect_ex))
