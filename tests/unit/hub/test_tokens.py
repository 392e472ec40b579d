from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import chainer, fail, null
from keyring.errors import KeyringLocked, PasswordDeleteError
from keyring.util import platform_

from llm_hf_models.errors import KeychainError
from llm_hf_models.hub import encrypted_token, tokens
from tests.conftest import Home
from tests.support.commands import run_process

TOKEN, OTHER = "hf_abcdefghijklmnop", "hf_qrstuvwxyz"


class Keychain(KeyringBackend):
    """A keychain in memory instead of the operating system's."""

    priority = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError


class LockedKeychain(Keychain):
    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002
        raise KeyringLocked(f"locked, and I quote secrets: {TOKEN}")

    def set_password(self, service: str, username: str, password: str) -> None:  # noqa: ARG002
        raise RuntimeError(f"no D-Bus for {password}")


class SilentKeychain(Keychain):
    """A keychain that never responds, such as a locked one that waits for a dialog which nobody can see."""

    def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002
        threading.Event().wait()
        return None

    set_password = get_password  # type: ignore[assignment]


class PlaintextKeyring(Keychain):
    """Like the one of keyrings.alt: a backend whose name says that it stores plain text."""


class Unrecommended(Keychain):
    priority = 0.5  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _own_keyring() -> Iterator[None]:
    before = keyring.get_keyring()
    keyring.set_keyring(fail.Keyring())
    yield
    keyring.set_keyring(before)


@pytest.fixture
def keychain() -> Keychain:
    backend = Keychain()
    keyring.set_keyring(backend)
    return backend


def refuse_to_ask() -> str:
    raise AssertionError("nobody should be asked for a passphrase")


def read_all_files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_new_machine_has_no_token() -> None:
    assert tokens.find_token(refuse_to_ask) is None


@pytest.mark.usefixtures("keychain")
def test_environment_precedes_keychain_and_hf_cli(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.hf_home / "token").write_text("hf_cli\n")
    assert tokens.find_token() == tokens.Token("hf_cli", "hf CLI")
    tokens.store_token("hf_kept", ask_passphrase=refuse_to_ask)
    assert tokens.find_token() == tokens.Token("hf_kept", "keychain")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_older")
    assert tokens.find_token() == tokens.Token("hf_older", "environment")
    monkeypatch.setenv("HF_TOKEN", " hf_newer ")
    assert tokens.find_token() == tokens.Token("hf_newer", "environment")
    monkeypatch.setenv("HF_TOKEN", "  ")
    assert tokens.find_token() == tokens.Token("hf_older", "environment")


def test_token_in_the_keychain_is_found_and_removed(keychain: Keychain, home: Home) -> None:
    assert tokens.store_token(TOKEN, ask_passphrase=refuse_to_ask) == "keychain"
    assert list(keychain.kept.values()) == [TOKEN]
    assert tokens.find_token(refuse_to_ask) == tokens.Token(TOKEN, "keychain")
    assert TOKEN.encode() not in read_all_files(home.root)
    assert tokens.remove_stored_token() == ["keychain"]
    assert (tokens.remove_stored_token(), tokens.find_token(refuse_to_ask)) == ([], None)


@pytest.mark.parametrize("backend", [fail.Keyring(), null.Keyring(), PlaintextKeyring(), Unrecommended()])
def test_token_is_encrypted_without_a_real_keychain(backend: KeyringBackend, home: Home) -> None:
    keyring.set_keyring(backend)
    assert tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame") == "encrypted file"
    assert not getattr(backend, "kept", {})
    assert tokens.find_token(lambda: "open sesame") == tokens.Token(TOKEN, "encrypted file")
    assert TOKEN.encode() not in read_all_files(home.root)
    assert b"open sesame" not in read_all_files(home.root)
    assert tokens.remove_stored_token() == ["encrypted file"]
    assert tokens.find_token(refuse_to_ask) is None


def test_first_real_keychain_of_a_chain_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Keychain()
    chain = chainer.ChainerBackend()
    monkeypatch.setattr(chainer.ChainerBackend, "backends", [PlaintextKeyring(), real], raising=False)
    keyring.set_keyring(chain)
    assert tokens.store_token(TOKEN, ask_passphrase=refuse_to_ask) == "keychain"
    assert list(real.kept.values()) == [TOKEN]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_encrypted_file_is_private() -> None:
    before = os.umask(0)
    try:
        tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame")
    finally:
        os.umask(before)
    assert stat.S_IMODE(encrypted_token.get_path().stat().st_mode) == 0o600


def test_same_token_is_encrypted_differently_each_time() -> None:
    found = set()
    for _ in range(2):
        tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame")
        found.add(encrypted_token.get_path().read_bytes())
    assert len(found) == 2


def test_wrong_passphrase_is_refused() -> None:
    tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame")
    encrypted_token.lock()
    with pytest.raises(KeychainError, match="passphrase") as caught:
        tokens.find_token(lambda: "wrong guess")
    assert TOKEN not in str(caught.value)
    assert "wrong guess" not in str(caught.value)


def test_empty_passphrase_stores_nothing() -> None:
    with pytest.raises(KeychainError, match="requires a passphrase"):
        tokens.store_token(TOKEN, ask_passphrase=lambda: "")
    assert not encrypted_token.get_path().exists()


def test_script_gives_the_passphrase_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_PASSPHRASE", "open sesame")
    tokens.store_token(TOKEN, ask_passphrase=refuse_to_ask)
    assert tokens.find_token() == tokens.Token(TOKEN, "encrypted file")
    assert tokens.find_token(refuse_to_ask) == tokens.Token(TOKEN, "encrypted file")


