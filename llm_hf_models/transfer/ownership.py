"""Exclusive ownership of a partial file among all processes and threads, also after a crash of the owner.

Two mechanisms are combined, because neither suffices alone. The operating system releases an flock (through filelock)
as soon as its owner ends, but some network file systems accept an flock without enforcing it. An owner therefore also
writes its name to a file and touches that file as a heartbeat. A process that gets the flock but finds another owner's
recent heartbeat waits.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from llm_hf_models.errors import InterruptedByUserError, NotWritableError
from llm_hf_models.system.processes import get_own_name, has_ended

HEARTBEAT_SECONDS = 0.5
STALE_SECONDS = 5.0  # ten missed heartbeats: the owner on another machine, or its file system, has failed
OWNER_POLL_SECONDS = 0.25

# The errors of file systems without flock: most local ones, NFS without its lock daemon, some FUSE file systems.
NO_FLOCK_ERRNOS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_own_tokens: set[str] = set()  # tokens of the owners in this process


class OwnershipLostError(Exception):
    """Another process took over a partial because this process seemed to have ended.

    Handled within the download, which then waits for the new owner.
    """


class Owner:
    """The owner of a partial. `lost` is set when another owner took over: nothing may be written from then on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.token = secrets.token_hex(8)
        self.lost = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)

    def claim(self) -> bool:
        """Try to become the owner; return False if there is an active owner or another process was faster."""
        entry = _read_entry(self._path)
        if entry is not None:
            if _is_active(entry, self._path):
                return False
            if not self._remove_stale(entry):
                return False
        _own_tokens.add(self.token)  # before another thread can read the owner file
        written = False
        try:
            written = self._write_owner_file(json.dumps({"token": self.token, "process": get_own_name()}))
        finally:
            if not written:
                _own_tokens.discard(self.token)
        if written:
            self._thread.start()
        return written

    def _write_owner_file(self, text: str) -> bool:
        """Create the owner file atomically; return False if another owner was faster.

        Otherwise a killed process could leave an incomplete file, which names no process and could therefore belong to
        another machine. Other processes would have to wait until it is stale.
        """
        temporary = self._temporary_path
        try:
            temporary.write_text(text, encoding="utf-8")
            os.link(temporary, self._path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with self._path.open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    @property
    def _temporary_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.{self.token}")

    def _remove_stale(self, entry: dict[str, object]) -> bool:
        """Remove the file of a stale owner. Renaming it first ensures that only one of several processes succeeds."""
        temporary = self._temporary_path
        try:
            self._path.rename(temporary)
        except FileNotFoundError:
            return True
        taken = _read_entry(temporary)
        if taken is not None and taken.get("token") != entry.get("token"):  # an active owner has just written it
            with contextlib.suppress(OSError):
                os.link(temporary, self._path)
            temporary.unlink(missing_ok=True)
            return False
        temporary.unlink(missing_ok=True)
        return True

    def _send_heartbeats(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            entry = _read_entry(self._path)
            if entry is None or entry.get("token") != self.token:
                self.lost.set()
                return
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Stop the heartbeat and remove the owner file."""
        self._end.set()
        self._thread.join()
        entry = _read_entry(self._path)
        if entry is not None and entry.get("token") == self.token:
            # Windows refuses while another process reads the file. It then goes stale and the next owner removes it.
            with contextlib.suppress(OSError):
                self._path.unlink()
        _own_tokens.discard(self.token)


def _read_entry(path: Path) -> dict[str, object] | None:
    """Return the content of an owner file: empty if it is invalid, None if there is no file."""
    try:
        entry = json.loads(path.read_text("utf-8"))
    except OSError:
        return None
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _is_active(entry: dict[str, object], path: Path) -> bool:
    """Return whether the owner is active: its process runs or, if that can't be checked, its heartbeat is recent."""
    process = str(entry.get("process"))
    if process == get_own_name():
        return entry.get("token") in _own_tokens
    return not has_ended(process) and _measure_heartbeat_age(path) < STALE_SECONDS


def _measure_heartbeat_age(path: Path) -> float:
    """Return the seconds since the last heartbeat, by the clock of the file system that stores it."""
    probe = path.with_name(f"{path.name}.{secrets.token_hex(4)}.clock")
    try:
        beat = path.stat().st_mtime
        probe.touch()
        return probe.stat().st_mtime - beat
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def acquire_ownership(partial: Path, stop: threading.Event, on_wait: Callable[[], None]) -> Iterator[Owner]:
    """Own `partial` exclusively in this thread; wait while there is another active owner.

    Args:
        partial: the partial file; the lock file and the owner file are next to it.
        stop: ends the wait.
        on_wait: called four times a second while another process or thread owns the file.

    Raises:
        InterruptedByUserError: `stop` was set during the wait.
        NotWritableError: the folder is not writable.
    """
    # Without flock, filelock would fall back to a lock file that counts as long as it exists, even after a kill.
    lock = FileLock(partial.with_name(f"{partial.name}.lock"), fallback_to_soft=False)
    while True:
        if stop.is_set():
            raise InterruptedByUserError("Stopped while another process was downloading this file")
        owner = Owner(partial.with_name(f"{partial.name}.owner"))
        if _try_lock(lock, partial):
            try:
                claimed = owner.claim()
            except OSError as error:
                lock.release()
                raise NotWritableError(f"Can't write to {partial.parent}", cause=error.strerror) from None
            if claimed:
                break
            lock.release()
        on_wait()
        stop.wait(OWNER_POLL_SECONDS)
    try:
        yield owner
    finally:
        try:
            owner.release()
        finally:
            lock.release()


def _try_lock(lock: FileLock, partial: Path) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        if error.errno in NO_FLOCK_ERRNOS:
            return True  # the owner file and its heartbeat alone decide
        raise NotWritableError(f"Can't write to {partial.parent}", cause=error.strerror) from None
    return True


def count_owning_processes(partials: Iterable[Path]) -> int:
    """Return how many processes, on this or other machines, own at least one of these files."""
    processes = set()
    for partial in partials:
        path = partial.with_name(f"{partial.name}.owner")
        entry = _read_entry(path)
        if entry is not None and _is_active(entry, path):
            processes.add(entry.get("process"))
    return len(processes)


def is_owned(partial: Path) -> bool:
    """Return whether a process owns the file."""
    return count_owning_processes([partial]) > 0
