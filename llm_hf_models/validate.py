"""Judges a GGUF file: structure, meaning and chat template, each finding with a code. Never runs anything in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_hf_models.gguf_header import GgufHeader

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that the validator has to say."""

    code: str  # a documented rule, such as `tensor-past-end`
    severity: Severity
    part: Literal["structure", "meaning", "template"]
    message: str  # what, cleaned of control characters
    where: str | None = None  # a metadata key, a tensor's name, a line of the template
    why: str | None = None  # why it matters


@dataclass(frozen=True)
class Report:
    """All findings on one file, or on all shards of one model."""

    findings: tuple[Finding, ...]
    header: GgufHeader | None  # of the (first) file, None where it could not be read

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "warning")


def check_file(path: Path) -> Report:
    """Checks one GGUF file on disk. A broken file is a report with errors, not an exception.

    Raises:
        OSError: the file can't be opened or read.
    """
    raise NotImplementedError


def check_shards(paths: Sequence[Path]) -> Report:
    """Checks each shard, and that they belong together (split.*)."""
    raise NotImplementedError


def check_header(header: GgufHeader, *, file_bytes: int | None) -> Report:
    """Checks a header that was read elsewhere, such as over the network. `file_bytes` is the whole file's size."""
    raise NotImplementedError
