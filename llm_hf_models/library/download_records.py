"""The nouns of the queue as the library records them: downloads, their states and logs. SQL: library/downloads.py."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

DownloadState = Literal["queued", "running", "paused", "verifying", "done", "failed", "cancelled"]
RequestedAction = Literal["pause", "cancel", "background"]
RUNNING_STATES: tuple[DownloadState, ...] = ("running", "verifying")
ACTIVE_STATES: tuple[DownloadState, ...] = ("queued", *RUNNING_STATES)  # it moves, or will without being asked
UNFINISHED_STATES: tuple[DownloadState, ...] = ("queued", "running", "verifying", "paused", "failed")
FINISHED_STATES: tuple[DownloadState, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Download:
    """The durable record of a pull. Sizes in bytes, times in Unix seconds."""

    id: int
    ref: str
    state: DownloadState
    repo: str
    commit: str
    quant: str | None
    total_bytes: int
    done_bytes: int = 0
    bytes_per_second: float | None = None
    attempts: int = 0
    error: str | None = None
    requested_by: str = "cli"
    created: float = 0.0
    updated: float = 0.0
    background: bool = False  # foreground pulls come first
    wanted: RequestedAction | None = (
        None  # what its owner has been asked to do; `pause` stays while it is paused for that
    )
    owner: str | None = None  # the process that carries it out
    heartbeat: float = 0.0  # its owner's last sign of life
    on_done: str | None = None  # a command to run when it is done
    plan: str = "{}"  # the pinned plan, as JSON

    def is_owner_running(self, *, stale_seconds: float) -> bool:
        """Whether somebody carries it out: a killed owner's last sign of life is further from now than that.

        In the future too: somebody set the clock back, and an owner that lives would have shown life since.
        """
        return self.state in RUNNING_STATES and abs(time.time() - self.heartbeat) <= stale_seconds

    @property
    def needs_new_worker(self) -> bool:
        """Whether it waits for a worker since its process has certainly ended, though it has not been claimed yet."""
        return self.background and self.state in RUNNING_STATES and not self.heartbeat

    @property
    def requested_action(self) -> RequestedAction | None:
        """What it has been asked to do and has not done yet."""
        return self.wanted if self.state in RUNNING_STATES else None

    @property
    def seconds_left(self) -> float | None:
        """At the speed of now; None while that is not known."""
        if self.state != "running" or not self.bytes_per_second:
            return None
        return (self.total_bytes - self.done_bytes) / self.bytes_per_second


@dataclass(frozen=True)
class DownloadNote:
    """One line of a download's log."""

    id: int
    at: float
    kind: str
    message: str
