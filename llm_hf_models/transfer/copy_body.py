"""How one reply's bytes get into the file, and to its digest: through memory, or through a pipe within the kernel.

Through memory one thread copies each byte twice, from the socket and to the file, and the digest takes it on the way.
Through a pipe (splice(2), Linux, nothing encrypted) that thread copies it to the file alone, and the digest reads it
back from there in its own. Bare loops with a digest, 1 GiB over loopback, two cores, medians of five (tmpfs) and three
(ext4); curl, which checks none, is 1:

    way                 tmpfs: wall    CPU     ext4: wall    CPU
    memory              0.97           1.51    0.85          1.27
    pipe of 64 KiB      -              -       1.02          1.52
    pipe of 1 MiB       0.89           1.24    0.75          0.95

All programs of an unprivileged user together may have 64 pipes of 1 MiB (pipe(7), /proc/sys/fs/pipe-user-pages-soft);
beyond, memory it is.
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

PIPE_BYTES = 1 << 20  # as large as a pipe of an unprivileged user may be


class BodyCopier:
    """For one reply and one thread. Bytes that were loaded and not unloaded are gone when it closes."""

    def __init__(
        self, reply: RangeResponse, file: PartialFile, digest: FileHasher, memory: Callable[[], bytearray]
    ) -> None:
        """`memory` gives room for a chunk, which may become the digest's."""
        self._reply, self._file, self._digest, self._memory = reply, file, digest, memory
        self._chunk: bytearray | None = None
        self._pipe: tuple[int, int] | None = None
        self._splices = True
        self._in_pipe = False

    def load(self, most: int) -> int:
        """Takes up to `most` bytes from the reply; how many it has, 0 at the end.

        Raises:
            NetworkError: the connection broke, was silent too long, or ended before the announced end.
        """
        self._in_pipe = False
        if self._splices and self._reply.splices:
            self._pipe = self._pipe or _open_wide_pipe()
            if self._pipe is not None:
                with contextlib.suppress(SpliceUnsupportedError):
                    count = self._reply.splice_into(self._pipe[1], min(most, PIPE_BYTES))
                    self._in_pipe = True
                    return count
            self._splices = False
        if self._chunk is None:
            self._chunk = self._memory()
        return self._reply.read_into(memoryview(self._chunk)[:most])

    def unload(self, count: int, offset: int) -> None:
        """Brings the first `count` of the bytes that were loaded to their place in the file, and the digest to know.

        Raises:
            OSError: the disk refused.
        """
        if self._in_pipe and self._pipe is not None:
            self._file.splice_at(self._pipe[0], count, offset)
            self._digest.have(offset, offset + count)
        elif self._chunk is not None:
            self._file.write_at(memoryview(self._chunk)[:count], offset)
            if self._digest.have(offset, offset + count, self._chunk):
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
    """Both ends of a pipe for `PIPE_BYTES`; None where the system gives none."""
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
