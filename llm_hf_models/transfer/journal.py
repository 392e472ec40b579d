"""The journal: a record of the bytes of a partial file that are on disk, reliable after kill -9 and power loss.

The journal is a text file next to the partial. Its first line identifies the file (the identity) and the boot of the
system during which it was written. Each further line is one record, ended by a CRC that is chained to the first line:

    w START END     these bytes were passed to the operating system
    s COUNT         the bytes of the first COUNT `w` records are on the disk itself
    f               the disk refused some bytes: of the records so far, only those covered by an `s` can be trusted
    v ETAG          the storage host's validator for these bytes, for If-Range

Order of a write: write the data, then append `w`. Order of a checkpoint: count the `w` records, `fdatasync` the data,
append `s` with that count, then `fdatasync` the journal. After kill -9, every `w` can be trusted, because the operating
system still holds the bytes. After power loss, which is detected by a different boot id, only the records covered by an
`s` can be trusted. Reading ends at a torn or damaged line: the lines after it were written later and are not needed. If
the boot id can't be read, only the records covered by an `s` are trusted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llm_hf_models.system.disk import sync_data, sync_folder
from llm_hf_models.system.processes import read_boot_id
from llm_hf_models.transfer.types import Ranges

VERSION = 1
MAX_JOURNAL_BYTES = 64 * 1024 * 1024  # far above the size at which a journal is rewritten
MAX_RECORDS = 20_000  # a journal with more records is rewritten at the next checkpoint


@dataclass(frozen=True)
class Identity:
    """The file to which the bytes belong. `proof` is its digest, or the etag and commit if the Hub has no digest."""

    size: int
    proof: str


@dataclass
class JournalState:
    """The content of a journal, as far as it can be trusted now."""

    identity: Identity
    done: Ranges = field(default_factory=Ranges)
    durable: Ranges = field(default_factory=Ranges)
    validator: str | None = None


def _add_crc(line: str, seed: int) -> bytes:
    body = line.encode()
    return b"%s %08x\n" % (body, zlib.crc32(body, seed))


def _check_crc(raw: bytes, seed: int) -> str | None:
    """Return a record without its CRC, or None if it is torn or damaged."""
    body, space, crc = raw.rpartition(b" ")
    if not space or crc != b"%08x" % zlib.crc32(body, seed):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def read_journal(path: Path) -> JournalState | None:
    """Return the state recorded in the journal at `path`, or None if there is no usable journal."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOURNAL_BYTES)
    except OSError:
        return None
    lines = data.split(b"\n")
    lines.pop()  # the text after the last line break is torn, or empty
    head = _check_crc(lines[0], 0) if lines else None
    if head is None:
        return None
    try:
        fields = json.loads(head)
        if fields.pop("version") != VERSION:
            return None
        same_boot = fields.pop("boot") == read_boot_id() is not None
        state = JournalState(Identity(**fields))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    _replay(lines[1:], zlib.crc32(lines[0]), state, same_boot=same_boot)
    return state


def _replay(lines: list[bytes], seed: int, state: JournalState, *, same_boot: bool) -> None:
    written: list[tuple[int, int]] = []
    durable = 0
    for line in lines:
        body = _check_crc(line, seed)
        if body is None:
            break
        kind, _, rest = body.partition(" ")
        if kind == "w":
            first, _, last = rest.partition(" ")
            written.append((int(first), int(last)))
        elif kind == "s":
            durable = int(rest)
        elif kind == "f":
            written[durable:] = [(0, 0)] * (len(written) - durable)
        elif kind == "v":
            state.validator = rest or None
    _apply_trusted(state, written, len(written) if same_boot else durable, durable)


def _apply_trusted(state: JournalState, written: list[tuple[int, int]], trusted: int, durable: int) -> None:
    for i, (start, end) in enumerate(written):
        if not 0 <= start < end <= state.identity.size:
            continue
        if i < durable:
            state.durable.add(start, end)
        if i < trusted:
            state.done.add(start, end)


class Journal:
    """The journal of one partial, open for appending by its single owner. Thread-safe."""

    def __init__(self, path: Path, state: JournalState) -> None:
        """Rewrite the journal atomically from `state` and open it for appending.

        Raises:
            OSError: the journal could not be written.
        """
        self._lock = threading.Lock()
        self._path, self._identity, self._validator = path, state.identity, state.validator
        self._durable = Ranges()
        for pair in state.durable:
            self._durable.add(*pair)
        self._since = list(state.done)  # the ranges written since the last checkpoint, one per record
        self._count = self._seed = 0
        self._fd = -1
        self._rewrite()

    def _rewrite(self) -> None:
        head = json.dumps({"version": VERSION, "boot": read_boot_id(), **asdict(self._identity)})
        first = _add_crc(head, 0)
        self._seed, self._count = zlib.crc32(first[:-1]), 0
        lines = [first, *(self._make_write_record(*pair) for pair in self._durable)]
        lines.append(_add_crc(f"s {self._count}", self._seed))
        lines += [self._make_write_record(*pair) for pair in self._since]
        if self._validator:
            lines.append(_add_crc(f"v {self._validator}", self._seed))
        partial = self._path.with_name(f"{self._path.name}.new")
        with partial.open("wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.close()  # Windows can't replace an open file
        partial.replace(self._path)
        sync_folder(self._path.parent)
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._fd = os.open(self._path, flags)

    def _make_write_record(self, start: int, end: int) -> bytes:
        self._count += 1
        return _add_crc(f"w {start} {end}", self._seed)

    def record_write(self, start: int, end: int) -> None:
        """Record that the bytes from `start` to `end` were written to the partial.

        Raises:
            OSError: the journal could not be written.
        """
        with self._lock:
            self._append(self._make_write_record(start, end))
            self._since.append((start, end))

    def record_validator(self, etag: str) -> None:
        """Record the storage host's validator."""
        with self._lock:
            self._append(_add_crc(f"v {etag}", self._seed))
            self._validator = etag

    @property
    def write_count(self) -> int:
        """The number of `w` records. Read it before the data is synced, and pass it to `record_sync` afterwards."""
        with self._lock:
            return self._count

    def record_sync(self, count: int) -> None:
        """Record that the bytes of the first `count` `w` records are on the disk itself.

        A journal that has grown long is rewritten instead, so that it stays quick to read.
        """
        with self._lock:
            covered = count - (self._count - len(self._since))
            for pair in self._since[:covered]:
                self._durable.add(*pair)
            del self._since[:covered]
            if self._count > MAX_RECORDS:
                self._rewrite()
                return
            self._append(_add_crc(f"s {count}", self._seed))
            sync_data(self._fd)

    def record_sync_failure(self) -> None:
        """Record that the disk lost some of the bytes written since the last checkpoint; it is not known which."""
        with self._lock, contextlib.suppress(OSError):  # if the disk refuses this record too, the file is unreadable
            self._append(_add_crc("f", self._seed))

    def _append(self, line: bytes) -> None:
        # A short write leaves a torn line, at which every reader stops. It is therefore an error.
        if os.write(self._fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # the meaning of a short write to a file

    def close(self) -> None:
        """Close the file without syncing it. Records that no `record_sync` covers may be lost on power loss."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
