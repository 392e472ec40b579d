"""The queue as people handle it: enqueue, list, follow, pause, resume, cancel, retry, clear. Moves no bytes itself."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models.context import Context
from llm_hf_models.downloads.types import DownloadEvent, DownloadView
from llm_hf_models.errors import BadInputError, HfModelsError, LibraryBusyError, NotFoundError, NotWritableError
from llm_hf_models.library.download_records import (
    ACTIVE_STATES,
    FINISHED_STATES,
    RUNNING_STATES,
    UNFINISHED_STATES,
    Download,
    DownloadNote,
    DownloadState,
    RequestedAction,
)
from llm_hf_models.library.downloads import LOST_OWNER_ERRORS, DownloadTables
from llm_hf_models.system.units import MAX_NUMBER

if TYPE_CHECKING:
    from llm_hf_models.downloads.types import PullPlan

KEY_WAIT_SECONDS = 1.0  # for a busy library, by who pressed a key
WORKER_START_SECONDS = 3.0  # in which a worker that was just started has a row

# The verbs that queue a download again, and in which states it is then.
_REQUEUE_STATES: dict[str, tuple[DownloadState, ...]] = {"resume": ("paused",), "retry": ("failed", "cancelled")}
FOLLOW_POLL_SECONDS = 0.5  # a follower asks no more often than twice a second


def make_view(row: Download) -> DownloadView:
    """A row for showing."""
    shown = replace(row, state="queued") if row.needs_new_worker else row
    return DownloadView(**{name: getattr(shown, name) for name in DownloadView.__dataclass_fields__})


def continue_in_background(context: Context, plan: PullPlan) -> None:
    """Makes a pull that runs one of the background, so that it goes on when its process ends. Starts no worker."""
    from llm_hf_models.downloads.records import find_open_row

    hand_over = _prepare_token_handoff(context)
    with context.open_downloads() as db, db.limit_busy_wait(KEY_WAIT_SECONDS), db.transaction():
        row = find_open_row(context, db, plan)
        if row is not None and row.state in RUNNING_STATES:
            db.update_download(row.id, background=True, wanted=None)
            hand_over(row.id)


def enqueue(context: Context, plan: PullPlan, *, on_done: str | None = None) -> DownloadView:
    """Queues a plan for the worker, and sees to it that there is one. The same pull twice is one row."""
    from llm_hf_models.downloads.records import open_row

    command, hand_over = _add_working_folder(on_done) if on_done else None, _prepare_token_handoff(context)
    with context.open_downloads() as db, db.transaction():  # as one: a worker that lives would claim the row in between
        row = open_row(context, db, plan, background=True, on_done=command)
        if row.state in RUNNING_STATES:  # a foreground pull, say: when it dies, the worker goes on with it
            db.update_download(row.id, background=True, wanted=None)
        else:
            db.update_download(row.id, state="queued", background=True, error=None, wanted=None)
            if row.state != "queued" or not row.attempts:  # one that has just been sent to the background has it noted
                db.add_note(row.id, "queued", f"by {context.requested_by}")
        hand_over(row.id)
        queued = _get_row(db, row.id)
    _ensure_worker(context)
    return make_view(queued)


def _prepare_token_handoff(context: Context) -> Callable[[int], None]:
    """Hands the asker's token for a download to the worker that runs, which may claim it as soon as it can be seen."""
    from llm_hf_models.downloads import token_handoff  # late: who only lists needs none

    handed = token_handoff.find_token_for_worker(context) if token_handoff.has_listening_worker() else None
    return lambda number: token_handoff.send_token(number, handed) if handed else None


