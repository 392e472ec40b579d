"""Owners of downloads and files: their names, whether they are running, and exclusive ownership of a file.

An owner is one attempt of a process at some work. It has a unique name and sends heartbeats, either to its row in the
library or by touching an owner file. `is_owner_running` is the one rule for both.

Exclusive ownership of a file combines an owner file with an flock, because neither suffices alone. The operating system
keeps an flock (through filelock) while its owner is suspended, and releases it as soon as the owner ends, but some
network file systems accept an flock without enforcing it. A process that gets the flock but finds another running owner
waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models.system.disk import translate_disk_error
from llm_hf_models.system.private_files import FILE_MODE
from llm_hf_models.system.processes import get_own_name, has_ended

if TYPE_CHECKING:
    from filelock import BaseFileLock

SHARED_MODE = 0o666  # the umask applies
HEARTBEAT_SECONDS = 0.5  # of the owner of a file
POLL_SECONDS = 0.05  # between two attempts to own a file
STALE_SECONDS = 5.0  # ten missed heartbeats: the owner on another machine, or its file system, has failed

# The errors of file systems without flock: most local ones, NFS without its lock daemon, some FUSE file systems.
NO_FLOCK_ERRNOS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


class OwnedByOtherError(Exception):
    """Another owner owns the file. Handled by the caller of `acquire_ownership`."""


def make_owner_name() -> str:
    """Return a unique name for one attempt of this process. `has_ended` accepts it like the name of the process."""
    return f"{get_own_name()}/{secrets.token_hex(6)}"


def is_owner_running(name: str, heartbeat_age: float, stale_seconds: float) -> bool:
    """Return False if the process of an owner has certainly ended, and otherwise whether its heartbeat is recent.

    Only the heartbeat can tell for a process of another machine or container. A process that was suspended, or whose
    machine slept, finds with its next heartbeat whether another owner took over.

    Args:
        name: the name of the owner.
        heartbeat_age: the seconds since its last heartbeat. It is negative if the clock was set back since; a running
            owner soon sends another one.
        stale_seconds: the age at which a heartbeat is stale.
    """
    return abs(heartbeat_age) <= stale_seconds and not has_ended(name)


class Owner:
    """The owner of a file. `lost` is set when another owner took over: nothing may be written from then on."""

    def __init__(self, path: Path, *, private: bool) -> None:
        """`path` is the owned file. If `private`, no other user can read its owner file."""
        self._mode = FILE_MODE if private else SHARED_MODE
        self._path = _get_owner_file(path)
        self._name = make_owner_name()
        self._temporary = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
        self.lost = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)

    def claim(self) -> bool:
        """Try to become the owner; return False if there is a running owner or another process was faster."""
        found = _read_name(self._path)
        if found is not None and (_is_running(self._path, found) or not self._remove_stale(found)):
            return False
        if not self._create_owner_file():
            return False
        self._thread.start()
        return True

    def _create_owner_file(self) -> bool:
        """Create the owner file atomically; return False if another owner was faster.

        Otherwise a killed process could leave an incomplete file, which names no process and could therefore belong to
        another machine. Other processes would have to wait until it is stale.
        """
        try:
            self._write_new_file(self._temporary)
            os.link(self._temporary, self._path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                self._write_new_file(self._path)
            except FileExistsError:
                return False
        finally:
            self._temporary.unlink(missing_ok=True)
        return True

    def _write_new_file(self, path: Path) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode), "w", encoding="utf-8") as file:
            file.write(self._name)

    def _remove_stale(self, stale: str) -> bool:
        """Remove the file of a stale owner. Renaming it first ensures that only one of several processes succeeds."""
        try:
            self._path.rename(self._temporary)
        except FileNotFoundError:
            return True
        is_stale = _read_name(self._temporary) == stale
        if not is_stale:  # a running owner has just written it
            with contextlib.suppress(OSError):
                os.link(self._temporary, self._path)
        self._temporary.unlink(missing_ok=True)
        return is_stale

    def _send_heartbeats(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            if _read_name(self._path) != self._name:
                self.lost.set()
                return
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Stop the heartbeat and remove the owner file."""
        self._end.set()
        self._thread.join()
        if _read_name(self._path) == self._name:
            try:
                self._path.unlink()
            except OSError:  # Windows refuses while another process reads the file: make it stale instead
                with contextlib.suppress(OSError):
                    os.utime(self._path, (0, 0))


