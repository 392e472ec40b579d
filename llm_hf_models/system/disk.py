"""Sync files to disk, check the free disk space and translate disk errors."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from llm_hf_models.errors import DiskFullError, NotWritableError, StorageError
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

MAX_NAME_CHARS = 100  # of a file, in a message

STAT_BLOCK_BYTES = 512  # the unit of st_blocks on every file system (stat(2))
_FULL_ERRNOS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
DENIED_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS}
OTHER_OWNER_HINT = "Ask its owner for write access (chmod g+w), or set HF_HUB_CACHE to a folder of your own."
_RESUME_HINT = "Free some disk space and pull again: the received bytes are kept."


def sync_data(fd: int) -> None:
    """Wait until a file's bytes are on disk. On macOS they may still be in the cache of the drive."""
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that new and renamed files in it survive power loss.

    Do nothing if the folder can't be opened (Windows).
    """
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network file systems refuse this; they order changes of names themselves
    finally:
        os.close(fd)


def count_free_bytes(folder: Path) -> int:
    """Return the bytes that are free for this user on the file system of `folder`, which need not exist yet."""
    return shutil.disk_usage(_find_existing_folder(folder)).free


class FileSpace(NamedTuple):
    """The identity of a file, which all its hard links and symlinks share, and the bytes that it occupies on disk."""

    device: int
    inode: int
    size_bytes: int


def measure_file(path: Path | str, *, follow_links: bool = True) -> FileSpace | None:
    """Return the disk space of a regular file; None if it is none, or does not exist.

    The unwritten parts of a sparse file are not counted: the size of a partial is the final size from the start.
    """
    try:
        status = os.stat(path, follow_symlinks=follow_links)  # noqa: PTH116 - twice as fast as Path, for many files
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    blocks = getattr(status, "st_blocks", None)  # missing on Windows
    on_disk = status.st_size if blocks is None else min(status.st_size, blocks * STAT_BLOCK_BYTES)
    return FileSpace(status.st_dev, status.st_ino, on_disk)


def measure_files(paths: Iterable[Path | str]) -> set[FileSpace]:
    """Return the disk space of regular files. A file with several names is included once."""
    return {found for path in paths if (found := measure_file(path))}


def sum_space(files: Iterable[FileSpace]) -> int:
    """Return the bytes that files occupy on disk. A file with several names counts once."""
    return sum({(file.device, file.inode): file.size_bytes for file in files}.values())


def count_bytes_on_disk(file: Path) -> int:
    """Return the bytes that a file occupies on disk, or 0 if it does not exist."""
    found = measure_file(file)
    return found.size_bytes if found else 0


def count_bytes_in_folder(folder: Path) -> int:
    """Return the disk space of all files in a folder, in bytes. A file with several links is counted once."""
    return sum_space(
        found
        for parent, _, names in os.walk(folder)
        for name in names
        if (found := measure_file(os.path.join(parent, name), follow_links=False))  # noqa: PTH118 - as above
    )


def count_freed_bytes(files: Iterable[Path]) -> int:
    """Return the bytes that removing all these files would free. A file with another hard link frees nothing."""
    found = Counter((status.st_dev, status.st_ino, status.st_nlink, status.st_size) for status in _iter_status(files))
    return sum(size for (_, _, links, size), names in found.items() if names >= links)


def _iter_status(files: Iterable[Path]) -> Iterator[os.stat_result]:
    for file in set(files):
        with suppress(OSError):
            yield file.lstat()


def list_matches(folder: Path, pattern: str) -> list[Path]:
    """Return the paths in a folder that match a pattern. Return none if another user owns it and it can't be read."""
    try:
        return list(folder.glob(pattern))
    except PermissionError:  # from a parent of the folder; `glob` itself ignores folders that can't be read
        return []


def is_same_disk(path: Path, other: Path) -> bool:
    """Return whether two folders, which need not exist yet, are on the same file system."""
    return _find_existing_folder(path).stat().st_dev == _find_existing_folder(other).stat().st_dev


def _find_existing_folder(folder: Path) -> Path:
    while not os.access(folder, os.F_OK) and folder != folder.parent:  # `exists` raises in a folder of another user
        folder = folder.parent
    return folder


