"""Encrypt the Hub token with a passphrase, if there is no keychain, and remember for some hours that it was entered.

The passphrase is asked for once. Then the key that it gives is kept in the memory of the process, and until it expires
in a file in this user's private runtime folder, which is in memory on most systems and ends with the login session.
That file is useless without the encrypted one, and void after another login. The token and the passphrase are never
stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from llm_hf_models import paths
from llm_hf_models.errors import KeychainError
from llm_hf_models.hub.token_files import is_token_file, read_token_file, remove_token_file, write_token_file
from llm_hf_models.system.private_files import (
    is_private_file,
    is_private_folder,
    make_private_folder,
    write_private_file,
)
from llm_hf_models.system.runtime_folder import choose_runtime_folder

PASSPHRASE_VARIABLE = "LLM_HF_PASSPHRASE"  # noqa: S105 - the name of a variable, for scripts that can't prompt

# The encrypted file consists of MAGIC, a salt, a nonce, and the token encrypted with AES-256-GCM. The bytes before the
# token are associated data. The key is derived from the passphrase with scrypt (RFC 7914), which takes 64 MiB and about
# 0.3 s per attempt. Other parameters need a new version of MAGIC.
MAGIC = b"llm-hf-token 1\n"
SALT_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**16, 8, 2

_keys: dict[str, bytes] = {}  # the key of each encrypted file that this process has decrypted, by the file's digest


def get_path() -> Path:
    """Return the path of the encrypted file."""
    return paths.data_dir() / "token.enc"


def exists() -> bool:
    """Return whether there is an encrypted token.

    Raises:
        KeychainError: its folder can't be searched.
    """
    return is_token_file(get_path())


def read(ask_passphrase: Callable[[], str | None] | None, remember_seconds: float) -> str | None:
    """Return the token. Return None if there is none, or if the passphrase is needed and can't be asked for.

    Args:
        ask_passphrase: called if the passphrase is needed and LLM_HF_PASSPHRASE is not set.
        remember_seconds: how long other processes need no passphrase after this one asked for it.

    Raises:
        KeychainError: the file can't be read, or the passphrase is wrong.
    """
    if not exists():
        return None
    data = read_token_file(get_path())
    digest = hashlib.sha256(data).hexdigest()
    if passphrase := os.environ.get(PASSPHRASE_VARIABLE):
        return _decrypt(data, _derive_key(passphrase, _get_salt(data)))
    key = _keys.get(digest) or (_read_unlock(digest) if remember_seconds else None)
    if key is not None:
        return _decrypt(data, key)
    passphrase = ask_passphrase() if ask_passphrase else None
    if not passphrase:
        return None
    key = _derive_key(passphrase, _get_salt(data))
    token = _decrypt(data, key)
    _remember_key(digest, key, remember_seconds)
    return token


def store(value: str, ask_passphrase: Callable[[], str], remember_seconds: float) -> None:
    """Encrypt and store a token.

    Args:
        value: the token.
        ask_passphrase: called if LLM_HF_PASSPHRASE is not set.
        remember_seconds: how long no process needs the passphrase.

    Raises:
        KeychainError: the token could not be stored.
    """
    known = os.environ.get(PASSPHRASE_VARIABLE)
    passphrase = known or ask_passphrase()
    if not passphrase:
        raise KeychainError("Storing the token requires a passphrase", hint="Enter one, or set HF_TOKEN instead.")
    salt = os.urandom(SALT_BYTES)
    key = _derive_key(passphrase, salt)
    data = _encrypt(value, key, salt)
    write_token_file(get_path(), data)
    if not known:
        _remember_key(hashlib.sha256(data).hexdigest(), key, remember_seconds)


def remove() -> bool:
    """Remove the token and its unlock. Return whether there was a token.

    Raises:
        KeychainError: the token can't be removed.
    """
    lock()
    return remove_token_file(get_path())


def lock() -> None:
    """Ask for the passphrase the next time."""
    _keys.clear()
    with suppress(OSError):
        _get_unlock_path().unlink()


# The encryption


@lru_cache(maxsize=1)  # a command may need the token several times
def _derive_key(passphrase: str, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    kdf = Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    return kdf.derive(passphrase.encode("utf-8", "surrogatepass"))


def _get_salt(data: bytes) -> bytes:
    if not data.startswith(MAGIC) or len(data) <= len(MAGIC) + SALT_BYTES + NONCE_BYTES:
        raise KeychainError(
            f"This version can't read the token in {get_path()}", hint="Run llm hf logout, then llm hf login."
        )
    return data[len(MAGIC) : len(MAGIC) + SALT_BYTES]


def _encrypt(value: str, key: bytes, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(NONCE_BYTES)
    header = MAGIC + salt + nonce
    return header + AESGCM(key).encrypt(nonce, value.encode(), header)


def _decrypt(data: bytes, key: bytes) -> str:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    start = len(MAGIC) + SALT_BYTES
    header, secret = data[: start + NONCE_BYTES], data[start + NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(header[start:], secret, header).decode()
    except (InvalidTag, UnicodeDecodeError):
        raise KeychainError(
            "The passphrase is wrong, or the token's file is damaged",
            hint="Try again. If the passphrase is lost, run llm hf logout, then llm hf login.",
        ) from None


# The unlock


def _get_unlock_path() -> Path:
    return choose_runtime_folder() / "unlock.json"


def _remember_key(digest: str, key: bytes, seconds: float) -> None:
    _keys[digest] = key
    path = _get_unlock_path()
    if not seconds:
        return
    # If it can't be written, the next process asks again.
    with suppress(OSError):
        make_private_folder(path.parent)
        if is_private_folder(path.parent):
            unlock = {"expires": time.time() + seconds, "seconds": seconds, "file": digest, "key": key.hex()}
            write_private_file(path, json.dumps(unlock).encode())


def _read_unlock(digest: str) -> bytes | None:
    """Return the key for an encrypted file, unless it has expired. Remove an unlock that is not valid."""
    path = _get_unlock_path()
    if not (is_private_folder(path.parent) and is_private_file(path)):
        return None
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        unlock = json.loads(path.read_bytes())
        left = unlock["expires"] - time.time()
        # More time than it had means that the clock was set back.
        if unlock["file"] == digest and 0 < left <= unlock["seconds"]:
            return bytes.fromhex(unlock["key"])
    with suppress(OSError):
        path.unlink()
    return None
