"""Types for downloads, their states and logs. Their SQL is in `downloads`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from llm_hf_models.system.json_values import Result, UnixTime
from llm_hf_models.system.ownership import is_owner_running

DownloadState = Literal["queued", "planning", "running", "paused", "verifying", "done", "failed", "cancelled"]
RequestedAction = Literal["pause", "cancel", "background"]
RUNNING_STATES: tuple[DownloadState, ...] = ("planning", "running", "verifying")
ACTIVE_STATES: tuple[DownloadState, ...] = ("queued", *RUNNING_STATES)  # running, or queued to run
UNFINISHED_STATES: tuple[DownloadState, ...] = (*ACTIVE_STATES, "paused", "failed")
FINISHED_STATES: tuple[DownloadState, ...] = ("done", "failed", "cancelled")
AGENT = "mcp"  # `requested_by` of a download that only agents requested

# The errors of downloads that lost their owner.
ABANDONED = "its process ended"
UNRESPONSIVE = "its process stopped responding"  # it may continue: a stopped process, or a machine that slept
LOST_OWNER_ERRORS = (ABANDONED, UNRESPONSIVE)


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
    created: UnixTime = 0.0
    updated: UnixTime = 0.0
    background: bool = False  # foreground pulls take precedence
    # The action requested from the owner. `pause` stays set while the download is paused on request.
    wanted: RequestedAction | None = None
    owner: str | None = None  # name of the attempt that runs it, or ran it last (system/ownership.py)
    heartbeat: UnixTime = 0.0  # time of the owner's last heartbeat
    on_done: str | None = None  # a command to run when it is done
    plan: str = "{}"  # the pinned plan, as JSON
    token_fingerprint: str | None = None  # of the token that the worker needs; None if any worker can run it

    def is_owner_running(self, *, stale_seconds: float) -> bool:
        """Return whether a process is running this download. `stale_seconds` is the age of a stale heartbeat."""
        age = time.time() - self.heartbeat
        return self.state in RUNNING_STATES and is_owner_running(self.owner or "", age, stale_seconds)

    def is_abandoned(self, *, stale_seconds: float) -> bool:
        """Return whether the owner is no longer running it, or a foreground pull ended before it became the owner."""
        if self.state in RUNNING_STATES:
            return not self.is_owner_running(stale_seconds=stale_seconds)
        return self.state == "queued" and not self.background and abs(time.time() - self.updated) > stale_seconds

    def needs_worker(self, *, stale_seconds: float) -> bool:
        """Return whether a background download lost its owner, or no worker has claimed it in time."""
        waits_too_long = abs(time.time() - self.updated) > stale_seconds
        return self.background and self.state == "queued" and (self.error in LOST_OWNER_ERRORS or waits_too_long)

    def choose_requester(self, requested_by: str) -> str:
        """Return the requester after another request for this download: a person has precedence over an agent."""
        return requested_by if self.requested_by == AGENT else self.requested_by

    @property
    def requested_action(self) -> RequestedAction | None:
        """Return the action that was requested but is not carried out yet."""
        return self.wanted if self.state in RUNNING_STATES else None

    @property
    def remaining_seconds(self) -> float | None:
        """Return the remaining seconds at the current speed, or None if the speed is unknown."""
        if self.state != "running" or not self.bytes_per_second:
            return None
        return (self.total_bytes - self.done_bytes) / self.bytes_per_second


@dataclass(frozen=True)
class DownloadNote(Result):
    """One line of a download's log."""

    id: int
    at: UnixTime
    kind: str
    message: str
