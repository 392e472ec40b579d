"""Validate a GGUF file: structure, meaning and chat template. Each finding has a code. Nothing in the file is run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from llm_hf_models.errors import InvalidGgufError
from llm_hf_models.gguf import semantics, template_audit
from llm_hf_models.gguf.facts import CHAT_TEMPLATE_KEY, derive_facts, get_count
from llm_hf_models.gguf.header import DEFAULT_HEADER_SECONDS, GgufHeader, name_file_in_errors, read_header
from llm_hf_models.gguf.rules import Finding, make_finding
from llm_hf_models.gguf.types import REMOVED_TENSOR_TYPES, TENSOR_TYPES, StringInfo, TensorInfo
from llm_hf_models.system.text import clean_text

MAX_FINDINGS = 200  # a hostile file can break a rule in each of its tensors
_MAX_SIGNED = 2**63 - 1
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # replaces bytes that are not UTF-8


@dataclass(frozen=True)
class ValidationReport:
    """All findings about one file, or about all shards of one model."""

    findings: tuple[Finding, ...]
    header: GgufHeader | None  # of the first file; None if it could not be read

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "warning")


def check_file(path: Path, *, seconds: float = DEFAULT_HEADER_SECONDS) -> ValidationReport:
    """Check one GGUF file on disk. A broken file results in a report with errors, not in an exception.

    Args:
        path: the file.
        seconds: the time limit for reading the header.

    Raises:
        OSError: the file can't be opened or read.
        SlowHeaderError: reading the header took longer than `seconds`.
    """
    header, size, broken = _read_header(path, seconds)
    if header is None:
        return ValidationReport(tuple(broken), None)
    return check_header(header, file_bytes=size)


def check_shards(paths: Sequence[Path], *, seconds: float = DEFAULT_HEADER_SECONDS) -> ValidationReport:
    """Check each shard of a model, and check that the shards belong together (split.*).

    Args:
        paths: all shards of one model, in order. A single file is checked by `check_file`.
        seconds: the time limit for reading each header.

    Raises:
        OSError: a file can't be opened or read.
        SlowHeaderError: reading a header took longer than `seconds`.
    """
    if len(paths) == 1:
        return check_file(paths[0], seconds=seconds)
    shards = [(path.name, *_read_header(path, seconds)) for path in paths]
    return _check_set(shards)


def check_shard_headers(shards: Sequence[tuple[str, GgufHeader, int]]) -> ValidationReport:
    """Check the headers of all shards of a model that were already read, in order, each with its name and file size."""
    if len(shards) == 1:
        return check_header(shards[0][1], file_bytes=shards[0][2])
    return _check_set([(name, header, size, []) for name, header, size in shards])


def _check_set(shards: Sequence[tuple[str, GgufHeader | None, int, list[Finding]]]) -> ValidationReport:
    """Check shards, each with its name, header, file size and the findings of a header that could not be read."""
    findings: list[Finding] = []
    headers: list[GgufHeader] = []
    for path, header, size, broken in shards:
        in_shard = broken if header is None else [*_check_structure(header, size)]
        name = clean_text(path, 200)
        findings += (replace(f, where=f"{name}: {f.where}" if f.where else name) for f in in_shard)
        if header is not None:
            headers.append(header)
    if len(headers) < len(shards) or not headers:
        return ValidationReport(_limit_findings(findings), headers[0] if headers else None)
    merged = merge_headers(headers)
    findings += _check_shards_agree(headers)
    findings += semantics.check_semantics(merged)
    findings += _check_templates(merged)
    return ValidationReport(_limit_findings(findings), merged)


def check_header(header: GgufHeader, *, file_bytes: int | None) -> ValidationReport:
    """Check a header that was already read, such as over the network.

    Args:
        header: the parsed header.
        file_bytes: the size of the whole file in bytes; None skips the checks that need it.
    """
    findings = chain(_check_structure(header, file_bytes), semantics.check_semantics(header), _check_templates(header))
    return ValidationReport(_limit_findings(findings), header)


def _read_header(path: Path, seconds: float) -> tuple[GgufHeader | None, int, list[Finding]]:
    with path.open("rb") as file, name_file_in_errors(str(path)):
        size = file.seek(0, 2)
        file.seek(0)
        try:
            return read_header(file, file_bytes=size, seconds=seconds), size, []
        except InvalidGgufError as error:
            where = f"byte {error.offset}" if error.offset is not None else None
            return None, size, [make_finding(error.code, "error", error.message, where)]


def _limit_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the first MAX_FINDINGS findings, sorted by severity, and a note if there are more."""
    kept = list(islice(findings, MAX_FINDINGS + 1))
    if len(kept) > MAX_FINDINGS:
        kept[MAX_FINDINGS] = make_finding("more-findings", "note", f"There are more than {MAX_FINDINGS} findings.")
    return tuple(sorted(kept, key=lambda f: ("error", "warning", "note").index(f.severity)))


