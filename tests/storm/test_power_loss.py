"""Power loss in the middle of a transfer: whichever unsynced writes the disk has kept, the next transfer ends right.

A transfer runs in a process that records the order of its writes and syncs. The record is cut at many moments:
bytes covered by an fdatasync or fsync are on the disk; of the rest some, all, none, or garbage. In each such state,
under another boot id, the next transfer must trust only synced bytes.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from llm_hf_models.system import processes as journals
from llm_hf_models.transfer.download_file import download_file, journal_path
from llm_hf_models.transfer.journal import read_journal
from llm_hf_models.transfer.types import Ranges, TransferLimits
from tests.support.storage_server import StorageServer
from tests.support.transfers import make_content

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file a descriptor is")

SIZE = 6_000_123
CUTS = 12  # at random moments of the record, for each kind of disk
BLOCK_BYTES = 4096  # the unit that a disk keeps or loses
Disk = Literal["kept nothing unsynced", "kept the journal", "kept the data", "kept anything", "lost the journal"]
DISKS: tuple[Disk, ...] = (
    "kept nothing unsynced",
    "kept the journal",
    "kept the data",
    "kept anything",
    "lost the journal",
)

# Prints each call when it begins and ends, with the number of each moment, to file descriptor 1.
RECORDER = """
import itertools, json, os, sys, threading
from pathlib import Path
from llm_hf_models.transfer import fetch_threads
from llm_hf_models.hub.types import Location
from llm_hf_models.transfer.types import ExpectedFile, TransferLimits
from llm_hf_models.transfer.download_file import download_file
url, sha256, size, partial = sys.argv[1:5]
moments, tell = itertools.count(), os.write

def recorded(name, real):
    def call(fd, *arguments):
        path = os.readlink(f"/proc/self/fd/{fd}")
        begin = next(moments)
        result = real(fd, *arguments)
        fact = {"call": name, "path": path, "begin": begin, "end": next(moments)}
        if name == "pwrite":
            fact |= {"start": arguments[1], "count": result}
        elif name == "write":
            fact |= {"text": bytes(arguments[0][:result]).decode()}
        elif path.endswith(".journal.new"):
            fact |= {"text": Path(path).read_text()}
        tell(1, json.dumps(fact).encode() + b"\\n")
        return result
    return call

for name in ("pwrite", "write", "fdatasync", "fsync"):
    setattr(os, name, recorded(name, getattr(os, name)))
fetch_threads.CHECKPOINT_SECONDS = 0.05
fetch_threads.RECORD_BYTES = fetch_threads.MIN_CHUNK_BYTES = fetch_threads.MAX_CHUNK_BYTES = 64 << 10
download_file(lambda: Location(url, {}, int(size), sha256, "c" * 40),
      ExpectedFile("model.gguf", int(size), sha256=sha256),
      Path(partial), limits=TransferLimits(connections=4), progress=lambda _: None, stop=threading.Event())
