"""Run the worker, a process that carries out queued downloads.

`ensure_running` starts it, it keeps running when the terminal or the agent ends, and it exits when the queue is empty.
It can't ask for a passphrase, and it has the environment of the process that started it, which passes its token on
(downloads/token_handoff.py). There is one worker for each library, unless downloads need different tokens: each token
then has its own worker. A download without a token is carried out by any worker.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llm_hf_models import paths, settings
from llm_hf_models.context import Context
from llm_hf_models.downloads import token_handoff
from llm_hf_models.downloads.token_handoff import HandedToken
from llm_hf_models.errors import HfModelsError, LibraryBusyError
from llm_hf_models.library.download_records import ACTIVE_STATES, RUNNING_STATES, Download
from llm_hf_models.redaction import redact_stderr
from llm_hf_models.system.disk import translate_disk_error
from llm_hf_models.system.ownership import OwnedByOtherError, acquire_ownership, is_owned
from llm_hf_models.system.private_files import append_to_private_file
from llm_hf_models.system.processes import wait_in_background
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from llm_hf_models.hub.tokens import Token
    from llm_hf_models.library.downloads import DownloadTables

IDLE_SECONDS = 0.5
TOKEN_ON_STDIN = "--token-follows"  # noqa: S105 - an option, not a token
MAX_LOG_BYTES = 1_000_000
MAX_QUOTED_CHARS = 200  # maximum length of a log line that is stored in a row

# On Windows, CREATE_NEW_PROCESS_GROUP and DETACHED_PROCESS start a separate session.
DETACHED = 0x208 if sys.platform == "win32" else 0


def get_worker_path(fingerprint: str | None = None) -> Path:
    """Return the path that the worker for a token owns while it runs; None is the worker without a token."""
    return paths.data_dir() / (f"worker-{fingerprint}" if fingerprint else "worker")


def log_path() -> Path:
    """Return the path of the worker's log, which has the errors that belong to no row."""
    return paths.data_dir() / "worker.log"


def is_running(fingerprint: str | None = None) -> bool:
    """Return True if the worker for a token is running; for None, if any worker is.

    A worker that has only just been started does not count yet.
    """
    if fingerprint is not None:
        return is_owned(get_worker_path(fingerprint))
    return any(is_owned(path.with_suffix("")) for path in paths.data_dir().glob("worker*.owner"))


def read_last_error(since: float) -> str | None:
    """Return the last line of the worker's log and the log's path, or None if the log is older than `since`.

    Args:
        since: A time in Unix seconds.
    """
    path = log_path()
    try:
        lines = path.read_text("utf-8", "replace").split("\n") if path.stat().st_mtime >= since else []
    except OSError:
        return None
    messages = [line for line in lines if line.strip()]
    return f"{clean_text(messages[-1], MAX_QUOTED_CHARS)} ({path})" if messages else None


def ensure_running(fingerprint: str | None, token: HandedToken | None) -> None:
    """Start a worker unless one that carries out the download is running.

    Call this after the row is queued: a worker checks the queue once more before it exits. The worker inherits the
    environment, and finds settings and library by it.

    Args:
        fingerprint: The fingerprint of the token that the row needs, if any.
        token: The token that a new worker is started with.

    Raises:
        StorageError: The worker's log can't be written.
    """
    if is_running(fingerprint):
        return
    with _open_log() as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "llm_hf_models.downloads.worker", *([TOKEN_ON_STDIN] if token else [])],
            stdin=subprocess.PIPE if token else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=paths.data_dir(),
            env={**os.environ, **_make_folder_variables()},
            start_new_session=True,  # closing the terminal does not end it
            creationflags=DETACHED,
        )
    if token and child.stdin is not None:
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(token_handoff.dump_token(token).encode())
    wait_in_background(child)


def _open_log() -> BinaryIO:
    try:
        log = append_to_private_file(log_path())
        if log.tell() > MAX_LOG_BYTES:
            log.truncate(0)
    except OSError as error:
        raise translate_disk_error(error, paths.data_dir(), 0, 0) from None
    return log


def _make_folder_variables() -> dict[str, str]:
    """Return environment variables with absolute paths of this process's folders: the worker runs in another folder."""
    folders = {
        "LLM_USER_PATH": paths.user_dir(),
        "HF_HOME": settings.hf_home(),
        "HF_HUB_CACHE": settings.cache_dir(),
    }
    return {name: str(folder.absolute()) for name, folder in folders.items()}


@dataclass(frozen=True)
class WorkerContext(Context):
    """The context of the worker, which can't ask for a passphrase. `handed_token` is from its starter, if any."""

    handed_token: HandedToken | None = None

    def command_log(self) -> Path | None:
        """Return a separate log file for the output of commands, so that the worker's log has only its own errors."""
        return paths.data_dir() / "on_done.log"

    @property
    def fingerprint(self) -> str | None:
        """Return the fingerprint of the token that this worker was started with."""
        return self.handed_token.fingerprint if self.handed_token else None

    def token(self) -> Token | None:
        """Return the handed token if it is valid and for this Hub, else the token that this process finds itself."""
        found = super().token()
        if self.handed_token is not None and self.handed_token.endpoint == self.endpoint():
            return self.handed_token.choose_token(found)
        return found


