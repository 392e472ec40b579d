"""The bytes of one file: parallel ranges, a journal, the digest while they arrive. Knows no SQLite and no terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_hf_models.hub import Location

EventKind = Literal["started", "progress", "stalled", "retrying", "waiting", "verifying", "done"]


@dataclass(frozen=True)
class Event:
    """What happened to one file's transfer. Sizes in bytes."""

    kind: EventKind
    file: str
    done: int
    total: int
    message: str | None = None  # for retrying and waiting: why, and for how long


Progress = Callable[[Event], None]


@dataclass(frozen=True)
class Expected:
    """What the file must be: its size in bytes and its digest, as the Hub recorded them at the pinned commit."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class TransferLimits:
    """Figures from settings. Seconds and bytes."""

    connections: int = 8
    bytes_per_second: Callable[[], int] = lambda: 0  # asked again while running; 0 is no limit
    connect_seconds: float = 10
    stall_seconds: float = 30
    network_wait_seconds: float = 600
    retry_seconds: float = 1
    disk_reserve: int = 0


def fetch(
    locate: Callable[[], Location],
    expected: Expected,
    partial: Path,
    *,
    limits: TransferLimits,
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Makes `partial` the whole, checked file; continues what an earlier call left there.

    Args:
        locate: called for the link, and again when it has expired.
        expected: size and digest that prove the file.
        partial: where the bytes go; its journal stands beside it and is gone when this returns.
        progress: called from any thread, never more than ten times a second for `progress` events.
        stop: when set, ends at once with what has arrived kept.

    Raises:
        DigestMismatchError, FileChangedError, DiskFullError, NotWritableError, NetworkError, AccessError,
        InterruptedByUserError: `stop` was set.
    """
    raise NotImplementedError
