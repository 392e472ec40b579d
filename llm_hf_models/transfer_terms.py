"""What a transfer is asked for and what it reports. Does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

EventKind = Literal["started", "progress", "stalled", "retrying", "waiting", "verifying", "done"]


@dataclass(frozen=True)
class Event:
    """What happened to one file's transfer. Sizes in bytes."""

    kind: EventKind
    file: str
    done: int
    total: int
    message: str | None = None  # for retrying and waiting: why, and for how long
    by_others: bool = False  # what another process, or another download, brought of it


Progress = Callable[[Event], None]


@dataclass(frozen=True)
class Expected:
    """What the file must be: its size in bytes and its digest, as the Hub recorded them at the pinned commit."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def digest(self) -> str | None:
        """The digest that proves it, whichever there is."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class TransferLimits:
    """Figures from settings. Seconds and bytes."""

    connections: int = 8  # at most
    connections_now: Callable[[], int] | None = None  # at most while others run too; asked again while running
    bytes_per_second: Callable[[], int] = lambda: 0  # asked again while running; 0 is no limit
    connect_seconds: float = 10
    stall_seconds: float = 30
    network_wait_seconds: float = 900
    retry_seconds: float = 1
    disk_reserve: int = 0
