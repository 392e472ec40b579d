"""One owner for a partial file, among all processes and threads. Not a general lock: it knows that owners die.

Two means together, since neither is enough. An flock (through filelock) is let go of by the system the instant its
owner dies, but some network file systems accept it without keeping it. So an owner also writes its name into a file and
touches that file while it lives; whoever gets the flock and finds a fresh, foreign name there waits all the same.
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
STALE_SECONDS = 5.0  # ten missed heartbeats: an owner on another machine is dead, or its file system is
OWNER_POLL_SECONDS = 0.25

# What file systems without flock say: the kernel for most, NFS without its lock daemon, some FUSE ones.
NO_FLOCK_ERRNOS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_own_tokens: set[str] = set()  # tokens of owners that live in this process


class OwnershipLostError(Exception):
    """Another process took a partial over, thinking us dead. Never leaves a download: it waits for that one then."""


class Owner:
    """Who holds a partial. `lost` is set when somebody else has taken it over: then nothing may be written any more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.token = secrets.token_hex(8)
        self.lost = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)

    def claim(self) -> bool:
        """Whether the name could be written: False when another owner lives, or was quicker."""
        found = _read_owner(self._path)
        if found is not None:
            if _is_active(found, self._path):
                return False
            if not self._remove_stale(found):
                return False
        _own_tokens.add(self.token)  # before the name can be read
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
        """Whether our name stands there now; False when another owner was quicker.

        It is whole from the first instant: one that a kill cut short can't be told from another machine's, and holds
        all others up until it is old.
        """
        aside = self._temporary_path
        try:
            aside.write_text(text, encoding="utf-8")
            os.link(aside, self._path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with self._path.open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    @property
    def _temporary_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.{self.token}")

    def _remove_stale(self, found: dict[str, object]) -> bool:
        """Takes a dead owner's name away; a rename, since of two that try only one succeeds."""
        aside = self._temporary_path
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return True
        taken = _read_owner(aside)
        if taken is not None and taken.get("token") != found.get("token"):  # a live owner's, written just now
            with contextlib.suppress(OSError):
                os.link(aside, self._path)
            aside.unlink(missing_ok=True)
            return False
        aside.unlink(missing_ok=True)
        return True

    def _send_heartbeats(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            found = _read_owner(self._path)
            if found is None or found.get("token") != self.token:
                self.lost.set()
                return
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Ends the ownership."""
        self._end.set()
        self._thread.join()
        found = _read_owner(self._path)
        if found is not None and found.get("token") == self.token:
            # Windows refuses while somebody reads it: then it goes stale, and the next owner takes it away.
            with contextlib.suppress(OSError):
                self._path.unlink()
        _own_tokens.discard(self.token)


def _read_owner(path: Path) -> dict[str, object] | None:
    """Who is named there; an empty name for a file that can't be read as one, None for no file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_active(found: dict[str, object], path: Path) -> bool:
    """Whether an owner is to be waited for: its process is there, or, where that can't be told, its heartbeat."""
    process = str(found.get("process"))
    if process == get_own_name():
        return found.get("token") in _own_tokens
    return not has_ended(process) and _measure_heartbeat_age(path) < STALE_SECONDS


def _measure_heartbeat_age(path: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system that holds it."""
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
    """Holds `partial` for this thread alone; waits for another owner to finish or die.

    Args:
        partial: the file in question; the lock and the owner's name stand beside it.
        stop: ends the waiting.
        on_wait: called four times a second while another one owns the file.

    Raises:
        InterruptedByUserError: `stop` was set while waiting.
        NotWritableError: the folder can't be written.
    """
    # Without flock filelock would let the lock file's mere existence decide, which on another machine outlives a kill.
    lock = FileLock(partial.with_name(f"{partial.name}.lock"), fallback_to_soft=False)
    while True:
        if stop.is_set():
            raise InterruptedByUserError("Stopped while another process downloads this file")
        owner = Owner(partial.with_name(f"{partial.name}.owner"))
        if _try_lock(lock, partial):
            try:
                claimed = owner.claim()
            except OSError as error:
                lock.release()
                raise NotWritableError(f"Can't write in {partial.parent}", cause=error.strerror) from None
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
            return True  # the owner's name and heartbeat decide alone
        raise NotWritableError(f"Can't write in {partial.parent}", cause=error.strerror) from None
    return True


def count_owning_processes(partials: Iterable[Path]) -> int:
    """How many processes, here or on other machines, own one or more of these files now."""
    found = set()
    for partial in partials:
        path = partial.with_name(f"{partial.name}.owner")
        name = _read_owner(path)
        if name is not None and _is_active(name, path):
            found.add(name.get("process"))
    return len(found)


def is_owned(partial: Path) -> bool:
    """Whether a process owns the file now."""
    return count_owning_processes([partial]) > 0
