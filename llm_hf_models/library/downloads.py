"""Downloads in the library database."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Literal

from llm_hf_models.errors import LibraryError
from llm_hf_models.library.download_records import (
    RUNNING_STATES,
    Download,
    DownloadNote,
    DownloadState,
    RequestedAction,
)
from llm_hf_models.library.sqlite_file import Row, SQLiteFile
from llm_hf_models.system.processes import has_ended
from llm_hf_models.system.units import MAX_NUMBER

_COLUMN_BY_FIELD = {
    "commit": "commit_hash",
    "requested_by": "asked_by",
}  # the other fields are named like their columns
_COLUMNS_WITHOUT_PLAN = ", ".join(
    _COLUMN_BY_FIELD.get(each.name, each.name) for each in fields(Download) if each.name != "plan"
)
ABANDONED = "its process ended"
UNRESPONSIVE = "its process shows no sign of life"  # it may wake up: who is only stopped, or whose machine slept
LOST_OWNER_ERRORS = (ABANDONED, UNRESPONSIVE)

# What the state that a person gave to a download, whose owner seemed dead, asks of an owner that lives.
_ACTION_BY_STATE: dict[DownloadState, RequestedAction] = {
    "paused": "pause",
    "cancelled": "cancel",
    "queued": "background",
}


class DownloadTables(SQLiteFile):
    """The part of the library that is about downloads."""

    def open_download(self, download: Download) -> Download:
        """Adds a row; the result has its id."""
        now = time.time()
        cursor = self.execute(
            "insert into downloads (ref, state, repo, commit_hash, quant, total_bytes, done_bytes, asked_by,"
            " created, updated, background, owner, heartbeat, on_done, plan)"
            " values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            download.ref, download.state, download.repo, download.commit, download.quant, download.total_bytes,
            download.done_bytes, download.requested_by, now, now, download.background, download.owner, now,
            download.on_done, download.plan,
        )  # fmt: skip
        return replace(download, id=int(cursor.lastrowid or 0), created=now, updated=now, heartbeat=now)

    def update_download(self, number: int, **changes: object) -> None:
        """Changes columns of one row, such as state, done_bytes or error."""
        unknown = changes.keys() - (Download.__dataclass_fields__.keys() - {"id", *_COLUMN_BY_FIELD, "updated"})
        if unknown:
            raise LibraryError(f"downloads has no column among {sorted(unknown)}")
        columns = "".join(f"{name} = ?, " for name in changes)
        self.write(f"update downloads set {columns}updated = ? where id = ?", *changes.values(), time.time(), number)  # noqa: S608 - the names are checked

    def claim_download(self, number: int, owner: str, *, stale_seconds: float) -> bool:
        """Makes `owner` the one that carries a download out, unless somebody who is alive does.

        Args:
            number: which.
            owner: who, unlike any other process or thread.
            stale_seconds: a heartbeat further from now than that is nobody's; see `Download.is_alive`.
        """
        now = time.time()
        changed = self.write(
            "update downloads set state = 'running', owner = ?, heartbeat = ?, updated = ?, wanted = null,"
            " attempts = attempts + 1, error = null where id = ? and state not in ('done', 'cancelled')"
            " and (state not in ('running', 'verifying') or abs(heartbeat - ?) > ?)",
            owner, now, now, number, now, stale_seconds,
        )  # fmt: skip
        return changed == 1

    def find_next_download(self, *, stale_seconds: float) -> Download | None:
        """The one that a worker should claim next: of those in the background one that waits or was abandoned.

        Not one in the foreground, which waits for no longer than its own process takes to claim it.
        """
        rows = self.fetch_rows(
            "select * from downloads where background and (state = 'queued' or (state in ('running', 'verifying')"
            " and abs(heartbeat - ?) > ?)) order by id limit 1",
            time.time(),
            stale_seconds,
        )
        return _parse_download_row(rows[0]) if rows else None

    def record_heartbeat(self, number: int, owner: str) -> RequestedAction | Literal["lost"] | None:
        """A sign of life from a download's owner. Returns what it is asked to do; `lost`: it has another owner now.

        An owner that was silent for long, since its machine slept, say, may have been taken for dead: if nobody carries
        its download out, it is its own again; what a person decided meanwhile stands, and is what it is asked to do.
        """
        with self.transaction():
            row = self.get_download(number)
            if row is None or row.owner != owner:
                return "lost"
            if row.state not in RUNNING_STATES and row.error not in LOST_OWNER_ERRORS:
                return _ACTION_BY_STATE.get(row.state, "lost")
            self.write(
                "update downloads set heartbeat = ?, state = case state when 'paused' then 'running' else state end,"
                " error = nullif(nullif(error, ?), ?) where id = ?",
                time.time(), *LOST_OWNER_ERRORS, number,
            )  # fmt: skip
            if row.state not in RUNNING_STATES:  # it was only silent
                self.add_note(number, "started")
        return row.wanted

    def pause_abandoned(self, *, stale_seconds: float) -> list[int]:
        """Foreground downloads whose process is gone become paused: their person decides, not a worker.

        What a person had decided, and a process did not live to hear, comes about here: also in the background. Others
        there wait for a worker, and have no speed any more.

        Returns:
            The ids of those that are cancelled by that.
        """
        self.mark_ended_as_abandoned()
        found = self._find_abandoned(stale_seconds)
        if not found:  # who only looks need not wait for one who writes
            return []
        with self.transaction():
            found = self._find_abandoned(stale_seconds)
            for row in found:
                if row["waits"]:  # and its last sign of life stays what it was
                    self.write("update downloads set bytes_per_second = null where id = ?", row["id"])
                    continue
                state = "cancelled" if row["wanted"] == "cancel" else "paused"
                words = UNRESPONSIVE if row["state"] in RUNNING_STATES and row["heartbeat"] else ABANDONED
                error = None if row["wanted"] in ("pause", "cancel") else words
                wanted = "pause" if row["wanted"] == "pause" else None
                self.update_download(row["id"], state=state, error=error, wanted=wanted, bytes_per_second=None)
                self.add_note(row["id"], state, error or "")
        return [row["id"] for row in found if row["wanted"] == "cancel"]

    def mark_ended_as_abandoned(self) -> None:
        """Downloads whose process has ended, as far as that can be told from here, are abandoned at once.

        Those of other containers, and of other versions, are once their last sign of life is old enough.
        """
        for row in self.list_downloads(states=RUNNING_STATES, limit=-1, with_plans=False):
            if row.heartbeat and has_ended(str(row.owner)):
                with self.transaction():
                    forgotten = self.write(
                        "update downloads set heartbeat = 0, error = null, bytes_per_second = null"
                        " where id = ? and owner = ? and heartbeat > 0",
                        row.id, row.owner,
                    )  # fmt: skip
                    if forgotten and row.background:
                        self.add_note(row.id, "queued", ABANDONED)

    def _find_abandoned(self, stale_seconds: float) -> list[Row]:
        now = time.time()
        return self.fetch_rows(
            "select id, state, wanted, heartbeat,"
            " background and coalesce(wanted, '') not in ('pause', 'cancel') as waits"
            " from downloads where (state in ('running', 'verifying') and abs(heartbeat - ?) > ?"
            " and (not waits or bytes_per_second is not null))"
            " or (state = 'queued' and not background and abs(updated - ?) > ?)",  # before it could claim it
            now, stale_seconds, now, stale_seconds,
        )  # fmt: skip

    def list_downloads(
        self, *, states: Sequence[DownloadState] = (), limit: int = 100, with_plans: bool = True
    ) -> list[Download]:
        """Rows, newest first.

        Args:
            states: only those in these states; all where none is given.
            limit: at most so many; -1 is no limit.
            with_plans: False leaves their plans on the disk, which are most of a row.
        """
        marks = ",".join("?" * len(states))
        where = f"where state in ({marks})" if states else ""
        columns = "*" if with_plans else _COLUMNS_WITHOUT_PLAN
        rows = self.fetch_rows(f"select {columns} from downloads {where} order by id desc limit ?", *states, limit)  # noqa: S608 - our own names and question marks
        return [_parse_download_row(row) for row in rows]

    def get_download(self, number: int) -> Download | None:
        """One row, or None."""
        if not 0 < number <= MAX_NUMBER:  # more than SQLite's integers hold
            return None
        rows = self.fetch_rows("select * from downloads where id = ?", number)
        return _parse_download_row(rows[0]) if rows else None

    def count_downloads(self, states: Sequence[DownloadState], *, before: float) -> int:
        """How many rows in these states were last written before that time (Unix seconds)."""
        marks = ",".join("?" * len(states))
        rows = self.fetch_rows(f"select 1 from downloads where state in ({marks}) and updated < ?", *states, before)  # noqa: S608 - question marks
        return len(rows)

    def clear_downloads(
        self, states: Sequence[DownloadState], *, before: float = math.inf, exclude: Sequence[int] = ()
    ) -> int:
        """Removes rows in these states that were last written before that time (Unix seconds), `exclude` those.

        Returns:
            How many.
        """
        marks, kept = ",".join("?" * len(states)), ",".join("?" * len(exclude))
        condition = f"state in ({marks}) and updated < ? and id not in ({kept})"
        return self.write(f"delete from downloads where {condition}", *states, before, *exclude)  # noqa: S608 - question marks

    def add_note(self, number: int, kind: str, message: str = "") -> None:
        """Adds a line to a download's log; none where its row was cleared away under whoever carries it out."""
        self.write(
            "insert into notes (download, at, kind, message) select id, ?, ?, ? from downloads where id = ?",
            time.time(), kind, message, number,
        )  # fmt: skip

    def list_notes(self, number: int, *, after: int = 0) -> list[DownloadNote]:
        """A download's log, oldest first, from the line after `after`."""
        rows = self.fetch_rows(
            "select id, at, kind, message from notes where download = ? and id > ? order by id", number, after
        )
        return [DownloadNote(**dict(row)) for row in rows]


def _parse_download_row(row: Row) -> Download:
    values = dict(row)
    renamed = {field: values.pop(column) for field, column in _COLUMN_BY_FIELD.items()}
    return Download(background=bool(values.pop("background")), **renamed, **values)
