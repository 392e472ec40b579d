"""Open, migrate and lock the library's SQLite file, and translate SQLite's errors.

The queries are in the subclasses of `SQLiteFile`.
"""

from __future__ import annotations

import json
import math
import shlex
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from llm_hf_models.errors import (
    DiskFullError,
    HfModelsError,
    LibraryBusyError,
    LibraryDamagedError,
    LibraryError,
    LibraryTooNewError,
    NotWritableError,
    StorageError,
)
from llm_hf_models.library.migrations import MIGRATIONS
from llm_hf_models.paths import suggest_folder_fix
from llm_hf_models.system.private_files import create_private_file, make_file_private, make_private_folder

Row = sqlite3.Row
BUSY_SECONDS = 10
BUSY_POLL_SECONDS = 0.02


def encode_json(value: object) -> str:
    """Encode a value as JSON that SQLite can read."""
    try:
        return json.dumps(value, separators=(",", ":"), default=list, allow_nan=False)
    except ValueError:  # a model's header may contain NaN, which SQLite rejects
        return json.dumps(_replace_non_finite(value), separators=(",", ":"), default=list)


def _replace_non_finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    return [_replace_non_finite(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value


_creation_lock = threading.Lock()


def _create_private_file(path: Path) -> None:
    """Create the file if it does not exist. Only its owner may read it, because it contains the engines' keys.

    An existing file is never opened here. Closing a second descriptor would release every lock that
    SQLite holds on the file in this process (sqlite.org/howtocorrupt.html, "POSIX advisory locks").
    SQLite gives its companion files the same mode.
    """
    with _creation_lock:
        try:
            create_private_file(path)
        except FileExistsError:
            for suffix in ("", "-wal", "-shm", "-journal"):
                make_file_private(path.with_name(path.name + suffix))


class SQLiteFile:
    """A connection to the library's file, a context manager. Threads may share it."""

    def __init__(self, path: Path, *, in_memory: bool = False) -> None:
        """Open the file, and create or migrate it if needed.

        If the file can't be written, for example on a full disk, it is opened read-only. With `in_memory`, a copy of
        the file in memory is opened instead: whatever is written to it is lost, and the file stays as it is.

        Raises:
            LibraryDamagedError: the file is damaged.
            LibraryTooNewError: a newer version of this package wrote the file.
            NotWritableError: the file can't be opened or created.
        """
        self.path = path
        self._lock = threading.RLock()
        self._read_only_reason: HfModelsError | None = None  # the reason if the file is open read-only
        self.is_copy = in_memory
        if in_memory:
            self._open_copy()
            return
        try:
            self._open()
        except (StorageError, LibraryError) as error:
            if not self._open_read_only(error):
                raise

    def _open(self) -> None:
        try:
            make_private_folder(self.path.parent)
            _create_private_file(self.path)
            self._db = self._connect(str(self.path))
        except (OSError, ValueError, sqlite3.Error) as error:
            raise NotWritableError(
                f"Can't open the library at {self.path}", cause=str(error), hint=suggest_folder_fix(self.path)
            ) from None
        try:
            self._migrate()
        except BaseException:
            self._db.close()
            raise

    def _open_copy(self) -> None:
        self._db = self._connect(":memory:")
        try:
            if self.path.exists():
                with translate_errors(self.path), closing(self._connect_read_only()) as stored:
                    stored.backup(self._db)
            self._migrate()
        except BaseException:
            self._db.close()
            raise

    def _connect_read_only(self) -> sqlite3.Connection:
        """Open the file read-only. SQLite may create empty companion files (`-wal`, `-shm`) next to it."""
        address = self.path.absolute().as_uri()
        db = self._connect(f"{address}?mode=ro")
        try:
            db.execute("pragma user_version")
        except sqlite3.OperationalError:  # a WAL file in a folder that can't be written
            db.close()
            return self._connect(f"{address}?mode=ro&immutable=1")
        return db

    def _open_read_only(self, why: HfModelsError) -> bool:
        """Open the file read-only if that can help after this error. Return whether it could be opened."""
        if isinstance(why, LibraryDamagedError | LibraryTooNewError | LibraryBusyError):
            return False
        for mode in ("mode=ro", "mode=ro&immutable=1"):  # a WAL file in a read-only folder fails with the first
            with suppress(sqlite3.Error, ValueError):
                db = self._connect(f"{self.path.absolute().as_uri()}?{mode}")
                if db.execute("pragma user_version").fetchone()[0] == len(MIGRATIONS):
                    self._db, self._read_only_reason = db, why
                    return True
                db.close()
        return False

    @staticmethod
    def _connect(address: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            address,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            uri=address.startswith("file:"),
        )
        db.row_factory = sqlite3.Row
        return db

    @property
    def is_writable(self) -> bool:
        """Return whether the library can be written. If not, writing raises the error that prevents it."""
        return self._read_only_reason is None

    def _migrate(self) -> None:
        version = self._read_version()
        if version > len(MIGRATIONS):
            raise LibraryTooNewError(
                f"The library at {self.path} was written by a newer llm-hf-models",
                cause=f"Its format is {version}; this version supports up to {len(MIGRATIONS)}.",
                hint="llm install -U llm-hf-models",
            )
        self._enable_wal()
        self.execute("pragma synchronous = normal")
        self.execute("pragma foreign_keys = on")
        if version == len(MIGRATIONS):
            return
        with self.transaction():
            # Read the version again, because another process may have migrated the file.
            for number in range(self._read_version(), len(MIGRATIONS)):
                for statement in MIGRATIONS[number].split(";"):
                    self.execute(statement)
                self.execute(f"pragma user_version = {number + 1}")

    def _enable_wal(self) -> None:
        """Turn on the write-ahead log. Retry here, because SQLite ignores the busy timeout for this statement."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with translate_errors(self.path):
                    self._db.execute("pragma journal_mode = wal")
            except LibraryBusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(BUSY_POLL_SECONDS)
            else:
                return

    def _read_version(self) -> int:
        return int(self.fetch_rows("pragma user_version")[0][0])

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def limit_busy_wait(self, seconds: float) -> Iterator[None]:
        """Limit the wait for a busy library to `seconds` inside this block, for work that can be skipped."""
        self.execute(f"pragma busy_timeout = {round(1000 * min(seconds, BUSY_SECONDS))}")
        try:
            yield
        finally:
            self.execute(f"pragma busy_timeout = {round(1000 * BUSY_SECONDS)}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one transaction, with one writer at a time. A nested block joins the outer transaction."""
        with self._lock, self._run_in_transaction("begin immediate"):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Run several queries on one state of the library, unaffected by concurrent writers."""
        with self._lock, self._run_in_transaction("begin"):
            yield

    @contextmanager
    def _run_in_transaction(self, begin: str) -> Iterator[None]:
        if self._db.in_transaction:
            yield
            return
        self.execute(begin)
        try:
            yield
            self.execute("commit")
        except BaseException:
            if self._db.in_transaction:  # on a full disk, SQLite has already rolled back
                self.execute("rollback")
            raise

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        """Run one statement. This and the following methods translate SQLite's errors."""
        try:
            with self._lock, translate_errors(self.path):
                return self._db.execute(sql, values)
        except NotWritableError as error:
            raise self._read_only_reason or error from None

    def fetch_rows(self, sql: str, *values: object) -> list[Row]:
        """Return all rows of a query."""
        with self._lock, translate_errors(self.path):
            return self._db.execute(sql, values).fetchall()

    def write(self, sql: str, *values: object) -> int:
        """Run one statement. Return the number of changed rows."""
        return self.execute(sql, *values).rowcount


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors into this package's errors."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _make_operational_error(path, str(error)) from None
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError) as error:
        raise LibraryError(f"The library at {path} can't store this value", cause=str(error)) from None
    except UnicodeEncodeError as error:  # a file name that is not UTF-8
        hint = "Rename the file: names must be valid Unicode."
        raise LibraryError(
            f"The library at {path} can't store {error.object!a}", cause=error.reason, hint=hint
        ) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite's message quotes bytes of a broken schema
        raise _make_damaged_error(path, str(error)) from None


@contextmanager
def translate_row_errors(path: Path) -> Iterator[None]:
    """Raise LibraryDamagedError for a row that can't be parsed."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _make_damaged_error(path, f"A row can't be parsed: {error}") from None


def _make_operational_error(path: Path, why: str) -> HfModelsError:
    if "readonly" in why or "unable to open" in why:
        return NotWritableError(f"Can't write the library at {path}", cause=why, hint=suggest_folder_fix(path))
    if "disk is full" in why:
        return DiskFullError(f"Not enough disk space to write the library at {path}", cause=why)
    if "locked" in why or "busy" in why:
        return LibraryBusyError(
            f"The library at {path} is in use by another process", cause=why, hint="Try again in a moment."
        )
    if "no such" in why or "malformed" in why:  # a table or column is missing, or a row contains invalid JSON
        return _make_damaged_error(path, why)
    return LibraryError(
        f"The library at {path} can't be used", cause=why, hint="Check the free disk space with `llm hf status`."
    )


def _make_damaged_error(path: Path, why: str) -> LibraryDamagedError:
    move = shlex.join(["mv", str(path), f"{path}.damaged"])
    return LibraryDamagedError(
        f"The library at {path} is damaged",
        cause=why,
        hint=f"Move it away ({move}) and pull again. Files in the cache are not downloaded again.",
    )