def refuse_names(paths: Iterable[Path]) -> None:
    """Check that this system accepts each path and its parts. The files need not exist yet.

    Raises:
        NotWritableError: a path or a name in it is too long, or has a character that file names can't have here.
    """
    paths = list(paths)
    for path in paths:
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:
            raise NotWritableError(
                f"The name {clean_text(path.name, MAX_NAME_CHARS)} can't be written",
                cause=f"File names have the encoding {error.encoding} here.",
                hint="Set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8.",
            ) from None
    if not hasattr(os, "pathconf"):  # Windows reports the error itself
        return
    for path in paths:
        folder = _find_existing_folder(path.parent)
        try:
            max_name, max_path = os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
        except (OSError, ValueError):
            continue
        longest = max((part for part in path.parts), key=lambda part: len(os.fsencode(part)))
        if len(os.fsencode(longest)) > max_name:
            raise NotWritableError(
                f"The name {clean_text(longest, MAX_NAME_CHARS)} is too long for the disk of {folder}",
                cause=f"This file system allows {max_name} bytes in a name.",
            )
        if len(os.fsencode(path)) >= max_path:
            raise NotWritableError(
                f"The path of {clean_text(path.name, MAX_NAME_CHARS)} is too long in {folder}",
                cause=f"This system allows {max_path - 1} bytes in a path.",
                hint="Use a cache folder with a shorter path (HF_HUB_CACHE).",
            )


def require_space(folder: Path, needed: int, reserve: int) -> None:
    """Check that `needed` more bytes fit on the disk while `reserve` bytes stay free.

    Raises:
        DiskFullError: there is not enough space.
    """
    shortage = needed + reserve - count_free_bytes(folder)
    if needed and shortage > 0:
        raise _make_disk_full_error(folder, needed, shortage)


def check_reserve(folder: Path, needed: int, reserve: int) -> None:
    """Check during a download that other programs have not used up the reserve.

    Args:
        folder: the folder of the download.
        needed: the bytes still to be written, for the message.
        reserve: the bytes that must stay free.

    Raises:
        DiskFullError: fewer than `reserve` bytes are free.
    """
    free = count_free_bytes(folder)
    if free < reserve:
        raise _make_disk_full_error(folder, needed, needed + reserve - free)


def _make_disk_full_error(folder: Path, needed: int, shortage: int) -> DiskFullError:
    return DiskFullError(
        f"Not enough disk space: {format_size(shortage)} short",
        missing_bytes=shortage,
        cause=f"{format_size(needed)} still have to be written to {folder}.",
        hint=_RESUME_HINT,
    )


def translate_disk_error(error: OSError, folder: Path, needed: int, reserve: int) -> StorageError:
    """Return the StorageError that corresponds to an OSError while writing to `folder`.

    Args:
        error: the exception.
        folder: the folder of the file.
        needed: the bytes still to be written.
        reserve: the bytes that must stay free.
    """
    if error.errno in _FULL_ERRNOS:
        return _make_disk_full_error(folder, needed, max(1, needed + reserve - count_free_bytes(folder)))
    if error.errno in DENIED_ERRNOS:
        return _make_denied_error(error, folder)
    return StorageError(f"Can't write a file in {folder}", cause=error.strerror or str(error))


def _make_denied_error(error: OSError, folder: Path) -> NotWritableError:
    """Return the error for a refused write, with the file or folder that this user can't write to, and its owner."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else folder
    found = next((one for one in (path, *path.parents) if os.path.lexists(one)), path)
    if os.access(found, os.W_OK):
        return NotWritableError(f"Can't write to {folder}", cause=error.strerror)
    owner = _find_other_owner(found)
    if owner is None:
        return NotWritableError(f"Can't write to {found}", cause=error.strerror)
    return NotWritableError(
        f"Can't write to {found}", cause=f"{error.strerror}: it belongs to {owner}", hint=OTHER_OWNER_HINT
    )


def _find_other_owner(path: Path) -> str | None:
    """Return the name or the number of the user who owns a file or folder; None if that is this user."""
    if sys.platform == "win32":
        return None
    import pwd

    uid = path.stat().st_uid
    if uid == os.geteuid():
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
