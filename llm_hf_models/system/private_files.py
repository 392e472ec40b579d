"""Create files and folders that only their owner can open, whatever the umask is.

The umask of a process may be 000, so that everyone could write to its files. Or it may remove rights of the owner, so
that the next process could not open them. All files of this package are created here, except those in the Hugging Face
cache and in a user's own folders, which follow the umask.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

FOLDER_MODE, FILE_MODE = 0o700, 0o600
PRIVATE_UMASK = 0o077  # of child processes that create files and sockets in private folders only


def make_private_folder(path: Path) -> None:
    """Create a folder with its missing parents, all private. Make an existing folder of this user private.

    Raises:
        OSError: the folder can't be created.
    """
    missing = [path, *path.parents]
    while missing and missing[-1].exists():
        missing.pop()
    for folder in reversed(missing):
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        _set_mode(folder, FOLDER_MODE)
    _set_mode(path, FOLDER_MODE)


def open_private(path: Path, flags: int) -> int:
    """Open a file, and create it as a private file if `flags` has O_CREAT. Return its descriptor.

    Raises:
        OSError: the file can't be opened.
    """
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), FILE_MODE)
    if flags & os.O_CREAT and sys.platform != "win32" and _needs_mode(os.fstat(descriptor), FILE_MODE):
        with suppress(OSError):  # a file system without modes
            os.fchmod(descriptor, FILE_MODE)
    return descriptor


def append_to_private_file(path: Path) -> BinaryIO:
    """Open a private file to append to it. Create it, but not its folder, if it does not exist.

    Raises:
        OSError: the file can't be opened.
    """
    return os.fdopen(open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def create_private_file(path: Path) -> None:
    """Create an empty private file.

    Raises:
        FileExistsError: the file exists.
        OSError: the file can't be created.
    """
    os.close(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def write_private_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a private file atomically. Missing folders are created as private ones.

    Args:
        path: the file, which is replaced if it exists.
        data: the content.
        sync: wait until the content is on disk.

    Raises:
        OSError: the file can't be written.
    """
    make_missing_folders(path.parent)
    partial = path.with_name(f"{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        with os.fdopen(open_private(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_missing_folders(path: Path) -> None:
    """Create a folder with its missing parents, all private. Leave an existing folder as it is.

    Raises:
        OSError: the folder can't be created.
    """
    if not path.is_dir():
        make_private_folder(path)


def is_private_folder(path: Path) -> bool:
    """Return whether a folder belongs to this user, and no other user can write to it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        return False
    return sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def is_private_file(path: Path) -> bool:
    """Return whether a file belongs to this user, and no other user can open it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode):
        return False
    return sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & 0o077)


def make_file_private(path: Path) -> None:
    """Make an existing file private without opening it. Do nothing if it does not exist or belongs to another user."""
    with suppress(OSError):
        _set_mode(path, FILE_MODE)


def _set_mode(path: Path, mode: int) -> None:
    if sys.platform != "win32" and _needs_mode(path.stat(), mode):
        with suppress(OSError):  # a file system without modes, or a read-only one
            path.chmod(mode)


def _needs_mode(status: os.stat_result, mode: int) -> bool:
    """Return whether this user owns the file and its mode differs."""
    return sys.platform != "win32" and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode
