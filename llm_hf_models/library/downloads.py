"""Database tables of downloads: rows, owners and logs. Transfers no bytes and starts no process."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Literal

from llm_hf_models.errors import LibraryError
from llm_hf_models.library.download_records import (
    ABANDONED,
    ACTIVE_STATES,
    LOST_OWNER_ERRORS,
    RUNNING_STATES,
    UNRESPONSIVE,
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

# A user can change the state of a download whose owner seems to have ended. If the owner is still running, this is the
# action that the new state requests from it.
_ACTION_BY_STATE: dict[DownloadState, RequestedAction] = {"paused": "pause", "cancelled": "cancel"}


class DownloadTables(SQLiteFile):
    """The part of the database that stores downloads."""

    def add_download(self, download: Download) -> Download:
        """Insert a download. Return it with its id."""
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

    def update_download(self, download_id: int, **changes: object) -> None:
        """Update columns of one download, such as state, done_bytes or error."""
        unknown = changes.keys() - (Download.__dataclass_fields__.keys() - {"id", "commit", "updated"})
        if unknown:
            raise LibraryError(f"The table of downloads has no columns {sorted(unknown)}")
        columns = "".join(f"{_COLUMN_BY_FIELD.get(name, name)} = ?, " for name in changes)
        sql = f"update downloads set {columns}updated = ? where id = ?"  # noqa: S608 - the names are validated
        self.write(sql, *changes.values(), time.time(), download_id)

    def claim_download(self, download_id: int, owner: str, *, stale_seconds: float) -> bool:
        """Make `owner` the owner of a download, unless another owner is running it. Return whether that succeeded.

        Args:
            download_id: id of the download.
            owner: name of the new owner, unique to this attempt.
            stale_seconds: age at which a heartbeat is stale, in seconds.
        """
        with self.transaction():
            row = self.get_download(download_id)
            if row is None or row.state in ("done", "cancelled") or row.is_owner_running(stale_seconds=stale_seconds):
                return False
            now = time.time()
            self.write(
                "update downloads set state = 'running', owner = ?, heartbeat = ?, updated = ?, wanted = null,"
                " attempts = attempts + 1, error = null where id = ?",
                owner, now, now, download_id,
            )  # fmt: skip
            taken_over = row.state in RUNNING_STATES
            self.add_note(download_id, "started", f"after {_explain_lost_owner(row)}" if taken_over else "")
            return True

    def list_next_downloads(self, fingerprint: str | None = None) -> list[Download]:
        """Return the next background download for each token: the first that is queued.

        Foreground downloads are left out. They are queued only until their own process claims them.

        Args:
            fingerprint: fingerprint of the worker's token. The first result is the next download
                with this token or without a token, if there is one.
        """
        rows = self.fetch_rows(
            "select * from downloads where id in (select min(id) from downloads where background and state = 'queued'"
            " group by nullif(token_fingerprint, ?)) order by coalesce(nullif(token_fingerprint, ?), ''), id",
            fingerprint, fingerprint,
        )  # fmt: skip
        return [_parse_download_row(row) for row in rows]

    def record_heartbeat(self, download_id: int, owner: str) -> RequestedAction | Literal["lost"] | None:
        """Record a heartbeat of a download's owner. Return the action that the owner should take, if any.

        `lost` means that the download has another owner now. After a long silence, for example
        because the machine slept, other processes may have treated the owner as ended. If no other
        process claimed the download, the owner keeps it. If the user paused or cancelled it
        meanwhile, that decision stands and is the returned action.
        """
        with self.transaction():
            row = self.get_download(download_id)
            if row is None or row.owner != owner:
                return "lost"
            if row.state not in ACTIVE_STATES and row.error not in LOST_OWNER_ERRORS:
                return _ACTION_BY_STATE.get(row.state, "lost")
            self.write(
                "update downloads set heartbeat = ?, error = nullif(nullif(error, ?), ?),"
                " state = case when state in ('queued', 'paused') then 'running' else state end where id = ?",
                time.time(), *LOST_OWNER_ERRORS, download_id,
            )  # fmt: skip
            if row.state not in RUNNING_STATES:  # it was only unresponsive
                self.add_note(download_id, "started")
        return row.wanted

    def settle_abandoned(self, *, stale_seconds: float) -> list[int]:
        """Queue background downloads that their owner no longer runs, for a worker, and pause foreground ones.

        If the owner did not carry out a requested pause or cancellation, it is carried out now.

        Returns:
            The ids of the downloads that this call cancelled.
        """
        if not self._find_abandoned(stale_seconds):  # without changes, don't wait for another writer
            return []
        with self.transaction():
            found = self._find_abandoned(stale_seconds)
            for row in found:
                self._settle(row)
        return [row.id for row in found if row.wanted == "cancel"]

    def _find_abandoned(self, stale_seconds: float) -> list[Download]:
        rows = self.list_downloads(states=ACTIVE_STATES, limit=-1, with_plans=False)
        return [row for row in rows if row.is_abandoned(stale_seconds=stale_seconds)]

    def _settle(self, row: Download) -> None:
        state: DownloadState = "cancelled" if row.wanted == "cancel" else "paused"
        error = None if row.wanted in ("pause", "cancel") else _explain_lost_owner(row)
        if row.background and error:
            state = "queued"
            # The time of the last change stays, so that the log of a worker that failed since then explains the end.
            self.write(
                "update downloads set state = 'queued', error = ?, bytes_per_second = null where id = ?", error, row.id
            )
        else:
            wanted = "pause" if row.wanted == "pause" else None
            self.update_download(row.id, state=state, error=error, wanted=wanted, bytes_per_second=None)
        self.add_note(row.id, state, error or "")

    def list_downloads(
        self, *, states: Sequence[DownloadState] = (), limit: int = 100, with_plans: bool = True
    ) -> list[Download]:
        """Return downloads, newest first.

        Args:
            states: only downloads in these states. Empty means all states.
            limit: maximum number of downloads. -1 means no limit.
            with_plans: False leaves out the plans, which are most of a row's size.
        """
        marks = ",".join("?" * len(states))
        where = f"where state in ({marks})" if states else ""
        columns = "*" if with_plans else _COLUMNS_WITHOUT_PLAN
        rows = self.fetch_rows(f"select {columns} from downloads {where} order by id desc limit ?", *states, limit)  # noqa: S608 - only column names and placeholders
        return [_parse_download_row(row) for row in rows]

    def get_download(self, download_id: int) -> Download | None:
        """Return the download with this id, or None."""
        if not 0 < download_id <= MAX_NUMBER:  # larger numbers exceed SQLite's integers
            return None
        rows = self.fetch_rows("select * from downloads where id = ?", download_id)
        return _parse_download_row(rows[0]) if rows else None

    def read_fingerprint_key(self) -> bytes:
        """Return the random key of this library for the fingerprints of tokens."""
        return bytes.fromhex(self.fetch_rows("select key from fingerprint_key")[0]["key"])

    def count_downloads(self, states: Sequence[DownloadState], *, before: float) -> int:
        """Return the number of downloads in these states that were last updated before that time (Unix seconds)."""
        marks = ",".join("?" * len(states))
        sql = f"select 1 from downloads where state in ({marks}) and updated < ?"  # noqa: S608 - only placeholders
        rows = self.fetch_rows(sql, *states, before)
        return len(rows)

    def delete_downloads(
        self, states: Sequence[DownloadState], *, before: float = math.inf, exclude: Sequence[int] = ()
    ) -> int:
        """Delete downloads in these states that were last updated before that time (Unix seconds).

        Args:
            states: states of the downloads to delete.
            before: time in Unix seconds.
            exclude: ids of downloads to keep.

        Returns:
            The number of deleted downloads.
        """
        marks, excluded_marks = ",".join("?" * len(states)), ",".join("?" * len(exclude))
        condition = f"state in ({marks}) and updated < ? and id not in ({excluded_marks})"
        return self.write(f"delete from downloads where {condition}", *states, before, *exclude)  # noqa: S608 - only placeholders

    def add_note(self, download_id: int, kind: str, message: str = "") -> None:
        """Add a line to a download's log. Do nothing if the download was deleted while its owner was running."""
        self.write(
            "insert into notes (download, at, kind, message) select id, ?, ?, ? from downloads where id = ?",
            time.time(), kind, message, download_id,
        )  # fmt: skip

    def list_notes(self, download_id: int, *, after: int = 0) -> list[DownloadNote]:
        """Return the lines of a download's log after the line with id `after`, oldest first."""
        rows = self.fetch_rows(
            "select id, at, kind, message from notes where download = ? and id > ? order by id", download_id, after
        )
        return [DownloadNote(**dict(row)) for row in rows]


def _explain_lost_owner(row: Download) -> str:
    return ABANDONED if row.state not in RUNNING_STATES or has_ended(str(row.owner)) else UNRESPONSIVE


def _parse_download_row(row: Row) -> Download:
    values = dict(row)
    renamed = {field: values.pop(column) for field, column in _COLUMN_BY_FIELD.items()}
    return Download(background=bool(values.pop("background")), **renamed, **values)
