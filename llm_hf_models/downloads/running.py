"""Keep the row of a download up to date while this process carries it out: heartbeats, progress, log, requests."""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeGuard

from typing_extensions import Self

from llm_hf_models.context import Context
from llm_hf_models.downloads.on_done import run_command
from llm_hf_models.downloads.records import load_plan_if_readable, store_completed_plan
from llm_hf_models.errors import (
    DiskFullError,
    HfModelsError,
    InterruptedByUserError,
    LibraryBusyError,
    LibraryError,
    MissingFileError,
)
from llm_hf_models.library.download_records import (
    ACTIVE_STATES,
    RUNNING_STATES,
    Download,
    DownloadState,
    RequestedAction,
)
from llm_hf_models.network.errors import is_transient
from llm_hf_models.system.ownership import make_owner_name

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PlannedFile, PullPlan, VersionSwitch
    from llm_hf_models.library.downloads import DownloadTables
    from llm_hf_models.library.records import LocalModel
    from llm_hf_models.transfer.types import Event, Progress

PROGRESS_SECONDS = 0.5  # how often the progress of a running download is written to its row
FINISH_ATTEMPTS = 6  # each waits for a locked database as long as any statement does
PROGRESS_WAIT_SECONDS = 1.0  # maximum wait for a locked database; the next progress or heartbeat replaces this one
EXIT_WAIT_SECONDS = 3.0  # the same after an interruption; other processes notice in any case that this one has ended
SPEED_WINDOW_SECONDS = 5.0  # the speed is an average over this time


def _format_error(error: HfModelsError) -> str:
    """Format an error's message and cause in one line."""
    return f"{error.message}: {error.cause}" if error.cause else error.message


def _is_interruption(error: BaseException | None) -> bool:
    return isinstance(error, KeyboardInterrupt | InterruptedByUserError)


def _is_resumable(error: BaseException) -> TypeGuard[HfModelsError]:
    """Return True if the download can continue unchanged once the cause of the error has passed."""
    return is_transient(error) or isinstance(error, (DiskFullError, LibraryBusyError))


