"""Link identical files of several repos in the Hugging Face cache: each becomes a hard link to the same file.

Only blobs of repos are replaced, and only by files with the same sha256 on the same file system. Each file is hashed
unless it was verified in its current state. huggingface_hub removes a blob by its name, so removing one repo leaves
the other names of the file intact.

A replaced blob keeps its proof: its note is written before the link is made, with the stamp of the file that stays.
After a kill, only the ctime of that file differs, and the next prompt hashes it again (library/file_states.py).
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.disk_space.types import Deduplication, DuplicateFile, SkippedFile
from llm_hf_models.downloads.file_verifier import FileVerifier
from llm_hf_models.downloads.local_files import build_partial_path
from llm_hf_models.errors import NotWritableError
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.cache_files import lock_download
from llm_hf_models.hub.types import HubFile
from llm_hf_models.system import verified_files
from llm_hf_models.system.disk import count_freed_bytes, list_matches, sync_folder
from llm_hf_models.system.hashing import FileStamp, read_stamp
from llm_hf_models.system.ownership import is_owned
from llm_hf_models.transfer.types import Progress

_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_BITS = 0o444


@dataclass(frozen=True)
class _Blob:
    """A blob of a repo. Its name is the sha256 that the Hub recorded."""

    path: Path
    status: os.stat_result  # of the file that the path leads to
    is_link: bool  # into the store of blobs that repos share: never replaced

    @property
    def identity(self) -> tuple[int, int]:
        return self.status.st_dev, self.status.st_ino

    def is_readable_for_readers_of(self, other: _Blob) -> bool:
        """Return whether everyone who can read the other file can read this one, and it has the same owner."""
        mine, others = self.status, other.status
        is_same = (mine.st_uid, mine.st_gid) == (others.st_uid, others.st_gid)
        return is_same and not others.st_mode & ~mine.st_mode & _READ_BITS


def deduplicate(context: Context, progress: Progress, stop: threading.Event, *, dry_run: bool) -> Deduplication:
    """Link the identical files in the cache. With `dry_run`, compare only names and sizes, and change nothing.

    Raises:
        InterruptedByUserError: `stop` was set. The files that were linked so far stay linked.
    """
    cache = context.cache_dir()
    linker = _Linker(cache, FileVerifier(progress, stop), dry_run=dry_run)
    for group in _find_groups(cache):
        linker.link_group(group)
    if linker.stamps and not dry_run:
        _record_stamps(context, linker.stamps)
    freed = sum(file.freed_bytes for file in linker.files)
    return Deduplication(tuple(linker.files), tuple(linker.skipped), freed, done=not dry_run)


def _find_groups(cache: Path) -> Iterator[list[_Blob]]:
    """Yield the blobs with the same name and size on the same file system, if they are more than one file."""
    groups: dict[tuple[str, int, int], list[_Blob]] = {}
    for path in sorted(list_matches(cache, "*--*/blobs/*")):
        if _SHA256.fullmatch(path.name) and (blob := _read_blob(path)):
            groups.setdefault((path.name, blob.status.st_size, blob.status.st_dev), []).append(blob)
    for group in groups.values():
        if len({blob.identity for blob in group}) > 1:
            yield group


def _read_blob(path: Path) -> _Blob | None:
    try:
        is_link, status = path.is_symlink(), path.stat()
    except OSError:
        return None
    return _Blob(path, status, is_link) if stat.S_ISREG(status.st_mode) and status.st_size else None


class _Linker:
    """Links the files of one group after the other."""

    def __init__(self, cache: Path, verifier: FileVerifier, *, dry_run: bool) -> None:
        self._work, self._verifier, self._dry_run = cache_layout.cache_work_folder(cache), verifier, dry_run
        self.files: list[DuplicateFile] = []
        self.skipped: list[SkippedFile] = []
        self._proof: FileStamp | None = None  # the stamp of the file that stays, when its digest was verified
        self.stamps: dict[Path, tuple[str, FileStamp]] = {}  # by real path: the digest, and the stamp now

    def link_group(self, group: Sequence[_Blob]) -> None:
        """Replace each file of a group by a link to the file that most others can be replaced by."""
        kept = max(group, key=lambda blob: (sum(map(blob.is_readable_for_readers_of, group)), blob.status.st_nlink))
        size, digest = kept.status.st_size, kept.path.name
        files: dict[tuple[int, int], list[_Blob]] = {}
        for blob in group:
            if blob.identity != kept.identity:
                files.setdefault(blob.identity, []).append(blob)
        self._proof = None
        for names in files.values():
            freed = count_freed_bytes(blob.path for blob in names)
            done = [blob for blob in names if self._replace(kept, blob)]
            for number, blob in enumerate(done):
                is_freed = len(done) == len(names) and number == len(done) - 1
                self.files.append(DuplicateFile(digest, size, str(kept.path), str(blob.path), freed if is_freed else 0))
        if self._proof is not None:
            self._note_stamps(group, self._proof)

    def _replace(self, kept: _Blob, blob: _Blob) -> bool:
        reason = self._find_obstacle(kept, blob)
        if reason is None and not self._dry_run:
            reason = self._link(kept, blob)
        if reason:
            self.skipped.append(SkippedFile(str(blob.path), reason))
        return reason is None

    def _find_obstacle(self, kept: _Blob, blob: _Blob) -> str | None:
        if blob.is_link:
            return "it is a link into the blobs that huggingface_hub shares"
        if not kept.is_readable_for_readers_of(blob):
            return "the other file has another owner, group or mode"
        if not os.access(blob.path.parent, os.W_OK):
            return "its folder can't be written"
        return "it is being downloaded" if is_owned(build_partial_path(self._work, blob.path.name)) else None

    def _link(self, kept: _Blob, blob: _Blob) -> str | None:
        """Replace one blob. Return the reason if that is not possible."""
        file = HubFile(blob.path.name, blob.status.st_size, sha256=blob.path.name)
        stamp = self._verifier.verify(file, kept.path)
        own_stamp = self._verifier.verify(file, blob.path)
        if stamp is None or own_stamp is None:
            return "its content, or that of the other file, does not match its name"
        with lock_download(blob.path) as is_locked:
            if not is_locked:
                return "it is being downloaded"
            try:
                if blob.path.is_symlink() or read_stamp(blob.path) != own_stamp:
                    return "it was modified meanwhile"
                self._work.mkdir(parents=True, exist_ok=True)
                verified_files.note_verified(file.etag, blob.path, stamp)
                if not cache_layout.try_hard_link(kept.path, blob.path, self._work):
                    verified_files.note_verified(file.etag, blob.path, own_stamp)
                    return "the file system allows no hard link to the other file"
                sync_folder(blob.path.parent)
                verified_files.note_again(file.etag, kept.path, stamp)
                self._proof = stamp
            except OSError as error:
                return error.strerror or "it can't be replaced"
        return None

    def _note_stamps(self, group: Sequence[_Blob], proof: FileStamp) -> None:
        """Renew the notes of all names of the file that stayed: each new link has changed its ctime."""
        for blob in group:
            real = blob.path.resolve()
            with suppress(OSError):
                stamp = read_stamp(real)
                if stamp.has_same_content_as(proof):
                    verified_files.note_verified(blob.path.name, real, stamp)
                    self.stamps[real] = blob.path.name, stamp


def _record_stamps(context: Context, stamps: dict[Path, tuple[str, FileStamp]]) -> None:
    """Record the new stamps of the files of local models. In a read-only library, the notes serve as the proof."""
    with context.open_database() as db:
        for model in db.list_models():
            changed = {
                file.location: stamp
                for file in model.files
                for digest, stamp in (stamps.get(Path(os.path.realpath(file.location)), ("", None)),)
                if stamp is not None and digest == file.sha256
            }
            if changed:
                try:
                    db.record_verified_files(model.model_id, changed)
                except NotWritableError:
                    return
