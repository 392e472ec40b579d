"""Read a GGUF header from any byte source, strictly and within limits.

This module checks the header's structure only; validate.py checks the rest. The format is specified in
ggml/docs/gguf.md, and llama.cpp reads it in `ggml/src/gguf.cpp`. The reader never allocates memory for a length that
the header only claims. It reads block by block, and allocates no more than has arrived.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from llm_hf_models.errors import InvalidGgufError, SlowHeaderError
from llm_hf_models.gguf.facts import CHAT_TEMPLATE_KEY, ModelFacts, derive_facts
from llm_hf_models.gguf.types import (
    ARRAY,
    BOOL,
    DEFAULT_ALIGNMENT,
    MAX_DIMENSIONS,
    MAX_TENSOR_NAME_BYTES,
    STRING,
    VALUE_TYPES,
    ArrayInfo,
    ByteOrder,
    StringInfo,
    TensorInfo,
)
from llm_hf_models.redaction import redact
from llm_hf_models.system.text import clean_text

BLOCK_BYTES = 256 * 1024
MAX_HEADER_BYTES = 128 * 1024 * 1024
DEFAULT_HEADER_SECONDS = 60.0  # the limit unless the caller sets another
MAX_METADATA = 65_536  # keys
MAX_TENSORS = 65_536
MAX_KEY_BYTES = 65_535  # the specification's own limit
MAX_KEPT_STRING_BYTES = 1024 * 1024  # a longer string, even a chat template, is replaced by a StringInfo
MAX_KEPT_BYTES = 16 * 1024 * 1024  # for all strings and arrays together; the rest are skipped
MAX_ARRAY_STRINGS = 4 * 1024 * 1024  # in all arrays together: limits the time for skipping them
KEPT_ELEMENTS = 512  # a longer array is replaced by an ArrayInfo
MAX_ALIGNMENT = 1024 * 1024
_MAX_SIGNED = 2**63 - 1
_MIN_METADATA_BYTES = 8 + 1 + 4 + 1  # a key of one letter with a value of the smallest type
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8


class ByteSource(Protocol):
    """Any source that can be read forward: an open file, a Range reader of a Hub file, a socket's file object."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class GgufHeader:
    """A parsed header: everything before the tensor data."""

    version: int
    byte_order: ByteOrder
    metadata: Mapping[str, object]  # ArrayInfo replaces long arrays, StringInfo long strings
    tensors: tuple[TensorInfo, ...]
    alignment: int
    header_bytes: int  # up to the tensor data, including the padding
    facts: ModelFacts
    chat_template: str | None = None
    value_types: Mapping[str, str] = field(default_factory=dict)  # key -> `uint32`, `string`, `array of string`


def read_header(
    source: ByteSource,
    *,
    file_bytes: int | None = None,
    seconds: float = DEFAULT_HEADER_SECONDS,
) -> GgufHeader:
    """Read a header and check its structure.

    Args:
        source: is read forward from its current position, at most one block past the header.
        file_bytes: the file's size in bytes, if known. Counts and lengths that exceed it are then refused.
        seconds: the time limit. It is checked between reads, so the source must limit the time of a single read.

    Raises:
        InvalidGgufError: the header is not GGUF or breaks a rule; `code` names the rule.
        SlowHeaderError: reading took longer than `seconds`.
    """
    return _Parser(_BlockReader(source, file_bytes, seconds), file_bytes).parse()


@contextmanager
def name_file_in_errors(name: str) -> Iterator[None]:
    """Add the file's name to errors that are raised while its header is read."""
    try:
        yield
    except (InvalidGgufError, SlowHeaderError) as error:
        error.message = f"{clean_text(name)}: {error.message}"
        raise


def make_slow_header_error(seconds: float) -> SlowHeaderError:
    """Return the error for a header that took longer than `seconds`. Sources with their own time limit use it too."""
    return SlowHeaderError(
        f"Reading the header took longer than {seconds:g} s",
        cause="The disk or the host is slow, or the file was made to be slow to read.",
        hint="Try again, or set a longer limit: llm hf settings header_seconds 5m",
    )


