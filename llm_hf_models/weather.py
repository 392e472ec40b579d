"""When to try again after the network failed, and when to give up. Opens no connection."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timezone
from email.utils import parsedate_to_datetime

from llm_hf_models.errors import (
    HubUnavailableError,
    NetworkError,
    OfflineError,
    ProxyRefusedError,
    RateLimitedError,
    TimedOutError,
    TlsError,
)
from llm_hf_models.transfer_terms import EventKind, TransferLimits
from llm_hf_models.units import format_duration

_SECONDS = re.compile(r"[0-9]{1,9}")
_RATE_LIMIT = re.compile(r";\s*r\s*=\s*([0-9]{1,9})\s*;\s*t\s*=\s*([0-9]{1,9})(?![0-9])")
MAX_PAUSE_SECONDS = 60.0
MAX_REFUSALS = 8  # answers such as 500, one after the other, without a byte in between


def retry_after(header: Callable[[str], str | None]) -> float | None:
    """Seconds that an answer asks us to wait, at least; None where it doesn't.

    From Retry-After, a number or a date (RFC 9110, 10.2.3), else from the policies of RateLimit that are used up
    (draft-ietf-httpapi-ratelimit-headers: `"name";r=LEFT;t=SECONDS`). A date counts from the answer's own: this
    machine's clock may be wrong.

    Args:
        header: gives the answer's header of that name.
    """
    told = (header("Retry-After") or "").strip()
    if _SECONDS.fullmatch(told):
        return float(told)
    if told:
        date = _timestamp(told)
        now = _timestamp(header("Date") or "")
        if date is not None:
            return max(0.0, date - (time.time() if now is None else now))
    policies = _RATE_LIMIT.findall(header("RateLimit") or "")
    return max((float(seconds) for left, seconds in policies if int(left) == 0), default=None)


def _timestamp(text: str) -> float | None:
    """Seconds since 1970 of a header's date; None where it is none."""
    with suppress(TypeError, ValueError):
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    return None


def passes(error: BaseException) -> bool:
    """Whether an error is weather: it may be gone at the next try."""
    return isinstance(error, NetworkError) and not isinstance(error, (ProxyRefusedError, TlsError))


def _too_long(error: NetworkError, told: float, most: float) -> RateLimitedError:
    """The error for a host that wants us to wait longer than we would."""
    return RateLimitedError(
        error.message,
        retry_after=told,
        cause=f"For {format_duration(told)}, and network_wait_seconds is {format_duration(most)}.",
        hint="Try again then, or have it wait longer: llm hf settings network_wait_seconds",
    )


class Weather:
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
        seconds = self._seconds(error)
        kind: EventKind = "waiting" if isinstance(error, (OfflineError, RateLimitedError)) else "retrying"
        self._tell(kind, f"{error.message}: next try in {format_duration(max(1, seconds))}")
        halt.wait(seconds)

    def stalled(self, error: NetworkError) -> None:
        """Says that a connection was cut for its silence, if that is what the error is."""
        if isinstance(error, TimedOutError):
            self._tell("stalled", error.message)

    def _seconds(self, error: NetworkError) -> float:
        with self._lock:
            now = time.monotonic()
            left = self._moved_at + self._limits.network_wait_seconds - now
            told = error.retry_after if isinstance(error, RateLimitedError) else None
            if isinstance(error, HubUnavailableError):
                self._refusals += 1
            if told is not None and told > self._limits.network_wait_seconds:
                raise _too_long(error, told, self._limits.network_wait_seconds)
            if left <= 0 or self._refusals > MAX_REFUSALS:
                raise error
            pause = min(MAX_PAUSE_SECONDS, self._limits.retry_seconds * 2.0 ** min(self._failures, 16))
            self._failures += 1
            # Spread, so that many who lost the same host don't come back at the same instant.
            seconds = min(pause * random.uniform(0.5, 1), left)  # noqa: S311 - no secret
            return max(seconds, min(told or 0, left))  # who says "at once" for ever is not asked for ever
