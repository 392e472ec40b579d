"""A file that fills up out of order, and its digest in order meanwhile. Knows nothing of networks or journals."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llm_hf_models.system.disk import sync_data
from llm_hf_models.transfer.types import Ranges

if TYPE_CHECKING:
    from typing_extensions import Self

READ_BYTES = 1 << 19

# Linux keeps what is written at once in one block of memory if it can; in a virtual machine large ones come slowly:
# with 64 KiB a download to ext4 (6.18) took half the time that it took with chunks at once, in memory as long.
WRITE_BYTES = 1 << 16
SPLICE_BYTES = 1 << 18  # out of a pipe; there 1 MiB at once took 1.4 times as long, in memory as long
MAX_QUEUED_CHUNKS = 1  # chunks handed to the digest and not hashed yet; who brings the next one waits


class PartialFile:
    """A sparse file of its final size. Positions are explicit, so that threads need no lock among them."""

    def __init__(self, path: Path, size: int) -> None:
        """Opens or creates it.

        Raises:
            OSError: the disk refused.
        """
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self.path = path
        self.fd = os.open(path, flags, 0o644)
        self._lock = threading.Lock()
        try:
            if os.fstat(self.fd).st_size != size:
                os.ftruncate(self.fd, size)
        except OSError:
            os.close(self.fd)
            raise

    def write_at(self, view: memoryview, offset: int) -> None:
        """Writes all of `view`."""
        while view:
            piece = view[:WRITE_BYTES]
            if hasattr(os, "pwrite"):
                count = os.pwrite(self.fd, piece, offset)
            else:  # Windows
                with self._lock:
                    os.lseek(self.fd, offset, os.SEEK_SET)
                    count = os.write(self.fd, piece)
            view, offset = view[count:], offset + count

    def splice_at(self, pipe: int, count: int, offset: int) -> None:
        """Writes `count` bytes that a pipe holds, without taking them into memory of ours where that can be (Linux)."""
        while count:
            moved = 0
            if sys.platform == "linux":
                with contextlib.suppress(OSError):  # a file system without: writing tells what is the matter
                    moved = os.splice(pipe, self.fd, min(count, SPLICE_BYTES), offset_dst=offset)
            if not moved:
                piece = os.read(pipe, min(count, WRITE_BYTES))
                self.write_at(memoryview(piece), offset)
                moved = len(piece)
            offset, count = offset + moved, count - moved

    def read_at(self, view: memoryview, offset: int) -> int:
        """Fills `view`, or its beginning; how many bytes that were."""
        if hasattr(os, "preadv"):
            return os.preadv(self.fd, [view], offset)
        with self._lock:  # Windows
            os.lseek(self.fd, offset, os.SEEK_SET)
            data = os.read(self.fd, len(view))
        view[: len(data)] = data
        return len(data)

    def sync(self) -> None:
        """Waits until all that was written is on the disk."""
        sync_data(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


class FileHasher:
    """sha256, or a git blob's sha1, of a file of known size, in a thread of its own while the file fills up.

    Chunks that arrive in file order are hashed as they were received, and who brings them faster than that waits: all
    wait for the digest in the end. All others, those of an earlier run, and what came without a chunk are read back
    from the file once the bytes before them are there; they wait in the file, and nobody for them.
    """

    def __init__(self, file: PartialFile, size: int, *, git_blob: bool = False) -> None:
        self._file, self._size = file, size
        self._hash = hashlib.sha1(usedforsecurity=False) if git_blob else hashlib.sha256()
        if git_blob:
            self._hash.update(b"blob %d\0" % size)
        self._done = Ranges()
        self._taken = 0  # up to here bytes are hashed or queued
        self._queue: deque[tuple[bytearray, int]] = deque()
        self._change = threading.Condition()
        self._abandoned = self._ended = False
        self._error: OSError | None = None
        self._memory = bytearray(READ_BYTES)
        self.hashed = 0
        self.spare: deque[bytearray] = deque()  # memory of chunks that are hashed, to be used again
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def have(self, start: int, end: int, chunk: bytearray | None = None) -> bool:
        """Bytes are in the file now. Returns whether `chunk`, which begins with them, now belongs to the digest."""
        if start == end:  # another connection took all of them over
            return False
        with self._change:
            if chunk is not None:
                self._change.wait_for(
                    lambda: self._ended or start != self._taken or len(self._queue) < MAX_QUEUED_CHUNKS
                )
            self._done.add(start, end)
            taken = chunk is not None and start == self._taken and not self._ended
            if taken and chunk is not None:
                self._queue.append((chunk, end - start))
                self._taken = end
            self._change.notify()
            return taken

    def _wait_for_block(self) -> tuple[bytearray | None, int]:
        """The next chunk and its length, or how many bytes to read back; 0 when all is hashed or nobody wants it."""
        with self._change:
            while True:
                if self._abandoned or self.hashed == self._size:
                    return None, 0
                if self._queue:
                    self._change.notify()
                    return self._queue.popleft()
                there = min(self._done.end_of_run(self._taken) - self._taken, READ_BYTES)
                if there:
                    self._taken += there
                    return None, there
                self._change.wait()

    def _run(self) -> None:
        try:
            while True:
                chunk, count = self._wait_for_block()
                if not count:
                    return
                if chunk is not None:
                    self._hash.update(memoryview(chunk)[:count])
                    self.hashed += count
                    self.spare.append(chunk)
                else:
                    self._read_back(count)
        except OSError as error:
            self._error = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _read_back(self, count: int) -> None:
        memory = memoryview(self._memory)
        while count:
            found = self._file.read_at(memory[:count], self.hashed)
            if not found:
                raise OSError(errno.EIO, "The file became shorter while it was read")
            self._hash.update(memory[:found])
            self.hashed += found
            count -= found

    def wait(self, seconds: float) -> bool:
        """Whether all is hashed after at most `seconds`.

        Raises:
            OSError: the file could not be read back.
        """
        self._thread.join(seconds)
        if self._error:
            raise self._error
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Ends the thread; the digest will not be asked for."""
        with self._change:
            self._abandoned = True
            self._change.notify()
        self._thread.join()

    @property
    def hex(self) -> str:
        """The digest, once `wait` has said True."""
        return self._hash.hexdigest()