def _refuse(code: str, message: str, offset: int) -> NoReturn:
    raise InvalidGgufError(message, code=code, offset=offset, cause=f"At byte {offset}.")


class _BlockReader:
    """Read bytes in order, through a buffer of one block."""

    def __init__(self, source: ByteSource, file_bytes: int | None, seconds: float) -> None:
        self._source = source
        self._seconds, self._until = seconds, time.monotonic() + seconds
        self._end = file_bytes
        self.limit = MAX_HEADER_BYTES if file_bytes is None else min(file_bytes, MAX_HEADER_BYTES)
        self.buffer = b""
        self.position = 0  # in the buffer
        self._before = 0  # bytes in the file before the buffer

    @property
    def offset(self) -> int:
        """The position in the file, in bytes."""
        return self._before + self.position

    @property
    def bytes_left(self) -> int:
        """The maximum number of bytes that can follow."""
        return self.limit - self.offset

    def ensure_buffered(self, size: int, what: str) -> None:
        """Read until the buffer has at least `size` bytes, which must be small or checked against a limit."""
        if len(self.buffer) - self.position >= size:
            return
        self.check_length(size, what)
        parts = [self.buffer[self.position :]]
        have = len(parts[0])
        self._before += self.position
        self.position = 0
        while have < size:
            # Checked once per block: parsing a block takes milliseconds, and most headers have one or two blocks.
            if time.monotonic() > self._until:
                raise make_slow_header_error(self._seconds)
            part = self._source.read(BLOCK_BYTES)
            if not part:
                self.buffer = b"".join(parts)
                _refuse("truncated", f"The file ends within {what}.", self._before + have)
            parts.append(part)
            have += len(part)
        self.buffer = b"".join(parts)

    def check_length(self, size: int, what: str) -> None:
        """Refuse a length beyond the end of the file or beyond the largest allowed header."""
        if size <= self.bytes_left:
            return
        subject = what[0].upper() + what[1:]
        if self._end is not None and size > self._end - self.offset:
            _refuse(
                "truncated", f"{subject} needs {size:,} bytes, but {self._end - self.offset:,} are left.", self.offset
            )
        _refuse("header-too-large", f"{subject} needs {size:,} bytes, more than a header may have.", self.offset)

    def take(self, size: int, what: str) -> bytes:
        self.ensure_buffered(size, what)
        start = self.position
        self.position = start + size
        return self.buffer[start : self.position]

    def skip(self, size: int, what: str) -> None:
        """Skip bytes without keeping them."""
        self.check_length(size, what)
        while size > (have := len(self.buffer) - self.position):
            size -= have
            self.position += have
            self.ensure_buffered(1, what)
        self.position += size


