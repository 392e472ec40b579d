"""The SQLite record of what is on this machine: local models, their proofs, downloads, engines, cached metadata.

Talks to no network and judges nothing. All SQL stands here, but for what llm's hooks read (registered.py);
migrations only ever append.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from typing_extensions import Self

from llm_hf_models.errors import (
    AmbiguousNameError,
    DiskFullError,
    HfModelsError,
    LibraryBusyError,
    LibraryDamagedError,
    LibraryError,
    LibraryTooNewError,
    NameTakenError,
    NotWritableError,
    UnknownModelError,
)
from llm_hf_models.gguf_facts import ModelFacts, with_template
from llm_hf_models.records import (
    CachedMetadata,
    Check,
    Download,
    DownloadNote,
    DownloadState,
    EngineRow,
    LocalFile,
    LocalModel,
    Wanted,
)

BUSY_SECONDS = 10
BUSY_POLL_SECONDS = 0.02
MIGRATIONS: tuple[str, ...] = (
    """
    create table models (
        id integer primary key,
        model_id text not null unique,
        repo text, revision text, commit_hash text,
        quant text not null,
        kind text not null,
        facts text not null,
        options text not null default '{}',
        endpoint text,
        place text not null,
        hub text not null default '{}',
        added real not null,
        last_used real
    );
    create table files (
        model integer not null references models(id) on delete cascade,
        position integer not null,
        path text not null,
        role text not null,
        size integer not null,
        location text not null,
        sha256 text, git_sha1 text, mtime_ns integer,
        primary key (model, position)
    );
    create index files_location on files(location);
    create table aliases (
        alias text primary key collate nocase,
        model integer not null references models(id) on delete cascade
    );
    create table checks (
        id integer primary key,
        model integer not null references models(id) on delete cascade,
        kind text not null, result text not null, at real not null,
        detail text not null default '{}'
    );
    create index checks_model on checks(model, kind, at);
    create table downloads (
        id integer primary key autoincrement,
        ref text not null, state text not null,
        repo text not null, commit_hash text not null, quant text,
        total_bytes integer not null, done_bytes integer not null default 0,
        bytes_per_second real, attempts integer not null default 0,
        error text, asked_by text not null,
        created real not null, updated real not null,
        background integer not null default 0,
        wanted text, owner text, heartbeat real not null default 0,
        on_done text,
        plan text not null default '{}'
    );
    create index downloads_state on downloads(state, background, id);
    create table notes (
        id integer primary key autoincrement,
        download integer not null references downloads(id) on delete cascade,
        at real not null, kind text not null, message text not null
    );
    create index notes_download on notes(download, id);
    create table engines (
        fingerprint text primary key,
        model_id text not null, pid integer not null, pid_started real not null,
        address text not null, key text not null, context integer not null,
        started real not null, last_used real not null, keep_alive real not null,
        memory integer not null default 0, tokens_per_second real,
        layers text not null default '[]', log text
    );
    create table metadata (
        key text primary key, body text not null, etag text, fetched real not null
    );
    """,
)


def _dump(value: object) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), default=list, allow_nan=False)
    except ValueError:  # a header may say NaN, and SQLite would call it malformed
        return json.dumps(_finite(value), separators=(",", ":"), default=list)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value


def facts_from_json(text: str) -> ModelFacts:
    """The facts of a stored model; fields that this version doesn't know are dropped."""
    known = {key: value for key, value in json.loads(text).items() if key in ModelFacts.__dataclass_fields__}
    for key in ("modalities", "base_models"):
        if key in known:
            known[key] = tuple(known[key])
    return ModelFacts(**known)


_making = threading.Lock()


def _make_private(path: Path) -> None:
    """Makes the file where there is none. It holds the engines' keys: nobody else's to read.

    A file that is there is never opened here: closing a second descriptor would drop every lock that SQLite holds on it
    in this process (sqlite.org/howtocorrupt.html, "POSIX advisory locks"). The files beside it get the same mode.
    """
    with _making, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


class LibraryDB:
    """The open library file, a context manager; threads may share it. llm's hooks read through `registered` instead."""

    def __init__(self, path: Path) -> None:
        """Opens the file, making or migrating it.

        Raises:
            LibraryDamagedError, LibraryTooNewError, NotWritableError
        """
        self.path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(path)
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        except (OSError, ValueError, sqlite3.Error) as error:
            raise NotWritableError(f"Can't open the library at {path}", cause=str(error)) from None
        self._db.row_factory = sqlite3.Row
        try:
            self._migrate()
        except BaseException:
            self._db.close()
            raise

    def _migrate(self) -> None:
        version = self._version()
        if version > len(MIGRATIONS):
            raise LibraryTooNewError(
                f"The library at {self.path} was written by a newer llm-hf-models",
                cause=f"It has format {version}; this version knows {len(MIGRATIONS)}.",
                hint="llm install -U llm-hf-models",
            )
        self._use_wal()
        self._execute("pragma synchronous = normal")
        self._execute("pragma foreign_keys = on")
        if version == len(MIGRATIONS):
            return
        with self.transaction():
            for number in range(self._version(), len(MIGRATIONS)):  # again: another process may have been first
                for statement in MIGRATIONS[number].split(";"):
                    self._execute(statement)
                self._execute(f"pragma user_version = {number + 1}")

    def _use_wal(self) -> None:
        """Turns the write-ahead log on. SQLite doesn't wait for others here, whatever the busy timeout: we do."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with _translated(self.path):
                    self._db.execute("pragma journal_mode = wal")
            except LibraryBusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(BUSY_POLL_SECONDS)
            else:
                return

    def _version(self) -> int:
        return int(self._rows("pragma user_version")[0][0])

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and one writer at a time; inside another one it is part of that."""
        with self._lock, self._within("begin immediate"):
            yield

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Several questions, one moment: what another process writes meanwhile is not seen."""
        with self._lock, self._within("begin"):
            yield

    @contextmanager
    def _within(self, begin: str) -> Iterator[None]:
        if self._db.in_transaction:
            yield
            return
        self._execute(begin)
        try:
            yield
            self._execute("commit")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it before we can
                self._execute("rollback")
            raise

    def _execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        with self._lock, _translated(self.path):
            return self._db.execute(sql, values)

    def _rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._lock, _translated(self.path):
            return self._db.execute(sql, values).fetchall()

    def _write(self, sql: str, *values: object) -> int:
        return self._execute(sql, *values).rowcount

    # Local models

    def register(self, model: LocalModel) -> LocalModel:
        """Adds a model, or replaces the one of the same id (keeping its aliases and options), in one transaction.

        Aliases that already name another model are left out; the result says which were kept.
        """
        with self.transaction():
            self._write(
                "insert into models (model_id, repo, revision, commit_hash, quant, kind, facts, options, endpoint,"
                " place, hub, added) values (?,?,?,?,?,?,?,?,?,?,?,?) on conflict(model_id) do update set"
                " repo=excluded.repo, revision=excluded.revision, commit_hash=excluded.commit_hash,"
                " quant=excluded.quant, kind=excluded.kind, facts=excluded.facts, endpoint=excluded.endpoint,"
                " place=excluded.place, hub=excluded.hub",
                model.model_id, model.repo, model.revision, model.commit, model.quant, model.facts.kind,
                _dump(asdict(model.facts)), _dump(dict(model.options)), model.endpoint, model.place,
                _dump(dict(model.hub)), model.added or time.time(),
            )  # fmt: skip
            key = self._key(model.model_id)
            self._write("delete from files where model = ?", key)
            for position, file in enumerate(model.files):
                self._write(
                    "insert into files values (?,?,?,?,?,?,?,?,?)", key, position, file.path, file.role, file.size,
                    file.location, file.sha256, file.git_sha1, file.mtime_ns,
                )  # fmt: skip
            self._write("delete from checks where model = ?", key)
            for check in model.checks:
                self._add_check(key, check)
            for alias in model.aliases:
                self._write("insert or ignore into aliases values (?, ?)", alias, key)
        return self.model(model.model_id)

    def _key(self, model_id: str) -> int:
        rows = self._rows("select id from models where model_id = ?", model_id)
        if not rows:
            raise UnknownModelError(f"There is no local model {model_id}", hint="`llm hf list` shows what is here.")
        return int(rows[0]["id"])

    def models(self) -> list[LocalModel]:
        """All of them, newest first."""
        return self._models("order by models.added desc, models.id desc")

    def model(self, model_id: str) -> LocalModel:
        """The one of exactly that id.

        Raises:
            UnknownModelError: there is none.
        """
        found = self._models("where models.model_id = ?", model_id)
        if not found:
            raise UnknownModelError(f"There is no local model {model_id}", hint="`llm hf list` shows what is here.")
        return found[0]

    def find(self, name: str) -> LocalModel:
        """The one that a person means: its id with or without `hf/`, an alias, or a repo with a single variant here.

        Raises:
            UnknownModelError: none of these.
            AmbiguousNameError: several; the cause lists them.
        """
        wanted = name.strip().casefold()
        every = self.models()
        rules: tuple[Callable[[LocalModel], bool], ...] = (
            lambda m: m.model_id.casefold() in (wanted, f"hf/{wanted}"),
            lambda m: wanted in (alias.casefold() for alias in m.aliases),
            lambda m: m.repo is not None and wanted in (m.repo.casefold(), f"hf/{m.repo.casefold()}"),
            lambda m: _bare_name(m.model_id).casefold() == wanted,
        )
        for rule in rules:
            found = [model for model in every if rule(model)]
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(model.model_id for model in found)
                raise AmbiguousNameError(
                    f"{name!r} names {len(found)} local models", cause=names, hint="Use one of these."
                )
        raise UnknownModelError(f"There is no local model {name!r}", hint="`llm hf list` shows what is here.")

    def _models(self, tail: str, *values: object) -> list[LocalModel]:
        with self._snapshot():
            rows = self._rows(f"select * from models {tail}", *values)  # noqa: S608 - tails are literals above
            keys = {int(row["id"]) for row in rows}
            if not keys:
                return []
            files = self._by_model("files", "position", keys)
            aliases = self._by_model("aliases", "alias", keys)
            checks = self._by_model("checks", "at desc, id desc", keys)
        with _readable(self.path):
            return [_model_of(row, files[row["id"]], aliases[row["id"]], checks[row["id"]]) for row in rows]

    def _by_model(self, table: str, order: str, keys: set[int]) -> dict[int, list[sqlite3.Row]]:
        only = f"where model = {next(iter(keys))}" if len(keys) == 1 else ""
        grouped: dict[int, list[sqlite3.Row]] = {key: [] for key in keys}
        for row in self._rows(f"select * from {table} {only} order by model, {order}"):  # noqa: S608 - literals
            grouped.setdefault(row["model"], []).append(row)
        return grouped

    def remove(self, model_id: str) -> None:
        """Forgets a model; its files are the caller's business."""
        if not self._write("delete from models where model_id = ?", model_id):
            self._key(model_id)

    def add_check(self, model_id: str, check: Check) -> None:
        """Records a fact about a model."""
        self._add_check(self._key(model_id), check)

    def _add_check(self, key: int, check: Check) -> None:
        self._write(
            "insert into checks (model, kind, result, at, detail) values (?,?,?,?,?)",
            key, check.kind, check.result, check.at, _dump(dict(check.detail)),
        )  # fmt: skip

    def set_options(self, model_id: str, options: Mapping[str, Any]) -> None:
        """Replaces a user's own options for a model."""
        self._write("update models set options = ? where id = ?", _dump(dict(options)), self._key(model_id))

    def touch(self, model_id: str) -> None:
        """Notes that a model is used now."""
        self._write("update models set last_used = ? where model_id = ?", time.time(), model_id)

    def add_alias(self, alias: str, model_id: str) -> None:
        """Gives a model one more name.

        Raises:
            NameTakenError: it names another model already.
        """
        key = self._key(model_id)
        with self.transaction():
            rows = self._rows(
                "select model_id from aliases join models on models.id = aliases.model where alias = ?", alias
            )
            if rows and rows[0]["model_id"] != model_id:
                raise NameTakenError(
                    f"{alias!r} already names {rows[0]['model_id']}", hint=f"llm hf alias --remove {alias}"
                )
            self._write("insert or ignore into aliases values (?, ?)", alias, key)

    def remove_alias(self, alias: str) -> None:
        """Takes a name away.

        Raises:
            UnknownModelError: nothing has it.
        """
        if not self._write("delete from aliases where alias = ?", alias):
            raise UnknownModelError(f"No local model has the alias {alias!r}", hint="`llm hf list` shows them.")

    def locations_in_use(self, *, without: str | None = None) -> set[str]:
        """Every recorded location, or those of all models but one."""
        rows = self._rows(
            "select distinct location from files join models on models.id = files.model where model_id is not ?",
            without,
        )
        return {row["location"] for row in rows}

    # Downloads

    def open_download(self, download: Download) -> Download:
        """Adds a row; the result has its id."""
        now = time.time()
        cursor = self._execute(
            "insert into downloads (ref, state, repo, commit_hash, quant, total_bytes, done_bytes, asked_by,"
            " created, updated, background, owner, heartbeat, on_done, plan)"
            " values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            download.ref, download.state, download.repo, download.commit, download.quant, download.total_bytes,
            download.done_bytes, download.asked_by, now, now, download.background, download.owner, now,
            download.on_done, download.plan,
        )  # fmt: skip
        return replace(download, id=int(cursor.lastrowid or 0), created=now, updated=now, heartbeat=now)

    def update_download(self, number: int, **changes: object) -> None:
        """Changes columns of one row, such as state, done_bytes or error."""
        unknown = changes.keys() - (Download.__dataclass_fields__.keys() - {"id", "commit", "updated"})
        if unknown:
            raise LibraryError(f"downloads has no column among {sorted(unknown)}")
        columns = "".join(f"{name} = ?, " for name in changes)
        self._write(f"update downloads set {columns}updated = ? where id = ?", *changes.values(), time.time(), number)  # noqa: S608 - the names are checked

    def claim_download(self, number: int, owner: str, *, stale_before: float) -> bool:
        """Makes `owner` the one that carries a download out, unless somebody who is alive does.

        Args:
            number: which.
            owner: who, unlike any other process or thread.
            stale_before: a heartbeat older than that (Unix seconds) is nobody's.
        """
        now = time.time()
        changed = self._write(
            "update downloads set state = 'running', owner = ?, heartbeat = ?, updated = ?, wanted = null,"
            " attempts = attempts + 1, error = null where id = ? and state not in ('done', 'cancelled')"
            " and (state not in ('running', 'verifying') or heartbeat < ?)",
            owner, now, now, number, stale_before,
        )  # fmt: skip
        return changed == 1

    def next_download(self, *, stale_before: float) -> Download | None:
        """The one that a worker should claim next: queued, or in the background and abandoned by its owner."""
        rows = self._rows(
            "select * from downloads where state = 'queued' or (background and state in ('running', 'verifying')"
            " and heartbeat < ?) order by background, id limit 1",
            stale_before,
        )
        return _download_of(rows[0]) if rows else None

    def beat(self, number: int, owner: str) -> Wanted | Literal["lost"] | None:
        """A sign of life from a download's owner. Returns what it is asked to do; `lost`: it has another owner now."""
        with self.transaction():
            if not self._write(
                "update downloads set heartbeat = ? where id = ? and owner = ? and state in ('running', 'verifying')",
                time.time(), number, owner,
            ):  # fmt: skip
                return "lost"
            wanted: Wanted | None = self._rows("select wanted from downloads where id = ?", number)[0]["wanted"]
        return wanted

    def pause_abandoned(self, *, stale_before: float) -> None:
        """Foreground downloads whose process is gone become paused: their person decides, not a worker."""
        self._write(
            "update downloads set state = 'paused', error = 'its process ended' where state in ('running', 'verifying')"
            " and not background and heartbeat < ?",
            stale_before,
        )

    def downloads(self, *, states: Sequence[DownloadState] = (), limit: int = 100) -> list[Download]:
        """Rows, newest first; only those in `states` where any are given. `limit` -1 is no limit."""
        marks = ",".join("?" * len(states))
        where = f"where state in ({marks})" if states else ""
        rows = self._rows(f"select * from downloads {where} order by id desc limit ?", *states, limit)  # noqa: S608 - question marks
        return [_download_of(row) for row in rows]

    def download(self, number: int) -> Download | None:
        """One row, or None."""
        rows = self._rows("select * from downloads where id = ?", number)
        return _download_of(rows[0]) if rows else None

    def count_downloads(self, states: Sequence[DownloadState], *, before: float) -> int:
        """How many rows in these states were last written before that time (Unix seconds)."""
        marks = ",".join("?" * len(states))
        rows = self._rows(f"select 1 from downloads where state in ({marks}) and updated < ?", *states, before)  # noqa: S608 - question marks
        return len(rows)

    def clear_downloads(self, states: Sequence[DownloadState], *, before: float = math.inf) -> int:
        """Removes rows in these states that were last written before that time (Unix seconds). Returns how many."""
        marks = ",".join("?" * len(states))
        return self._write(f"delete from downloads where state in ({marks}) and updated < ?", *states, before)  # noqa: S608 - question marks

    def note(self, number: int, kind: str, message: str = "") -> None:
        """Adds a line to a download's log."""
        self._write(
            "insert into notes (download, at, kind, message) values (?,?,?,?)", number, time.time(), kind, message
        )

    def notes(self, number: int, *, after: int = 0) -> list[DownloadNote]:
        """A download's log, oldest first, from the line after `after`."""
        rows = self._rows(
            "select id, at, kind, message from notes where download = ? and id > ? order by id", number, after
        )
        return [DownloadNote(**dict(row)) for row in rows]

    # Engines

    def engines(self) -> list[EngineRow]:
        """Every row, most recently used first; whether they still run is the engine module's business."""
        rows = self._rows("select * from engines order by last_used desc")
        with _readable(self.path):
            return [_engine_of(row) for row in rows]

    def engine(self, fingerprint: str) -> EngineRow | None:
        """The one of that fingerprint, or None."""
        rows = self._rows("select * from engines where fingerprint = ?", fingerprint)
        with _readable(self.path):
            return _engine_of(rows[0]) if rows else None

    def save_engine(self, row: EngineRow) -> None:
        """Adds or replaces a row."""
        self._write(
            "insert or replace into engines values (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            row.fingerprint, row.model_id, row.pid, row.pid_started, row.address, row.key, row.context, row.started,
            row.last_used, row.keep_alive, row.memory, row.tokens_per_second, _dump(row.layers), row.log,
        )  # fmt: skip

    def touch_engine(self, fingerprint: str, tokens_per_second: float | None = None) -> None:
        """Notes that an engine was used now, and its last speed."""
        self._write(
            "update engines set last_used = ?, tokens_per_second = coalesce(?, tokens_per_second)"
            " where fingerprint = ?",
            time.time(), tokens_per_second, fingerprint,
        )  # fmt: skip

    def drop_engine(self, fingerprint: str, pid: int) -> None:
        """Removes a row, if it is still the row of that process."""
        self._write("delete from engines where fingerprint = ? and pid = ?", fingerprint, pid)

    # Metadata cache

    def cached(self, key: str) -> CachedMetadata | None:
        """What the Hub answered last time, or None."""
        rows = self._rows("select body, etag, fetched from metadata where key = ?", key)
        return CachedMetadata(**dict(rows[0])) if rows else None

    def keep(self, key: str, body: str, etag: str | None = None) -> None:
        """Keeps an answer of the Hub, dated now."""
        self._write("insert or replace into metadata values (?,?,?,?)", key, body, etag, time.time())

    def count_metadata(self, *, older_than: float) -> int:
        """How many answers were fetched before that time (Unix seconds)."""
        return int(self._rows("select count(*) from metadata where fetched < ?", older_than)[0][0])

    def forget_metadata(self, older_than: float) -> int:
        """Removes answers fetched before that time (Unix seconds). Returns how many."""
        return self._write("delete from metadata where fetched < ?", older_than)