class RunningDownload:
    """A context manager that keeps the row of a download up to date while this process carries it out.

    On exit it stores how the work ended. If several processes pull the same variant, one of them owns the row and
    writes its progress. The others take part in the download and also obey requests to pause or cancel it. If the
    owner leaves or its process ends, one of them becomes the owner.
    """

    def __init__(
        self,
        context: Context,
        row: Download,
        files: Sequence[PlannedFile],
        stop: threading.Event,
        *,
        only_if_active: bool = False,
    ) -> None:
        """With `only_if_active`, claim the row only if it is queued or abandoned, and fewer downloads run than may."""
        self._context, self._row, self._owner, self._stop = context, row, make_owner_name(), stop
        self._only_if_active = only_if_active
        self._done = {file.path: file.size if file.local else file.partial for file in files}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heartbeat_thread: threading.Thread | None = None
        self._requested: RequestedAction | None = None
        self._continued_by_others = False  # after this process has left
        self.owned = False  # whether this process owns the row
        self.end_state: DownloadState | None = None  # None while the work runs and after it succeeded
        self._started_files: set[str] = set()  # files with at least one event
        self._stalled_file: str | None = None  # the file of the latest event with a message, such as a retry
        self._stalled_bytes: int | None = None  # its bytes after that event, once known
        self._last_events: dict[str, tuple[str, str | None]] = {}  # by file: the kind of the last event, its message
        self._samples = [(time.monotonic(), sum(self._done.values()))]

    def __enter__(self) -> Self:
        self._db = self._context.open_database()
        try:
            self._heartbeat_seconds = self._context.settings().heartbeat_seconds
            self.owned = self._claim_row()
        except BaseException:
            self._db.close()
            raise
        if self.owned or not self._only_if_active:
            self._heartbeat_thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)
            self._heartbeat_thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._heartbeat_thread is not None:
            self._heartbeat_thread.join()
        try:
            if error is not None:
                # If the row can't be written, raise the error that ended the work, not the database's. Other processes
                # see from the heartbeat that the owner has ended.
                wait_seconds = EXIT_WAIT_SECONDS if _is_interruption(error) else math.inf
                with suppress(HfModelsError), self._db.limit_busy_wait(wait_seconds):
                    self._record_end(error)
        finally:
            self._db.close()
        if _is_interruption(error):
            raise self._build_interruption() from None
        if self.end_state == "paused" and isinstance(error, HfModelsError) and is_transient(error):
            hint = f"The download is paused: run the pull again to continue it, or: llm hf resume {self._row.id}"
            error.hint = f"{error.hint}\n{hint}" if error.hint else hint
        if isinstance(error, FileNotFoundError):  # another program removed a file after it was verified
            raise MissingFileError(
                f"{error.filename} was removed during the pull",
                hint=f"Pull again: llm hf pull {shlex.quote(self._row.ref)}",
            ) from None

    def _claim_row(self) -> bool:
        with self._db.transaction():
            self._db.settle_abandoned(stale_seconds=self._context.stale_seconds())
            now = self._db.get_download(self._row.id)
            if self._only_if_active and (now is None or now.state not in ACTIVE_STATES or self._is_queue_full()):
                return False
            return self._db.claim_download(self._row.id, self._owner, stale_seconds=self._context.stale_seconds())

    def _is_queue_full(self) -> bool:
        """Return True if as many other downloads are running, in all processes, as the settings allow."""
        others = [row for row in self._db.list_downloads(states=RUNNING_STATES) if row.id != self._row.id]
        return len(others) >= self._context.settings().concurrent_downloads

    def _send_heartbeats(self) -> None:
        """Send heartbeats and read requests to pause or cancel, until the work has ended, also while it is stopping."""
        while not self._ended.wait(self._heartbeat_seconds):
            # If the database can't be used now, the next heartbeat tries again.
            with (
                suppress(HfModelsError),
                self._context.open_downloads() as db,
                db.limit_busy_wait(PROGRESS_WAIT_SECONDS),
            ):
                if self.owned:
                    self._handle_request(db.record_heartbeat(self._row.id, self._owner))
                else:
                    self._handle_request(self._follow_other_process(db))

    def _follow_other_process(self, db: DownloadTables) -> RequestedAction | None:
        """Return the user's request for a download that another process owns. Claim the row if that process ended."""
        row = db.get_download(self._row.id)
        if row is None or row.state == "done":
            return None
        if row.state == "cancelled" or row.wanted == "cancel":
            return "cancel"
        if row.wanted == "pause":
            return "pause"
        stale = self._context.stale_seconds()
        if not row.is_owner_running(stale_seconds=stale) and not self._stop.is_set():
            with db.transaction():  # claim it only if the user has not changed it in the meantime
                if db.get_download(row.id) == row:
                    self.owned = db.claim_download(row.id, self._owner, stale_seconds=stale)
        return None

    def _handle_request(self, request: RequestedAction | Literal["lost"] | None) -> None:
        if (
            request == "lost"
        ):  # another process considered this one stale and owns the row now: continue without owning it
            self.owned = False
        elif request is not None:
            self._requested = request
            self._stop.set()

    def wrap_progress(self, progress: Progress) -> Progress:
        """Return a progress callable that also writes progress to the row, and other events to the row's log."""

        def report(event: Event) -> None:
            # A database that can't be written now must not end a healthy transfer: the next event tries again.
            with self._lock, suppress(HfModelsError), self._db.limit_busy_wait(PROGRESS_WAIT_SECONDS):
                self._record_event(event)
            progress(event)

        return report

    def _record_event(self, event: Event) -> None:
        if event.kind != "verifying":  # a verifying event counts hashed bytes
            if event.kind == "started" or event.file not in self._started_files:
                # Bytes from before the start must not count as speed: shift the earlier samples.
                found = event.done - self._done.get(event.file, 0)
                self._samples = [(at, total + found) for at, total in self._samples]
                self._started_files.add(event.file)
            self._done[event.file] = event.done
        now, total = time.monotonic(), sum(self._done.values())
        if self.owned and now - self._samples[-1][0] >= PROGRESS_SECONDS:
            self._samples = [(t, n) for t, n in self._samples if now - t <= SPEED_WINDOW_SECONDS] + [(now, total)]
            first_time, first_total = self._samples[0]
            speed = max(0.0, (total - first_total) / max(now - first_time, PROGRESS_SECONDS))
            self._db.update_download(self._row.id, done_bytes=total, bytes_per_second=speed)
        if self._stalled_file == event.file:
            self._clear_error_if_moving(event)
        summary = (event.kind, event.message)
        is_repeated = summary == self._last_events.get(event.file)  # a wait is reported again and again
        self._last_events[event.file] = summary
        if self.owned and event.kind != "progress" and not is_repeated:
            message = f"{event.file}: {event.message}" if event.message else event.file
            self._db.add_note(self._row.id, event.kind, message)
            if event.message:
                self._stalled_file, self._stalled_bytes = event.file, None
                self._db.update_download(self._row.id, error=message)

    def _clear_error_if_moving(self, event: Event) -> None:
        """Clear the row's error once the stalled file has more bytes than after the event that reported the error.

        The first progress event after that one gives the number of bytes to compare with.
        """
        if event.kind in ("verifying", "done") or (
            self._stalled_bytes is not None and event.done > self._stalled_bytes
        ):
            self._stalled_file = None
            if self.owned:
                self._db.update_download(self._row.id, error=None)
        elif event.kind == "progress" and self._stalled_bytes is None:
            self._stalled_bytes = event.done

    def complete_plan(self, complete: Callable[[Callable[[str], None]], PullPlan]) -> PullPlan:
        """Show the state `planning` while `complete` reads what the draft of a plan lacks, and store its result.

        Args:
            complete: Returns the complete plan. Its argument shows why it is waiting.

        Raises:
            InterruptedByUserError: The download was paused or cancelled meanwhile.
        """

        def show_wait(message: str) -> None:
            # A database that can't be written now must not end the planning: the next wait tries again.
            with suppress(HfModelsError), self._db.limit_busy_wait(PROGRESS_WAIT_SECONDS):
                if self.owned:
                    self._db.add_note(self._row.id, "waiting", message)
                    self._db.update_download(self._row.id, error=message)

        if self.owned:
            self._db.update_download(self._row.id, state="planning")
        plan = complete(show_wait)
        if self._stop.is_set():
            raise InterruptedByUserError("Stopped while the download was planned")
        return store_completed_plan(self._db, self._row.id, plan) if self.owned else plan

    def mark_verifying(self) -> None:
        """Store that all bytes are downloaded and the files are being verified. Ignore a database that is locked."""
        if self.owned:
            with suppress(LibraryError):
                self._db.update_download(self._row.id, state="verifying", bytes_per_second=None)

    def finish(self, model: LocalModel | None, switch: VersionSwitch | None = None) -> LocalModel | None:
        """Register the model and mark the row as done, in one transaction.

        Args:
            model: The model, or None if nothing is to be registered.
            switch: How the model replaces its current version; None if it may be new.

        Returns:
            The model as it is registered.

        Raises:
            LibraryBusyError: Another process has locked the database for a minute.
            InterruptedByUserError: The stop event was set during that wait.
        """
        for _ in range(FINISH_ATTEMPTS - 1):
            with suppress(LibraryBusyError):
                return self._finish(model, switch)
            if self._stop.is_set():
                raise InterruptedByUserError("Stopped while another process had the library locked")
        return self._finish(model, switch)

    def _finish(self, model: LocalModel | None, switch: VersionSwitch | None) -> LocalModel | None:
        with self._db.transaction():
            now = self._db.get_download(self._row.id) or self._row  # it may have been requested again in the meantime
            if model is not None:
                plan = load_plan_if_readable(now)
                aliases = (*model.aliases, *plan.aliases) if plan else model.aliases
                model = replace(model, aliases=tuple(dict.fromkeys(aliases)))
                keeps = switch.keep_old if switch else False
                model = self._db.switch_version(model, keep_old=keeps) if switch else self._db.register(model)
            ends = self._may_end_row(now)
            if ends:
                self._db.update_download(
                    self._row.id, state="done", done_bytes=self._row.total_bytes, bytes_per_second=None, error=None
                )
                if now.on_done and (log := self._context.command_log()):
                    self._db.add_note(self._row.id, "command", f"runs now; its output goes to {log}")
                self._db.add_note(self._row.id, "done", model.model_id if model else "")
        if ends and now.on_done:
            run_command(self._context, self._db, now.on_done, now, model)
        return model

    def _may_end_row(self, now: Download) -> bool:
        """Return True if no other running process owns the row, and the row is not done yet."""
        running = now.is_owner_running(stale_seconds=self._context.stale_seconds())
        return now.state != "done" and (now.owner == self._owner or not running)

    def _record_end(self, error: BaseException) -> None:
        if not self.owned:
            # If the download was cancelled, the caller removes the files that this process still had open.
            self.end_state = "cancelled" if self._requested == "cancel" else None
            now = self._db.get_download(self._row.id)
            running = now is not None and now.is_owner_running(stale_seconds=self._context.stale_seconds())
            self._continued_by_others = running
            if now is not None and now.state == self.end_state:
                # Update the row's time, so that files this process wrote since count as that download's leftovers.
                self._db.update_download(self._row.id, state=self.end_state)
            return
        with self._db.transaction():
            request = self._db.record_heartbeat(self._row.id, self._owner)
            if request == "lost":
                return
            now = self._db.get_download(self._row.id) or self._row  # it may have been requested again in the meantime
            if request == "cancel" or self._requested is None:  # requested since the last heartbeat
                self._requested = request
            if self._requested is None and now.background:
                self._requested = "background"
            state, message = self._choose_end_state(error)
            resumed = self._requested == "pause" and request is None  # resumed before it had stopped
            self.end_state = "queued" if resumed else state
            stored_error = message if state == "failed" or (state == "paused" and _is_resumable(error)) else None
            wanted = self._requested if self.end_state == "paused" and self._requested == "pause" else None
            progress = {"done_bytes": sum(self._done.values())} if self._started_files else {}
            self._db.update_download(
                self._row.id, state=self.end_state, error=stored_error, bytes_per_second=None, wanted=wanted, **progress
            )
            self._db.add_note(self._row.id, self.end_state, message)

    def _choose_end_state(self, error: BaseException) -> tuple[DownloadState, str]:
        """Return the state that the row ends in, and the reason."""
        if self._requested == "cancel":  # it takes precedence over any error
            return "cancelled", ""
        if _is_interruption(error):
            if self._requested == "background":
                return "queued", "sent to the background"
            return "paused", "" if self._requested == "pause" else "interrupted"
        if _is_resumable(error):
            return "paused", _format_error(error)
        if isinstance(error, HfModelsError):
            return "failed", ". ".join(part for part in (_format_error(error).rstrip("."), error.hint) if part)
        return "failed", type(error).__name__

    def _build_interruption(self) -> InterruptedByUserError:
        if self._requested == "cancel":
            return InterruptedByUserError("Cancelled", hint=f"To start it again: llm hf retry {self._row.id}")
        if self.end_state == "queued":  # sent to the background, or resumed before it had stopped
            return InterruptedByUserError(
                "The download continues in the background", hint=f"llm hf downloads --watch {self._row.id}"
            )
        if self._requested == "pause":
            return InterruptedByUserError("Paused", hint=f"llm hf resume {self._row.id}")
        if self._continued_by_others:
            return InterruptedByUserError(
                "Another process continues the download", hint=f"llm hf downloads --watch {self._row.id}"
            )
        return InterruptedByUserError(
            "Interrupted; the downloaded part is kept",
            hint=f"Run the command again to continue it, or: llm hf resume {self._row.id}",
        )
