"""Notes about files whose digest was verified, so that they are not hashed again until they change.

The notes are in a private folder, because a note of another user proves nothing: anyone who can write to a shared
Hugging Face cache can write a note next to a file. A note is valid only for the same file with the same time stamps.
Programs can't set the time of the last change of an inode (ctime), so a rewritten file whose modification time was
restored has no valid note.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from llm_hf_models.paths import data_dir
from llm_hf_models.system.hashing import FileStamp, read_stamp
from llm_hf_models.system.private_files import is_private_folder, make_private_folder, write_private_file


def notes_folder() -> Path:
    """Return the folder of the notes. It is not created."""
    return data_dir() / "verified"


def note_verified(digest: str, file: Path, stamp: FileStamp) -> None:
    """Record that a file with this stamp has this digest. If that fails, the file is hashed again later."""
    path = os.path.realpath(file)
    note = json.dumps({"path": path, "digest": digest, "stamp": stamp})
    with suppress(OSError, ValueError):
        if not is_private_folder(notes_folder()):  # another user may have written the notes in it
            shutil.rmtree(notes_folder(), ignore_errors=True)
            make_private_folder(notes_folder())
        write_private_file(_get_note_path(path), note.encode())


def is_verified(digest: str, file: Path, stamp: FileStamp) -> bool:
    """Return whether a file with this stamp was verified to have this digest."""
    path = os.path.realpath(file)
    return is_private_folder(notes_folder()) and _read_note(_get_note_path(path)) == (path, digest, stamp)


def is_verified_but_for_ctime(digest: str, file: Path, stamp: FileStamp) -> bool:
    """Return whether a file with this stamp was verified to have this digest, except that its ctime may have changed.

    Such a file has to be hashed again. It may have been renamed or linked by a process that was killed right after.
    """
    path = os.path.realpath(file)
    note = _read_note(_get_note_path(path)) if is_private_folder(notes_folder()) else None
    return note is not None and note[:2] == (path, digest) and note[2].has_same_content_as(stamp)


def forget(file: Path) -> None:
    """Remove the note of a file whose content turned out to differ, for example because of a failing disk."""
    with suppress(OSError):
        _get_note_path(os.path.realpath(file)).unlink()


def note_again(digest: str, file: Path, before: FileStamp) -> None:
    """Renew the note of a verified file that this process has just renamed or linked, which changes its ctime."""
    with suppress(OSError):
        after = read_stamp(file)
        if after.has_same_content_as(before):
            note_verified(digest, file, after)


def rename_verified(digest: str, source: Path, target: Path, stamp: FileStamp | None) -> None:
    """Rename a file that had this digest when it had this stamp. Note the digest, unless the file has changed since.

    Raises:
        OSError: the file can't be renamed.
    """
    is_unchanged = stamp is not None and read_stamp(source) == stamp
    source.replace(target)
    if stamp is not None and is_unchanged:
        note_again(digest, target, stamp)


def find_outdated_notes() -> Iterator[Path]:
    """Yield the notes of files that were removed or modified, and notes that can't be read."""
    for note in notes_folder().glob("*.json"):
        found = _read_note(note)
        try:
            is_valid = found is not None and read_stamp(Path(found[0])) == found[2]
        except (OSError, ValueError):
            is_valid = False
        if not is_valid:
            yield note


def _get_note_path(path: str) -> Path:
    return notes_folder() / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:40]}.json"


def _read_note(note: Path) -> tuple[str, str, FileStamp] | None:
    """Return the path, the digest and the stamp in a note, or None if there is no readable note."""
    try:
        found = json.loads(note.read_bytes())
        return str(found["path"]), str(found["digest"]), FileStamp(*map(int, found["stamp"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