def _add_working_folder(command: str) -> str:
    """A person's command, to be run in the folder where they gave it: a worker stands elsewhere."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # removed under us
        return command
    return f'cd /d "{here}" && {command}' if sys.platform == "win32" else f"cd {shlex.quote(here)} || exit\n{command}"


def _ensure_worker(context: Context, *, ask: bool = True) -> None:
    from llm_hf_models.downloads import worker  # late: who only lists, and finds nothing left lying, needs none

    worker.ensure_running(context, ask=ask)


def _restart_worker_if_needed(context: Context, rows: Iterable[Download]) -> None:
    """Whoever looks brings a worker where one was killed, or did not survive a reboot. Nobody is asked anything."""
    lying = [row for row in rows if row.background and _is_abandoned(context, row)]
    if lying:
        from llm_hf_models.downloads import worker  # late, as above

        if not worker.is_running():
            with suppress(HfModelsError):  # a library that takes nothing now must not keep anybody from reading it
                _record_worker_failure(context, lying)
            _ensure_worker(context, ask=False)


def _record_worker_failure(context: Context, rows: Iterable[Download]) -> None:
    """In the rows, as far as it is known. A worker then has as long to begin them as an owner has to show life."""
    from llm_hf_models.downloads import worker

    with context.open_downloads() as db, db.transaction():
        for row in rows:
            now = db.get_download(row.id)
            if now is not None and _is_abandoned(context, now):
                words = worker.read_last_error(since=now.updated)
                done = "goes on with" if now.attempts else "has begun"
                error = f"no worker {done} it: {words}" if words else None
                db.update_download(row.id, error=error)
                if error not in (None, now.error):
                    db.add_note(row.id, "waiting", str(error))


def _is_abandoned(context: Context, row: Download) -> bool:
    """Whether nobody has shown life over a row for so long that no worker has it, nor is one just starting."""
    stale = context.stale_seconds()
    silent_since = row.updated if row.state == "queued" else max(row.updated, row.heartbeat)
    patience = min(WORKER_START_SECONDS, stale) if row.needs_new_worker else stale
    return row.state in ACTIVE_STATES and abs(time.time() - silent_since) > patience


def _settle_abandoned(context: Context, db: DownloadTables) -> None:
    """Rows whose process is gone are told as what they are; what their person cancelled leaves nothing."""
    # Where the library takes nothing now, the rows are still there to be read.
    with suppress(LibraryBusyError, NotWritableError):
        if cancelled := db.pause_abandoned(stale_seconds=context.stale_seconds()):
            _remove_cancelled_files(context, cancelled)


def list_downloads(context: Context, *, include_finished: bool = False, limit: int = 100) -> tuple[DownloadView, ...]:
    """Downloads, newest first: those that are not over, and the last finished ones where `include_finished`."""
    with context.open_downloads() as db:
        _settle_abandoned(context, db)
        most = max(-1, min(limit, MAX_NUMBER))  # what SQLite can count to
        rows = db.list_downloads(states=() if include_finished else UNFINISHED_STATES, limit=most, with_plans=False)
    _restart_worker_if_needed(context, rows)
    return tuple(map(make_view, rows))


def get_download(context: Context, number: int) -> DownloadView:
    """One download.

    Raises:
        NotFoundError: there is none of that number.
    """
    with context.open_downloads() as db:
        _settle_abandoned(context, db)
        row = _get_row(db, number)
    _restart_worker_if_needed(context, [row])
    return make_view(row)


def _get_row(db: DownloadTables, number: int) -> Download:
    row = db.get_download(number)
    if row is None:
        raise NotFoundError(f"There is no download {number}", hint="`llm hf downloads --all` lists them.")
    return row


def read_log(context: Context, number: int) -> tuple[DownloadNote, ...]:
    """What happened to a download, oldest first."""
    with context.open_downloads() as db:
        _get_row(db, number)
        return tuple(db.list_notes(number))


def pause(context: Context, number: int) -> DownloadView:
    """Asks whoever carries it out to stop and keep what arrived; at once where it only waits."""
    return _request_action(context, number, "pause", "paused", allowed=ACTIVE_STATES)


def cancel(context: Context, number: int) -> DownloadView:
    """Ends a download for good and removes what arrived of it; whoever carries it out does so on hearing of it."""
    asked = _request_action(context, number, "cancel", "cancelled", allowed=UNFINISHED_STATES)
    if asked.state == "cancelled":
        _remove_cancelled_files(context, [number])
        with context.open_downloads() as db:
            row = db.get_download(number)
        return make_view(row) if row is not None else asked
    return asked


def send_to_background(context: Context, number: int) -> DownloadView:
    """Asks a foreground pull to stop, and the worker to go on with it."""
    _prepare_token_handoff(context)(number)
    asked = _request_action(context, number, "background", "queued", allowed=("queued", "running"), background=True)
    _ensure_worker(context)
    return asked


def resume(context: Context, number: int) -> DownloadView:
    """Queues a paused download for the worker again."""
    return _requeue(context, number, "resume")


def retry(context: Context, number: int) -> DownloadView:
    """Queues a failed or cancelled download for the worker again."""
    return _requeue(context, number, "retry")


def _request_action(
    context: Context,
    number: int,
    wanted: RequestedAction,
    state: DownloadState,
    *,
    allowed: tuple[DownloadState, ...],
    background: bool | None = None,
) -> DownloadView:
    with context.open_downloads() as db:
        _settle_abandoned(context, db)
        with db.transaction():
            row = _get_row(db, number)
            if row.state != state:
                _refuse_wrong_state(row, allowed, wanted)
            if background is not None:
                db.update_download(number, background=background)
            if row.state == state:
                # Its owner may yet wake up, and others may work beside it: a person has decided now.
                error = None if row.error in LOST_OWNER_ERRORS else row.error
                db.update_download(number, error=error, wanted=_keep_request(state))
                return make_view(_get_row(db, number))
            if row.is_owner_running(stale_seconds=context.stale_seconds()):
                db.update_download(number, wanted=wanted)
            else:
                db.update_download(number, state=state, wanted=_keep_request(state), bytes_per_second=None, error=None)
                db.add_note(number, state)
        return make_view(_get_row(db, number))


def _keep_request(state: DownloadState) -> RequestedAction | None:
    """What a download in that state tells those who may still work on it: that a person paused it."""
    return "pause" if state == "paused" else None


def _requeue(context: Context, number: int, verb: str) -> DownloadView:
    hand_over = _prepare_token_handoff(context)
    with context.open_downloads() as db:
        _settle_abandoned(context, db)
        with db.transaction():
            hand_over(number)
            row = _get_row(db, number)
            if (
                row.state in RUNNING_STATES and row.wanted == "pause" and verb == "resume"
            ):  # asked to, and has not heard of it
                db.update_download(number, background=True, wanted=None)
            elif row.state not in ACTIVE_STATES or row.wanted in ("pause", "cancel"):  # else it goes on already
                _refuse_wrong_state(row, _REQUEUE_STATES[verb], verb)
                db.update_download(number, state="queued", background=True, wanted=None, error=None)
                db.add_note(number, "queued", f"by {context.requested_by}")
        queued = make_view(_get_row(db, number))
    _ensure_worker(context)
    return queued


def _refuse_wrong_state(row: Download, allowed: tuple[DownloadState, ...], verb: str) -> None:
    if row.state not in allowed:
        hint = f"That goes with one that is {' or '.join(allowed)}."
        other = next((other for other, states in _REQUEUE_STATES.items() if row.state in states), None)
        if other and verb in _REQUEUE_STATES:  # one word taken for the other
            hint = f"`llm hf {other} {row.id}` lets it go on."
        raise BadInputError(f"Download {row.id} is {row.state}: there is nothing to {verb}", hint=hint)


def clear(context: Context) -> int:
    """Removes the rows of downloads that are over, and what nobody would look for without them. Returns how many.

    Of what can't be removed now, the row stays: without it nothing would say that nobody wants it.
    """
    with context.open_downloads() as db:
        _cancel_failed_outside_cache(context, db)
        cancelled = [row.id for row in db.list_downloads(states=("cancelled",), limit=-1, with_plans=False)]
        return db.clear_downloads(FINISHED_STATES, exclude=_remove_cancelled_files(context, cancelled))


def _cancel_failed_outside_cache(context: Context, db: DownloadTables) -> None:
    """Cancels failed downloads into other places than the cache: without their rows `gc` would never look there."""
    failed = db.list_downloads(states=("failed",), limit=-1)
    if failed:
        from llm_hf_models.downloads import records as downloads_records  # late, as below

        for row in failed:
            plan = downloads_records.load_plan_if_readable(row)
            if plan is not None and (plan.options.to or not downloads_records.is_for_cache(context, plan)):
                db.update_download(row.id, state="cancelled")


def _remove_cancelled_files(context: Context, numbers: Sequence[int]) -> Sequence[int]:
    from llm_hf_models.downloads import pull  # late: who only lists should not wait for what can pull

    return pull.remove_cancelled_files(context, numbers)


def follow(context: Context, number: int, *, stop: threading.Event | None = None) -> Iterator[DownloadEvent]:
    """Events of a download, whichever process carries it out, until it is over or paused.

    Args:
        context: whose library.
        number: which download.
        stop: ends the iterator when set.
    """
    stop, seen, last = stop or threading.Event(), 0, None
    with context.open_downloads() as db:
        while not stop.is_set():
            _settle_abandoned(context, db)
            row = _get_row(db, number)
            notes = db.list_notes(number, after=seen)
            row = _get_row(db, number) if notes else row  # no older than its notes: what follows them is true
            for note in notes:
                seen = note.id
                yield DownloadEvent(note.kind, make_view(row), note.message)
            if row.state in RUNNING_STATES and last != (row.done_bytes, row.state):
                last = (row.done_bytes, row.state)
                yield DownloadEvent("progress", make_view(row))
            if row.state in ("done", "failed", "paused", "cancelled"):
                return
            _restart_worker_if_needed(context, [row])
            stop.wait(FOLLOW_POLL_SECONDS)
