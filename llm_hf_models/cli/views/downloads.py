"""Render downloads as text. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_table
from llm_hf_models.library.download_records import ACTIVE_STATES
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_duration, format_size

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PullPlan
    from llm_hf_models.downloads.types import DownloadView
    from llm_hf_models.library.download_records import DownloadNote
    from llm_hf_models.transfer.types import Event, EventKind
    from llm_hf_models.types import Cleanup

_EVENT_KIND_BY_STATE: dict[str, EventKind] = {"running": "progress", "verifying": "verifying", "done": "done"}

_LEFTOVER_NAMES = {
    "partial": "partial file",
    "lock": "lock",
    "incomplete": "partial file",
    "note": "note",
    "ref": "ref",
    "copy": "partial copy",
    "engine": "engine folder",
    "version": "version",
}
_PENDING_REQUESTS = {"pause": "pausing", "cancel": "cancelling", "background": "moving to background"}
_STATES_AFTER = {"pause": ("paused",), "resume": ACTIVE_STATES, "cancel": ("cancelled",), "retry": ACTIVE_STATES}


def render_downloads(rows: Sequence[DownloadView], max_width: int | None) -> str:
    """Return a table of downloads."""
    columns = [
        Column("ID", right=True),
        Column("REF", min_width=24, keep_end=True),
        Column("STATE"),
        Column("DONE", right=True),
        Column("SIZE", 2, right=True),
        Column("SPEED", 3, right=True),
        Column("LEFT", 1, right=True),
        Column("ATTEMPTS", 7, right=True, extra=True),
        Column("BY", 6, extra=True),
        Column("UPDATED", 5, right=True),
        Column("ERROR", 4, min_width=32, wrap=True, below=True),
    ]
    return format_table(columns, [_make_row(row) for row in rows], max_width=max_width)


def _make_row(row: DownloadView) -> list[str]:
    return [
        str(row.id),
        row.ref,
        f"{row.state}, {_PENDING_REQUESTS.get(row.requested_action, row.requested_action)}"
        if row.requested_action
        else row.state,
        f"{100 * row.done_bytes // row.total_bytes if row.total_bytes else 100} %",
        format_size(row.total_bytes),
        f"{format_size(row.bytes_per_second)}/s" if row.bytes_per_second else "",
        "" if row.remaining_seconds is None else format_duration(row.remaining_seconds),
        str(row.attempts),
        row.requested_by + (" (background)" if row.background else ""),
        cli_format.format_age(row.updated),
        row.error or "",
    ]


def name_parts(plan: PullPlan) -> dict[str, str]:
    """Return short names for the files of a model that has several: `shard 2/4` and `projector`, by path."""
    names = {path: f"shard {index}/{len(plan.weights)}" for index, path in enumerate(plan.weights, 1)}
    names = names if len(plan.weights) > 1 else {}
    return {**names, plan.mmproj: "projector"} if plan.mmproj else names


@dataclass(frozen=True)
class WatchedDownload:
    """A whole download, with the fields of a file to transfer."""

    path: str
    size: int
    partial: int


def make_watched(row: DownloadView) -> WatchedDownload:
    """Return a download as a file to transfer."""
    return WatchedDownload(f"{row.id} {row.ref.rpartition('/')[2]}", row.total_bytes, row.done_bytes)


def make_event(row: DownloadView) -> Event:
    """Return the progress of a whole download as one event, as for a single file."""
    from llm_hf_models.transfer.types import Event

    label = make_watched(row).path
    if row.state not in _EVENT_KIND_BY_STATE:  # no process transfers it now
        state = _PENDING_REQUESTS.get(row.requested_action or "", row.state)
        return Event("waiting", label, row.done_bytes, row.total_bytes, state, by_others=True)
    kind = "waiting" if row.error and row.state == "running" else _EVENT_KIND_BY_STATE[row.state]
    return Event(kind, label, row.done_bytes, row.total_bytes, row.error if kind == "waiting" else None)


def render_outcome(row: DownloadView) -> str:
    """Return a sentence about a download's state."""
    return clean_text(f"Download {row.id} ({row.ref}) is {row.state}" + (f": {row.error}" if row.error else "."))


def render_request(row: DownloadView, verb: str) -> str:
    """Return the new state if the request has taken effect. Otherwise return that it was made."""
    if row.state in _STATES_AFTER[verb]:
        return render_outcome(row)
    return clean_text(f"Requested to {verb} download {row.id} ({row.ref}).")


def render_log(notes: Sequence[DownloadNote], max_width: int | None) -> str:
    """Return a table of a download's log entries."""
    rows = [[cli_format.format_time(note.at), note.kind, note.message] for note in notes]
    return format_table(
        [Column("TIME", 1), Column("EVENT"), Column("DETAILS", min_width=20, wrap=True)], rows, max_width=max_width
    )


def render_cleanup(found: Cleanup, max_width: int | None) -> str:
    """Return a table of leftovers with the reason for each, and the space that removing them frees."""
    lines = []
    if found.files:
        columns = [Column("KIND"), Column("SIZE", right=True), Column("REASON"), Column("PATH", below=True)]
        rows = [
            [_LEFTOVER_NAMES[file.kind], format_size(file.size_bytes), file.reason, file.path] for file in found.files
        ]
        lines.append(format_table(columns, rows, max_width=max_width))
    if found.download_records:
        lines.append(f"{found.download_records} old download {'record' if found.download_records == 1 else 'records'}")
    if found.cached_responses:
        lines.append(
            f"{found.cached_responses} old {'response' if found.cached_responses == 1 else 'responses'} of the Hub"
        )
    return "\n".join([*lines, f"{'Freed' if found.done else 'Would free'} {format_size(found.freed_bytes)}."])


def render_queued(row: DownloadView, *, is_complete: bool) -> str:
    """Return the command that shows a background download. `is_complete`: it has nothing to download."""
    if is_complete:
        return f"Download {row.id} has nothing to download and ends at once. Show it: llm hf downloads --all"
    return f"Download {row.id} continues in the background. Watch it: llm hf downloads --watch {row.id}"
