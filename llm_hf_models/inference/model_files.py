"""Check before a prompt that a model's files are the verified ones. Hash a file again if only its ctime has changed."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from llm_hf_models.errors import FileChangedError, LibraryError, MissingFileError, StorageError
from llm_hf_models.inference.engine import Notify
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import Check, LocalFile, LocalModel


def check_files_unchanged(model: LocalModel, db: Database, notify: Notify) -> None:
    """Raise an error if a file is missing or was modified after verification, or if a digest did not match.

    This runs before every prompt, so it makes only one stat call per file. A file whose ctime alone has changed, for
    example because of a new mode or hard link, is hashed again once.

    Raises:
        MissingFileError: A file is missing.
        FileChangedError: A file has changed or may have changed, or a digest did not match.
    """
    ref = model.model_id.removeprefix("hf/")
    if model.repo:
        restore = f"llm hf pull {ref}"
        repair = f"llm hf verify {model.model_id}, or replace it: {restore}"
    else:
        restore = f"Restore the file, or remove the model: llm hf rm {model.model_id}"
        repair = f"llm hf verify {model.model_id}, or restore the file, or remove the model: llm hf rm {model.model_id}"
    other_ctime = []
    for file in model.files:
        state = file.compare_with_disk()
        if state == "missing":
            raise MissingFileError(f"{file.path} of {model.model_id} is missing", cause=file.location, hint=restore)
        if state == "other size":
            raise FileChangedError(
                f"{file.path} of {model.model_id} has changed and won't be run",
                cause=f"Its size is no longer the recorded {file.size:,} bytes.",
                hint=repair,
            )
        if state == "touched" and not model.has_digest_mismatch:
            raise FileChangedError(
                f"{file.path} of {model.model_id} was modified after verification and won't be run",
                cause="Its size is the same, but its content may differ.",
                hint=f"Check its content: llm hf verify {model.model_id}",
            )
        if state == "other ctime":
            other_ctime.append(file)
    if model.has_digest_mismatch or not all(_has_recorded_digest(model, file, db, notify) for file in other_ctime):
        raise FileChangedError(
            f"{model.model_id} is quarantined: its content does not match the recorded digest", hint=repair
        )


def _has_recorded_digest(model: LocalModel, file: LocalFile, db: Database, notify: Notify) -> bool:
    """Hash a file, record the result in the library, and return whether the digest is the recorded one.

    Raises:
        MissingFileError: The file can't be read.
        FileChangedError: No digest is recorded, or the file is being modified.
    """
    from llm_hf_models.system import hashing, verified_files  # imported late: nearly every prompt hashes nothing

    recorded, location = file.sha256 or file.git_sha1, Path(file.location)
    notify(f"Verifying {file.path} again: its mode, its links or its content changed after verification")
    try:
        found = hashing.compute_digests(location)
    except OSError as error:
        raise MissingFileError(f"Can't read {file.path} of {model.model_id}", cause=error.strerror) from None
    if recorded is None or found.stamp is None:
        raise FileChangedError(
            f"{file.path} of {model.model_id} was modified after verification and won't be run",
            cause="It was modified while it was read." if recorded else "No digest of it is recorded.",
            hint=f"Check its content: llm hf verify {model.model_id}",
        )
    matches = found.get_same_kind(recorded) == recorded
    with suppress(StorageError, LibraryError):  # a read-only library: the file is hashed again before the next prompt
        if matches:
            db.record_verified_files(model.model_id, {file.location: found.stamp})
        else:
            verified_files.forget(location)
            result = f"differs: recorded {recorded}, found {found.get_same_kind(recorded)}"
            db.add_check(model.model_id, Check("digest", "differs", time.time(), {"files": {file.path: result}}))
    if matches:
        verified_files.note_verified(recorded, location, found.stamp)
    return matches
