"""Types of the download queue and of leftover files. Holds no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_hf_models.library.download_records import DownloadNote, DownloadState, RequestedAction
from llm_hf_models.system.json_values import Result, UnixTime

LeftoverKind = Literal["partial", "lock", "incomplete", "note", "ref", "copy", "engine", "version"]


@dataclass(frozen=True)
class Leftover:
    """A file or folder that no download, model or engine needs any more."""

    kind: LeftoverKind
    path: str
    size_bytes: int  # on the disk
    reason: str


@dataclass(frozen=True)
class DownloadView(Result):
    """A download as the CLI and the MCP server show it, without its plan and its owner."""

    id: int
    ref: str
    state: DownloadState
    requested_action: RequestedAction | None  # requested, and not carried out yet
    repo: str
    commit: str
    quant: str | None
    total_bytes: int
    done_bytes: int
    bytes_per_second: float | None
    remaining_seconds: float | None
    attempts: int
    error: str | None
    requested_by: str
    background: bool
    created: UnixTime
    updated: UnixTime
    needs_worker: bool = False  # it waits in the queue, and no worker is running


@dataclass(frozen=True)
class DownloadList:
    """A list of downloads, newest first."""

    downloads: tuple[DownloadView, ...]
    more: bool = False  # whether there are more than the requested number (`--limit`)


@dataclass(frozen=True)
class DownloadLog:
    """The log of a download, oldest entry first."""

    log: tuple[DownloadNote, ...]


@dataclass(frozen=True)
class DownloadEvent(Result):
    """Something that happened to a download, in this or another process."""

    kind: str  # queued, started, progress, stalled, retrying, waiting, verifying, done, failed, paused, cancelled
    download: DownloadView
    message: str = ""
