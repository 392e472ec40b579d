"""Read and replace another program's configuration file without blocking, data loss or wider access."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from llm_hf_models.errors import BadInputError, NotWritableError, StorageError
from llm_hf_models.system.private_files import make_missing_folders

MAX_BYTES = 1_000_000
MAX_BACKUPS_PER_SECOND = 1000


def find_target(path: Path) -> Path:
    """Return the file that a path leads to, because a symbolic link must stay a link.

    Raises:
        StorageError: the links form a loop.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():  # realpath stops inside a loop
        raise make_unchanged_error(path, "It is a loop of symbolic links.")
    return target


def make_unchanged_error(path: Path, cause: str) -> StorageError:
    """Return the error for a file that can't be changed."""
    hint = "Run the command without --install and add the printed lines by hand."
    return StorageError(f"{path} was not changed", cause=cause, hint=hint)


def read_bytes(path: Path) -> bytes | None:
    """Return the content of a configuration file, or None if there is none.

    Raises:
        StorageError: it is not a regular file, it can't be read or it is too large.
    """
    try:
        _require_regular_file(path, path.stat())  # opening a device may have effects
        # O_NONBLOCK: if a FIFO replaces the file now, opening it must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            _require_regular_file(path, os.fstat(descriptor))
            content = _read_limited(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise make_unchanged_error(path, f"{error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise make_unchanged_error(path, f"It is larger than {MAX_BYTES // 1_000_000} MB.")
    return content


def _require_regular_file(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise make_unchanged_error(path, "It is a folder.")
    if not stat.S_ISREG(status.st_mode):
        raise make_unchanged_error(path, "It is not a regular file.")


def _read_limited(descriptor: int) -> bytes:
    """Return the content, or at least a byte more than the limit."""
    parts, size = [], 0
    while size <= MAX_BYTES and (part := os.read(descriptor, MAX_BYTES + 1)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def replace_file(path: Path, before: bytes | None, after: bytes, *, is_private: bool) -> Path | None:
    """Replace a file atomically and keep a backup in the same folder. Mode and owner stay as they are.

    Args:
        path: the file; not a symbolic link.
        before: its content when the change was planned, or None if there was no file.
        after: the new content.
        is_private: whether a new file and its folder are for their owner only. Otherwise the umask decides.

    Returns:
        The backup's path, or None if there was no file before.

    Raises:
        NotWritableError: the file could not be written and has not changed.
        BadInputError: another program has changed the file since the plan was made.
    """
    partial = None
    try:
        if is_private:
            make_missing_folders(path.parent)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        if read_bytes(path) != before:
            raise BadInputError(f"{path} was changed by another program", hint="Run the same command again.")
        partial = _write_partial_file(path, after)
        if before is None:
            _set_mode_of_new_file(partial, is_private)
        else:
            _copy_access(path, partial)
        backup = None if before is None else _write_backup(path, before)
        partial.replace(path)
    except OSError as error:
        raise NotWritableError(f"Can't write {path}", cause=error.strerror) from None
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink()
    return backup


def _write_partial_file(path: Path, content: bytes) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return Path(name)


def _set_mode_of_new_file(path: Path, is_private: bool) -> None:
    if os.name != "posix" or is_private:
        return
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _copy_access(source: Path, target: Path) -> None:
    """Give a file the owner and mode of another. Raise an OSError if the owner can't be kept."""
    status, new = source.stat(), target.stat()
    if os.name == "posix" and (status.st_uid, status.st_gid) != (new.st_uid, new.st_gid):
        os.chown(target, status.st_uid, status.st_gid)
    shutil.copymode(source, target)


def _write_backup(path: Path, content: bytes) -> Path:
    """Write a new file with a date in its name. It never replaces a file and never follows a link."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(MAX_BACKUPS_PER_SECOND):
        backup = path.with_name(f"{path.name}.{stamp}{f'-{number}' if number else ''}.bak")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(backup, flags, 0o600)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        _copy_access(path, backup)
        return backup
    raise FileExistsError(0, "too many backups")
