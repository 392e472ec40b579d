"""Write GGUF files byte by byte, so that each is wrong in exactly one place. For whole models see ggufs.py."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

TYPES = {"uint8": 0, "int8": 1, "uint16": 2, "int16": 3, "uint32": 4, "int32": 5, "float32": 6, "bool": 7}
TYPES |= {"string": 8, "array": 9, "uint64": 10, "int64": 11, "float64": 12}
FORMS = {"uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i", "float32": "f"}
FORMS |= {"bool": "B", "uint64": "Q", "int64": "q", "float64": "d"}
F32 = 0
ALL_ONES = 2**64 - 1


def text(value: str | bytes, order: str = "<", *, length: int | None = None) -> bytes:
    """Return a GGUF string; `length` claims another length."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(order + "Q", len(raw) if length is None else length) + raw


def scalar(kind: str, value: object, order: str = "<") -> bytes:
    return text(value, order) if kind == "string" else struct.pack(order + FORMS[kind], value)  # type: ignore[arg-type]


def entry(key: str | bytes, kind: str, value: object, order: str = "<") -> bytes:
    """Return a key with a value of one type."""
    return text(key, order) + struct.pack(order + "I", TYPES[kind]) + scalar(kind, value, order)


def array(key: str, kind: str, values: Sequence[object], order: str = "<", *, length: int | None = None) -> bytes:
    """Return a key with an array; `length` claims another length."""
    head = struct.pack(order + "IIQ", TYPES["array"], TYPES[kind], len(values) if length is None else length)
    return text(key, order) + head + b"".join(scalar(kind, value, order) for value in values)


def tensor(
    name: str | bytes,
    shape: Sequence[int],
    kind: int = F32,
    offset: int = 0,
    order: str = "<",
    *,
    dims: int | None = None,
) -> bytes:
    """Return a tensor's entry; `dims` claims another number of dimensions."""
    count = struct.pack(order + "I", len(shape) if dims is None else dims)
    return text(name, order) + count + struct.pack(f"{order}{len(shape)}QIQ", *shape, kind, offset)


def gguf(
    metadata: Iterable[bytes] = (),
    tensors: Iterable[bytes] = (),
    *,
    data: bytes = b"",
    magic: bytes = b"GGUF",
    version: int = 3,
    order: str = "<",
    metadata_count: int | None = None,
    tensor_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    """Return a whole file: its parts joined unchanged and padded to `alignment` before the data."""
    metadata, tensors = list(metadata), list(tensors)
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(metadata) if metadata_count is None else metadata_count,
    )
    header = magic + struct.pack(order + "IQQ", version, *counts) + b"".join(metadata) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data
