"""When to try again after the network failed, and when to give up. Opens no connection."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from llm_hf_models.errors import (
    HubUnavailableError,
    NetworkError,
    OfflineError,
    RateLimitedError,
    TimedOutError,
)
from llm_hf_models.system.units import format_duration
from llm_hf_models.transfer.types import EventKind, TransferLimits

MAX_PAUSE_SECONDS = 60.0
MAX_REFUSALS = 8  # answers such as 500, one after the other, without a byte in between


def _wait_too_long_error(error: NetworkError, told: float, most: float) -> RateLimitedError:
    """The error for a host that wants us to wait longer than we would."""
    return RateLimitedError(
        error.message,
        retry_after=told,
        cause=f"For {format_duration(told)}, and network_wait_seconds is {format_duration(most)}.",
        hint="Try again then, or have it wait longer: llm hf settings network_wait_seconds",
    )


class Backoff:
    """Counts what failed since bytes last moved, over all connections of one file.

    A link that moves is never given up.
    """

    def __init__(self, limits: TransferLimits, tell: Callable[[EventKind, str], None]) -> None:
        self._limits, self._tell = limits, tell
        self._lock = threading.Lock()
        self._failures = 0
        self._refusals = 0
        self._moved_at = time.monotonic()
        self._furthest = 0

    def moved(self) -> None:
        """New bytes arrived."""
        with self._lock:
            self._moved_at = time.monotonic()
            self._failures = self._refusals = 0

    def moved_to(self, position: int) -> None:
        """Bytes arrived in a stream that starts over each time: only those beyond the furthest so far are new."""
        if position > self._furthest:
            self._furthest = position
            self.moved()

    def pause(self, error: NetworkError, halt: threading.Event) -> None:
        """Waits before the next try, and says so; returns at once when `halt` is set.

        Raises:
            NetworkError: `error` itself, when waiting has been long enough.
        """
        seconds = self._compute_pause(error)
        kind: EventKind = "waiting" if isinstance(error, (OfflineError, RateLimitedError)) else "retrying"
        self._tell(kind, f"{error.message}: next try in {format_duration(max(1, seconds))}")
        halt.wait(seconds)

    def stalled(self, error: NetworkError) -> None:
        """Says that a connection was cut for its silence, if that is what the error is."""
        if isinstance(error, TimedOutError):
            self._tell("stalled", error.message)

    def _compute_pause(self, error: NetworkError) -> float:
        with self._lock:
            now = time.monotonic()
            left = self._moved_at + self._limits.network_wait_seconds - now
            told = error.retry_after if isinstance(error, RateLimitedError) else None
            if isinstance(error, HubUnavailableError):
                self._refusals += 1
            if told is not None and told > self._limits.network_wait_seconds:
                raise _wait_too_long_error(error, told, self._limits.network_wait_seconds)
            if left <= 0 or self._refusals > MAX_REFUSALS:
                raise error
            pause = min(MAX_PAUSE_SECONDS, self._limits.retry_seconds * 2.0 ** min(self._failures, 16))
            self._failures += 1
            # Spread, so that many who lost the same host don't come back at the same instant.
            seconds = min(pause * random.uniform(0.5, 1), left)  # noqa: S311 - no secret
            return max(seconds, min(told or 0, left))  # who says "at once" for ever is not asked for ever
