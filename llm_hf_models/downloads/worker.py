"""The process that carries out queued downloads. One for each library; outlives the terminal and the agent.

Started by `ensure`, it leaves when the queue is empty. Nobody can ask it for a passphrase, and its environment is that
of who started it: so who asks hands it the token (downloads/token_handoff.py).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from llm_hf_models import paths, settings
from llm_hf_models.context import Context
from llm_hf_models.downloads import token_handoff
from llm_hf_models.downloads.token_handoff import HandedToken, TokenInbox
from llm_hf_models.errors import HfModelsError, LibraryBusyError
from llm_hf_models.library.download_records import ACTIVE_STATES, RUNNING_STATES, Download
from llm_hf_models.system.disk import translate_disk_error
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from llm_hf_models.hub.tokens import Token

IDLE_SECONDS = 0.5
TOKEN_ON_STDIN = "--token-follows"  # noqa: S105 - on standard input
LOCK_SECONDS = 2.0  # `ensure` holds the lock for a moment too, to see whether it is free
MAX_LOG_BYTES = 1_000_000
MAX_QUOTED_CHARS = 200  # characters of it that a row quotes

# What a session of its own is called on Windows: CREATE_NEW_PROCESS_GROUP and DETACHED_PROCESS.
DETACHED = 0x208 if sys.platform == "win32" else 0


def lock_path() -> Path:
    """Held by the worker while it lives."""
    return paths.data_dir() / "worker.lock"


def log_path() -> Path:
    """Where the worker writes what no row can hold."""
    return paths.data_dir() / "worker.log"


def is_running() -> bool:
    """Whether there is one; one that only just starts doesn't count yet.

    Raises:
        StorageError: nobody can tell.
    """
    lock = FileLock(lock_path())
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError as error:
        raise translate_disk_error(error, paths.data_dir(), 0, 0) from None
    lock.release()
    return False


def read_last_error(since: float) -> str | None:
    """What the last worker ended with, if its log was written after that time (Unix seconds), and where that stands."""
    path = log_path()
    try:
        lines = path.read_text("utf-8", "replace").split("\n") if path.stat().st_mtime >= since else []
    except OSError:
        return None
    said = [line for line in lines if line.strip()]
    return f"{clean_text(said[-1], MAX_QUOTED_CHARS)} ({path})" if said else None


def ensure_running(context: Context, *, ask: bool) -> None:
    """Starts a worker unless one lives. Call it after the row is queued: a worker looks once more before it leaves.

    Args:
        context: whose token it may need; settings and library are found by the environment, which it inherits.
        ask: a person may be asked for the passphrase of the encrypted token file, for a worker that starts now.

    Raises:
        StorageError: nobody can tell whether one lives.
    """
    if is_running():
        return
    handed = token_handoff.find_token_for_worker(context) if ask else None
    with log_path().open("ab") as log:
        if log.tell() > MAX_LOG_BYTES:
            log.truncate(0)
        child = subprocess.Popen(
            [sys.executable, "-m", "llm_hf_models.downloads.worker", *([TOKEN_ON_STDIN] if handed else [])],
            stdin=subprocess.PIPE if handed else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=paths.data_dir(),
            env={**os.environ, **_list_folders()},
            start_new_session=True,  # closing a terminal does not end it
            creationflags=DETACHED,
        )
    if handed and child.stdin is not None:
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(token_handoff.dump_token(handed).encode())


def _list_folders() -> dict[str, str]:
    """Where this process keeps things, for one that works in another folder: as written, they may be relative."""
    folders = {
        "LLM_USER_PATH": paths.user_dir(),
        "HF_HOME": settings.hf_home(),
        "HF_HUB_CACHE": settings.cache_dir(),
    }
    return {name: str(folder.absolute()) for name, folder in folders.items()}


@dataclass(frozen=True)
class WorkerContext(Context):
    """The context of a process that nobody can be asked in. `handed` is a token of who asked."""

    handed: HandedToken | None = None

    def command_log(self) -> Path | None:
        """A file of its own: the worker's log tells what became of the worker."""
        return paths.data_dir() / "on_done.log"

    @property
    def withholds_token(self) -> bool:
        """As in any context, but for the token that was handed for this very Hub."""
        return not self._is_for_this_hub and super().withholds_token

    @property
    def _is_for_this_hub(self) -> bool:
        return self.handed is not None and self.handed.endpoint == self.endpoint()

    def token(self) -> Token | None:
        """The handed one, where none has been found since that comes before it; else what this process finds."""
        own = None if super().withholds_token else self._found_token()
        return self.handed.choose_token(own) if self.handed is not None and self._is_for_this_hub else own


