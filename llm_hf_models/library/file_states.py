"""Compare the recorded files of models with the disk. Reads no content, and imports almost nothing."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

ModelState = Literal["ready", "missing", "unverified", "changed"]

# `touched`: its modification time has changed, so its content is unknown. `other ctime`: only its ctime has changed.
# A new mode, owner or hard link changes it, and so does copying the cache, or a program that hides a modification.
FileState = Literal["as recorded", "missing", "other size", "touched", "other ctime"]
UNPROVEN_STATES = frozenset({"touched", "other ctime"})


def compare_with_disk(
    location: str, size: int, mtime_ns: int | None, ctime_ns: int | None, digest: str | None
) -> FileState:
    """Compare the record of a file with the disk, at the cost of one stat call if nothing has changed."""
    try:
        status = os.stat(location)  # noqa: PTH116 - faster than Path, and every prompt calls this
    except (OSError, ValueError):
        return "missing"
    if status.st_size != size:
        return "other size"
    if mtime_ns is None or (mtime_ns == status.st_mtime_ns and ctime_ns == status.st_ctime_ns):
        return "as recorded"
    found = _compare_with_note(location, digest)
    if found != "touched" or mtime_ns != status.st_mtime_ns:
        return found
    return "other ctime"


def _compare_with_note(location: str, digest: str | None) -> FileState:
    """Return whether the file was verified in its current state, for example by the pull of another model."""
    from llm_hf_models.system import verified_files  # imported late: rarely needed
    from llm_hf_models.system.hashing import read_stamp

    try:
        stamp = read_stamp(Path(location))
    except OSError:
        return "touched"
    if digest and verified_files.is_verified(digest, Path(location), stamp):
        return "as recorded"
    if digest and verified_files.is_verified_but_for_ctime(digest, Path(location), stamp):
        return "other ctime"
    return "touched"


def find_model_state(file_states: Collection[FileState], digest_result: str | None) -> ModelState:
    """Return the state of a model, given the states of its files and the result of its newest digest check."""
    if "missing" in file_states:
        return "missing"
    if "other size" in file_states or digest_result == "differs":
        return "changed"
    is_verified = digest_result == "matches" and UNPROVEN_STATES.isdisjoint(file_states)
    return "ready" if is_verified else "unverified"