def test_missing_passphrase_prompt_leaves_the_file_alone(home: Home) -> None:
    tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame")
    encrypted_token.lock()
    assert tokens.find_token(None) is None
    (home.hf_home / "token").write_text(OTHER)
    assert tokens.find_token(None) == tokens.Token(OTHER, "hf CLI")


@pytest.mark.parametrize("at", [0, 14, 15, 30, 31, 42, 43, 60, -1])
def test_file_with_one_wrong_bit_is_refused(at: int) -> None:
    tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame")
    data = bytearray(encrypted_token.get_path().read_bytes())
    data[at] ^= 1
    encrypted_token.get_path().write_bytes(data)
    with pytest.raises(KeychainError):
        tokens.find_token(lambda: "open sesame")


def test_file_of_another_length_is_refused() -> None:
    tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame")
    whole = encrypted_token.get_path().read_bytes()
    for data in (b"", whole[:10], whole[:43], whole[:-1], whole + b"\0", TOKEN.encode()):
        encrypted_token.get_path().write_bytes(data)
        with pytest.raises(KeychainError):
            tokens.find_token(lambda: "open sesame")


def test_keychain_replaces_an_encrypted_token(keychain: Keychain) -> None:
    keyring.set_keyring(fail.Keyring())
    tokens.store_token(OTHER, ask_passphrase=lambda: "open sesame")
    keyring.set_keyring(keychain)
    tokens.store_token(TOKEN, ask_passphrase=refuse_to_ask)
    assert not encrypted_token.get_path().exists()
    assert tokens.find_token(refuse_to_ask) == tokens.Token(TOKEN, "keychain")


def test_locked_keychain_error_omits_its_message() -> None:
    keyring.set_keyring(LockedKeychain())
    for call in (tokens.find_token, tokens.remove_stored_token):
        with pytest.raises(KeychainError, match="keychain") as caught:
            call()
        assert TOKEN not in str(caught.value)
        assert "HF_TOKEN" in (caught.value.hint or "")


def test_failing_keychain_falls_back_to_the_file() -> None:
    keyring.set_keyring(LockedKeychain())
    assert tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame") == "encrypted file"
    assert tokens.find_token(lambda: "open sesame") == tokens.Token(TOKEN, "encrypted file")


def test_keychain_that_never_responds_is_left_out(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_hf_models.hub.keychain.RESPONSE_SECONDS", 0.2)
    monkeypatch.delenv("DISPLAY", raising=False)
    keyring.set_keyring(SilentKeychain())
    notes: list[str] = []
    assert tokens.find_token(refuse_to_ask, notes.append) is None
    assert "keychain did not respond" in tokens.suggest_token_fix(None)
    (home.hf_home / "token").write_text(OTHER)
    start = time.monotonic()
    for _ in range(20):
        assert tokens.find_token(refuse_to_ask, notes.append) == tokens.Token(OTHER, "hf CLI")
    assert time.monotonic() - start < 2, "it is not called again at once"
    assert len(notes) == 1
    assert tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame") == "encrypted file"
    assert tokens.find_token(refuse_to_ask) == tokens.Token(TOKEN, "encrypted file")
    with pytest.raises(KeychainError, match="did not respond"):
        tokens.remove_stored_token()
    assert not encrypted_token.exists()


def test_token_is_not_in_its_repr() -> None:
    assert TOKEN not in repr(tokens.Token(TOKEN, "environment"))


def test_token_of_the_hf_command_is_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from huggingface_hub import constants; print(constants.HF_TOKEN_PATH)"
    for path in (None, home.root / "elsewhere/token"):
        if path:
            monkeypatch.setenv("HF_TOKEN_PATH", str(path))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        kept = Path(done.stdout.strip())
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(f"{TOKEN}{len(str(path))}\n")
        assert tokens.find_token() == tokens.Token(f"{TOKEN}{len(str(path))}", "hf CLI")


def test_empty_or_binary_token_file_has_no_token(home: Home) -> None:
    (home.hf_home / "token").write_text(" \n")
    assert tokens.find_token() is None
    (home.hf_home / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(KeychainError, match="contains no valid token"):
        tokens.find_token()


def test_unwritable_place_gives_a_clear_error(home: Home) -> None:
    (home.llm / "hf").write_text("a file in the folder's place")
    with pytest.raises(KeychainError, match="Can't write"):
        tokens.store_token(TOKEN, ask_passphrase=lambda: "open sesame")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a keychain")
def test_keyring_backends_are_loaded_only_if_a_keychain_may_exist(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHON_KEYRING_BACKEND", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    code = "import sys; from llm_hf_models.hub import tokens; tokens.find_token(); tokens.find_token(); "
    code += "print('keyring.backends.SecretService' in sys.modules)"

    def loaded() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert loaded() == "False"
    bus = home.runtime / "bus"
    bus.touch()
    assert loaded() == "True"
    bus.unlink()
    config = Path(platform_.config_root(), "keyringrc.cfg")
    config.parent.mkdir(parents=True)
    config.write_text("[backend]\nkeyring-path=/nowhere\n")
    assert loaded() == "True"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can give a folder away")
def test_runtime_folder_of_another_user_is_ignored(home: Home) -> None:
    os.chown(home.runtime, 12345, 12345)
    variables = dict.fromkeys(("PYTHON_KEYRING_BACKEND", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"), "")
    run_process("llm", "hf", "status", unprivileged=True, environment={**variables, "HF_HUB_OFFLINE": "1"})
