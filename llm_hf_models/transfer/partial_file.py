"""A partial file whose bytes arrive in any order, and a hasher that meanwhile computes its digest in file order."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llm_hf_models.system.disk import sync_data
from llm_hf_models.transfer.types import ByteObserver, Ranges

if TYPE_CHECKING:
    from typing_extensions import Self

READ_BYTES = 1 << 19

# Linux tries to keep the bytes of one write in one block of memory. In a virtual machine, large blocks are slow to
# allocate: with writes of 64 KiB, a download to ext4 (Linux 6.18) took half as long as with writes of whole chunks.
# To tmpfs both took the same time.
WRITE_BYTES = 1 << 16
MAX_QUEUED_CHUNKS = 1  # chunks waiting to be hashed; a connection with another chunk has to wait


class PartialFile:
    """A sparse file of its final size. Reads and writes take an offset, so threads need no common lock."""

    def __init__(self, path: Path, size: int) -> None:
        """Open or create the file and set its size.

        Raises:
            OSError: the file could not be opened or resized.
        """
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self.path = path
        self.fd = os.open(path, flags, 0o666)  # the umask applies, as to huggingface_hub's files
        self._lock = threading.Lock()
        try:
            if os.fstat(self.fd).st_size != size:
                os.ftruncate(self.fd, size)
        except OSError:
            os.close(self.fd)
            raise

    def write_at(self, view: memoryview, offset: int) -> None:
        """Write all of `view` at `offset`."""
        while view:
            piece = view[:WRITE_BYTES]
            if hasattr(os, "pwrite"):
                count = os.pwrite(self.fd, piece, offset)
            else:  # Windows
                with self._lock:
                    os.lseek(self.fd, offset, os.SEEK_SET)
                    count = os.write(self.fd, piece)
            view, offset = view[count:], offset + count

    def read_at(self, view: memoryview, offset: int) -> int:
        """Read bytes at `offset` into `view` and return their number."""
        if hasattr(os, "preadv"):
            return os.preadv(self.fd, [view], offset)
        with self._lock:  # Windows
            os.lseek(self.fd, offset, os.SEEK_SET)
            data = os.read(self.fd, len(view))
        view[: len(data)] = data
        return len(data)

    def sync(self) -> None:
        """Wait until all written bytes are on disk."""
        sync_data(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)


class FileHasher:
    """Computes sha256, or a git blob's sha1, of a file of known size in its own thread while the bytes arrive.

    Chunks that arrive in file order are hashed from memory. A connection that receives them faster than they are hashed
    has to wait, because the transfer can't end before the digest is complete. All other bytes are read back from the
    file once all bytes before them have arrived; no connection waits for those.
    """

    def __init__(
        self, file: PartialFile, size: int, *, git_blob: bool = False, observer: ByteObserver | None = None
    ) -> None:
        self._file, self._size, self._observer = file, size, observer
        self._hash = hashlib.sha1(usedforsecurity=False) if git_blob else hashlib.sha256()
        if git_blob:
            self._hash.update(b"blob %d\0" % size)
        self._done = Ranges()
        self._claimed = 0  # all bytes before this position are hashed or queued
        self._queue: deque[tuple[bytearray, int]] = deque()
        self._change = threading.Condition()
        self._cancelled = self._ended = False
        self._error: OSError | None = None
        self._memory = bytearray(READ_BYTES)
        self.hashed = 0
        self.spare: deque[bytearray] = deque()  # buffers of hashed chunks, free for reuse
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def mark_written(self, start: int, end: int, chunk: bytearray | None = None) -> bool:
        """Record that the bytes from `start` to `end` are in the file.

        Args:
            start: the first byte.
            end: the position after the last byte.
            chunk: a buffer that begins with these bytes.

        Returns:
            True if the hasher keeps `chunk`: the caller must not use it again.
        """
        if start == end:  # another connection took over all of these bytes
            return False
        with self._change:
            if chunk is not None:
                self._change.wait_for(
                    lambda: self._ended or start != self._claimed or len(self._queue) < MAX_QUEUED_CHUNKS
                )
            self._done.add(start, end)
            kept = chunk is not None and start == self._claimed and not self._ended
            if kept and chunk is not None:
                self._queue.append((chunk, end - start))
                self._claimed = end
            self._change.notify()
            return kept

    def _wait_for_block(self) -> tuple[bytearray | None, int]:
        """Return the next chunk and its length, or None and the number of bytes to read back.

        The number is 0 when all bytes are hashed or the digest was cancelled.
        """
        with self._change:
            while True:
                if self._cancelled or self.hashed == self._size:
                    return None, 0
                if self._queue:
                    self._change.notify()
                    return self._queue.popleft()
                available = min(self._done.find_run_end(self._claimed) - self._claimed, READ_BYTES)
                if available:
                    self._claimed += available
                    return None, available
                self._change.wait()

    def _run(self) -> None:
        try:
            while True:
                chunk, count = self._wait_for_block()
                if not count:
                    return
                if chunk is not None:
                    self._update(memoryview(chunk)[:count])
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
                raise OSError(errno.EIO, "The file was truncated while it was read")
            self._update(memory[:found])
            count -= found

    def _update(self, data: memoryview) -> None:
        self._hash.update(data)
        if self._observer is not None:
            self._observer.update(data)
        self.hashed += len(data)

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` and return whether the whole file is hashed.

        Raises:
            OSError: the file could not be read back.
        """
        self._thread.join(seconds)
        if self._error:
            raise self._error
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Stop the thread; the digest is not needed."""
        with self._change:
            self._cancelled = True
            self._change.notify()
        self._thread.join()

    @property
    def hexdigest(self) -> str:
        """The digest in hexadecimal, valid once `wait` has returned True."""
        return self._hash.hexdigest()
