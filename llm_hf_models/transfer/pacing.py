"""Tune the number of connections of a transfer and limit its rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

GROWTH_FACTOR = 4  # the next trial uses this many times more connections
PROBE_SECONDS = 0.1  # time for which a number of connections is used before more are tried
TRIAL_SECONDS = 0.8  # time for which it is used before it is given up: new connections are slow at first
REPROBE_SECONDS = 15.0  # a number that brought no gain is tried again after this time
REFUSED_SECONDS = 60.0  # a number that the host refused is tried again after this time
# At this rate, or with this share of all cores in use, this machine is the bottleneck and not the network: more
# connections would only slow down each other and the digest.
FAST_BYTES_PER_SECOND = 800_000_000
BUSY_CORES = 0.5
NEAR_LIMIT_SHARE = 0.8  # at this share of the configured rate limit, more connections are useless too
MIN_GAIN_SHARE = 0.25  # more connections are kept if they bring at least this share of the possible gain
RATE_RECHECK_SECONDS = 0.25
RATE_STEP_SECONDS = 0.05


class ConnectionTuner:
    """Determines the number of connections: it is multiplied as long as the transfer becomes clearly faster.

    More connections are tried early, because time with too few of them is lost. They are given up only after a while,
    because a new connection is slow at first.
    """

    def __init__(self, max_connections: int, cores: int) -> None:
        self.wanted = 1
        self._max_connections, self._cores = max_connections, cores
        self._settled_at: float | None = None  # when the last search ended
        self._refused_until = float("-inf")
        self._tried_at: float | None = None  # when the trial of this number began
        self._sample: tuple[float, int, float] | None = None  # time, bytes so far, CPU seconds so far
        self._previous = (0, 0.0)  # the number of the trial before, and its bytes per second

    def update(self, now: float, fetched: int, busy: int, *, cpu: float, limit: int = 0) -> None:
        """Update `wanted` from the progress so far; called many times a second.

        Args:
            now: the monotonic time in seconds.
            fetched: bytes received so far on all connections.
            busy: the number of connections that are receiving.
            cpu: CPU seconds that the process has used so far, on all cores.
            limit: the rate limit in bytes per second; 0 means no limit.
        """
        settled = self._settled_at is not None and now - self._settled_at < REPROBE_SECONDS
        if busy < self.wanted or settled or now < self._refused_until:
            self._sample = None
            return
        sample = (now, fetched, cpu)
        if self._sample is None:
            self._sample = sample
            self._tried_at = self._tried_at or now
            return
        seconds, count, used = (after - before for after, before in zip(sample, self._sample, strict=True))
        if seconds < PROBE_SECONDS or not count:
            return
        self._sample = sample
        rate = count / seconds
        enough = rate >= min(FAST_BYTES_PER_SECOND, limit * NEAR_LIMIT_SHARE or FAST_BYTES_PER_SECOND)
        self._evaluate(now, rate, at_own_limit=enough or used >= BUSY_CORES * self._cores * seconds)

    def _evaluate(self, now: float, rate: float, *, at_own_limit: bool) -> None:
        """Try more connections, keep their number, or give up those that brought no gain."""
        fewer, rate_before = self._previous
        if self._settled_at is None and fewer and rate < rate_before * (1 + (self.wanted / fewer - 1) * MIN_GAIN_SHARE):
            if self._tried_at is not None and now - self._tried_at >= TRIAL_SECONDS:
                self._set_wanted(fewer, settled=now)
        elif self.wanted >= self._max_connections or at_own_limit:
            self._set_wanted(self.wanted, settled=now)
        else:
            self._previous = (self.wanted, rate)
            self._set_wanted(min(self._max_connections, self.wanted * GROWTH_FACTOR))

    def _set_wanted(self, wanted: int, *, settled: float | None = None) -> None:
        self.wanted, self._settled_at = wanted, settled
        self._tried_at = self._sample = None
        if settled is not None:
            self._previous = (0, 0.0)

    @property
    def planned(self) -> int:
        """The expected number of connections: the maximum until the search has ended."""
        return self._max_connections if self._settled_at is None else self.wanted

    def record_refusal(self, accepted: int, now: float) -> None:
        """Record that the host accepts no more than `accepted` connections for now."""
        self._set_wanted(max(1, accepted), settled=now)
        self._refused_until = now + REFUSED_SECONDS


class RateLimiter:
    """Limits all threads of a transfer to a common rate in bytes per second, which may change during the transfer.

    A rate of 0 means no limit.
    """

    def __init__(self, get_rate_limit: Callable[[], int]) -> None:
        self._get_rate_limit = get_rate_limit
        self._lock = threading.Lock()
        self._rate = 0
        self._checked_at = float("-inf")
        self._free_at = 0.0  # when the rate allows the next bytes

    def get_rate(self) -> int:
        """Return the current limit in bytes per second."""
        now = time.monotonic()
        with self._lock:
            if now - self._checked_at >= RATE_RECHECK_SECONDS:
                self._rate, self._checked_at = max(0, self._get_rate_limit()), now
            return self._rate

    def limit_read(self, max_bytes: int) -> int:
        """Return the number of bytes to read at a time, so that no thread exceeds the limit by more than one step."""
        return min(max_bytes, _bytes_per_step(rate)) if (rate := self.get_rate()) else max_bytes

    def throttle(self, count: int, stop: threading.Event) -> None:
        """Wait until the limit allows `count` more bytes, or until `stop` is set."""
        rate = self.get_rate()
        if not rate:
            return
        # Bytes beyond one step were received under an earlier limit and do not count under this one.
        count = min(count, _bytes_per_step(rate))
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - RATE_STEP_SECONDS) + count / rate
            wait = self._free_at - now
        # If the limit changes during the wait, stop waiting.
        while wait > 0 and not stop.wait(min(wait, RATE_RECHECK_SECONDS)) and self.get_rate() == rate:
            wait -= RATE_RECHECK_SECONDS


def _bytes_per_step(rate: int) -> int:
    return max(1, int(rate * RATE_STEP_SECONDS))
