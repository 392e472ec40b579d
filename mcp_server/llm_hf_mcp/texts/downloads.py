"""Render downloads and updates as text for agents."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llm_hf_mcp.answers import Report
from llm_hf_mcp.texts.local import format_checks
from llm_hf_mcp.texts.parts import NO_MORE_ROWS, format_totals, join_lines, join_parts, quote, suggest_next_page
from llm_hf_mcp.verbosity import COMMIT_CHARS
from llm_hf_models.system.text import clean_text, quote_label
from llm_hf_models.system.units import format_duration, format_size

if TYPE_CHECKING:
    from llm_hf_mcp.results import DownloadModelResult, GetDownloadsResult, UpdateModelResult
    from llm_hf_models.downloads.types import DownloadView
    from llm_hf_models.library.download_records import DownloadNote

_EVENT_TEXTS = {
    "queued": "was queued", "started": "has started", "done": "is done", "failed": "has failed", "paused": "was paused",
    "cancelled": "was cancelled", "stalled": "stalled", "retrying": "was retried", "waiting": "had to wait",
    "verifying": "is being verified",
}  # fmt: skip
_RESTART_COMMAND = "The user can run `llm hf downloads` to continue all downloads that wait for a worker."


def format_download(row: DownloadView) -> str:
    """Return one download as a line."""
    part = f"{row.done_bytes / row.total_bytes:.0%} of {format_size(row.total_bytes)}" if row.total_bytes else ""
    return f"Download {row.id}: {quote_label(row.ref)} is {row.state}" + "".join(
        f", {part}"
        for part in (
            f"{row.requested_action} requested" if row.requested_action else None,
            part,
            f"{format_size(row.bytes_per_second)}/s" if row.bytes_per_second else None,
            f"about {format_duration(row.remaining_seconds)} left" if row.remaining_seconds else None,
            f"reported error {quote(row.error)}" if row.error else None,
            "no worker is running" if row.needs_worker else None,
        )
        if part
    )


def format_download_details(row: DownloadView, log: Sequence[DownloadNote] = ()) -> Report:
    """Return one download: its state, its last problem, and the next step."""
    last = next((note for note in reversed(log) if note.kind not in ("progress", "verifying")), None)
    kinds = ("stalled", "retrying", "waiting")
    has_problem = last is not None and row.state in ("running", "paused") and last.kind in kinds and not row.error
    text = join_lines(format_download(row), _format_note(last) if last and has_problem else None)
    return Report(text, _suggest_next_step(row))


def _format_note(note: DownloadNote) -> str:
    age = format_duration(max(0.0, time.time() - note.at))
    return f"{age} ago it {_EVENT_TEXTS.get(note.kind, note.kind)}: {quote(note.message)}"


def _suggest_next_step(row: DownloadView) -> str:
    if row.needs_worker:
        return f"hf_control_download(id={row.id}, action='resume') continues it. {_RESTART_COMMAND}"
    if row.requested_action in ("pause", "cancel"):
        return f"hf_get_downloads(id={row.id}, wait_seconds=10). It stops within seconds."
    return {
        "failed": f"hf_control_download(id={row.id}, action='retry') once the cause is fixed.",
        "paused": f"hf_control_download(id={row.id}, action='resume') continues it.",
        "done": f"hf_list_models(name={row.repo!r}) for its name, then hf_run_prompt. It is complete and verified.",
        "cancelled": f"hf_control_download(id={row.id}, action='retry') starts it again.",
    }.get(row.state, f"hf_get_downloads(id={row.id}, wait_seconds=45). It continues in the background.")


def format_event(row: DownloadView, note: DownloadNote) -> str:
    """Return one log entry of a download, for a host's log."""
    about = f"Download {row.id} ({row.ref})" if not is_file_note(note) else f"{note.message} of download {row.id}"
    message = "" if is_file_note(note) else f": {note.message}" * bool(note.message)
    return clean_text(f"{about} {_EVENT_TEXTS.get(note.kind, note.kind)}{message}", 600)


def is_file_note(note: DownloadNote) -> bool:
    """Return whether a log entry is about one file. The last entry of a whole download names its model."""
    named = note.kind == "done" and note.message.startswith("hf/")
    return note.kind in ("started", "verifying", "done") and bool(note.message) and not named


def format_pull(now: DownloadModelResult) -> Report:
    """Return the state of a download, and the next step."""
    report = _format_pull_state(now)
    return replace(report, warnings=(*report.warnings, now.note)) if now.note else report


def _format_pull_state(now: DownloadModelResult) -> Report:
    if now.model is not None:
        how = "was on this machine already" if now.download is None else "was downloaded"
        names = join_parts(now.model.aliases) or now.model.id
        checks = join_parts(format_checks(now.model))
        name = (now.model.aliases or (now.model.id,))[0]
        text = f"{now.model.id} {how}. Checks: {checks}. Names: {names}."
        left_out = tuple(f"Left out: {quote(line)}" for line in now.model.left_out)
        return Report(text, f"hf_run_prompt(name={name!r}).", left_out)
    if now.download is None:
        return Report("The files were on this machine already.")
    return format_download_details(now.download)


def format_update_result(now: UpdateModelResult) -> Report:
    """Return the state of an update, and the next step."""
    if now.download is None:
        return Report(now.note or "There is nothing to update.")
    if now.model is None:
        return format_download_details(now.download)
    checks = join_parts(format_checks(now.model))
    text = f"{now.model.id} is at {(now.model.commit or '')[:COMMIT_CHARS]} now. Checks: {checks}."
    return Report(text, f"hf_run_prompt(name={now.model.id!r}).")


def format_downloads(page: GetDownloadsResult) -> Report:
    """Return one line for each download."""
    if page.log:
        return format_download_details(page.downloads[0], page.log)
    if not page.downloads and page.totals["downloads"].total:
        return Report(NO_MORE_ROWS)
    if not page.downloads:
        return Report("There are no unfinished downloads.", "hf_get_downloads(finished=true) also lists finished ones.")
    waiting = next((row for row in page.downloads if row.needs_worker), None)
    return Report(
        join_lines(format_totals(page.totals), *map(format_download, page.downloads)),
        suggest_next_page(page.next_cursor) or (_suggest_next_step(waiting) if waiting else None),
    )
