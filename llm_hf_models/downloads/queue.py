"""Manage the queue of downloads: enqueue, list, follow, pause, resume, cancel, retry, clear.

This module downloads nothing itself: the process of a pull or the worker does.
"""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
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
    LOST_OWNER_ERRORS,
    RUNNING_STATES,
    UNFINISHED_STATES,
    Download,
    DownloadNote,
    DownloadState,
    RequestedAction,
)
from llm_hf_models.library.downloads import DownloadTables
from llm_hf_models.system.units import MAX_NUMBER

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PullPlan
    from llm_hf_models.downloads.token_handoff import HandedToken

KEY_WAIT_SECONDS = 1.0  # maximum wait for a locked database after a key was pressed

# The verbs that queue a download again, each with the states that it applies to.
_REQUEUE_STATES: dict[str, tuple[DownloadState, ...]] = {"resume": ("paused",), "retry": ("failed", "cancelled")}
FOLLOW_POLL_SECONDS = 0.5


def make_view(row: Download, *, needs_worker: bool = False) -> DownloadView:
    """Return the row as the CLI and the MCP server show it."""
    names = DownloadView.__dataclass_fields__.keys() - {"needs_worker"}
    return DownloadView(**{name: getattr(row, name) for name in names}, needs_worker=needs_worker)


def continue_in_background(context: Context, plan: PullPlan) -> None:
    """Mark a running pull as a background download, which a worker continues when the pull's process ends.

    This function does not start the worker.
    """
    from llm_hf_models.downloads.records import find_open_row

    token = _find_token(context, plan)
    with context.open_downloads() as db, db.limit_busy_wait(KEY_WAIT_SECONDS), db.transaction():
        row = find_open_row(context, db, plan)
        if row is not None and row.state in RUNNING_STATES:
            fingerprint = _choose_fingerprint(context, row, token)
            db.update_download(row.id, background=True, wanted=None, token_fingerprint=fingerprint)


def enqueue(context: Context, plan: PullPlan, *, on_done: str | None = None) -> DownloadView:
    """Queue a plan for the worker, and start a worker if it has none. Reuse the row of an unfinished pull."""
    from llm_hf_models.downloads.records import open_row

    command, token = _add_working_folder(on_done) if on_done else None, _find_token(context, plan)
    # One transaction, so that a running worker can't claim the row before it is complete.
    with context.open_downloads() as db, db.transaction():
        row = open_row(context, db, plan, background=True, on_done=command)
        fingerprint = _choose_fingerprint(context, row, token)
        db.update_download(row.id, background=True, wanted=None, token_fingerprint=fingerprint)
        if row.state not in RUNNING_STATES:  # otherwise the worker continues it if its process ends
            db.update_download(row.id, state="queued", error=None)
            if row.state != "queued" or not row.attempts:  # otherwise sending it to the background added this note
                db.add_note(row.id, "queued", f"by {context.requested_by}")
        queued = _get_row(db, row.id)
    _ensure_worker(queued, token)
    return make_view(queued)


def _find_token(context: Context, plan: PullPlan | None) -> HandedToken | None:
    """Return the caller's token, unless the plan is for another Hub. Ask for the passphrase if the plan needs it."""
    # Imported late: listing downloads does not need them.
    from llm_hf_models.downloads import records, token_handoff
    from llm_hf_models.downloads.plan_types import list_restrictions

    if plan is None:
        return token_handoff.find_token_for_worker(context)
    planned = records.derive_context(context, plan)
    return token_handoff.find_token_for_worker(planned, unlock=bool(list_restrictions(plan)))


def _find_token_for_row(context: Context, download_id: int) -> HandedToken | None:
    return _find_token(context, read_plan(context, download_id))


def _choose_fingerprint(context: Context, row: Download, token: HandedToken | None) -> str | None:
    """Return the fingerprint to store in a row, of the token that its worker needs.

    A caller without a token leaves the row to the worker that has been started for it. A row that a worker is carrying
    out stays with that worker.
    """
    from llm_hf_models.downloads import worker  # imported late: listing downloads rarely needs it

    stored = row.token_fingerprint
    if row.background and row.is_owner_running(stale_seconds=context.stale_seconds()):
        return stored
    if token is not None:
        return token.fingerprint
    return stored if stored and worker.is_running(stored) else None


def _add_working_folder(command: str) -> str:
    """Prefix a command with a change to the current folder, because the worker runs in another one."""
    try:
        folder = str(Path.cwd())
    except FileNotFoundError:  # the current folder has been removed
        return command
    if sys.platform == "win32":
        return f'cd /d "{folder}" && {command}'
    return f"cd {shlex.quote(folder)} || exit\n{command}"


def _ensure_worker(row: Download, token: HandedToken | None) -> None:
    from llm_hf_models.downloads import worker  # imported late, as above

    worker.ensure_running(row.token_fingerprint, token)


