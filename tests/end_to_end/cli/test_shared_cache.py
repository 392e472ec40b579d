"""A Hugging Face cache that belongs to another user, or that a group shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Home
from tests.support.commands import SCRIPTS, copy_environment_for_another_user
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Truncate, run_hub

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can become other users")
REPO, FILE = "owner/tiny-GGUF", "tiny-Q4_K_M.gguf"
ANN, BOB, GROUP = 54321, 54322, 54320
DENIED = "Permission denied: it belongs to"
HINT = "Ask its owner for write access (chmod g+w), or set HF_HUB_CACHE to a folder of your own."


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, home: Home, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with a model, and a cache for each test to share."""
    monkeypatch.setenv("HF_HOME", "/nowhere")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    home.cache.chmod(0o755)
    with run_hub(monkeypatch, disk_reserve="0", network_wait_seconds="0") as hub:
        hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE, weights_bytes=500_000)})
        yield hub


def run_as(user: int, home: Home, *words: str, umask: int = 0o022, code: int = 0, reads_all: bool = True) -> str:
    """Run a command as another user, who may read what the tests and the interpreter need."""
    folder = home.root / str(user)
    if not folder.exists():
        folder.mkdir()
        os.chown(folder, user, GROUP)
    rights = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"] if reads_all else []
    command = ["setpriv", f"--reuid={user}", f"--regid={GROUP}", "--clear-groups", *rights]
    done = subprocess.run(
        [*command, str(SCRIPTS / "llm"), "hf", *words], capture_output=True, text=True, check=False, timeout=60,
        env=copy_environment_for_another_user(LLM_USER_PATH=str(folder)), umask=umask,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def share(cache: Path) -> None:
    """Let the group write to the cache, whose new files belong to the group."""
    os.chown(cache, ANN, GROUP)
    cache.chmod(0o2775)


def test_model_in_a_read_only_cache_is_used_in_place(hub: HubServer, home: Home) -> None:
    os.chown(home.cache, ANN, GROUP)
    run_as(ANN, home, "pull", REPO)
    hub.forget_requests()
    assert "Nothing to download" in run_as(BOB, home, "pull", REPO)
    assert hub.sent(FILE, side="storage") < 500_000
    assert "ready" in run_as(BOB, home, "list")
    assert "matches" in run_as(BOB, home, "verify", "--all")
    assert "kept: " in run_as(BOB, home, "rm", "tiny", "-y")
    assert "No models yet" in run_as(BOB, home, "list")
    assert "ready" in run_as(ANN, home, "list")


def test_error_names_the_folder_that_another_user_owns(hub: HubServer, home: Home) -> None:
    assert hub
    output = run_as(BOB, home, "pull", REPO, code=1)
    assert f"Can't write to {home.cache}\n{DENIED} root\n{HINT}" in output


@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_half_of_another_user_is_continued_if_it_is_writable(hub: HubServer, home: Home, umask: int) -> None:
    share(home.cache)
    hub.fault(Truncate(after=400_000), on=FILE, side="storage", times=None)
    assert "paused" in run_as(ANN, home, "pull", REPO, "--connections", "1", umask=umask, code=1)
    hub.clear()
    if umask == 0o002:
        assert "continuing at" in run_as(BOB, home, "pull", REPO, umask=umask)
    else:
        output = run_as(BOB, home, "pull", REPO, umask=umask, code=1)
        assert f"{DENIED} user {ANN}\n{HINT}" in output
    assert (FILE in run_as(BOB, home, "path", "tiny", code=0 if umask == 0o002 else 1)) == (umask == 0o002)


def test_unreadable_repo_of_another_user_stops_no_command(hub: HubServer, home: Home) -> None:
    assert hub
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", str(SCRIPTS / "llm"), "hf"]

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [*drop, *words], capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ)
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    run("pull", REPO)
    secret = home.cache / "models--owner--secret"
    (secret / "snapshots").mkdir(parents=True)
    os.chown(secret, ANN, GROUP)
    secret.chmod(0o700)
    assert "Removed" in run("rm", "tiny", "-y")
    run("pull", REPO)
    os.chown(home.cache, ANN, GROUP)
    home.cache.chmod(0o700)
    assert "not readable" in run("verify", "tiny", code=1)
    assert "Nothing to remove" in run("gc")
    assert HINT in run("pull", REPO, code=1)
    assert "kept: " in run("rm", "tiny", "-y")
