"""Find, store and remove the Hub token. It is never printed or logged, and stored as plain text only on request."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llm_hf_models import paths, settings
from llm_hf_models.errors import BadInputError, KeychainError, KeychainTimeoutError
from llm_hf_models.hub import encrypted_token, keychain
from llm_hf_models.hub.encrypted_token import PASSPHRASE_VARIABLE
from llm_hf_models.hub.token_files import read_plain_token, remove_token_file, write_token_file
from llm_hf_models.paths import expand_home
from llm_hf_models.redaction import remember

TokenSource = Literal["caller", "environment", "plain file", "keychain", "encrypted file", "hf CLI"]
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
UNLOCK_HINT = f"Unlock the stored token: llm hf whoami. Or set {PASSPHRASE_VARIABLE}."

_notified_of_keychain = False


@dataclass(frozen=True)
class Token:
    """A token and its source. Its repr never shows the value."""

    value: str = field(repr=False)
    source: TokenSource

    def __post_init__(self) -> None:
        """Redact the token from now on: the Hub or a proxy may repeat it."""
        remember(self.value)


def plain_token_path() -> Path:
    """Return the path of the file that stores the token as plain text, if the user chose that."""
    return paths.data_dir() / "token"


def find_token(
    ask_passphrase: Callable[[], str | None] | None = None, notify: Callable[[str], None] | None = None
) -> Token | None:
    """Find the token to use.

    The order is: HF_TOKEN, the plain file, the keychain entry, the encrypted file, the hf CLI's token.

    Args:
        ask_passphrase: called if only the encrypted file has a token, and is locked. It returns
            None if it can't prompt the user. In that case, or without this function, the file is
            skipped.
        notify: called with a message if the keychain does not respond.

    Raises:
        KeychainError: the keychain or a token file exists but can't be read.
    """
    if value := _read_environment():
        return Token(value, "environment")
    if value := read_plain_token(plain_token_path()):
        return Token(value, "plain file")
    if value := _read_keychain(notify):
        return Token(value, "keychain")
    if encrypted_token.exists() and (value := encrypted_token.read(ask_passphrase, _get_unlock_seconds())):
        return Token(value, "encrypted file")
    if value := read_plain_token(_hf_cli_path()):
        return Token(value, "hf CLI")
    return None


def _read_keychain(notify: Callable[[str], None] | None) -> str | None:
    global _notified_of_keychain  # noqa: PLW0603 - a command looks for the token several times
    try:
        return keychain.read_token()
    except KeychainTimeoutError as error:
        if notify is not None and not _notified_of_keychain:
            notify(f"{error.message}. Continuing without it. {error.hint}")
            _notified_of_keychain = True
    except KeychainError:
        if not encrypted_token.exists():  # `store_token` writes it if the keychain fails
            raise
    return None


def is_locked(found: Token | None) -> bool:
    """Return whether `find_token` skipped the encrypted file because its passphrase was missing."""
    return (found is None or found.source == "hf CLI") and encrypted_token.exists()


def suggest_token_fix(found: Token | None) -> str:
    """Return the hint for a missing or rejected token, depending on the result of `find_token`."""
    from llm_hf_models.hub.errors import LOGIN_HINT

    if found is not None and found.source == "caller":
        return "Pass another token to Library(token=...)."
    if found is not None and found.source == "environment":
        name = _find_token_variable() or TOKEN_VARIABLES[0]  # not set in a worker, which gets the token from its parent
        return f"{name} overrides any other token. Change or unset it."
    if is_locked(found):
        return UNLOCK_HINT
    if found is None and keychain.has_timed_out():
        return f"The keychain did not respond. {keychain.FIX_HINT}"
    return LOGIN_HINT


def _read_environment() -> str | None:
    name = _find_token_variable()
    return os.environ[name].strip() if name else None


def _find_token_variable() -> str | None:
    return next((name for name in TOKEN_VARIABLES if os.environ.get(name, "").strip()), None)


def store_token(value: str, *, ask_passphrase: Callable[[], str], plain: bool = False) -> TokenSource:
    """Store a validated token in the keychain, or encrypted with a passphrase if no keychain works.

    Args:
        value: the token.
        ask_passphrase: called if no keychain works and LLM_HF_PASSPHRASE is not set.
        plain: store it as plain text instead, in a file that only this user can read.

    Raises:
        KeychainError: the token could not be stored.
    """
    if plain:
        write_token_file(plain_token_path(), value.encode())
        encrypted_token.remove()
        return "plain file"
    with suppress(KeychainError):
        if keychain.store_token(value):
            # They may contain an older token.
            encrypted_token.remove()
            remove_token_file(plain_token_path())
            return "keychain"
    encrypted_token.store(value, ask_passphrase, _get_unlock_seconds())
    remove_token_file(plain_token_path())
    return "encrypted file"


def remove_stored_token() -> list[TokenSource]:
    """Remove the token that `store_token` stored. HF_TOKEN and the hf CLI's token stay.

    Returns:
        The places from which a token was removed.

    Raises:
        KeychainError: a stored token can't be removed.
    """
    removed: list[TokenSource] = []
    if remove_token_file(plain_token_path()):
        removed.append("plain file")
    if encrypted_token.remove():
        removed.append("encrypted file")
    if keychain.remove_token():
        removed.insert(0, "keychain")
    return removed


def _get_unlock_seconds() -> float:
    with suppress(BadInputError):  # the settings can't be read
        return settings.load().unlock_seconds
    return 0


def _hf_cli_path() -> Path:
    """Return the path of the hf CLI's token.

    huggingface_hub could tell it too, but reads the environment only once, at import.
    """
    named = os.environ.get("HF_TOKEN_PATH")
    return Path(expand_home(os.path.expandvars(named))) if named else settings.hf_home() / "token"