def _restart_worker_if_needed(context: Context, rows: Iterable[Download]) -> set[int]:
    """Start a worker if background downloads wait for one, for example after a crash or a reboot.

    This does not prompt for a passphrase. For a caller that may only read, no worker is started.

    Returns:
        The ids of the downloads that still wait for a worker.
    """
    stale = context.stale_seconds()
    waiting = [row for row in rows if row.needs_worker(stale_seconds=stale)]
    if not waiting:
        return set()
    from llm_hf_models.downloads import worker  # imported late, as above

    if worker.is_running():
        return set()
    if context.changes_nothing:
        return {row.id for row in waiting}
    with suppress(HfModelsError):  # the rows can be shown even if the database can't be written
        _release_waiting(context, waiting)
    worker.ensure_running(None, _find_token(replace(context, ask_passphrase=None), None))
    return set()


def _release_waiting(context: Context, rows: Iterable[Download]) -> None:
    """Let any worker claim these rows, and store in them why no worker is running, if its log gives a reason.

    Writing a row also gives the next worker the usual time to claim it before another one is started.
    """
    from llm_hf_models.downloads import worker

    with context.open_downloads() as db, db.transaction():
        for row in rows:
            now = db.get_download(row.id)
            if now is not None and now.needs_worker(stale_seconds=context.stale_seconds()):
                reason = worker.read_last_error(since=now.updated)
                problem = "no worker has continued it" if now.attempts else "no worker has started it"
                error = f"{problem}: {reason}" if reason else None
                db.update_download(row.id, error=error, token_fingerprint=None)
                if error not in (None, now.error):
                    db.add_note(row.id, "waiting", str(error))


def _settle_abandoned(context: Context, db: DownloadTables) -> None:
    """Correct the state of rows whose process has ended, and remove the files of those that were cancelled.

    For a caller that may only read, the database is a copy, and no files are removed.
    """
    # If the database can't be written now, the rows can still be read.
    with suppress(LibraryBusyError, NotWritableError):
        cancelled = db.settle_abandoned(stale_seconds=context.stale_seconds())
        if cancelled and not context.changes_nothing:
            _remove_cancelled_files(context, cancelled)


def list_downloads(context: Context, *, include_finished: bool = False, limit: int = 100) -> tuple[DownloadView, ...]:
    """List downloads, newest first: the unfinished ones, or all of them with `include_finished`."""
    with context.open_downloads() as db:
        _settle_abandoned(context, db)
        most = max(-1, min(limit, MAX_NUMBER))  # the range of SQLite's integers
        rows = db.list_downloads(states=() if include_finished else UNFINISHED_STATES, limit=most, with_plans=False)
    waiting = _restart_worker_if_needed(context, rows)
    return tuple(make_view(row, needs_worker=row.id in waiting) for row in rows)


def get_download(context: Context, download_id: int) -> DownloadView:
    """Return one download.

    Raises:
        NotFoundError: No download has that id.
    """
    with context.open_downloads() as db:
        _settle_abandoned(context, db)
        row = _get_row(db, download_id)
    return make_view(row, needs_worker=bool(_restart_worker_if_needed(context, [row])))


def _get_row(db: DownloadTables, download_id: int) -> Download:
    row = db.get_download(download_id)
    if row is None:
        raise NotFoundError(
            f"There is no download {download_id}", hint="List all downloads with `llm hf downloads --all`."
        )
    return row


def read_log(context: Context, download_id: int) -> tuple[DownloadNote, ...]:
    """Return the log of a download, oldest entry first."""
    with context.open_downloads() as db:
        _get_row(db, download_id)
        return tuple(db.list_notes(download_id))


def read_plan(context: Context, download_id: int) -> PullPlan | None:
    """Return the plan of a download, or None if this version can't read it."""
    from llm_hf_models.downloads import records  # imported late, as above

    with context.open_downloads() as db:
        return records.load_plan_if_readable(_get_row(db, download_id))


def pause(context: Context, download_id: int) -> DownloadView:
    """Pause a download and keep the downloaded bytes. A running one stops at its next heartbeat."""
    return make_view(_request_action(context, download_id, "pause", "paused", allowed=ACTIVE_STATES))


def cancel(context: Context, download_id: int) -> DownloadView:
    """Cancel a download and remove its files. A running one stops at its next heartbeat, and removes them then."""
    row = _request_action(context, download_id, "cancel", "cancelled", allowed=UNFINISHED_STATES)
    if row.state == "cancelled":
        _remove_cancelled_files(context, [download_id])
        with context.open_downloads() as db:
            row = db.get_download(download_id) or row
    return make_view(row)


def resume(context: Context, download_id: int) -> DownloadView:
    """Queue a paused download for the worker again."""
    return _requeue(context, download_id, "resume")


def retry(context: Context, download_id: int) -> DownloadView:
    """Queue a failed or cancelled download for the worker again."""
    return _requeue(context, download_id, "retry")


