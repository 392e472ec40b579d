"""Files of this package are private whatever the umask is; those in the Hugging Face cache follow it, as `hf` does."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library, PullOptions
from llm_hf_models.agent_library import AgentLibrary
from llm_hf_models.hub import tokens
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.library.database import Database
from llm_hf_models.paths import data_dir, library_path
from llm_hf_models.system import private_files
from tests.conftest import Home
from tests.support import interrupted_pulls
from tests.support.cache_pulls import run_hf
from tests.support.commands import run, run_llm
from tests.support.downloads import follow_to_end
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.hub_server import HubServer, run_hub
from tests.support.interrupted_pulls import interrupt_pull, list_partials

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")

REPO, OTHER, FILE = "owner/tiny-GGUF", "other/tiny-GGUF", "tiny-Q4_K_M.gguf"
UMASKS = pytest.mark.parametrize("umask", [0o000, 0o077], ids=["000", "077"], indirect=True)


slow_hub = interrupted_pulls.hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with run_hub(monkeypatch, retry_seconds="0.01", disk_reserve="0") as hub:
        hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE), "README.md": "# Tiny"})
        hub.add_repo(OTHER, {FILE: tiny_chat(tmp_path / "other.gguf", seed=1), "README.md": "# Other"})
        yield hub
        run("stop", "--all", code=None)


@pytest.fixture
def umask(request: pytest.FixtureRequest, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Set the umask of this process and its children, in a home in which llm's folder does not exist yet."""
    monkeypatch.setenv("LLM_USER_PATH", str(home.root / "config" / "llm"))
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def list_modes(top: Path) -> dict[str, int]:
    """Return the modes of a folder and of everything in it, by path. A symbolic link has no mode of its own."""
    paths = [top, *top.rglob("*")]
    return {str(path.relative_to(top)): stat.S_IMODE(path.lstat().st_mode) for path in paths if not path.is_symlink()}


def assert_private(top: Path) -> dict[str, int]:
    """Raise if another user has a right to something in a folder, or its owner lacks one. Return the modes."""
    modes = list_modes(top)
    for name, mode in modes.items():
        wanted = {0o700} if (top / name).is_dir() else {0o600, 0o700} if (top / name).is_socket() else {0o600}
        assert mode in wanted, f"{top / name} has the mode {mode:o}"
    return modes


def assert_follows_umask(top: Path, umask: int) -> None:
    for name, mode in list_modes(top).items():
        wanted = (0o777 if (top / name).is_dir() else 0o666) & ~umask
        assert mode == wanted, f"{top / name} has the mode {mode:o} instead of {wanted:o}"


def run_main_job(home: Home, tmp_path: Path) -> None:
    """Use each part of the package that creates files."""
    run("settings", "keep_alive", "60s")
    run("pull", REPO, "-q")
    assert run_llm("-m", "hf/owner/tiny-GGUF:Q4_K_M", "hello", "--no-log").stdout.strip() == ANSWER
    run("import", tiny_chat(tmp_path / "mine.Q8_0.gguf", seed=2), "--copy", "-q")
    library = Library()
    row = library.enqueue(OTHER, on_done="true")
    assert follow_to_end(library, row.id)[-1].kind == "done"
    AgentLibrary("walrus").set_options("hf/owner/tiny-GGUF:Q4_K_M", {"seed": 1})
    assert tokens.store_token("hf_x", ask_passphrase=lambda: "open sesame") == "encrypted file"
    assert home.cache.exists()


@UMASKS
def test_main_job_creates_private_files(hub: HubServer, umask: int, home: Home, tmp_path: Path) -> None:  # noqa: ARG001
    run_main_job(home, tmp_path)
    with Database(library_path()):  # while it is open, there are journal files
        data = assert_private(data_dir())
    for folder in (home.root / "config", home.root / "config" / "llm"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("library.db", "settings.toml", "worker.log", "on_done.log", "agents.log", "verified", "imported"):
        assert name in data, sorted(data)
    assert {"library.db-wal", "library.db-shm"} <= data.keys()
    assert any("token" in name for name in data)
    engines = assert_private(home.runtime / "llm-hf")
    assert {Path(name).name for name in engines} >= {"lease", "log"}
    assert any((home.runtime / "llm-hf" / name).is_socket() for name in engines)


@UMASKS
def test_new_host_file_is_private(umask: int, home: Home) -> None:  # noqa: ARG001
    run("mcp", "cursor", "--install", "-y")
    assert assert_private(home.root / ".cursor").keys() == {".", "mcp.json"}


@UMASKS
def test_cache_and_target_folder_follow_the_umask(hub: HubServer, umask: int, home: Home, tmp_path: Path) -> None:
    home.cache.rmdir()
    run("pull", REPO, "-q")
    assert run_hf("download", OTHER, FILE, hub=hub).returncode == 0
    for repo in (REPO, OTHER):
        assert_follows_umask(home.cache / f"models--{repo.replace('/', '--')}", umask)
    assert_follows_umask(cache_work_folder(home.cache), umask)
    target = tmp_path / "target"
    Library().pull(f"{REPO}:Q4_K_M", options=PullOptions(to=target))
    assert_follows_umask(target, umask)


@UMASKS
def test_interrupted_download_follows_the_umask(slow_hub: HubServer, umask: int, home: Home) -> None:
    interrupt_pull(slow_hub)
    assert list_partials(cache_work_folder(home.cache))
    assert_follows_umask(cache_work_folder(home.cache), umask)


def test_open_files_of_an_earlier_version_are_made_private(hub: HubServer, home: Home) -> None:  # noqa: ARG001
    run("settings", "keep_alive", "60s")
    run("pull", REPO, "-q")
    data_dir().chmod(0o755)
    (data_dir() / "library.db").chmod(0o644)
    run("list")
    assert stat.S_IMODE(data_dir().stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir() / "library.db").stat().st_mode) == 0o600


def test_umask_that_takes_rights_from_the_owner_is_overruled(home: Home) -> None:
    before = os.umask(0o777)
    try:
        private_files.write_private_file(home.root / "a" / "b" / "c", b"x")
    finally:
        os.umask(before)
    assert list_modes(home.root / "a") == {".": 0o700, "b": 0o700, "b/c": 0o600}
