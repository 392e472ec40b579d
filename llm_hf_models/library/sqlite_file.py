"""The SQLite file of the library: opened, migrated, locked, its errors in our words. Knows no table's meaning."""

from __future__ import annotations

import json
import math
import os
import shlex
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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

Row = sqlite3.Row
BUSY_SECONDS = 10
BUSY_POLL_SECONDS = 0.02


def encode_json(value: object) -> str:
    """A value as JSON that SQLite can read too."""
    try:
        return json.dumps(value, separators=(",", ":"), default=list, allow_nan=False)
    except ValueError:  # a header may say NaN, and SQLite would call it malformed
        return json.dumps(_replace_non_finite(value), separators=(",", ":"), default=list)


def _replace_non_finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    return [_replace_non_finite(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value


_creation_lock = threading.Lock()


def _create_private_file(path: Path) -> None:
    """Makes the file where there is none. It holds the engines' keys: nobody else's to read.

    A file that is there is never opened here: closing a second descriptor would drop every lock that SQLite holds on it
    in this process (sqlite.org/howtocorrupt.html, "POSIX advisory locks"). The files beside it get the same mode.
    """
    with _creation_lock, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


class SQLiteFile:
    """A connection to the file, a context manager; threads may share it. What stands in it: library/database.py."""

    def __init__(self, path: Path) -> None:
        """Opens the file, making or migrating it; one that can't be written, on a full disk say, to be read alone.

        Raises:
            LibraryDamagedError, LibraryTooNewError, NotWritableError
        """
        self.path = path
        self._lock = threading.RLock()
        self._read_only_reason: HfModelsError | None = None  # why it can only be read
        try:
            self._open()
        except (StorageError, LibraryError) as error:
            if not self._open_read_only(error):
                raise

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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

    def _open_read_only(self, why: HfModelsError) -> bool:
        """Opens the file as it is, where that is what can be done about the error; whether it could be."""
        if isinstance(why, LibraryDamagedError | LibraryTooNewError | LibraryBusyError):
            return False
        for mode in ("mode=ro", "mode=ro&immutable=1"):  # a WAL file in a read-only folder refuses the first
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
        """Whether anything can be recorded; if not, who tries gets the reason."""
        return self._read_only_reason is None

    def _migrate(self) -> None:
        version = self._read_version()
        if version > len(MIGRATIONS):
            raise LibraryTooNewError(
                f"The library at {self.path} was written by a newer llm-hf-models",
                cause=f"It has format {version}; this version knows {len(MIGRATIONS)}.",
                hint="llm install -U llm-hf-models",
            )
        self._enable_wal()
        self.execute("pragma synchronous = normal")
        self.execute("pragma foreign_keys = on")
        if version == len(MIGRATIONS):
            return
        with self.transaction():
            for number in range(self._read_version(), len(MIGRATIONS)):  # again: another process may have been first
                for statement in MIGRATIONS[number].split(";"):
                    self.execute(statement)
                self.execute(f"pragma user_version = {number + 1}")

    def _enable_wal(self) -> None:
        """Turns the write-ahead log on. SQLite doesn't wait for others here, whatever the busy timeout: we do."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with translate_errors(self.path):
                    self._db.execute("pragma journal_mode = wal")
            except LibraryBusyError:
                if time.monotonic() > until:
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
        """Waits for a busy library no longer than that (seconds) meanwhile: for what can be done without."""
        self.execute(f"pragma busy_timeout = {round(1000 * min(seconds, BUSY_SECONDS))}")
        try:
            yield
        finally:
            self.execute(f"pragma busy_timeout = {round(1000 * BUSY_SECONDS)}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and one writer at a time; inside another one it is part of that."""
        with self._lock, self._run_in_transaction("begin immediate"):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several questions, one moment: what another process writes meanwhile is not seen."""
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
            if self._db.in_transaction:  # a full disk ends it before we can
                self.execute("rollback")
            raise

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        """Runs one statement; SQLite's errors come in our words, here and below."""
        try:
            with self._lock, translate_errors(self.path):
                return self._db.execute(sql, values)
        except NotWritableError as error:
            raise self._read_only_reason or error from None

    def fetch_rows(self, sql: str, *values: object) -> list[Row]:
        """All rows of a question."""
        with self._lock, translate_errors(self.path):
            return self._db.execute(sql, values).fetchall()

    def write(self, sql: str, *values: object) -> int:
        """Runs one statement; returns how many rows it changed."""
        return self.execute(sql, *values).rowcount


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """SQLite's errors in our words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise _make_operational_error(path, str(error)) from None
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, OverflowError) as error:
        raise LibraryError(f"The library at {path} can't record that", cause=str(error)) from None
    except UnicodeEncodeError as error:  # a file name that is not UTF-8
        hint = "Rename it: what is recorded has to be Unicode."
        raise LibraryError(
            f"The library at {path} can't record {error.object!a}", cause=error.reason, hint=hint
        ) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite quotes the bytes of a broken schema
        raise _make_damaged_error(path, str(error)) from None


@contextmanager
def translate_row_errors(path: Path) -> Iterator[None]:
    """What stands in a row and can't be read is damage too."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _make_damaged_error(path, f"A row of it can't be read: {error}") from None


def _make_operational_error(path: Path, why: str) -> HfModelsError:
    if "readonly" in why or "unable to open" in why:
        return NotWritableError(f"Can't write the library at {path}", cause=why, hint=suggest_folder_fix(path))
    if "disk is full" in why:
        return DiskFullError(f"No room to write the library at {path}", cause=why)
    if "locked" in why or "busy" in why:
        return LibraryBusyError(
            f"The library at {path} is in use by another process", cause=why, hint="Try again in a moment."
        )
    if "no such" in why or "malformed" in why:  # a table or a column has gone, a row is no JSON
        return _make_damaged_error(path, why)
    return LibraryError(
        f"The library at {path} could not be used", cause=why, hint="`llm hf status` shows what is left of the disk."
    )


def _make_damaged_error(path: Path, why: str) -> LibraryDamagedError:
    move = shlex.join(["mv", str(path), f"{path}.damaged"])
    return LibraryDamagedError(
        f"The library at {path} is damaged",
        cause=why,
        hint=f"Move it away ({move}) and pull again: what is still here is not fetched twice.",
    )