def _check_structure(header: GgufHeader, file_bytes: int | None) -> Iterator[Finding]:
    if header.byte_order != sys.byteorder:
        yield make_finding("byte-order", "error", f"The file is {header.byte_order}-endian.")
    yield from _check_strings(header)
    misplaced = False
    expected = 0
    for tensor in header.tensors:
        problem = _check_tensor(tensor, expected, header.alignment)
        if problem is not None:
            yield problem
            misplaced = True
        if tensor.size is None or (problem is not None and problem.code == "tensor-too-large"):
            return  # the offsets of the next tensors can't be computed
        expected = _align(tensor.offset + tensor.size, header.alignment)
    if not misplaced:
        yield from _check_data_size(header, file_bytes)


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _check_tensor(tensor: TensorInfo, expected: int, alignment: int) -> Finding | None:
    """Return a finding if one tensor is invalid.

    Args:
        tensor: the tensor's entry.
        expected: the offset at which the tensor before it ends, in bytes.
        alignment: the alignment of tensor data, in bytes.
    """
    known = TENSOR_TYPES.get(tensor.type_id)
    if known is None:
        state = "no longer supported" if tensor.type_id in REMOVED_TENSOR_TYPES else "unknown"
        return make_finding("tensor-type", "error", f"Its type {tensor.type_id} is {state}.", tensor.name)
    if tensor.size is None:
        message = (
            f"Rows of {tensor.shape[0] if tensor.shape else 1} don't divide into {known.name} blocks of {known.block}."
        )
        return make_finding("tensor-block", "error", message, tensor.name)
    # ggml multiplies by the bytes per block before it divides by the block size: that product must not overflow either.
    if tensor.elements * known.size > _MAX_SIGNED or _align(tensor.offset + tensor.size, alignment) > _MAX_SIGNED:
        return make_finding("tensor-too-large", "error", f"Its {tensor.size:,} bytes overflow.", tensor.name)
    if tensor.offset != expected:
        message = f"It starts at {tensor.offset}, but the tensor before it ends at {expected}."
        return make_finding("tensor-offset", "error", message, tensor.name)
    return None


def _check_data_size(header: GgufHeader, file_bytes: int | None) -> Iterator[Finding]:
    """Check that the file contains all tensor data and nothing after it."""
    if file_bytes is None or not header.tensors:
        return
    present = file_bytes - header.header_bytes
    ends = [tensor.offset + (tensor.size or 0) for tensor in header.tensors]
    end = max(ends)
    if end > present:
        first = next(tensor for tensor, tensor_end in zip(header.tensors, ends, strict=True) if tensor_end > present)
        message = f"The tensor data needs {end:,} bytes, but the file has {max(present, 0):,}."
        yield make_finding("tensor-past-end", "error", message, first.name)
    elif spare := present - _align(end, header.alignment):
        code, verb = ("trailing-bytes", "follow") if spare > 0 else ("data-unpadded", "are missing after")
        yield make_finding(code, "warning", f"{abs(spare):,} bytes {verb} the last tensor.")


def _check_strings(header: GgufHeader) -> Iterator[Finding]:
    for key, value in header.metadata.items():
        if isinstance(value, StringInfo) and not _is_template(key):
            yield make_finding("string-too-long", "warning", f"It has {value.length:,} bytes.", key)
        elif isinstance(value, str) and _REPLACEMENT in value:
            yield make_finding("string-not-utf8", "warning", "It has bytes that are not UTF-8.", key)


def _is_template(key: str) -> bool:
    return key == CHAT_TEMPLATE_KEY or key.startswith(CHAT_TEMPLATE_KEY + ".")


def _check_templates(header: GgufHeader) -> Iterator[Finding]:
    for key, value in header.metadata.items():
        if not _is_template(key):
            continue
        if isinstance(value, StringInfo):
            yield make_finding("template-too-large", "error", f"It has {value.length:,} bytes.", key)
        elif isinstance(value, str):
            yield from template_audit.audit_template(value, key)
        else:
            yield make_finding("template-type", "error", f"Its type is {header.value_types.get(key)}, not string.", key)


def merge_headers(headers: Sequence[GgufHeader]) -> GgufHeader:
    """Return a header of the whole model: the first shard's metadata, and the tensors of all shards."""
    if len(headers) == 1:
        return headers[0]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, facts=derive_facts(headers[0].metadata, tensors))


def _check_shards_agree(headers: Sequence[GgufHeader]) -> Iterator[Finding]:
    count = len(headers)
    names: set[str] = set()
    for number, header in enumerate(headers):
        facts = header.facts
        if facts.split_count != count or facts.split_index != number:
            message = f"Its keys give shard {facts.split_index} of {facts.split_count}, but it is {number} of {count}."
            yield make_finding("shards-disagree", "error", message, f"shard {number + 1}")
        duplicates = names.intersection(tensor.name for tensor in header.tensors)
        for name in sorted(duplicates):
            yield make_finding("duplicate-tensor", "error", f"Shard {number + 1} contains it again.", name)
        names.update(tensor.name for tensor in header.tensors)
    total = get_count(headers[0].metadata, "split.tensors.count")
    actual = sum(len(header.tensors) for header in headers)
    if total != actual:
        message = f"The shards contain {actual} tensors, but split.tensors.count is {total}."
        yield make_finding("shards-disagree", "error", message, "split.tensors.count")
