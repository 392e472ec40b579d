"""Verify the files of one download, and keep them verified while they are linked and moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from llm_hf_models.errors import InterruptedByUserError
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.types import HubFile
from llm_hf_models.system import verified_files
from llm_hf_models.system.disk import sync_folder
from llm_hf_models.system.hashing import FileStamp, compute_digests, read_stamp
from llm_hf_models.transfer.download_file import TICK_SECONDS
from llm_hf_models.transfer.types import Event, Progress

MAX_ATTEMPTS = 3  # to hash a file that another process links or modifies meanwhile


class FileVerifier:
    """Compares files with their digests. Each file is hashed once, until it changes."""

    def __init__(self, progress: Progress, stop: threading.Event) -> None:
        self._progress, self._stop = progress, stop
        self._linked: dict[str, Path] = {}  # by etag: the file to which `link` gave a second name
        self._mismatched: set[tuple[str, FileStamp]] = set()  # files with a wrong digest, which are not hashed again

    def verify(self, file: HubFile, location: Path) -> FileStamp | None:
        """Return the stamp of the file at `location` if it has the right digest, else None."""
        for _ in range(MAX_ATTEMPTS):
            try:
                stamp = read_stamp(location)
            except OSError:
                return None
            if stamp.size != file.size or not location.is_file() or (file.etag, stamp) in self._mismatched:
                return None
            if verified_files.is_verified(file.etag, location, stamp):
                return stamp
            digests = compute_digests(location, self.report_hashing(file))
            if digests.stamp != stamp:
                continue  # it changed while it was hashed
            if digests.get_same_kind(file.etag) != file.etag:
                self._mismatched.add((file.etag, stamp))
                return None
            verified_files.note_verified(file.etag, location, stamp)
            return stamp
        return None

    def link(self, file: HubFile, existing: Path, target: Path) -> bool:
        """Give a verified file a second name. Return False if that is not possible."""
        stamp = self.verify(file, existing)
        if stamp is None or not cache_layout.try_hard_link(existing, target):
            return False
        self._linked[file.etag] = existing
        verified_files.note_again(file.etag, existing, stamp)
        verified_files.note_again(file.etag, target, stamp)
        return True

    def link_into_snapshot(self, file: HubFile, blob: Path, path: Path) -> None:
        """Link a blob to its path in a snapshot. Without symlinks, the blob is moved there.

        Raises:
            OSError: The blob could neither be linked nor moved.
        """
        stamp = self.verify(file, blob)
        cache_layout.link_into_snapshot(blob, path)
        if stamp is not None and not path.is_symlink():
            verified_files.note_again(file.etag, path, stamp)
            verified_files.forget(blob)

    def move(self, file: HubFile, whole: Path, location: Path) -> None:
        """Rename a complete file to its final name. A file with the wrong digest is removed instead.

        Raises:
            FileNotFoundError: There is no file with the right digest, under either name.
        """
        try:
            stamp = self.verify(file, whole)
            if stamp is None:
                whole.unlink(missing_ok=True)  # another program wrote it, or another process has moved it already
            elif location.exists() and whole.samefile(location):
                whole.unlink()  # another process hard-linked it; renaming one link to the other would do nothing
            else:
                whole.replace(location)
            if stamp is not None:
                for path in {location, self._linked.get(file.etag, location)}:
                    verified_files.note_again(file.etag, path, stamp)
        except FileNotFoundError:  # another process has moved it in the meantime
            pass
        verified_files.forget(whole)
        if self.verify(file, location) is None:
            raise FileNotFoundError(f"{location} was removed or modified by another program")
        sync_folder(location.parent)

    def report_hashing(self, file: HubFile) -> Callable[[int], None]:
        """Return a callable that reports the progress of hashing, at most ten times a second."""
        reported_at = time.monotonic()
        self._progress(Event("verifying", file.path, 0, file.size))

        def report(done: int) -> None:
            nonlocal reported_at
            if self._stop.is_set():
                raise InterruptedByUserError(f"Stopped while verifying {file.path}")
            if time.monotonic() - reported_at >= TICK_SECONDS or done == file.size:
                reported_at = time.monotonic()
                self._progress(Event("verifying", file.path, done, file.size))

        return report
