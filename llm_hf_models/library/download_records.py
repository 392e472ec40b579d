"""Types for downloads, their states and logs. Their SQL is in `downloads`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

DownloadState = Literal["queued", "running", "paused", "verifying", "done", "failed", "cancelled"]
RequestedAction = Literal["pause", "cancel", "background"]
RUNNING_STATES: tuple[DownloadState, ...] = ("running", "verifying")
ACTIVE_STATES: tuple[DownloadState, ...] = ("queued", *RUNNING_STATES)  # running, or queued to run
UNFINISHED_STATES: tuple[DownloadState, ...] = ("queued", "running", "verifying", "paused", "failed")
FINISHED_STATES: tuple[DownloadState, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Download:
    """The durable record of a pull. Sizes are in bytes, times in Unix seconds."""

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
    background: bool = False  # foreground pulls take precedence
    # The action requested from the owner. `pause` stays set while the download is paused on request.
    wanted: RequestedAction | None = None
    owner: str | None = None  # the process that runs it
    heartbeat: float = 0.0  # time of the owner's last heartbeat; 0 if that process has certainly ended
    on_done: str | None = None  # a command to run when it is done
    plan: str = "{}"  # the pinned plan, as JSON
    token_fingerprint: str | None = None  # of the token that the worker needs; None if any worker can run it

    def is_owner_running(self, *, stale_seconds: float) -> bool:
        """Return whether a process is running this download: its last heartbeat is at most `stale_seconds` from now.

        A heartbeat in the future is possible if the clock was set back. If it is too far in the
        future, it is stale as well, because a running owner would have recorded another one since.
        """
        return self.state in RUNNING_STATES and abs(time.time() - self.heartbeat) <= stale_seconds

    @property
    def needs_new_worker(self) -> bool:
        """Return whether the download waits for a worker because its process has certainly ended."""
        return self.background and self.state in RUNNING_STATES and not self.heartbeat

    @property
    def requested_action(self) -> RequestedAction | None:
        """Return the action that was requested but is not carried out yet."""
        return self.wanted if self.state in RUNNING_STATES else None

    @property
    def seconds_left(self) -> float | None:
        """Return the remaining seconds at the current speed, or None if the speed is unknown."""
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
