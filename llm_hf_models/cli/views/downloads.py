"""The queue as text for a person. `limit` is in columns, None is no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.output import Column, table
from llm_hf_models.library.download_records import MOVING
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_duration, format_size

if TYPE_CHECKING:
    from llm_hf_models.downloads.types import DownloadView
    from llm_hf_models.library.download_records import DownloadNote
    from llm_hf_models.transfer.types import Event, EventKind
    from llm_hf_models.types import Cleanup

_KINDS: dict[str, EventKind] = {"queued": "waiting", "verifying": "verifying", "done": "done"}

_DEAD = {
    "partial": "partial file",
    "lock": "lock",
    "incomplete": "partial file",
    "note": "note",
    "ref": "ref",
    "copy": "half a copy",
    "engine": "engine's folder",
}
_ASKED = {"pause": "pausing", "cancel": "cancelling", "background": "going to the background"}
_DONE = {"pause": ("paused",), "resume": MOVING, "cancel": ("cancelled",), "retry": MOVING}


def downloads(rows: Sequence[DownloadView], limit: int | None) -> str:
    """A row for each download."""
    columns = [
        Column("ID", right=True),
        Column("REF", least=24),
        Column("STATE"),
        Column("DONE", right=True),
        Column("SIZE", 2, right=True),
        Column("SPEED", 3, right=True),
        Column("LEFT", 1, right=True),
        Column("TRIES", 8, right=True),
        Column("ASKED BY", 7),
        Column("UPDATED", 5, right=True),
        Column("ERROR", 4, least=16, wrap=True),
    ]
    return table(columns, [_row(row) for row in rows], limit=limit)


def _row(row: DownloadView) -> list[str]:
    return [
        str(row.id),
        row.ref,
        f"{row.state}, {_ASKED.get(row.asked_to, row.asked_to)}" if row.asked_to else row.state,
        f"{100 * row.done_bytes // row.total_bytes if row.total_bytes else 100} %",
        format_size(row.total_bytes),
        f"{format_size(row.bytes_per_second)}/s" if row.bytes_per_second else "",
        "" if row.seconds_left is None else format_duration(row.seconds_left),
        str(row.attempts),
        row.asked_by + (", in the background" if row.background else ""),
        cli_format.ago(row.updated),
        row.error or "",
    ]


def event(row: DownloadView) -> Event:
    """A download as one moving thing, for bars and lines."""
    from llm_hf_models.transfer.types import Event

    kind = "waiting" if row.error and row.state == "running" else _KINDS.get(row.state, "progress")
    return Event(
        kind,
        f"{row.id} {row.ref.rpartition('/')[2]}",
        row.done_bytes,
        row.total_bytes,
        row.error if kind == "waiting" else None,
    )


def outcome(row: DownloadView) -> str:
    """How a download stands."""
    return clean_text(f"Download {row.id} ({row.ref}) is {row.state}" + (f": {row.error}" if row.error else "."))


def asked(row: DownloadView, verb: str) -> str:
    """What asking did: at once, or as soon as whoever carries the download out hears of it."""
    if row.state in _DONE[verb]:
        return outcome(row)
    return clean_text(f"Download {row.id} ({row.ref}) has been asked to {verb}.")


def log(notes: Sequence[DownloadNote], limit: int | None) -> str:
    """A row for each thing that happened."""
    rows = [[cli_format.moment(note.at), note.kind, note.message] for note in notes]
    return table([Column("WHEN", 1), Column("WHAT"), Column("WHY", least=20, wrap=True)], rows, limit=limit)


def cleanup(found: Cleanup, limit: int | None) -> str:
    """What goes (or went), why, and how much room that makes."""
    lines = []
    if found.files:
        columns = [Column("WHAT"), Column("SIZE", right=True), Column("WHY", 1), Column("PATH", least=24)]
        rows = [[_DEAD[file.kind], format_size(file.size), file.why, file.path] for file in found.files]
        lines.append(table(columns, rows, limit=limit))
    if found.rows:
        lines.append(f"{found.rows} {'download that is' if found.rows == 1 else 'downloads that are'} long over")
    if found.answers:
        lines.append(f"{found.answers} old {'answer' if found.answers == 1 else 'answers'} of the Hub")
    return "\n".join([*lines, f"{'Freed' if found.done else 'Frees'} {format_size(found.freed_bytes)}."])


def queued(row: DownloadView) -> str:
    """Where to look for a download that goes on in the background."""
    return f"Download {row.id} goes on in the background: llm hf downloads --watch {row.id}"
