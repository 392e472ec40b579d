"""Room on the disk: asked for before, worded when it runs out. Writes nothing."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from llm_hf_models.errors import DiskFullError, NotWritableError, StorageError
from llm_hf_models.system.units import format_size


def sync_data(fd: int) -> None:
    """Waits until a file's bytes are on the disk. On macOS the drive's own cache is not waited for."""
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_folder(folder: Path) -> None:
    """Makes a rename or a new name in `folder` last; does nothing where a folder can't be opened (Windows)."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network file systems refuse this, and keep names in order by themselves
    finally:
        os.close(fd)


STAT_BLOCK_BYTES = 512  # what st_blocks counts, whatever the file system (stat(2))
_FULL_ERRNOS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS}
_RESUME_HINT = "What has arrived is kept: free some space and pull again."


def count_free_bytes(folder: Path) -> int:
    """What is free for this user on the file system of `folder`, or of the nearest folder above that exists."""
    return shutil.disk_usage(_find_existing_folder(folder)).free


def count_bytes_on_disk(file: Path) -> int:
    """What a file takes on the disk, 0 where it has gone: a partial has its full length from the start."""
    try:
        found = file.stat()
    except OSError:
        return 0
    return min(found.st_size, getattr(found, "st_blocks", found.st_size) * STAT_BLOCK_BYTES)


def is_same_disk(one: Path, other: Path) -> bool:
    """Whether two folders, which need not exist yet, stand on the same file system."""
    return _find_existing_folder(one).stat().st_dev == _find_existing_folder(other).stat().st_dev


def _find_existing_folder(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def require_space(folder: Path, needed: int, reserve: int) -> None:
    """Makes sure that `needed` more bytes fit and `reserve` stay free.

    Raises:
        DiskFullError: they don't.
    """
    missing = needed + reserve - count_free_bytes(folder)
    if needed and missing > 0:
        raise _disk_full_error(folder, needed, missing)


def check_reserve(folder: Path, needed: int, reserve: int) -> None:
    """Makes sure, midway, that others have not filled the disk into the reserve.

    Args:
        folder: where the bytes go.
        needed: how many are still to come: only told.
        reserve: what must stay free.

    Raises:
        DiskFullError: they have.
    """
    free = count_free_bytes(folder)
    if free < reserve:
        raise _disk_full_error(folder, needed, needed + reserve - free)


def _disk_full_error(folder: Path, needed: int, missing: int) -> DiskFullError:
    return DiskFullError(
        f"The disk is too full: {format_size(missing)} are missing",
        missing_bytes=missing,
        cause=f"{format_size(needed)} are still needed in {folder}.",
        hint=_RESUME_HINT,
    )


def translate_disk_error(error: OSError, folder: Path, needed: int, reserve: int) -> StorageError:
    """Ours for what the disk said while `needed` bytes were still to be written to `folder`."""
    if error.errno in _FULL_ERRNOS:
        return _disk_full_error(folder, needed, max(1, needed + reserve - count_free_bytes(folder)))
    if error.errno in _DENIED_ERRNOS:
        return NotWritableError(f"Can't write in {folder}", cause=error.strerror)
    return StorageError(f"The disk refused to keep a file in {folder}", cause=error.strerror or str(error))
