"""Remove and verify the files of local models."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.errors import NotWritableError, StorageError
from llm_hf_models.hub import cache_layout
from llm_hf_models.inference import running_engines
from llm_hf_models.library.records import Check, LocalFile, LocalModel
from llm_hf_models.models.local_models import make_view
from llm_hf_models.models.names import suggest_new_default
from llm_hf_models.models.types import Removal, Verification
from llm_hf_models.system import verified_files
from llm_hf_models.system.hashing import FileDigests, FileStamp, compute_digests
from llm_hf_models.transfer.types import Event, Progress

MATCHES = "matches"
UNCHANGED = "unchanged since it was imported; never compared with the Hub"


def remove(context: Context, name: str, *, dry_run: bool) -> Removal:
    """Remove a model and the files that nothing else uses.

    A file that the user imported in place, or in a cache of another user that is read-only, is never removed.
    """
    with context.open_database() as db:
        model = db.find_model(name)
        shared = db.list_used_locations(exclude_model=model.model_id)
        shared |= {file.location for file in model.files if not _is_removable(Path(file.location))}
        removable = [file.location for file in model.files if file.location not in shared and model.place != "in place"]
        kept = tuple(file.location for file in model.files if file.location not in removable)
        if not dry_run:
            running_engines.stop_model(db, model.model_id)
            # Remove the record first: after a kill, a pull adopts the files, and no record names missing files.
            db.remove_model(model.model_id)
        try:
            freed = _free_files(model, removable, dry_run=dry_run)
        except StorageError:
            if not dry_run:
                db.register(model)  # the files could not be removed, so keep the record
            raise
    default = suggest_new_default((model.model_id, *model.aliases))
    return Removal(model.model_id, tuple(removable), freed, kept, done=not dry_run, llm_default=default)


def _is_removable(path: Path) -> bool:
    """Return False if the file is in a folder of another user that this user can't write to."""
    try:
        is_own = os.name != "posix" or path.parent.stat().st_uid == os.geteuid()
    except PermissionError:
        return False
    except OSError:
        return True  # it is missing
    return is_own or os.access(path.parent, os.W_OK)


def _free_files(model: LocalModel, locations: Sequence[str], *, dry_run: bool) -> int:
    if model.place != "cache":
        return _free_in_folder(locations, dry_run=dry_run)
    from llm_hf_models.hub.cache_files import delete_cached_files, scan_cache  # imported late: only needed here

    freed = 0
    # HF_HUB_CACHE may have had another value at the time of the pull.
    for cache in {cache_layout.infer_cache_dir(file.location, file.path) for file in model.files}:
        files = [file for file in scan_cache(cache) if str(file.location) in locations]
        freed += delete_cached_files(cache, files, dry_run=dry_run)
    return freed


def _free_in_folder(locations: Sequence[str], *, dry_run: bool) -> int:
    freed = 0
    for path in map(Path, locations):
        try:
            freed += path.stat().st_size
            if not dry_run:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NotWritableError(f"Can't remove {path}", cause=error.strerror) from None
    return freed


def verify(context: Context, name: str, progress: Progress) -> Verification:
    """Compare the digest of every file with the recorded one, and record the result."""
    with context.open_database() as db:
        model = db.find_model(name)
        model.refuse_if_remote()
        same = MATCHES if model.commit else UNCHANGED  # without a commit, the digest is from the import, not the Hub
        stamps: dict[str, FileStamp] = {}
        files = tuple((file.path, _compare(file, stamps, progress) or same) for file in model.files)
        unchanged = all(result == same for _, result in files)
        matches = unchanged and same == MATCHES
        outcome = same if unchanged else "differs" if _has_difference(files) else "not proven"
        db.record_verified_files(model.model_id, stamps)
        db.add_check(
            model.model_id, Check("digest", outcome, time.time(), {"repo": model.repo, "commit": model.commit,
                                                                  "files": dict(files)})
        )  # fmt: skip
        view = make_view(db.get_model(model.model_id))
    return Verification(
        model.model_id, matches, unchanged, files, None if matches else view.fix, model.latest_check("scan")
    )


def _has_difference(files: Sequence[tuple[str, str]]) -> bool:
    return any(result.startswith("differs") for _, result in files)


def _compare(file: LocalFile, stamps: dict[str, FileStamp], progress: Progress) -> str | None:
    """Return why a file is not the recorded one. If it is, add its stamp to `stamps` and return None."""
    if problem := _find_problem(Path(file.location)):
        return problem
    recorded = file.sha256 or file.git_sha1
    if not recorded:
        return "no digest recorded"
    try:
        found = hash_with_progress(Path(file.location), file.path, progress)
    except OSError as error:
        return f"not readable: {error.strerror}"
    if found.get_same_kind(recorded) != recorded:
        verified_files.forget(Path(file.location))  # otherwise a pull would trust the note
        return f"differs: recorded {recorded}, found {found.get_same_kind(recorded)}"
    if found.stamp is None:
        return "modified while it was read"
    verified_files.note_verified(recorded, Path(file.location), found.stamp)
    stamps[file.location] = found.stamp
    return None


def _find_problem(path: Path) -> str | None:
    """Return why a file is not there for this user, or None if it is."""
    try:
        path.stat()
    except PermissionError as error:  # it is in a folder of another user
        return f"not readable: {error.strerror}"
    except OSError:
        return "missing"
    return None


def hash_with_progress(path: Path, name: str, progress: Progress) -> FileDigests:
    """Compute both digests of a file, and report progress.

    Raises:
        OSError: The file can't be read.
    """
    size = path.stat().st_size
    progress(Event("verifying", name, 0, size))
    digests = compute_digests(path, lambda done: progress(Event("progress", name, done, size)))
    progress(Event("done", name, size, size))
    return digests
