"""The row of a download while this process carries it out: signs of life, figures, log, and what it is asked to do."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeGuard

from typing_extensions import Self

from llm_hf_models.context import Context
from llm_hf_models.downloads.records import load_plan_if_readable
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
from llm_hf_models.library.downloads import ABANDONED
from llm_hf_models.network.errors import is_transient
from llm_hf_models.system.processes import get_own_name, has_ended

if TYPE_CHECKING:
    from llm_hf_models.downloads.types import PlannedFile
    from llm_hf_models.library.downloads import DownloadTables
    from llm_hf_models.library.records import LocalModel
    from llm_hf_models.transfer.types import Event, Progress

PROGRESS_SECONDS = 0.5  # how often a running download's figures are written
FINISH_ATTEMPTS = 6  # each waits as long as any question to the library does
PROGRESS_WAIT_SECONDS = 1.0  # for a busy library; the next figures, and the next sign of life, do as well
EXIT_WAIT_SECONDS = 3.0  # the same for who was interrupted: whoever looks sees that a process is gone
SPEED_WINDOW_SECONDS = 5.0  # over which speed is averaged


def _format_error(error: HfModelsError) -> str:
    """What happened, and why."""
    return f"{error.message}: {error.cause}" if error.cause else error.message


def _is_interruption(error: BaseException | None) -> bool:
    return isinstance(error, KeyboardInterrupt | InterruptedByUserError)


def _is_transient(error: BaseException) -> TypeGuard[HfModelsError]:
    """Whether the download can go on as it is when that is over."""
    return is_transient(error) or isinstance(error, (DiskFullError, LibraryBusyError))


def make_owner_name() -> str:
    """A name for one attempt, unlike any other; `has_ended` tells of it as of its process."""
    return f"{get_own_name()}/{uuid.uuid4().hex[:12]}"


def _describe_takeover(before: Download | None) -> str:
    """What the log tells of the one who carried a download out before, where that one did not end it."""
    if before is None or before.state not in RUNNING_STATES:
        return ""
    return "after its process fell silent" if before.heartbeat else f"after {ABANDONED}"


class RunningDownload:
    """A context manager around the work. The row ends in a state that says how the work ended.

    Of the processes that pull the same thing, one carries out the row and reports. The others work beside it, do what
    a person asks of the download all the same, and one of them carries on where that one leaves or dies.
    """

    def __init__(
        self,
        context: Context,
        row: Download,
        files: Sequence[PlannedFile],
        owner: str,
        stop: threading.Event,
        *,
        as_found: bool = False,
    ) -> None:
        """`as_found`: claims a row that still waits or was abandoned, and not one that was paused since it was seen."""
        self._context, self._row, self._owner, self._stop, self._as_found = context, row, owner, stop, as_found
        self._done = {file.path: file.size if file.local else file.partial for file in files}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self._asked: RequestedAction | None = None
        self._others_go_on = False  # after this process has left
        self.owned = False  # whether this process carries the row out
        self.end_state: DownloadState | None = None  # how it ended, where it did not end well
        self._met: set[str] = set()  # files whose bytes were told of
        self._hindered: str | None = None  # the file that was last told to be waiting
        self._hindered_at: int | None = None  # its bytes then, once they are told
        self._last_said: dict[str, tuple[str, str | None]] = {}  # of each file: the kind of event, and its message
        self._window = [(time.monotonic(), sum(self._done.values()))]

    def __enter__(self) -> Self:
        self._db = self._context.open_library()
        try:
            self._beat_seconds = self._context.settings().heartbeat_seconds
            self.owned = self._claim_row()
        except BaseException:
            self._db.close()
            raise
        if self.owned or not self._as_found:
            self._watcher = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
        try:
            if error is not None:
                # What ended it is told, and not that the library can't take it now: whoever looks sees a dead owner's.
                leaves = _is_interruption(error)
                with suppress(HfModelsError), self._db.limit_busy_wait(EXIT_WAIT_SECONDS if leaves else math.inf):
                    self._record_end(error)
        finally:
            self._db.close()
        if _is_interruption(error):
            raise self._build_interruption() from None
        if self.end_state == "paused" and isinstance(error, HfModelsError) and is_transient(error):
            kept = f"It is paused with what has arrived: run it again to go on, or llm hf resume {self._row.id}"
            error.hint = f"{error.hint}\n{kept}" if error.hint else kept
        if isinstance(error, FileNotFoundError):  # between the proof of a file and its entry somebody removed it
            raise MissingFileError(
                f"{error.filename} has gone in the middle of the pull",
                hint=f"Pull again: llm hf pull {shlex.quote(self._row.ref)}",
            ) from None

    def _claim_row(self) -> bool:
        with self._db.transaction():
            self._db.pause_abandoned(stale_seconds=self._context.stale_seconds())
            now = self._db.get_download(self._row.id)
            if self._as_found and (now is None or now.state not in ACTIVE_STATES):
                return False
            return self._claim_and_note(self._db)

    def _claim_and_note(self, db: DownloadTables) -> bool:
        before = db.get_download(self._row.id)
        claimed = db.claim_download(self._row.id, self._owner, stale_seconds=self._context.stale_seconds())
        if claimed:
            db.add_note(self._row.id, "started", _describe_takeover(before))
        return claimed

    def _send_heartbeats(self) -> None:
        """Signs of life, and the ear for `pause` and `cancel`, until the end: who stops is not dead yet."""
        while not self._ended.wait(self._beat_seconds):
            # A library that can't be used now, for whatever reason, may be at the next sign of life.
            with (
                suppress(HfModelsError),
                self._context.open_downloads() as db,
                db.limit_busy_wait(PROGRESS_WAIT_SECONDS),
            ):
                self._handle_request(
                    db.record_heartbeat(self._row.id, self._owner) if self.owned else self._follow_other_process(db)
                )

    def _follow_other_process(self, db: DownloadTables) -> RequestedAction | None:
        """What a person has asked of a download that another process carries out; this one does where none does."""
        db.mark_ended_as_abandoned()
        row = db.get_download(self._row.id)
        if row is None or row.state == "done":
            return None
        if row.state == "cancelled" or row.wanted == "cancel":
            return "cancel"
        if row.wanted == "pause":
            return "pause"
        if not row.is_owner_running(stale_seconds=self._context.stale_seconds()) and not self._stop.is_set():
            with db.transaction():  # what a person decides meanwhile stands
                if db.get_download(row.id) == row:
                    self.owned = self._claim_and_note(db)
        return None

    def _handle_request(self, asked: RequestedAction | Literal["lost"] | None) -> None:
        if asked == "lost":  # taken for dead, by one who carries it out now: this one works beside it
            self.owned = False
        elif asked is not None:
            self._asked = asked
            self._stop.set()

    def wrap_progress(self, progress: Progress) -> Progress:
        """Passes events on, brings the row's figures up to date now and then, and logs what is no mere progress."""

        def report(event: Event) -> None:
            # A library that takes nothing now must not end a transfer that goes well: the next figures will do.
            with self._lock, suppress(HfModelsError), self._db.limit_busy_wait(PROGRESS_WAIT_SECONDS):
                self._record_event(event)
            progress(event)

        return report

    def _record_event(self, event: Event) -> None:
        if event.kind != "verifying":  # which counts the bytes that it has hashed
            if event.kind == "started" or event.file not in self._met:  # with what came before: that is no speed
                found = event.done - self._done.get(event.file, 0)
                self._window = [(at, total + found) for at, total in self._window]
                self._met.add(event.file)
            self._done[event.file] = event.done
        now, total = time.monotonic(), sum(self._done.values())
        if self.owned and now - self._window[-1][0] >= PROGRESS_SECONDS:
            self._window = [(t, n) for t, n in self._window if now - t <= SPEED_WINDOW_SECONDS] + [(now, total)]
            began, first = self._window[0]
            speed = max(0.0, (total - first) / max(now - began, PROGRESS_SECONDS))
            self._db.update_download(self._row.id, done_bytes=total, bytes_per_second=speed)
        if self._hindered == event.file:
            self._clear_error_if_moving(event)
        said = (event.kind, event.message)
        said_before = said == self._last_said.get(event.file)  # a wait is told all the time
        self._last_said[event.file] = said
        if self.owned and event.kind != "progress" and not said_before:
            words = f"{event.file}: {event.message}" if event.message else event.file
            self._db.add_note(self._row.id, event.kind, words)
            if event.message:
                self._hindered, self._hindered_at = event.file, None
                self._db.update_download(self._row.id, error=words)  # what keeps the bytes from moving

    def _clear_error_if_moving(self, event: Event) -> None:
        """Takes the row's error away once more bytes are here than had come, which may be told of a moment later."""
        if event.kind in ("verifying", "done") or (self._hindered_at is not None and event.done > self._hindered_at):
            self._hindered = None
            if self.owned:
                self._db.update_download(self._row.id, error=None)
        elif event.kind == "progress" and self._hindered_at is None:
            self._hindered_at = event.done

    def mark_verifying(self) -> None:
        """Every byte is here; what follows reads them. Only said: a library that can't take it now ends no pull."""
        if self.owned:
            with suppress(LibraryError):
                self._db.update_download(self._row.id, state="verifying", bytes_per_second=None)

    def finish(self, model: LocalModel | None) -> LocalModel | None:
        """The model registered and the row done, in one transaction. Returns the model as it is recorded.

        Raises:
            LibraryBusyError: another process has kept the library to itself for a minute.
            InterruptedByUserError: whoever waited for that would wait no longer.
        """
        for _ in range(FINISH_ATTEMPTS - 1):
            with suppress(LibraryBusyError):
                return self._finish(model)
            if self._stop.is_set():
                raise InterruptedByUserError("Stopped while another process kept the library to itself")
        return self._finish(model)

    def _finish(self, model: LocalModel | None) -> LocalModel | None:
        with self._db.transaction():
            now = self._db.get_download(self._row.id) or self._row  # others may have asked for it meanwhile
            if model is not None:
                plan = load_plan_if_readable(now)
                aliases = (*model.aliases, *plan.aliases) if plan else model.aliases
                model = self._db.register(replace(model, aliases=tuple(dict.fromkeys(aliases))))
            ends = self._may_end_row(now)
            if ends:
                self._db.update_download(
                    self._row.id, state="done", done_bytes=self._row.total_bytes, bytes_per_second=None, error=None
                )
                if now.on_done and (log := self._context.command_log()):
                    self._db.add_note(self._row.id, "command", f"runs once this is done; what it says goes to {log}")
                self._db.add_note(self._row.id, "done", model.model_id if model else "")
        if ends and now.on_done:
            self._run_command(now.on_done, now, model)
        return model

    def _run_command(self, command: str, row: Download, model: LocalModel | None) -> None:
        """A person's own command for when a download is done; what it does is theirs, and so is its failure."""
        facts = {"LLM_HF_DOWNLOAD": str(row.id), "LLM_HF_REF": row.ref, "LLM_HF_MODEL": model.model_id if model else ""}
        log = self._context.command_log()
        try:
            with log.open("ab") if log else nullcontext(_find_stderr()) as said:
                subprocess.Popen(  # noqa: S602 - a command line of the person's own, as they would type it
                    command, shell=True, env={**os.environ, **facts}, stdin=subprocess.DEVNULL,
                    stdout=said, stderr=subprocess.STDOUT,
                )  # fmt: skip
        except (OSError, ValueError) as error:  # it is longer than the system takes, say
            with suppress(HfModelsError):
                self._db.add_note(row.id, "command", f"could not be run: {error}")

    def _may_end_row(self, now: Download) -> bool:
        """Whether no other process carries the row out, which would end it itself, or has ended it well.

        One that was killed may have shown life just before, so the system is asked.
        """
        if now.state in RUNNING_STATES:
            alive = now.is_owner_running(stale_seconds=self._context.stale_seconds())
            return now.owner == self._owner or not alive or has_ended(str(now.owner))
        return now.state != "done"

    def _record_end(self, error: BaseException) -> None:
        if not self.owned:
            self.end_state = "cancelled" if self._asked == "cancel" else None  # for what this process still held
            now = self._db.get_download(self._row.id)
            self._others_go_on = now is not None and now.is_owner_running(stale_seconds=self._context.stale_seconds())
            if (
                now is not None and now.state == self.end_state
            ):  # what this process brought since is of that download, too
                self._db.update_download(self._row.id, state=self.end_state)
            return
        with self._db.transaction():
            asked = self._db.record_heartbeat(self._row.id, self._owner)
            if asked == "lost":
                return
            now = self._db.get_download(self._row.id) or self._row  # others may have asked for it meanwhile
            if asked == "cancel" or self._asked is None:  # maybe since it last listened
                self._asked = asked
            if self._asked is None and now.background:
                self._asked = "background"
            state, message = self._choose_end_state(error)
            again = self._asked == "pause" and asked is None  # resumed before it had stopped
            self.end_state = "queued" if again else state
            kept = message if state == "failed" or (state == "paused" and _is_transient(error)) else None
            wanted = self._asked if self.end_state == "paused" and self._asked == "pause" else None
            figures = {"done_bytes": sum(self._done.values())} if self._met else {}
            self._db.update_download(
                self._row.id, state=self.end_state, error=kept, bytes_per_second=None, wanted=wanted, **figures
            )
            self._db.add_note(self._row.id, self.end_state, message)

    def _choose_end_state(self, error: BaseException) -> tuple[DownloadState, str]:
        """The state that the row ends in, and why."""
        if self._asked == "cancel":  # whatever else came between
            return "cancelled", ""
        if _is_interruption(error):
            if self._asked == "background":
                return "queued", "sent to the background"
            return "paused", "" if self._asked == "pause" else "interrupted"
        if _is_transient(error):
            return "paused", _format_error(error)
        if isinstance(error, HfModelsError):
            return "failed", ". ".join(part for part in (_format_error(error).rstrip("."), error.hint) if part)
        return "failed", type(error).__name__

    def _build_interruption(self) -> InterruptedByUserError:
        if self._asked == "cancel":
            return InterruptedByUserError("Cancelled", hint=f"llm hf retry {self._row.id} starts it again.")
        if self.end_state == "queued":  # also where it was paused, and resumed before it had stopped
            return InterruptedByUserError("Goes on in the background", hint=f"llm hf downloads --watch {self._row.id}")
        if self._asked == "pause":
            return InterruptedByUserError("Paused", hint=f"llm hf resume {self._row.id}")
        if self._others_go_on:
            return InterruptedByUserError(
                "Left: another process goes on with it", hint=f"llm hf downloads --watch {self._row.id}"
            )
        return InterruptedByUserError(
            "Interrupted; what has arrived is kept", hint=f"Run it again to continue, or: llm hf resume {self._row.id}"
        )


def _find_stderr() -> int:
    """The descriptor of standard error; nowhere in a program that has none, or shows it in a window of its own."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):
        return subprocess.DEVNULL
