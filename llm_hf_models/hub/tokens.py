"""The Hub token: where it comes from, where it is kept. Never printed, never logged, never plain on disk."""

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

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")
TokenSource = Literal["environment", "keychain", "encrypted file", "hf CLI"]
SERVICE, USER = "llm-hf-models", "hub-token"  # our entry in the keychain
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
PASSPHRASE_VARIABLE = "LLM_HF_PASSPHRASE"  # noqa: S105 - a variable's name; for scripts, where nobody can be asked
NO_TERMINAL_HINT = f"{PASSPHRASE_VARIABLE} in the environment gives it where nobody can type it."

# The encrypted file: MAGIC, salt, nonce, then AES-256-GCM of the token with all before it as associated data. The key
# is scrypt's of the passphrase (RFC 7914; 64 MiB and some 0.3 s a try). Other parameters are another version of MAGIC.
MAGIC = b"llm-hf-token 1\n"
SALT_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**16, 8, 2
MAX_FILE_BYTES = 100_000


@dataclass(frozen=True)
class Token:
    """A token and where it came from; its value never shows in a repr."""

    value: str = field(repr=False)
    source: TokenSource


def encrypted_token_path() -> Path:
    """The file that holds the token where there is no keychain."""
    return paths.data_dir() / "token.enc"


def find_token(ask_passphrase: Callable[[], str | None] | None = None) -> Token | None:
    """The token in force: HF_TOKEN, then our keychain entry (or encrypted file), then the hf CLI's stored token.

    Args:
        ask_passphrase: called when only the encrypted file has one; it gives None where nobody can be asked. That, or
            None in its place, leaves the file alone, unless LLM_HF_PASSPHRASE is set.

    Raises:
        KeychainError: the keychain or the file is there and can't be read.
    """
    if value := _read_environment():
        return Token(value, "environment")
    try:
        kept = _read_keychain()
    except KeychainError:
        if not _is_token_file(encrypted_token_path()):  # it exists where `store` met the same trouble
            raise
        kept = None
    if kept:
        return Token(kept, "keychain")
    if kept := _read_encrypted_file(ask_passphrase):
        return Token(kept, "encrypted file")
    if kept := _read_hf_cli_token():
        return Token(kept, "hf CLI")
    return None


def has_precedence(found: Token | None) -> bool:
    """Whether `find`, when it could not open the encrypted file, found one that comes before that file's."""
    return found is not None and found.source in ("environment", "keychain", "encrypted file")


def is_locked(found: Token | None) -> bool:
    """Whether `find` passed the encrypted file over, for want of its passphrase."""
    return not has_precedence(found) and _is_token_file(encrypted_token_path())


def suggest_token_fix(found: Token | None) -> str:
    """What a person does where the Hub refuses what `find` found, or wants a token where it found none."""
    from llm_hf_models.hub.errors import LOGIN_HINT

    if found is not None and found.source == "environment":
        name = _find_token_variable() or TOKEN_VARIABLES[0]  # not set in a worker that was handed one
        return f"{name} in the environment goes before any other token: change it, or unset it."
    if is_locked(found):
        return f"The token that is kept encrypted needs its passphrase: {NO_TERMINAL_HINT}"
    return LOGIN_HINT


def _read_environment() -> str | None:
    name = _find_token_variable()
    return os.environ[name].strip() if name else None


def _find_token_variable() -> str | None:
    return next((name for name in TOKEN_VARIABLES if os.environ.get(name, "").strip()), None)


def store_token(value: str, *, ask_passphrase: Callable[[], str]) -> TokenSource:
    """Keeps a token that was already validated: in the keychain, or where there is none encrypted under a passphrase.

    Args:
        value: the token.
        ask_passphrase: called only where there is no keychain that works, and LLM_HF_PASSPHRASE is not set.

    Raises:
        KeychainError: neither was possible.
    """
    keychain = _find_keychain()
    if keychain is not None:
        with suppress(KeychainError):
            _call_keychain(lambda: keychain.set_password(SERVICE, USER, value))
            if _call_keychain(lambda: keychain.get_password(SERVICE, USER)) == value:
                _remove_encrypted_file()  # it would hold an older token
                return "keychain"
    passphrase = os.environ.get(PASSPHRASE_VARIABLE) or ask_passphrase()
    if not passphrase:
        raise KeychainError("A passphrase is needed to keep the token", hint="Or set HF_TOKEN instead.")
    _write_private_file(encrypted_token_path(), _encrypt(value, passphrase))
    return "encrypted file"


