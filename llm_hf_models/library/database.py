"""SQLite database of this machine's library: local models, checks, downloads, engines and cached metadata.

It uses no network and makes no decisions. All SQL is in this package. llm's hooks use
`registered_models` instead.
"""

from __future__ import annotations

import json
import time

from llm_hf_models.library.downloads import DownloadTables
from llm_hf_models.library.records import CachedMetadata, EngineRow
from llm_hf_models.library.sqlite_file import Row, encode_json, translate_row_errors
from llm_hf_models.library.trust import TrustTables
from llm_hf_models.library.versions import VersionTables


class Database(VersionTables, DownloadTables, TrustTables):
    """The open library database, a context manager. Threads may share it."""

    # Engines

    def list_engines(self) -> list[EngineRow]:
        """Return every engine row, most recently used first. Some of these engines may have ended."""
        rows = self.fetch_rows("select * from engines order by last_used desc")
        with translate_row_errors(self.path):
            return [_parse_engine_row(row) for row in rows]

    def get_engine(self, fingerprint: str) -> EngineRow | None:
        """Return the engine with this fingerprint, or None."""
        rows = self.fetch_rows("select * from engines where fingerprint = ?", fingerprint)
        with translate_row_errors(self.path):
            return _parse_engine_row(rows[0]) if rows else None

    def save_engine(self, row: EngineRow) -> None:
        """Insert or replace an engine row."""
        self.write(
            "insert or replace into engines values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            row.fingerprint, row.model_id, row.pid, row.pid_started, row.address, row.key, row.context, row.started,
            row.last_used, row.keep_alive, row.memory, row.tokens_per_second, encode_json(row.layers), row.log,
            encode_json(row.missing),
        )  # fmt: skip

    def touch_engine(self, fingerprint: str, tokens_per_second: float | None = None) -> None:
        """Record that an engine was used now, and its last speed."""
        self.write(
            "update engines set last_used = ?, tokens_per_second = coalesce(?, tokens_per_second)"
            " where fingerprint = ?",
            time.time(), tokens_per_second, fingerprint,
        )  # fmt: skip

    def delete_engine(self, fingerprint: str, pid: int) -> None:
        """Delete an engine row if it still belongs to this process."""
        self.write("delete from engines where fingerprint = ? and pid = ?", fingerprint, pid)

    # Metadata cache

    def get_metadata(self, key: str) -> CachedMetadata | None:
        """Return a cached response of the Hub, or None."""
        rows = self.fetch_rows("select body, etag, fetched from metadata where key = ?", key)
        return CachedMetadata(**dict(rows[0])) if rows else None

    def save_metadata(self, key: str, body: str, etag: str | None = None) -> None:
        """Cache a response of the Hub with the current time. Do nothing if the library is read-only."""
        if self.is_writable:
            self.write("insert or replace into metadata values (?,?,?,?)", key, body, etag, time.time())

    def count_metadata(self, *, older_than: float) -> int:
        """Return the number of cached responses fetched before that time (Unix seconds)."""
        return int(self.fetch_rows("select count(*) from metadata where fetched < ?", older_than)[0][0])

    def delete_old_metadata(self, older_than: float) -> int:
        """Delete cached responses fetched before that time (Unix seconds). Return their number."""
        return self.write("delete from metadata where fetched < ?", older_than)


def _parse_engine_row(row: Row) -> EngineRow:
    values = dict(row)
    layers, missing = json.loads(values.pop("layers")), json.loads(values.pop("missing"))
    return EngineRow(layers=tuple(layers), missing=missing, **values)