class Worker:
    """Claims queued downloads and carries them out in threads, as many at a time as the settings allow.

    A background download that runs and is not this worker's own was a dead one's: it is waited for until its signs
    of life are old enough to take it over.
    """

    def __init__(self, context: WorkerContext, inbox: TokenInbox) -> None:
        self._context, self._inbox = context, inbox
        self._threads: dict[int, threading.Thread] = {}
        self._changed = threading.Event()

    def run(self) -> None:
        """Works until nothing is queued and nothing runs."""
        while True:
            self._threads = {number: thread for number, thread in self._threads.items() if thread.is_alive()}
            try:
                row, live = self._read_queue()
                at_once = self._context.settings().concurrent_downloads
            except HfModelsError as error:  # one by which what runs need not end
                if not self._threads and not isinstance(error, LibraryBusyError):
                    raise
                self._changed.wait(IDLE_SECONDS)
                continue
            abandoned = any(other.background and other.id not in self._threads for other in live)
            if row is None and not self._threads and not abandoned:
                return
            stale = self._context.stale_seconds()
            busy = sum(other.is_owner_running(stale_seconds=stale) for other in live)
            # A thread that was started and has not claimed its row yet is not counted as busy: one at a time.
            waits = busy >= at_once or len(self._threads) > busy
            if row is None or row.id in self._threads or waits:
                self._changed.wait(IDLE_SECONDS)
                self._changed.clear()
            else:
                self._threads[row.id] = threading.Thread(
                    target=self._run_download, args=(row,), name=f"download {row.id}"
                )
                self._threads[row.id].start()

    def _read_queue(self) -> tuple[Download | None, list[Download]]:
        """The row to claim next, and those that run now in any process, or did when it died."""
        stale = self._context.stale_seconds()
        with self._context.open_library() as db:
            cancelled = db.pause_abandoned(stale_seconds=stale)
            found = db.find_next_download(stale_seconds=stale), db.list_downloads(states=RUNNING_STATES)
        if cancelled:
            from llm_hf_models.downloads.pull import remove_cancelled_files  # late, as below

            remove_cancelled_files(self._context, cancelled)
        return found

    def _run_download(self, row: Download) -> None:
        from llm_hf_models.downloads.pull import (
            run_queued_download,  # late: who only starts a worker should not wait for it
        )

        try:
            handed = self._inbox.get_token(row.id) or self._context.handed
            run_queued_download(replace(self._context, handed=handed), row)
        except HfModelsError as error:
            try:
                if isinstance(error, LibraryBusyError):
                    raise
                self._fail_unclaimed(row, error)
            except HfModelsError:  # a library on a full disk takes not even that
                time.sleep(IDLE_SECONDS)  # and then it is tried again: now and then, not all the time
                return
        self._changed.set()

    def _fail_unclaimed(self, row: Download, error: HfModelsError) -> None:
        """A row that could not even be begun fails, rather than being begun for ever; others say it themselves.

        One that waited, or a dead one's: both as they were when they were looked at.
        """
        stale = self._context.stale_seconds()
        with self._context.open_library() as db, db.transaction():
            now = db.get_download(row.id)
            if now is None or now.state not in ACTIVE_STATES or now.is_owner_running(stale_seconds=stale):
                return
            if (now.owner, now.attempts) == (row.owner, row.attempts):
                db.update_download(row.id, state="failed", error=error.message)
                db.add_note(row.id, "failed", error.message)


def main() -> None:
    """The worker process: holds the lock while there is work, and looks once more after letting it go."""
    handed = token_handoff.load_token(sys.stdin.read()) if TOKEN_ON_STDIN in sys.argv else None
    context, inbox = WorkerContext("worker", handed=handed), TokenInbox()
    while True:
        try:
            with FileLock(lock_path(), timeout=LOCK_SECONDS), inbox:
                Worker(context, inbox).run()
        except Timeout:
            return
        if not _has_queued_downloads(context):
            return


def _has_queued_downloads(context: Context) -> bool:
    try:
        with context.open_downloads() as db:
            return db.find_next_download(stale_seconds=context.stale_seconds()) is not None
    except LibraryBusyError:
        return True  # nobody knows: one more round, which waits until it can be told


if __name__ == "__main__":
    main()