def _bare_name(model_id: str) -> str:
    """`name` of `hf/owner/name@revision:QUANT`."""
    return model_id.partition(":")[0].partition("@")[0].rpartition("/")[2]


def _model_of(
    row: sqlite3.Row, files: Iterable[sqlite3.Row], aliases: Iterable[sqlite3.Row], checks: Iterable[sqlite3.Row]
) -> LocalModel:
    options = json.loads(row["options"])
    return LocalModel(
        model_id=row["model_id"],
        repo=row["repo"],
        revision=row["revision"],
        commit=row["commit_hash"],
        quant=row["quant"],
        files=tuple(
            LocalFile(f["path"], f["role"], f["size"], f["location"], f["sha256"], f["git_sha1"], f["mtime_ns"])
            for f in files
        ),
        facts=with_template(facts_from_json(row["facts"]), options.get("template")),
        aliases=tuple(alias["alias"] for alias in aliases),
        options=options,
        checks=tuple(Check(c["kind"], c["result"], c["at"], json.loads(c["detail"])) for c in checks),
        added=row["added"],
        last_used=row["last_used"],
        endpoint=row["endpoint"],
        place=row["place"],
        hub=json.loads(row["hub"]),
    )


def _download_of(row: sqlite3.Row) -> Download:
    values = dict(row)
    return Download(commit=values.pop("commit_hash"), background=bool(values.pop("background")), **values)