class _Parser:
    """Parse one header."""

    def __init__(self, source: _BlockReader, file_bytes: int | None) -> None:
        self._bytes = source
        self._file_bytes = file_bytes
        self._order: ByteOrder = "little"
        self._kept = 0
        self._array_strings = 0
        self._value_types: dict[str, str] = {}

    def parse(self) -> GgufHeader:
        version = self._read_preamble()
        tensor_count = self._read_count("tensors", MAX_TENSORS, _MIN_TENSOR_BYTES)
        metadata_count = self._read_count("metadata keys", MAX_METADATA, _MIN_METADATA_BYTES)
        metadata = self._read_metadata(metadata_count)
        alignment = self._get_alignment(metadata)
        tensors = self._read_tensors(tensor_count)
        end = self._bytes.offset
        padded = -(-end // alignment) * alignment
        if self._file_bytes is not None and padded > self._file_bytes and tensors:
            _refuse("truncated", "The file ends before its tensor data.", end)
        template = metadata.get(CHAT_TEMPLATE_KEY)
        return GgufHeader(
            version=version,
            byte_order=self._order,
            metadata=metadata,
            tensors=tensors,
            alignment=alignment,
            header_bytes=padded if tensors else min(padded, self._file_bytes or padded),
            facts=derive_facts(metadata, tensors),
            chat_template=template if isinstance(template, str) else None,
            value_types=self._value_types,
        )

    def _read_preamble(self) -> int:
        self._set_byte_order("little")
        if self._bytes.take(4, "the magic") != b"GGUF":
            _refuse("not-gguf", "This is not a GGUF file: it does not start with GGUF.", 0)
        raw = self._bytes.take(4, "the version")
        version = int.from_bytes(raw, "little")
        if version & 0xFFFF == 0 and version:
            self._set_byte_order("big")
            version = int.from_bytes(raw, "big")
        if version not in (2, 3):
            _refuse("version", f"GGUF version {version} is not supported, only 2 and 3.", 4)
        return version

    def _set_byte_order(self, order: ByteOrder) -> None:
        self._order = order
        mark = "<" if order == "little" else ">"
        self._scalars = {kind: struct.Struct(mark + form) for kind, (_, form) in VALUE_TYPES.items() if form}
        self._u32, self._u64 = self._scalars[4], self._scalars[10]

    def _read_number(self, form: struct.Struct, what: str) -> int:
        buffer = self._bytes
        buffer.ensure_buffered(form.size, what)
        number: int = form.unpack_from(buffer.buffer, buffer.position)[0]
        buffer.position += form.size
        return number

    def _read_count(self, what: str, limit: int, min_bytes: int) -> int:
        at = self._bytes.offset
        count = self._read_number(self._u64, f"the number of {what}")
        if count > limit:
            _refuse("count-too-large", f"The header claims {count} {what}; the limit is {limit}.", at)
        if self._file_bytes is not None and count * min_bytes > self._bytes.bytes_left:
            _refuse("count-too-large", f"The header claims {count} {what}, more than the file can hold.", at)
        return count

    def _read_metadata(self, count: int) -> dict[str, object]:
        metadata: dict[str, object] = {}
        for _ in range(count):
            at = self._bytes.offset
            key = self._read_name("key", MAX_KEY_BYTES)
            if key in metadata:
                _refuse("duplicate-key", f"The key {clean_text(key, 80)!r} appears twice.", at)
            metadata[key] = self._read_value(key)
        return metadata

    def _read_name(self, what: str, limit: int) -> str:
        """Read a key or a tensor's name: at least one character, and no control characters."""
        at = self._bytes.offset
        label = what.replace("-", " ")
        size = self._read_number(self._u64, f"the length of a {label}")
        if not 0 < size <= limit:
            _refuse(f"{what}-length", f"A {label} has {size:,} bytes; it must have 1 to {limit}.", at)
        try:
            name = self._bytes.take(size, f"a {label}").decode()
        except UnicodeDecodeError:
            _refuse(f"{what}-text", f"A {label} is not UTF-8.", at)
        if not name.isprintable():
            _refuse(f"{what}-text", f"The {label} {clean_text(name, 80)!r} has control characters.", at)
        return redact(name)

    def _read_value(self, key: str) -> object:
        at = self._bytes.offset
        kind = self._read_number(self._u32, "a value's type")
        if kind not in VALUE_TYPES:
            _refuse("value-type", f"The key {clean_text(key, 80)!r} has a value of unknown type {kind}.", at)
        self._value_types[key] = VALUE_TYPES[kind][0]
        if kind == STRING:
            return self._read_string(f"the string {clean_text(key, 80)!r}")
        return self._read_array(key) if kind == ARRAY else self._read_scalar(kind, key)

    def _read_scalar(self, kind: int, key: str) -> object:
        at = self._bytes.offset
        value = self._read_number(self._scalars[kind], "a value")
        if kind != BOOL:
            return value
        if value > 1:
            _refuse("bool-value", f"The bool {clean_text(key, 80)!r} is {value}, not 0 or 1.", at)
        return bool(value)

    def _read_string(self, what: str) -> str | StringInfo:
        size = self._read_number(self._u64, "a string's length")
        if size > MAX_KEPT_STRING_BYTES or self._kept + size > MAX_KEPT_BYTES:
            self._bytes.skip(size, what)
            return StringInfo(size)
        self._kept += size
        return redact(self._bytes.take(size, what).decode(errors="replace"))  # a Hub may send a header of its own

    def _read_array(self, key: str) -> ArrayInfo | tuple[object, ...]:
        at = self._bytes.offset
        kind = self._read_number(self._u32, "an array's type")
        name = clean_text(key, 80)
        if kind == ARRAY:
            _refuse("array-nested", f"The array {name!r} contains arrays.", at)
        if kind not in VALUE_TYPES:
            _refuse("value-type", f"The array {name!r} contains values of unknown type {kind}.", at)
        self._value_types[key] = f"array of {VALUE_TYPES[kind][0]}"
        length = self._read_number(self._u64, "an array's length")
        what = f"the array {name!r}"
        width = 8 if kind == STRING else self._scalars[kind].size
        self._bytes.check_length(length * width, what)
        if kind == STRING:
            self._array_strings += length
            if self._array_strings > MAX_ARRAY_STRINGS:
                _refuse("count-too-large", f"The arrays contain more than {MAX_ARRAY_STRINGS} strings.", at)
        if length <= KEPT_ELEMENTS and self._kept + length * width <= MAX_KEPT_BYTES:
            return self._read_elements(kind, length, key, what)
        if kind == STRING:
            self._skip_strings(length, what)
        else:
            self._bytes.skip(length * width, what)
        return ArrayInfo(VALUE_TYPES[kind][0], length)

    def _read_elements(self, kind: int, length: int, key: str, what: str) -> tuple[object, ...]:
        self._kept += length * (8 if kind == STRING else self._scalars[kind].size)
        if kind == STRING:
            return tuple(self._read_string(what) for _ in range(length))
        if kind == BOOL:
            return tuple(self._read_scalar(kind, key) for _ in range(length))
        form = self._scalars[kind]
        raw = self._bytes.take(length * form.size, what)
        return struct.unpack(f"{form.format[0]}{length}{form.format[1:]}", raw)

    def _skip_strings(self, count: int, what: str) -> None:
        """Skip strings by their lengths. The loop is written for speed, since it may run a million times."""
        source = self._bytes
        unpack = self._u64.unpack_from
        while count:
            source.ensure_buffered(8, what)
            buffer, position = source.buffer, source.position
            last = len(buffer) - 8
            while count and position <= last:
                (size,) = unpack(buffer, position)
                position += 8 + size
                count -= 1
            # Only the last string can extend past the buffer.
            excess = max(0, position - len(buffer))
            source.position = position - excess
            source.skip(excess, what)

    def _get_alignment(self, metadata: Mapping[str, object]) -> int:
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        right_type = self._value_types.get("general.alignment", "uint32") == "uint32"  # llama.cpp aborts on any other
        if right_type and isinstance(value, int) and 0 < value <= MAX_ALIGNMENT and not value & (value - 1):
            return int(value)
        text = clean_text(str(value), 40)
        _refuse("alignment", f"general.alignment is {text}, not a uint32 power of two up to 1 MiB.", self._bytes.offset)

    def _read_tensors(self, count: int) -> tuple[TensorInfo, ...]:
        tensors: dict[str, TensorInfo] = {}
        for _ in range(count):
            at = self._bytes.offset
            name = self._read_name("tensor-name", MAX_TENSOR_NAME_BYTES)
            if name in tensors:
                _refuse("duplicate-tensor", f"The tensor {clean_text(name, 80)!r} appears twice.", at)
            shape = self._read_shape(name)
            tensors[name] = TensorInfo(
                name,
                shape,
                self._read_number(self._u32, "a tensor's type"),
                self._read_number(self._u64, "a tensor's offset"),
            )
        return tuple(tensors.values())

    def _read_shape(self, name: str) -> tuple[int, ...]:
        at = self._bytes.offset
        what = f"The tensor {clean_text(name, 80)!r}"
        dimensions = self._read_number(self._u32, "a tensor's dimensions")
        if dimensions > MAX_DIMENSIONS:
            _refuse("tensor-dimensions", f"{what} has {dimensions} dimensions; the limit is {MAX_DIMENSIONS}.", at)
        shape = tuple(self._read_number(self._u64, "a tensor's shape") for _ in range(dimensions))
        elements = 1
        for size in shape:
            elements *= size
            if not 0 < elements <= _MAX_SIGNED:
                _refuse("tensor-shape", f"{what} has the shape {shape}, whose product is 0 or overflows.", at)
        return shape