def _request_action(
    context: Context,
    download_id: int,
    wanted: RequestedAction,
    state: DownloadState,
    *,
    allowed: tuple[DownloadState, ...],
) -> Download:
    with context.open_downloads() as db:
        _settle_abandoned(context, db)
        with db.transaction():
            row = _get_row(db, download_id)
            if row.state != state:
                _refuse_wrong_state(row, allowed, wanted)
            if row.state == state:
                # Store the user's decision: the owner may only be unresponsive, and other processes may take part.
                error = None if row.error in LOST_OWNER_ERRORS else row.error
                db.update_download(download_id, error=error, wanted=_choose_wanted(state))
                return _get_row(db, download_id)
            if row.is_owner_running(stale_seconds=context.stale_seconds()):
                db.update_download(download_id, wanted=wanted)
            else:
                db.update_download(
                    download_id, state=state, wanted=_choose_wanted(state), bytes_per_second=None, error=None
                )
                db.add_note(download_id, state)
        return _get_row(db, download_id)


def _choose_wanted(state: DownloadState) -> RequestedAction | None:
    """Return the request to keep in a row of that state, for processes that are still working on the download."""
    return "pause" if state == "paused" else None


def _requeue(context: Context, download_id: int, verb: str) -> DownloadView:
    token = _find_token_for_row(context, download_id)
    with context.open_downloads() as db:
        _settle_abandoned(context, db)
        with db.transaction():
            row = _get_row(db, download_id)
            fingerprint = _choose_fingerprint(context, row, token)
            if row.state in RUNNING_STATES and row.wanted == "pause" and verb == "resume":  # has not stopped yet
                db.update_download(download_id, background=True, wanted=None)
            elif row.state not in ACTIVE_STATES or row.wanted in ("pause", "cancel"):  # otherwise it continues anyway
                _refuse_wrong_state(row, _REQUEUE_STATES[verb], verb)
                db.update_download(download_id, state="queued", background=True, wanted=None, error=None)
                db.add_note(download_id, "queued", f"by {context.requested_by}")
            requester = row.choose_requester(context.requested_by)
            db.update_download(download_id, token_fingerprint=fingerprint, requested_by=requester)
            if row.error in LOST_OWNER_ERRORS:  # a worker is started for it now
                db.update_download(download_id, error=None)
        queued = _get_row(db, download_id)
    _ensure_worker(queued, token)
    return make_view(queued)


def _refuse_wrong_state(row: Download, allowed: tuple[DownloadState, ...], verb: str) -> None:
    if row.state not in allowed:
        hint = f"Only a download that is {' or '.join(allowed)} can be changed this way."
        other = next((other for other, states in _REQUEUE_STATES.items() if row.state in states), None)
        if other and verb in _REQUEUE_STATES:  # the caller mixed up resume and retry
            hint = f"Continue it with `llm hf {other} {row.id}`."
        raise BadInputError(f"Download {row.id} is {row.state}: there is nothing to {verb}", hint=hint)


def clear_finished(context: Context) -> int:
    """Remove the rows of finished downloads, and the files that `gc` could not find without those rows.

    If the files of a download can't be removed now, its row stays, so that they can be found later.

    Returns:
        The number of removed rows.
    """
    with context.open_downloads() as db:
        _cancel_failed_outside_cache(context, db)
        cancelled = [row.id for row in db.list_downloads(states=("cancelled",), limit=-1, with_plans=False)]
        return db.delete_downloads(FINISHED_STATES, exclude=_remove_cancelled_files(context, cancelled))


def _cancel_failed_outside_cache(context: Context, db: DownloadTables) -> None:
    """Cancel failed downloads to other folders than the cache, because `gc` finds those folders only by the rows."""
    failed = db.list_downloads(states=("failed",), limit=-1)
    if failed:
        from llm_hf_models.downloads import records  # imported late, as below

        for row in failed:
            plan = records.load_plan_if_readable(row)
            if plan is not None and (plan.options.to or not records.is_for_cache(context, plan)):
                db.update_download(row.id, state="cancelled")


def _remove_cancelled_files(context: Context, download_ids: Sequence[int]) -> Sequence[int]:
    from llm_hf_models.downloads import leftovers  # imported late: listing downloads does not need it

    return leftovers.remove_cancelled_files(context, download_ids)


def follow(context: Context, download_id: int, *, stop: threading.Event | None = None) -> Iterator[DownloadEvent]:
    """Yield the events of a download until it has finished or is paused, whichever process carries it out.

    Args:
        context: The context with the library.
        download_id: The id of the download.
        stop: Ends the iterator when set.
    """
    stop, seen, last = stop or threading.Event(), 0, None
    while not stop.is_set():
        with context.open_downloads() as db:  # opened each time, because it may be a copy
            _settle_abandoned(context, db)
            row = _get_row(db, download_id)
            notes = db.list_notes(download_id, after=seen)
            row = _get_row(db, download_id) if notes else row  # read it again, so that it is not older than its notes
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
