"""A file that is written out of order, and its digest."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from llm_hf_models.transfer.partial_file import MAX_QUEUED_CHUNKS, READ_BYTES, FileHasher, PartialFile

CHUNK = 1 << 16


def finish(digest: FileHasher) -> None:
    while not digest.wait(0.1):
        pass


def test_chunks_in_order_are_hashed_as_they_come(tmp_path: Path) -> None:
    chunks = [bytearray(os.urandom(CHUNK)) for _ in range(10 * MAX_QUEUED_CHUNKS)]
    expected = hashlib.sha256(b"".join(chunks)).hexdigest()
    size = CHUNK * len(chunks)
    with PartialFile(tmp_path / "file", size) as file:  # it stays empty: bytes read back from it would be zeros
        digest = FileHasher(file, size)
        taken = [digest.have(i * CHUNK, (i + 1) * CHUNK, chunk) for i, chunk in enumerate(chunks)]
        finish(digest)
        assert all(taken)
        assert digest.hex == expected


def test_chunks_in_any_order_from_several_threads_give_the_digest(tmp_path: Path) -> None:
    data = os.urandom(3 * READ_BYTES + 12345)
    places = list(range(0, len(data), CHUNK))
    random.Random(7).shuffle(places)
    with PartialFile(tmp_path / "file", len(data)) as file:
        digest = FileHasher(file, len(data))

        def bring(mine: list[int]) -> None:
            for start in mine:
                chunk = bytearray(data[start : start + CHUNK])
                file.write_at(memoryview(chunk), start)
                digest.have(start, start + len(chunk), chunk)

        threads = [threading.Thread(target=bring, args=(places[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        finish(digest)
        assert digest.hex == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "file").read_bytes() == data


def test_file_that_shrinks_while_read_is_an_error_and_blocks_nobody(tmp_path: Path) -> None:
    size = CHUNK * 4 * MAX_QUEUED_CHUNKS
    with PartialFile(tmp_path / "file", size) as file:
        os.truncate(tmp_path / "file", CHUNK)
        digest = FileHasher(file, size)
        digest.have(0, 2 * CHUNK)
        with pytest.raises(OSError, match="shorter"):
            finish(digest)
        for start in range(2 * CHUNK, size, CHUNK):  # more than the queue holds: none of these calls may block
            assert not digest.have(start, start + CHUNK, bytearray(CHUNK))
        digest.abandon()
