"""Copy the body of one HTTP response into the partial file and to its digest, through memory or through a kernel pipe.

Through memory, one thread copies each byte twice, from the socket and into the file, and passes the chunk on to the
digest thread. Through a pipe (splice(2), Linux, unencrypted connections only), that thread copies each byte once, into
the file, and the digest thread reads it back from there. Bare loops with a digest, 1 GiB over loopback, two cores,
medians of five runs (tmpfs) and three (ext4), relative to curl, which computes no digest:

    way                 tmpfs: wall    CPU     ext4: wall    CPU
    memory              0.97           1.51    0.85          1.27
    pipe of 64 KiB      -              -       1.02          1.52
    pipe of 1 MiB       0.89           1.24    0.75          0.95

All programs of an unprivileged user together may have 64 pipes of 1 MiB (pipe(7), /proc/sys/fs/pipe-user-pages-soft).
When no more pipes are available, bytes are copied through memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from llm_hf_models.network.response import RangeResponse, SpliceUnsupportedError
from llm_hf_models.transfer.partial_file import FileHasher, PartialFile

if TYPE_CHECKING:
    from typing_extensions import Self

PIPE_BYTES = 1 << 20  # the largest pipe that an unprivileged user may have


class BodyCopier:
    """Copies one response into the file, in one thread.

    On exit, received bytes that were not stored are lost.
    """

    def __init__(
        self, response: RangeResponse, file: PartialFile, hasher: FileHasher, take_buffer: Callable[[], bytearray]
    ) -> None:
        """Prepare to copy `response` into `file`.

        Args:
            response: the HTTP response.
            file: receives the bytes.
            hasher: computes the digest of the file. It may keep a buffer and read from it later.
            take_buffer: returns a buffer for one chunk.
        """
        self._response, self._file, self._hasher, self._take_buffer = response, file, hasher, take_buffer
        self._chunk: bytearray | None = None
        self._pipe: tuple[int, int] | None = None
        self._may_splice = True
        self._in_pipe = False

    def receive(self, max_bytes: int) -> int:
        """Receive up to `max_bytes` from the response and return their number, 0 at the end.

        Raises:
            NetworkError: the connection broke, stalled, or ended before the announced length.
        """
        self._in_pipe = False
        if self._may_splice and self._response.can_splice:
            self._pipe = self._pipe or _open_wide_pipe()
            if self._pipe is not None:
                with contextlib.suppress(SpliceUnsupportedError):
                    count = self._response.splice_into(self._pipe[1], min(max_bytes, PIPE_BYTES))
                    self._in_pipe = True
                    return count
            self._may_splice = False
        if self._chunk is None:
            self._chunk = self._take_buffer()
        return self._response.read_into(memoryview(self._chunk)[:max_bytes])

    def store(self, count: int, offset: int) -> None:
        """Write the first `count` received bytes to the file at `offset` and pass them to the digest.

        Raises:
            OSError: the file could not be written.
        """
        if self._in_pipe and self._pipe is not None:
            self._file.splice_at(self._pipe[0], count, offset)
            self._hasher.mark_written(offset, offset + count)
        elif self._chunk is not None:
            self._file.write_at(memoryview(self._chunk)[:count], offset)
            if self._hasher.mark_written(offset, offset + count, self._chunk):
                self._chunk = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._pipe or ():
            os.close(end)
        self._pipe = None


def _open_wide_pipe() -> tuple[int, int] | None:
    """Return both ends of a pipe that holds `PIPE_BYTES`, or None if the system does not provide one."""
    if sys.platform != "linux":
        return None
    import fcntl

    try:
        ends = os.pipe()
    except OSError:
        return None
    try:
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        for end in ends:
            os.close(end)
        return None
    return ends