class Worker:
    """Claims queued downloads and carries them out in threads, as many at a time as the settings allow.

    A running background download that this worker has not started belongs to another process, which may have ended in
    another container. This worker waits, and takes the download over if its heartbeat becomes stale.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._threads: dict[int, threading.Thread] = {}
        self._changed = threading.Event()

    def run(self) -> None:
        """Run until no download is queued or running."""
        while True:
            self._threads = {row_id: thread for row_id, thread in self._threads.items() if thread.is_alive()}
            try:
                row, running_rows = self._read_queue()
                max_downloads = self._context.settings().concurrent_downloads
            except HfModelsError as error:  # it must not end the running downloads
                if not self._threads and not isinstance(error, LibraryBusyError):
                    raise
                self._changed.wait(IDLE_SECONDS)
                continue
            others_run = any(other.background and other.id not in self._threads for other in running_rows)
            if row is None and not self._threads and not others_run:
                return
            active = len(running_rows)
            # A new thread that has not claimed its row yet does not count as active: start one thread at a time.
            must_wait = active >= max_downloads or len(self._threads) > active
            if row is None or row.id in self._threads or must_wait:
                self._changed.wait(IDLE_SECONDS)
                self._changed.clear()
            else:
                self._threads[row.id] = threading.Thread(
                    target=self._run_download, args=(row,), name=f"download {row.id}"
                )
                self._threads[row.id].start()

    def _read_queue(self) -> tuple[Download | None, list[Download]]:
        """Return the row to claim next, and the rows that all processes are running."""
        stale = self._context.stale_seconds()
        with self._context.open_database() as db:
            cancelled = db.settle_abandoned(stale_seconds=stale)
            next_row = find_next_download(self._context, db)
            running_rows = db.list_downloads(states=RUNNING_STATES)
        if cancelled:
            from llm_hf_models.downloads.leftovers import remove_cancelled_files  # imported late, as below

            remove_cancelled_files(self._context, cancelled)
        return next_row, running_rows

    def _run_download(self, row: Download) -> None:
        # Imported late: a process that only starts a worker does not need it.
        from llm_hf_models.downloads.pull import run_queued_download

        try:
            run_queued_download(self._context, row)
        except HfModelsError as error:
            try:
                if isinstance(error, LibraryBusyError):
                    raise
                self._fail_unclaimed(row, error)
            except HfModelsError:  # for example, the disk with the library is full
                time.sleep(IDLE_SECONDS)  # the row is tried again after this pause
                return
        self._changed.set()

    def _fail_unclaimed(self, row: Download, error: HfModelsError) -> None:
        """Mark a row as failed if its download could not even start, so that the worker does not retry it forever.

        The row is left alone if it has changed since the worker read it. A download that has started stores its own
        errors.
        """
        stale = self._context.stale_seconds()
        with self._context.open_database() as db, db.transaction():
            now = db.get_download(row.id)
            if now is None or now.state not in ACTIVE_STATES or now.is_owner_running(stale_seconds=stale):
                return
            if (now.owner, now.attempts) == (row.owner, row.attempts):
                db.update_download(row.id, state="failed", error=error.message)
                db.add_note(row.id, "failed", error.message)


def main() -> None:
    """Run the worker process, unless the worker for its token is running. It checks the queue again after the end."""
    redact_stderr()  # which is the worker's log
    token = token_handoff.load_token(sys.stdin.read()) if TOKEN_ON_STDIN in sys.argv else None
    context = WorkerContext("worker", handed_token=token)
    while True:
        try:
            with acquire_ownership(get_worker_path(context.fingerprint), private=True):
                Worker(context).run()
        except OwnedByOtherError:
            return
        if not _has_queued_downloads(context):
            return


def find_next_download(context: WorkerContext, db: DownloadTables) -> Download | None:
    """Return the next download for this worker to claim.

    A download that needs another token is left to the worker that has the token. If that worker has ended, or did not
    start in time, this worker carries the download out with the token that it has.
    """
    stale = context.stale_seconds()
    for row in db.list_next_downloads(context.fingerprint):
        needed = row.token_fingerprint
        if needed in (None, context.fingerprint) or (row.needs_worker(stale_seconds=stale) and not is_running(needed)):
            return row
    return None


def _has_queued_downloads(context: WorkerContext) -> bool:
    try:
        with context.open_downloads() as db:
            return find_next_download(context, db) is not None
    except LibraryBusyError:
        return True  # unknown: the next round waits for the database


if __name__ == "__main__":
    main()
