"""Types of plans, pulls and downloads that the service returns. Holds no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.memory_fit import Fit
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.hub.types import FileScan, HubFile
from llm_hf_models.library.download_records import (
    DownloadState,
    RequestedAction,
)
from llm_hf_models.models.types import Freshness

LeftoverKind = Literal["partial", "lock", "incomplete", "note", "ref", "copy", "engine"]


@dataclass(frozen=True)
class Leftover:
    """One thing on the disk that nothing needs any more. `size` in bytes on the disk."""

    kind: LeftoverKind
    path: str
    size: int
    reason: str


@dataclass(frozen=True)
class DownloadView:
    """A download as the faces show it. Bytes, Unix seconds; without its plan and its owner."""

    id: int
    ref: str
    state: DownloadState
    requested_action: RequestedAction | None  # and has not done yet
    repo: str
    commit: str
    quant: str | None
    total_bytes: int
    done_bytes: int
    bytes_per_second: float | None
    seconds_left: float | None
    attempts: int
    error: str | None
    requested_by: str
    background: bool
    created: float
    updated: float


@dataclass(frozen=True)
class DownloadEvent:
    """What happened to a download that this or another process carries out."""

    kind: str  # queued, started, progress, stalled, retrying, waiting, verifying, done, failed, paused, cancelled
    download: DownloadView
    message: str = ""


@dataclass(frozen=True)
class PullResult:
    """What a pull did."""

    plan: PullPlan
    download_id: int | None  # None where there was nothing to fetch
    model_id: str | None
    aliases: tuple[str, ...]
    files: tuple[str, ...]  # absolute paths
    fetched_bytes: int
    seconds: float
    other_process_bytes: int = 0  # that another process fetched meanwhile
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PullOptions:
    """What a person may ask of a pull. `connections` and `limit_rate` (bytes per second) None are the settings'."""

    revision: str | None = None
    mmproj: bool = True
    to: Path | None = None
    aliases: tuple[str, ...] = ()
    allow_unsafe: bool = False
    allow_invalid: bool = False
    connections: int | None = None
    limit_rate: int | None = None
    file_only: bool = False  # the file that is named and nothing else, as a file: no model is registered


@dataclass(frozen=True)
class PlannedFile(HubFile):
    """A file that a pull needs. Sizes in bytes."""

    local: bool = False  # whole and on this machine already
    partial: int = 0  # bytes of it on this machine from an interrupted pull
    copy: bool = False  # whole in the cache, and copied from there into another folder


@dataclass(frozen=True)
class PullPlan:
    """What a pull would do. Nothing has been fetched but metadata and a header."""

    ref: str
    repo: str
    revision: str | None
    commit: str
    model_id: str | None  # None for a file that is no model
    quant: str | None
    reason: str  # why this variant
    files: tuple[PlannedFile, ...]
    weights: tuple[str, ...]  # paths of the model's shards, in order
    mmproj: str | None
    total_bytes: int
    fetch_bytes: int
    folder: str  # where the files will stand
    options: PullOptions
    replaces: tuple[str, ...] = ()  # files of other content that stand where its own will (`--to DIR`)
    aliases: tuple[str, ...] = ()
    fit: Fit | None = None
    facts: ModelFacts | None = None
    findings: tuple[Finding, ...] = ()
    scan: str | None = None  # what the Hub's scanners report, in a few words
    scans: tuple[FileScan, ...] = ()  # each scanner's word on each file
    scan_warnings: tuple[str, ...] = ()  # what of it a person should read
    scan_problem: str | None = None  # why the scanners could not be asked
    unsafe: tuple[str, ...] = ()  # files that they call unsafe, and that are wanted all the same
    hub: Mapping[str, Any] | None = None  # what the Hub said of the repo
    freshness: Freshness = field(default_factory=Freshness)  # stale: the Hub could not be asked for its newest commit
    already_complete: bool = False  # registered and whole: a pull is instant
    # Where it was planned, whatever the environment of who carries it out names; None in plans of older versions.
    cache_dir: str | None = None
    endpoint: str | None = None
