"""Which bytes of a partial file are on the disk, told so that kill -9 and power loss can't make it lie. Moves no bytes.

The journal is a text file beside the partial. Its first line says which file this is (the identity) and during which
run of the system it was written; each further line is one record, ended by a CRC that is chained to the first line:

    w START END     these bytes were handed to the operating system
    s COUNT         the bytes of the first COUNT `w` records are on the disk itself
    f               the disk refused some bytes: of the records so far only what an `s` covers can be trusted
    v ETAG          the storage host's validator for these bytes, for If-Range

Ordering: `write` data -> append `w`. And for a checkpoint: count the `w` records -> `fdatasync` the data -> append `s`
with that count -> `fdatasync` the journal. So after kill -9 every `w` can be trusted (the system still holds the
bytes), and after power loss, which shows as another boot id, only those that an `s` covers. A torn or damaged line ends
the reading: what follows it was written later and is not needed. Where no boot id can be read, only what `s` covers is
trusted.
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
MAX_JOURNAL_BYTES = 64 * 1024 * 1024  # a journal of ours stays far below: it is written anew
MAX_RECORDS = 20_000  # at the first checkpoint after so many records, and at each start


@dataclass(frozen=True)
class Identity:
    """Which file the bytes belong to. `proof` is its digest, or etag and commit where the Hub told no digest."""

    size: int
    proof: str


@dataclass
class JournalState:
    """What a journal says, as far as it can be trusted now."""

    identity: Identity
    done: Ranges = field(default_factory=Ranges)
    durable: Ranges = field(default_factory=Ranges)
    validator: str | None = None


def _add_crc(line: str, seed: int) -> bytes:
    body = line.encode()
    return b"%s %08x\n" % (body, zlib.crc32(body, seed))


def _check_crc(raw: bytes, seed: int) -> str | None:
    """A record without its CRC, or None where it is torn or damaged."""
    body, space, crc = raw.rpartition(b" ")
    if not space or crc != b"%08x" % zlib.crc32(body, seed):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def read_journal(path: Path) -> JournalState | None:
    """What the journal at `path` says; None where there is none, or none that can be used."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOURNAL_BYTES)
    except OSError:
        return None
    lines = data.split(b"\n")
    lines.pop()  # what follows the last line break is torn, or empty
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
    """The journal of one partial, open for appending by its one owner. Safe to use from several threads."""

    def __init__(self, path: Path, state: JournalState) -> None:
        """Writes the journal anew, whole or not at all, with what `state` knows; then appends to it.

        Raises:
            OSError: the disk refused.
        """
        self._lock = threading.Lock()
        self._path, self._identity, self._validator = path, state.identity, state.validator
        self._durable = Ranges()
        for pair in state.durable:
            self._durable.add(*pair)
        self._since = list(state.done)  # what was written since the last checkpoint, a record each
        self._count = self._seed = 0
        self._fd = -1
        self._write_anew()

    def _write_anew(self) -> None:
        head = json.dumps({"version": VERSION, "boot": read_boot_id(), **asdict(self._identity)})
        first = _add_crc(head, 0)
        self._seed, self._count = zlib.crc32(first[:-1]), 0
        lines = [first, *(self._written(*pair) for pair in self._durable)]
        lines.append(_add_crc(f"s {self._count}", self._seed))
        lines += [self._written(*pair) for pair in self._since]
        if self._validator:
            lines.append(_add_crc(f"v {self._validator}", self._seed))
        partial = self._path.with_name(f"{self._path.name}.new")
        with partial.open("wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.close()  # Windows replaces no open file
        partial.replace(self._path)
        sync_folder(self._path.parent)
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._fd = os.open(self._path, flags)

    def _written(self, start: int, end: int) -> bytes:
        self._count += 1
        return _add_crc(f"w {start} {end}", self._seed)

    def wrote(self, start: int, end: int) -> None:
        """Records bytes that were written to the partial just now.

        Raises:
            OSError: the disk refused.
        """
        with self._lock:
            self._append(self._written(start, end))
            self._since.append((start, end))

    def validator(self, etag: str) -> None:
        """Records the storage host's validator."""
        with self._lock:
            self._append(_add_crc(f"v {etag}", self._seed))
            self._validator = etag

    @property
    def count(self) -> int:
        """How many `w` records there are: taken before the data is synced, given to `synced` after."""
        with self._lock:
            return self._count

    def synced(self, count: int) -> None:
        """Records that the bytes of the first `count` records are on the disk itself.

        A journal that has become long is written anew then: a reader takes no longer after days than after minutes.
        """
        with self._lock:
            covered = count - (self._count - len(self._since))
            for pair in self._since[:covered]:
                self._durable.add(*pair)
            del self._since[:covered]
            if self._count > MAX_RECORDS:
                self._write_anew()
                return
            self._append(_add_crc(f"s {count}", self._seed))
            sync_data(self._fd)

    def sync_failed(self) -> None:
        """Records that the disk could not take some of the bytes since the last checkpoint, nobody knows which."""
        with self._lock, contextlib.suppress(OSError):  # a disk that refuses this too is not read again either
            self._append(_add_crc("f", self._seed))

    def _append(self, line: bytes) -> None:
        # A short write leaves a torn line; all after it would be lost to the reader, so it is an error here.
        if os.write(self._fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what a short write to a file means

    def close(self) -> None:
        """Closes the file. Records are not flushed further: what `synced` did not cover is not yet sure."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
