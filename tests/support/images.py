"""Pictures for tests: PNG files of one colour, written by hand."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def png(path: Path, colour: tuple[int, int, int], *, side: int = 20) -> Path:
    """Return a square picture of one colour (https://www.w3.org/TR/png-3/). `side` in pixels."""
    rows = b"".join(b"\0" + bytes(colour) * side for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks))
    return path


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