tell(1, json.dumps({"call": "whole", "path": partial, "begin": next(moments), "end": next(moments)}).encode())
"""


@dataclass(frozen=True)
class Call:
    """One system call, from one moment to another."""

    call: str
    path: str
    begin: int
    end: int
    start: int = 0
    count: int = 0
    text: str = ""

    @property
    def is_sync(self) -> bool:
        return self.call in ("fdatasync", "fsync")


@dataclass
class Cut:
    """The calls up to one moment, and which of their bytes must be on the disk then."""

    content: bytes
    synced: Ranges = field(default_factory=Ranges)  # of the partial
    unsynced: list[Call] = field(default_factory=list)
    journal: str = ""  # as it was written,
    journal_synced: int = 0  # and how many of its characters must be there
    sized: bool = False  # whether the partial's length is on the disk

    def leave(self, disk: Disk, partial: Path, random_: random.Random) -> None:
        """Write the files as the disk may hold them."""
        data = bytearray(len(self.content))
        for start, end in self.synced:
            data[start:end] = self.content[start:end]
        for call in self.unsynced:
            for at in range(call.start, call.start + call.count, BLOCK_BYTES):
                end = min(at + BLOCK_BYTES, call.start + call.count)
                kept = disk == "kept the data" or (
                    disk in ("kept anything", "lost the journal") and random_.random() < 0.5
                )
                data[at:end] = (
                    self.content[at:end] if kept else random_.choice([bytes(end - at), random_.randbytes(end - at)])
                )
        partial.parent.mkdir()
        if self.sized or disk != "kept nothing unsynced":
            partial.write_bytes(data)
        if self.journal and disk != "lost the journal":
            most = {"kept nothing unsynced": self.journal_synced, "kept the data": self.journal_synced}
            length = most.get(disk, len(self.journal))
            if disk == "kept anything":
                length = random_.randint(self.journal_synced, len(self.journal))
            journal_path(partial).write_text(self.journal[:length])


def cut_at(moment: int, record: list[Call], content: bytes) -> Cut:
    """Return the state at a moment: calls that had not ended count as not synced, or as missing."""
    cut, begun = Cut(content), [call for call in record if call.begin <= moment]
    writes = [call for call in begun if call.call == "pwrite"]
    syncs = [call for call in begun if call.is_sync and call.end <= moment]
    covered = [sync for sync in syncs if sync.path.endswith(".part")]
    cut.sized = bool(covered)
    for write in writes:
        if any(write.end < sync.begin for sync in covered):
            cut.synced.add(write.start, write.start + write.count)
        else:
            cut.unsynced.append(write)
    for call in begun:
        if call.path.endswith(".journal.new") and call.end <= moment:
            cut.journal, cut.journal_synced = call.text, len(call.text)
        elif call.call == "write" and call.path.endswith(".journal"):
            cut.journal += call.text
        elif call in syncs and call.path.endswith(".journal"):
            cut.journal_synced = len(cut.journal)
    return cut


@pytest.fixture(scope="module")
def content() -> bytes:
    return make_content(SIZE, seed=5)


@pytest.fixture(scope="module")
def record(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """Provide the system calls of a transfer."""
    partial = tmp_path_factory.mktemp("recorded") / "model.part"
    with StorageServer(content, rate=2_000_000) as server:
        arguments = [server.url, server.sha256, str(SIZE), str(partial)]
        done = subprocess.run(
            [sys.executable, "-c", RECORDER, *arguments], capture_output=True, text=True, timeout=100, check=False
        )
    assert done.returncode == 0, done.stderr
    assert partial.read_bytes() == content
    facts: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted((Call(**fact) for fact in facts), key=lambda call: call.begin)


def test_record_has_several_checkpoints_with_bytes_between(record: list[Call]) -> None:
    assert sum(call.text.startswith("s ") for call in record) >= 3
    assert len([call for call in record if call.call == "pwrite"]) > 50


def test_finished_file_is_synced_before_its_journal_is_removed(record: list[Call], content: bytes) -> None:
    assert record[-1].call == "whole"
    assert list(cut_at(record[-1].begin - 1, record, content).synced) == [(0, SIZE)]


def test_name_of_the_journal_is_synced_before_the_first_byte(record: list[Call]) -> None:
    first = next(call for call in record if call.call == "pwrite")
    head = next(call for call in record if call.path.endswith(".journal.new"))
    named = [call for call in record if call.is_sync and call.path == str(Path(first.path).parent)]
    assert any(head.end < call.begin and call.end < first.begin for call in named)


@pytest.mark.parametrize("disk", DISKS)
def test_transfer_after_a_power_cut_refetches_only_unsynced_bytes(
    disk: Disk, record: list[Call], content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another_boot = tmp_path / "boot_id"
    another_boot.write_text("another\n")
    monkeypatch.setattr(journals, "_BOOT_ID", another_boot)
    random_, kept = random.Random(disk), 0
    for number in range(CUTS):
        cut = cut_at(random_.randrange(record[-1].end), record, content)
        partial = tmp_path / str(number) / "model.part"
        cut.leave(disk, partial, random_)
        trusted = read_trusted(partial)
        for start, end in trusted:
            assert cut.synced.find_run_end(start) >= end, "the journal claims what no sync has covered"
        kept += trusted.total
        with StorageServer(content) as server:
            download_file(
                server.locate, server.expected, partial,
                limits=TransferLimits(connections=2), progress=lambda _: None, stop=threading.Event(),
            )  # fmt: skip
            requested = [request.range for request in server.requests]
        assert partial.read_bytes() == content
        for found in requested:
            assert found is not None
            assert not overlaps(found, trusted), "what was synced came again"
    assert kept or disk == "lost the journal", "no cut left anything to build on: this proves nothing"


def read_trusted(partial: Path) -> Ranges:
    """Return the ranges that the next transfer will trust."""
    state = read_journal(journal_path(partial))
    return state.done if state is not None and partial.exists() else Ranges()


def overlaps(requested: tuple[int, int | None], there: Ranges) -> bool:
    first, last = requested
    return any(first < end and start <= (SIZE if last is None else last) for start, end in there)
