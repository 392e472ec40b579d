"""Define the results of the verbs about disk space. Sizes are in bytes on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_hf_models.system.json_values import Result, UnixTime

UsageGroup = Literal["model", "repo", "collection"]
UsageKind = Literal["model", "repo", "collection", "old versions", "partial downloads", "shared blobs"]


@dataclass(frozen=True)
class UsageRow:
    """The disk space of one model, repo or collection.

    `shared_bytes` is the part of `size_bytes` that other rows have too. Of a model's repo, a row by model has only the
    files that belong to no local model.
    """

    kind: UsageKind
    name: str
    size_bytes: int
    shared_bytes: int
    is_registered: bool  # whether it is, or belongs to, a local model of this library


@dataclass(frozen=True)
class DiskUsage(Result):
    """The disk space of local models and of the Hugging Face cache. In the sums, shared bytes count once."""

    by: UsageGroup
    rows: tuple[UsageRow, ...]  # the largest first
    size_bytes: int
    shared_bytes: int  # the part of it that several rows have
    disk_free_bytes: int  # on the disk of the cache
    cache_dir: str
    unreadable: tuple[str, ...] = ()  # folders of the cache that this user can't read


@dataclass(frozen=True)
class PrunedModel:
    """A local model that `prune` removes, and why."""

    id: str
    size_bytes: int
    freed_bytes: int  # by removing only this model; data that others use is not freed
    added: UnixTime
    last_used: UnixTime | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class KeptModel:
    """A local model that meets the criteria and is kept, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Pruning(Result):
    """The models that `prune` removes or has removed."""

    models: tuple[PrunedModel, ...]
    kept: tuple[KeptModel, ...]
    freed_bytes: int  # by removing all of them: data that only they share is freed too
    unused_seconds: float | None = None
    larger_bytes: int | None = None
    keep: tuple[str, ...] = ()  # collections
    done: bool = False


@dataclass(frozen=True)
class DuplicateFile:
    """A file in the Hugging Face cache that has the content of another one."""

    sha256: str
    size_bytes: int
    kept: str  # the path of the file that stays
    replaced: str  # the path that becomes a hard link to it
    freed_bytes: int  # 0 if the replaced file has another name that stays


@dataclass(frozen=True)
class SkippedFile:
    """A file that has the name of another one's digest and was not linked, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Deduplication(Result):
    """The identical files that `dedupe` links or has linked."""

    files: tuple[DuplicateFile, ...]
    skipped: tuple[SkippedFile, ...]
    freed_bytes: int
    done: bool = False