def _engine_of(row: sqlite3.Row) -> EngineRow:
    values = dict(row)
    return EngineRow(layers=tuple(json.loads(values.pop("layers"))), **values)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors in our words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _refusal(path, str(error)) from None
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError) as error:
        raise LibraryError(f"The library at {path} can't record that", cause=str(error)) from None
    except UnicodeEncodeError as error:  # a file name that is not UTF-8
        raise LibraryError(f"The library at {path} can't record {error.object!a}", cause=error.reason) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What stands in a row and can't be read is damage too."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _damaged(path, f"A row of it can't be read: {error}") from None


def _refusal(path: Path, why: str) -> HfModelsError:
    if "readonly" in why or "unable to open" in why:
        return NotWritableError(f"Can't write the library at {path}", cause=why)
    if "disk is full" in why:
        return DiskFullError(f"No room to write the library at {path}", cause=why)
    if "locked" in why or "busy" in why:
        return LibraryBusyError(
            f"The library at {path} is in use by another process", cause=why, hint="Try again in a moment."
        )
    return LibraryError(f"The library at {path} could not be used", cause=why)


def _damaged(path: Path, why: str) -> LibraryDamagedError:
    return LibraryDamagedError(
        f"The library at {path} is damaged",
        cause=why,
        hint=f"Move it away (mv {path} {path}.damaged) and pull again: what is still here is not fetched twice.",
    )
