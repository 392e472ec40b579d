"""A user without a home folder: HOME is not set, and the password database has no entry, as in some containers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from tests.conftest import Home
from tests.support.commands import SCRIPTS, copy_environment_for_another_user
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.hub_server import HubServer, run_hub
from tests.support.mcp_hosts import call_tool, run_async

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="only root can become a user without an entry"
    ),
    pytest.mark.new_machine,
]
REPO, FILE, UID = "owner/tiny-GGUF", "tiny-Q4_K_M.gguf", 54321
# The right to read every file: the tests and the interpreter may be in root's folders.
PREFIX = [
    "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search", "env", "-u", "HOME",
]  # fmt: skip
COMMANDS = [
    ("status",), ("info", REPO), ("pull", REPO), ("list",), ("verify", "--all"), ("mcp",), ("whoami",), ("logout",),
]  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, home: Home, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with a model, and folders that belong to the user."""
    for folder in (home.llm, home.hf_home, home.cache, home.runtime):
        os.chown(folder, UID, UID)
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
    monkeypatch.chdir("/")
    with run_hub(monkeypatch) as hub:
        hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE)})
        yield hub


def run(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        [*PREFIX, str(SCRIPTS / "llm"), *words], capture_output=True, text=True, check=False, timeout=60,
        env=copy_environment_for_another_user(),
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.usefixtures("hub")
def test_each_command_works_without_a_home_folder() -> None:
    for words in COMMANDS:
        run("hf", *words, code=1 if words == ("whoami",) else 0)
    assert ANSWER in run("-m", "tiny", "hello")
    run("hf", "stop", "--all")


@run_async
async def test_mcp_server_works_without_a_home_folder(hub: HubServer) -> None:
    assert hub
    command = StdioServerParameters(
        command=PREFIX[0],
        args=[*PREFIX[1:], sys.executable, "-m", "llm_hf_mcp"],
        env=copy_environment_for_another_user(),
        cwd="/",
    )
    with anyio.fail_after(60):
        async with Client(command) as client:
            status = await call_tool(client, "hf_status")
            assert "no token" in status["token"]["problem"]
            assert (await call_tool(client, "hf_get_model", repo=REPO))["id"] == REPO
