"""Decide how long to wait before the next attempt after a network error, and when to give up."""

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
from llm_hf_models.transfer.types import RETRY_DELAY, EventKind, TransferLimits

MAX_PAUSE_SECONDS = 60.0
MAX_REFUSALS = 8  # consecutive server errors (such as 500) without a byte in between


def _make_long_wait_error(error: NetworkError, retry_after: float, max_seconds: float) -> RateLimitedError:
    """Return the error for a host that demands a longer wait than the settings allow."""
    return RateLimitedError(
        error.message,
        retry_after=retry_after,
        cause=f"The wait is {format_duration(retry_after)}; network_wait_seconds is {format_duration(max_seconds)}.",
        hint="Try again later, or allow a longer wait: llm hf settings network_wait_seconds",
    )


class Backoff:
    """Counts the errors on all connections of one file since new bytes last arrived.

    A transfer that makes progress is never given up.
    """

    def __init__(self, limits: TransferLimits, report: Callable[[EventKind, str], None]) -> None:
        self._limits, self._report = limits, report
        self._lock = threading.Lock()
        self._failures = 0
        self._refusals = 0
        self._progress_at = time.monotonic()
        self._furthest = 0

    def record_progress(self) -> None:
        """Record that new bytes arrived, and reset the error counts."""
        with self._lock:
            self._progress_at = time.monotonic()
            self._failures = self._refusals = 0

    def record_position(self, position: int) -> None:
        """Record the position of a stream that restarts at 0. Only bytes beyond the furthest position are new."""
        if position > self._furthest:
            self._furthest = position
            self.record_progress()

    def pause(self, error: NetworkError, stop: threading.Event) -> None:
        """Report the error and wait before the next attempt, or until `stop` is set.

        Raises:
            NetworkError: `error` itself, when the time or the number of attempts is used up.
        """
        seconds = self._compute_pause(error)
        kind: EventKind = "waiting" if isinstance(error, (OfflineError, RateLimitedError)) else "retrying"
        self._report(kind, f"{error.message}{RETRY_DELAY}{format_duration(max(1, seconds))}")
        stop.wait(seconds)

    def report_stall(self, error: NetworkError) -> None:
        """Report a stalled connection if the error is a timeout."""
        if isinstance(error, TimedOutError):
            self._report("stalled", error.message)

    def _compute_pause(self, error: NetworkError) -> float:
        with self._lock:
            now = time.monotonic()
            left = self._progress_at + self._limits.network_wait_seconds - now
            retry_after = error.retry_after if isinstance(error, RateLimitedError) else None
            if isinstance(error, HubUnavailableError):
                self._refusals += 1
            if retry_after is not None and retry_after > self._limits.network_wait_seconds:
                raise _make_long_wait_error(error, retry_after, self._limits.network_wait_seconds)
            if left <= 0 or self._refusals > MAX_REFUSALS:
                raise error
            pause = min(MAX_PAUSE_SECONDS, self._limits.retry_seconds * 2.0 ** min(self._failures, 16))
            self._failures += 1
            # Random, so that many clients that lost the same host do not reconnect at the same instant.
            seconds = min(pause * random.uniform(0.5, 1), left)  # noqa: S311 - not used for cryptography
            return max(seconds, min(retry_after or 0, left))  # a Retry-After of 0 does not cancel the backoff
