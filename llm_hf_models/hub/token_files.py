"""Read and write the files that contain a token."""

from __future__ import annotations

import stat
from pathlib import Path

from llm_hf_models import paths
from llm_hf_models.errors import KeychainError
from llm_hf_models.paths import suggest_folder_fix
from llm_hf_models.system.private_files import write_private_file

MAX_FILE_BYTES = 100_000


def is_token_file(path: Path) -> bool:
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


def read_token_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        KeychainError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise _make_read_error(path, error) from None


def read_plain_token(path: Path) -> str | None:
    """Return the token in a file that contains nothing else, or None if the file is empty or does not exist.

    Raises:
        KeychainError: the file can't be read, or contains something else.
    """
    if not is_token_file(path):
        return None
    try:
        return read_token_file(path).decode("ascii").strip() or None
    except UnicodeDecodeError:
        raise KeychainError(f"{path} contains no valid token", hint="Run hf auth login, or llm hf login.") from None


def write_token_file(path: Path, data: bytes) -> None:
    """Write a private file atomically.

    Raises:
        KeychainError: the file can't be written.
    """
    try:
        write_private_file(path, data, sync=True)
    except OSError as error:
        raise KeychainError(f"Can't write {path}", cause=error.strerror, hint=suggest_folder_fix(path)) from None


def remove_token_file(path: Path) -> bool:
    """Remove a file, and return whether it existed.

    Raises:
        KeychainError: it can't be removed.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise KeychainError(f"Can't remove {path}", cause=error.strerror, hint=suggest_folder_fix(path)) from None
    return True


def _make_read_error(path: Path, error: OSError) -> KeychainError:
    is_own_file = path.parent == paths.data_dir()
    return KeychainError(
        f"Can't read {path}", cause=error.strerror, hint=suggest_folder_fix(path) if is_own_file else None
    )