def _get_owner_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _read_name(owner_file: Path) -> str | None:
    """Return the name in an owner file, or None if there is no file."""
    try:
        return owner_file.read_text("utf-8", "replace")
    except OSError:
        return None


def _is_running(owner_file: Path, name: str) -> bool:
    return is_owner_running(name, _measure_heartbeat_age(owner_file), STALE_SECONDS)


def _measure_heartbeat_age(owner_file: Path) -> float:
    """Return the seconds since the last heartbeat, by the clock of the file system that stores it."""
    probe = owner_file.with_name(f"{owner_file.name}.{secrets.token_hex(4)}.clock")
    try:
        beat = owner_file.stat().st_mtime
        probe.touch(FILE_MODE)
        return probe.stat().st_mtime - beat
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def acquire_ownership(
    path: Path, wait: Callable[[], object] | None = None, *, private: bool = False
) -> Iterator[Owner]:
    """Own the file `path` exclusively in this thread.

    Args:
        path: the file, which need not exist. The lock file and the owner file are next to it.
        wait: called before each further attempt while there is another owner. It waits a moment, or raises an exception
            to give up. Without it, there is one attempt.
        private: no other user can read the lock file and the owner file. Otherwise they follow the umask, because
            several users may share a Hugging Face cache.

    Raises:
        OwnedByOtherError: there is another owner, and `wait` is None.
        StorageError: the folder is not writable.
    """
    from filelock import FileLock  # imported late: most commands own nothing

    # Without flock, filelock would fall back to a lock file that counts as long as it exists, even after a kill.
    lock = path.with_name(f"{path.name}.lock")
    if private:
        flock = FileLock(lock, timeout=0, fallback_to_soft=False, mode=FILE_MODE)
    else:
        flock = FileLock(lock, timeout=0, fallback_to_soft=False)
    owner = Owner(path, private=private)
    while not _try_acquire(flock, owner, path.parent):
        if wait is None:
            raise OwnedByOtherError(path)
        wait()
    try:
        yield owner
    finally:
        try:
            owner.release()
        finally:
            flock.release()


def wait_at_most(seconds: float, error: Exception) -> Callable[[], None]:
    """Return a `wait` for `acquire_ownership` that raises `error` when this many seconds have passed from now."""
    deadline = time.monotonic() + seconds

    def wait() -> None:
        if time.monotonic() >= deadline:
            raise error
        time.sleep(POLL_SECONDS)

    return wait


def _try_acquire(flock: BaseFileLock, owner: Owner, folder: Path) -> bool:
    claimed = False
    try:
        if _try_lock(flock):
            claimed = owner.claim()
    except OSError as error:
        raise translate_disk_error(error, folder, 0, 0) from None
    finally:
        if not claimed:
            flock.release()
    return claimed


def _try_lock(flock: BaseFileLock) -> bool:
    from filelock import Timeout

    try:
        flock.acquire()
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in NO_FLOCK_ERRNOS:  # without flock, the owner file and its heartbeat alone decide
            raise
    return True


def count_owning_processes(paths: Iterable[Path]) -> int:
    """Return how many processes, on this or other machines, own at least one of these files."""
    found = [(owner_file, _read_name(owner_file)) for owner_file in map(_get_owner_file, paths)]
    return len({name.rpartition("/")[0] for file, name in found if name is not None and _is_running(file, name)})


def is_owned(path: Path) -> bool:
    """Return whether a process owns the file."""
    return count_owning_processes([path]) > 0
