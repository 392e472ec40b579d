"""Decompress a response that a server or proxy compressed although that was not requested."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from llm_hf_models.errors import NetworkError

ENCODINGS = ("gzip", "x-gzip", "deflate")
INPUT_BYTES = 1 << 16
_ANY_FORMAT = 47  # zlib detects the header of gzip or zlib
_HEADER_BYTES = 2


class Inflater:
    """Decompresses a body piece by piece, with bounded memory.

    A body that is not compressed, contrary to its header, is passed on unchanged.
    """

    def __init__(self, read: Callable[[memoryview], int], host: str) -> None:
        self._read, self._host = read, host
        self._buffer = bytearray(INPUT_BYTES)
        self._input = b""
        self._zlib: zlib._Decompress | None = None
        self._is_plain = False

    def read_into(self, view: memoryview) -> int:
        """Read decompressed bytes into `view` and return their number, 0 at the end.

        Raises:
            NetworkError: the connection broke, or the compressed data is damaged or incomplete.
        """
        while True:
            if self._is_plain:
                return self._pass_on(view)
            if self._zlib is None and len(self._input) >= _HEADER_BYTES:
                self._is_plain = not _is_compressed(self._input)
                self._zlib = zlib.decompressobj(_ANY_FORMAT)
                continue
            if self._zlib is not None and (data := self._inflate(self._zlib, len(view))):
                view[: len(data)] = data
                return len(data)
            if not (count := self._read(memoryview(self._buffer))):
                return self._end(view)
            self._input += bytes(self._buffer[:count])

    def _inflate(self, decompressor: zlib._Decompress, max_bytes: int) -> bytes:
        try:
            data = decompressor.decompress(self._input, max_bytes)
        except zlib.error as error:
            raise NetworkError(f"{self._host} sent damaged compressed data", cause=str(error)) from None
        self._input = decompressor.unused_data or decompressor.unconsumed_tail
        if decompressor.eof:  # another member may follow
            self._zlib = None
        return data

    def _pass_on(self, view: memoryview) -> int:
        if not self._input:
            return self._read(view)
        count = min(len(view), len(self._input))
        view[:count], self._input = self._input[:count], self._input[count:]
        return count

    def _end(self, view: memoryview) -> int:
        if self._zlib is not None:
            raise NetworkError(f"{self._host} closed the connection too early")
        self._is_plain = True
        return self._pass_on(view)


def _is_compressed(start: bytes) -> bool:
    """Return whether bytes start with the header of gzip (RFC 1952) or zlib (RFC 1950)."""
    return start[:2] == b"\x1f\x8b" or (start[0] & 15 == 8 and int.from_bytes(start[:2], "big") % 31 == 0)  # noqa: PLR2004