def remove_stored_token() -> list[TokenSource]:
    """Removes what `store` kept. Returns where it was; the environment and the hf CLI's token are not ours to remove.

    Raises:
        KeychainError: it is there and can't be removed.
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
    """The operating system's keychain; None where keyring has nothing but ways to fail, forget or write plain text."""
    if not _is_keychain_likely():
        return None
    import keyring

    backend = _call_keychain(keyring.get_keyring)
    candidates = getattr(backend, "backends", None) or [backend]  # of a chain: the first that is a keychain
    return next((candidate for candidate in candidates if _is_real_keychain(candidate)), None)


def _is_keychain_likely() -> bool:
    """Whether keyring is worth asking; where not, its backends need not be loaded (8 MB, most of it cryptography).

    On Linux its keychains answer over a D-Bus session, which a server or a container rarely has. What a person named or
    installed beside keyring's own backends is always asked.
    """
    named = ("PYTHON_KEYRING_BACKEND", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY")
    loaded = "keyring.backends.SecretService" in sys.modules
    if sys.platform != "linux" or loaded or any(os.environ.get(name) for name in named):
        return True
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime, "bus").exists():
        return True
    from importlib.metadata import entry_points

    # keyring.util.platform_.config_root() says where, for the price of importing keyring; a test holds the two equal.
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "python_keyring/keyringrc.cfg")
    others = (found.value for found in entry_points(group="keyring.backends"))
    return config.exists() or not all(value.startswith("keyring.backends") for value in others)


def _is_real_keychain(backend: KeyringBackend) -> bool:
    # keyring itself calls a backend of priority 1 and more recommended; plain-text files and stand-ins are below that.
    kind = type(backend)
    stand_in = kind.__module__ in ("keyring.backends.fail", "keyring.backends.null")
    plain = kind.__module__.startswith("keyrings.alt.") or "plaintext" in kind.__name__.lower()
    return not stand_in and not plain and float(_call_keychain(lambda: backend.priority)) >= 1


def _read_keychain() -> str | None:
    keychain = _find_keychain()
    return _call_keychain(lambda: keychain.get_password(SERVICE, USER)) if keychain is not None else None


def _call_keychain(question: Callable[[], T]) -> T:
    """A question to the keychain: whatever its backend, which may be anybody's, raises becomes ours."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - D-Bus, macOS and Windows each have errors of their own
        # Not the error's own words: a backend's may quote what it was given.
        raise KeychainError(
            "The keychain did not answer as it should",
            cause=type(error).__name__,
            hint="Unlock it, or set HF_TOKEN, or do without: PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring",
        ) from None


# The encrypted file


def _read_encrypted_file(ask_passphrase: Callable[[], str | None] | None) -> str | None:
    path = encrypted_token_path()
    if not _is_token_file(path):
        return None
    passphrase = os.environ.get(PASSPHRASE_VARIABLE) or (ask_passphrase() if ask_passphrase else None)
    return _decrypt(_read_file(path), passphrase, path) if passphrase else None


@lru_cache(maxsize=1)  # a command that needs the token several times does the work once
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
            f"{path} holds no token that this version can read", hint="llm hf logout, then llm hf login"
        )
    try:
        return (
            AESGCM(_derive_key(passphrase, header[len(MAGIC) : start])).decrypt(header[start:], secret, header).decode()
        )
    except (InvalidTag, UnicodeDecodeError):
        raise KeychainError(
            "The passphrase is not the one that the token was kept under, or its file is damaged",
            hint="Try again; if it is lost: llm hf logout, then llm hf login",
        ) from None


def _write_private_file(path: Path, data: bytes) -> None:
    """Whole or not at all, and only ever readable by its owner."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
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
    """Its file is read here and not by huggingface_hub, which looks at the environment only once, at import."""
    named = os.environ.get("HF_TOKEN_PATH")
    path = Path(expand_home(os.path.expandvars(named))) if named else settings.hf_home() / "token"
    if not _is_token_file(path):
        return None
    try:
        return _read_file(path).decode("ascii").strip() or None
    except UnicodeDecodeError:
        raise KeychainError(f"{path} holds no token", hint="hf auth login, or llm hf login") from None


def _is_token_file(path: Path) -> bool:
    """Whether there is a file of a token.

    Raises:
        KeychainError: its folder, another user's say, lets nobody see.
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
    ours = path == encrypted_token_path()
    return KeychainError(f"Can't read {path}", cause=error.strerror, hint=suggest_folder_fix(path) if ours else None)
