"""Find, store and remove the Hub token. It is never printed, logged or stored as plain text."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from llm_hf_models import paths, settings
from llm_hf_models.errors import KeychainError
from llm_hf_models.paths import expand_home, suggest_folder_fix
from llm_hf_models.redaction import remember
from llm_hf_models.system.private_files import write_private_file

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")
TokenSource = Literal["environment", "keychain", "encrypted file", "hf CLI"]
SERVICE, USER = "llm-hf-models", "hub-token"  # name of the keychain entry
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
PASSPHRASE_VARIABLE = "LLM_HF_PASSPHRASE"  # noqa: S105 - the name of a variable, for scripts that can't prompt
NO_TERMINAL_HINT = f"Set {PASSPHRASE_VARIABLE} to provide the passphrase without a prompt."

# The encrypted file consists of MAGIC, a salt, a nonce, and the token encrypted with AES-256-GCM. The bytes before the
# token are associated data. The key is derived from the passphrase with scrypt (RFC 7914), which takes 64 MiB and about
# 0.3 s per attempt. Other parameters need a new version of MAGIC.
MAGIC = b"llm-hf-token 1\n"
SALT_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**16, 8, 2
MAX_FILE_BYTES = 100_000


@dataclass(frozen=True)
class Token:
    """A token and its source. Its repr never shows the value."""

    value: str = field(repr=False)
    source: TokenSource

    def __post_init__(self) -> None:
        """Redact the token from now on: the Hub or a proxy may repeat it."""
        remember(self.value)


def encrypted_token_path() -> Path:
    """Return the path of the file that stores the token if there is no keychain."""
    return paths.data_dir() / "token.enc"


def find_token(ask_passphrase: Callable[[], str | None] | None = None) -> Token | None:
    """Find the token to use: HF_TOKEN, then the keychain entry or the encrypted file, then the hf CLI's token.

    Args:
        ask_passphrase: called if only the encrypted file has a token. It returns None if it can't
            prompt the user. In that case, or without this function, the file is skipped unless
            LLM_HF_PASSPHRASE is set.

    Raises:
        KeychainError: the keychain or a token file exists but can't be read.
    """
    if value := _read_environment():
        return Token(value, "environment")
    try:
        token = _read_keychain()
    except KeychainError:
        if not _is_token_file(encrypted_token_path()):  # `store_token` writes it if the keychain fails
            raise
        token = None
    if token:
        return Token(token, "keychain")
    if token := _read_encrypted_file(ask_passphrase):
        return Token(token, "encrypted file")
    if token := _read_hf_cli_token():
        return Token(token, "hf CLI")
    return None


def _has_precedence(found: Token | None) -> bool:
    """Return whether `found` is from the encrypted file, or from a source that takes precedence over that file."""
    return found is not None and found.source in ("environment", "keychain", "encrypted file")


def is_locked(found: Token | None) -> bool:
    """Return whether `find_token` skipped the encrypted file because its passphrase was missing."""
    return not _has_precedence(found) and _is_token_file(encrypted_token_path())


def suggest_token_fix(found: Token | None) -> str:
    """Return the hint for a missing or rejected token, depending on the result of `find_token`."""
    from llm_hf_models.hub.errors import LOGIN_HINT

    if found is not None and found.source == "environment":
        name = _find_token_variable() or TOKEN_VARIABLES[0]  # not set in a worker, which gets the token from its parent
        return f"{name} overrides any other token. Change or unset it."
    if is_locked(found):
        return f"The stored token is encrypted. {NO_TERMINAL_HINT}"
    return LOGIN_HINT


def _read_environment() -> str | None:
    name = _find_token_variable()
    return os.environ[name].strip() if name else None


def _find_token_variable() -> str | None:
    return next((name for name in TOKEN_VARIABLES if os.environ.get(name, "").strip()), None)


def store_token(value: str, *, ask_passphrase: Callable[[], str]) -> TokenSource:
    """Store a validated token in the keychain, or encrypted with a passphrase if no keychain works.

    Args:
        value: the token.
        ask_passphrase: called if no keychain works and LLM_HF_PASSPHRASE is not set.

    Raises:
        KeychainError: the token could not be stored.
    """
    keychain = _find_keychain()
    if keychain is not None:
        with suppress(KeychainError):
            _call_keychain(lambda: keychain.set_password(SERVICE, USER, value))
            if _call_keychain(lambda: keychain.get_password(SERVICE, USER)) == value:
                _remove_encrypted_file()  # it may contain an older token
                return "keychain"
    passphrase = os.environ.get(PASSPHRASE_VARIABLE) or ask_passphrase()
    if not passphrase:
        raise KeychainError("Storing the token requires a passphrase", hint="Enter one, or set HF_TOKEN instead.")
    _write_token_file(encrypted_token_path(), _encrypt(value, passphrase))
    return "encrypted file"


def remove_stored_token() -> list[TokenSource]:
    """Remove the token that `store_token` stored. HF_TOKEN and the hf CLI's token stay.

    Returns:
        The places from which a token was removed.

    Raises:
        KeychainError: a stored token can't be removed.
    """
    removed: list[TokenSource] = []
    if _remove_encrypted_file():
        removed.append("encrypted file")
    keychain = _find_keychain()
    if keychain is not None and _call_keychain(lambda: keychain.get_password(SERVICE, USER)) is not None:
        _call_keychain(lambda: keychain.delete_password(SERVICE, USER))
        removed.insert(0, "keychain")
    return removed


# The keychain


def _find_keychain() -> KeyringBackend | None:
    """Return the operating system's keychain.

    Return None if keyring has only backends that fail, store nothing or write plain text.
    """
    if not _is_keychain_likely():
        return None
    import keyring

    backend = _call_keychain(keyring.get_keyring)
    candidates = getattr(backend, "backends", None) or [backend]  # of a chained backend, take the first keychain
    return next((candidate for candidate in candidates if _is_real_keychain(candidate)), None)


def _is_keychain_likely() -> bool:
    """Return whether a keychain may exist. If not, keyring's backends need not be loaded (8 MB, mostly cryptography).

    On Linux, keyring's own backends need a D-Bus session, which servers and containers rarely have.
    A backend that the user configured or installed is always tried.
    """
    named = ("PYTHON_KEYRING_BACKEND", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY")
    loaded = "keyring.backends.SecretService" in sys.modules
    if sys.platform != "linux" or loaded or any(os.environ.get(name) for name in named):
        return True
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(Path(runtime, "bus"), os.F_OK):  # after `su`, the folder may be another user's
        return True
    from importlib.metadata import entry_points

    # The path of keyring.util.platform_.config_root(), without importing keyring. A test compares the two.
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "python_keyring/keyringrc.cfg")
    others = (found.value for found in entry_points(group="keyring.backends"))
    return os.access(config, os.F_OK) or not all(value.startswith("keyring.backends") for value in others)


def _is_real_keychain(backend: KeyringBackend) -> bool:
    # keyring recommends backends of priority 1 and above. Plain-text files and placeholders are below that.
    kind = type(backend)
    placeholder = kind.__module__ in ("keyring.backends.fail", "keyring.backends.null")
    plain = kind.__module__.startswith("keyrings.alt.") or "plaintext" in kind.__name__.lower()
    return not placeholder and not plain and float(_call_keychain(lambda: backend.priority)) >= 1


def _read_keychain() -> str | None:
    keychain = _find_keychain()
    return _call_keychain(lambda: keychain.get_password(SERVICE, USER)) if keychain is not None else None


def _call_keychain(function: Callable[[], T]) -> T:
    """Call the keychain. Translate every exception, because backends raise exceptions of any type."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - D-Bus, macOS and Windows raise different exceptions
        # Leave out the exception's text: a backend may quote the token in it.
        raise KeychainError(
            "The keychain failed",
            cause=type(error).__name__,
            hint="Unlock it, set HF_TOKEN, or disable it with PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring",
        ) from None


