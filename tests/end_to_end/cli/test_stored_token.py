"""The stored token: asked for only when it is needed, unlocked for some hours, or in a plain file."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from llm_hf_models.hub import encrypted_token
from tests.conftest import Home
from tests.support.commands import run, run_json, run_process
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, run_hub
from tests.support.mcp_hosts import call_tool, connect_stdio, run_async

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
GATED = "owner/gated-GGUF"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with a gated repo."""
    with run_hub(monkeypatch) as hub:
        hub.add_repo(GATED, {"tiny-Q8_0.gguf": tiny_chat(tmp_path / "tiny-Q8_0.gguf")}, gated="manual")
        yield hub


def test_passphrase_is_asked_for_once_in_a_session(hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    token = hub.add_token("hf_secret_of_ann", access=[GATED])
    run("login", stdin=f"{token}\nopen sesame\nopen sesame\n")
    encrypted_token.lock()
    done = run("pull", GATED, "--dry-run", stdin="open sesame\n")
    assert done.stderr.count("Passphrase of the token file") == 1
    unlock = home.runtime / "llm-hf" / "unlock.json"
    assert stat.S_IMODE(unlock.stat().st_mode) == 0o600
    assert token.encode() not in unlock.read_bytes()
    assert b"open sesame" not in unlock.read_bytes()
    for words in (("whoami",), ("status",), ("info", GATED)):  # these have no passphrase
        assert "assphrase" not in run_process("llm", "hf", *words).stderr
    whoami = run_process("llm", "hf", "whoami", code=1, environment={"LLM_HF_UNLOCK_SECONDS": "0"})
    assert "no input was given" in whoami.stderr
    monkeypatch.setattr("llm_hf_models.hub.encrypted_token._keys", {})
    unlock.chmod(0o644)
    assert "Unlock" in str(run_json("status")["token"]["problem"]), "others could have read or written it"
    unlock.chmod(0o600)
    assert run_json("status")["token"]["source"] == "encrypted file"
    run("logout")
    assert not unlock.exists()


def test_unlock_expires_and_ends_with_another_login(hub: HubServer, home: Home) -> None:
    unlock = home.runtime / "llm-hf" / "unlock.json"
    run("login", stdin=f"{hub.add_token('hf_secret_of_ann')}\nopen sesame\nopen sesame\n")
    first = unlock.read_bytes()
    for seconds in (-1, 1_000_000):  # expired, or the clock was set back
        unlock.write_text(json.dumps({**json.loads(first), "expires": time.time() + seconds}))
        assert run_process("llm", "hf", "whoami", code=1).stdout.startswith("Problem  Unlock")
        assert not unlock.exists()
        unlock.write_bytes(first)
        unlock.chmod(0o600)
    run("login", stdin=f"{hub.add_token('hf_secret_of_bob')}\nopen sesame\nopen sesame\n")
    unlock.write_bytes(first)
    run_process("llm", "hf", "whoami", code=1)


def test_plain_file_is_private_and_needs_no_passphrase(hub: HubServer, home: Home) -> None:
    token = hub.add_token("hf_secret_of_ann", name="ann")
    run("login", stdin=f"{hub.add_token('hf_older_of_ann')}\nopen sesame\nopen sesame\n")
    assert "plain file" in run("login", "--plain", "--token-stdin", stdin=token).stderr
    path = home.llm / "hf" / "token"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (token, 0o600)
    assert not encrypted_token.exists()
    done = run_process("llm", "hf", "whoami", "--json")
    assert json.loads(done.stdout)["source"] == "plain file"
    run("login", stdin=f"{token}\nopen sesame\nopen sesame\n")
    assert not path.exists()
    run("login", "--plain", "--token-stdin", stdin=token)
    assert "plain file" in run("logout").stderr
    assert not path.exists()


SILENT_BACKEND = """
import threading
from keyring.backend import KeyringBackend

class Keyring(KeyringBackend):
    priority = 5

    def get_password(self, service, username):
        threading.Event().wait()

    set_password = delete_password = get_password
"""


@pytest.fixture
def silent_keychain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide a keychain that never responds, such as a locked Secret Service over SSH."""
    folder = tmp_path / "backend"
    folder.mkdir()
    (folder / "silent_backend.py").write_text(SILENT_BACKEND)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "silent_backend.Keyring")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("silent_keychain")
@run_async
async def test_silent_keychain_delays_no_command_and_no_tool(hub: HubServer) -> None:
    assert hub
    for words in (("status",), ("info", GATED)):
        done = run_process("llm", "hf", *words, seconds=40)
        assert done.stderr.count("The keychain did not respond within 4 s. Continuing without it.") == 1
    async with connect_stdio() as client:
        with anyio.fail_after(30):
            status = await call_tool(client, "hf_status")
    assert "keychain did not respond" in status["token"]["problem"]
