"""Write files in a user's own folders. Unlike private files, they follow the umask."""

from __future__ import annotations

import os
from pathlib import Path


def write_user_file(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file atomically. After a kill, there is the old file or the new one.

    Args:
        path: the file. Its folder exists.
        data: the content.
        replace: replace an existing file. A link is replaced, not followed.

    Raises:
        FileExistsError: the file exists, and `replace` is False.
        OSError: the file can't be written.
    """
    if not replace and os.path.lexists(path):
        raise FileExistsError(path)
    partial = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