# The encrypted file


def _read_encrypted_file(ask_passphrase: Callable[[], str | None] | None) -> str | None:
    path = encrypted_token_path()
    if not _is_token_file(path):
        return None
    passphrase = os.environ.get(PASSPHRASE_VARIABLE) or (ask_passphrase() if ask_passphrase else None)
    return _decrypt(_read_file(path), passphrase, path) if passphrase else None


@lru_cache(maxsize=1)  # a command may need the token several times
def _derive_key(passphrase: str, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    kdf = Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    return kdf.derive(passphrase.encode("utf-8", "surrogatepass"))


def _encrypt(value: str, passphrase: str) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    header = MAGIC + salt + nonce
    return header + AESGCM(_derive_key(passphrase, salt)).encrypt(nonce, value.encode(), header)


def _decrypt(data: bytes, passphrase: str, path: Path) -> str:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    start = len(MAGIC) + SALT_BYTES
    header, secret = data[: start + NONCE_BYTES], data[start + NONCE_BYTES :]
    if not data.startswith(MAGIC) or not secret:
        raise KeychainError(
            f"This version can't read the token in {path}", hint="Run llm hf logout, then llm hf login."
        )
    try:
        return (
            AESGCM(_derive_key(passphrase, header[len(MAGIC) : start])).decrypt(header[start:], secret, header).decode()
        )
    except (InvalidTag, UnicodeDecodeError):
        raise KeychainError(
            "The passphrase is wrong, or the token's file is damaged",
            hint="Try again. If the passphrase is lost, run llm hf logout, then llm hf login.",
        ) from None


def _write_token_file(path: Path, data: bytes) -> None:
    """Write a private file atomically.

    Raises:
        KeychainError: The file can't be written.
    """
    try:
        write_private_file(path, data, sync=True)
    except OSError as error:
        raise KeychainError(f"Can't write {path}", cause=error.strerror, hint=suggest_folder_fix(path)) from None


def _remove_encrypted_file() -> bool:
    try:
        encrypted_token_path().unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        hint = suggest_folder_fix(encrypted_token_path())
        raise KeychainError(f"Can't remove {encrypted_token_path()}", cause=error.strerror, hint=hint) from None
    return True


# The hf CLI's token


def _read_hf_cli_token() -> str | None:
    """Return the token stored by the hf CLI.

    huggingface_hub could read it too, but reads the environment only once, at import.
    """
    named = os.environ.get("HF_TOKEN_PATH")
    path = Path(expand_home(os.path.expandvars(named))) if named else settings.hf_home() / "token"
    if not _is_token_file(path):
        return None
    try:
        return _read_file(path).decode("ascii").strip() or None
    except UnicodeDecodeError:
        raise KeychainError(f"{path} contains no valid token", hint="Run hf auth login, or llm hf login.") from None


def _is_token_file(path: Path) -> bool:
    """Return whether `path` is an existing file.

    Raises:
        KeychainError: its folder can't be searched, for example because it belongs to another user.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError as error:
        raise _make_read_error(path, error) from None
    except (OSError, ValueError):
        return False


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise _make_read_error(path, error) from None


def _make_read_error(path: Path, error: OSError) -> KeychainError:
    is_own_file = path == encrypted_token_path()
    return KeychainError(
        f"Can't read {path}", cause=error.strerror, hint=suggest_folder_fix(path) if is_own_file else None
    )
