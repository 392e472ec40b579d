"""The number of connections and the rate of one transfer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llm_hf_models.transfer.segments import (
    BUSY_CORES,
    FAST_BYTES_PER_SECOND,
    GROWTH_FACTOR,
    MIN_GAIN_SHARE,
    NEAR_LIMIT_SHARE,
    PROBE_SECONDS,
    RATE_RECHECK_SECONDS,
    RATE_STEP_SECONDS,
    REFUSED_SECONDS,
    REPROBE_SECONDS,
    TRIAL_SECONDS,
    bytes_per_step,
)


class ConnectionTuner:
    """How many connections to use: several times more as long as that brings clearly more bytes per second.

    More are tried soon, since each moment with too few is lost; they are taken back only after a while, since a
    connection begins slowly.
    """

    def __init__(self, most: int, cores: int) -> None:
        self.wanted = 1
        self._most, self._cores = most, cores
        self._settled: float | None = None  # when the search ended
        self._refused_until = float("-inf")
        self._tried: float | None = None  # since when this number has been tried
        self._since: tuple[float, int, float] | None = None  # when, bytes so far, CPU seconds so far
        self._before = (0, 0.0)  # the number tried before, and its bytes per second

    def look(self, now: float, fetched: int, busy: int, *, cpu: float, limit: int = 0) -> None:
        """Called often.

        Args:
            now: seconds.
            fetched: bytes so far by all connections.
            busy: how many of them are receiving.
            cpu: seconds of all cores that the process has used so far.
            limit: bytes per second that they are held to; 0 is none.
        """
        settled = self._settled is not None and now - self._settled < REPROBE_SECONDS
        if busy < self.wanted or settled or now < self._refused_until:
            self._since = None
            return
        here = (now, fetched, cpu)
        if self._since is None:
            self._since = here
            self._tried = self._tried or now
            return
        seconds, count, used = (after - before for after, before in zip(here, self._since, strict=True))
        if seconds < PROBE_SECONDS or not count:
            return
        self._since = here
        rate = count / seconds
        enough = rate >= min(FAST_BYTES_PER_SECOND, limit * NEAR_LIMIT_SHARE or FAST_BYTES_PER_SECOND)
        self._evaluate(now, rate, own_limit=enough or used >= BUSY_CORES * self._cores * seconds)

    def _evaluate(self, now: float, rate: float, *, own_limit: bool) -> None:
        """Tries more, settles, or takes back what brought nothing."""
        fewer, rate_before = self._before
        if self._settled is None and fewer and rate < rate_before * (1 + (self.wanted / fewer - 1) * MIN_GAIN_SHARE):
            if self._tried is not None and now - self._tried >= TRIAL_SECONDS:
                self._set_wanted(fewer, settled=now)
        elif self.wanted >= self._most or own_limit:
            self._set_wanted(self.wanted, settled=now)
        else:
            self._before = (self.wanted, rate)
            self._set_wanted(min(self._most, self.wanted * GROWTH_FACTOR))

    def _set_wanted(self, wanted: int, *, settled: float | None = None) -> None:
        self.wanted, self._settled = wanted, settled
        self._tried = self._since = None
        if settled is not None:
            self._before = (0, 0.0)

    @property
    def outlook(self) -> int:
        """How many connections there will be: as many as there may be, until it is known how many pay off."""
        return self._most if self._settled is None else self.wanted

    def refuse(self, accepted: int, now: float) -> None:
        """The other side does not want more than `accepted` connections, for a while at least."""
        self._set_wanted(max(1, accepted), settled=now)
        self._refused_until = now + REFUSED_SECONDS


class RateLimiter:
    """Holds any number of threads to a rate in bytes per second that may change while they run. 0 is no limit."""

    def __init__(self, bytes_per_second: Callable[[], int]) -> None:
        self._ask = bytes_per_second
        self._lock = threading.Lock()
        self._rate = 0
        self._asked = float("-inf")
        self._free_at = 0.0  # when the bytes admitted so far are paid for

    def rate(self) -> int:
        """The limit now."""
        now = time.monotonic()
        with self._lock:
            if now - self._asked >= RATE_RECHECK_SECONDS:
                self._rate, self._asked = max(0, self._ask()), now
            return self._rate

    def step(self, most: int) -> int:
        """How many bytes to read at a time, so that no thread overdraws by more than a blink."""
        return min(most, bytes_per_step(rate)) if (rate := self.rate()) else most

    def spend(self, count: int, stop: threading.Event) -> None:
        """Waits until `count` more bytes are within the limit, or `stop` is set."""
        rate = self.rate()
        if not rate:
            return
        # More than a blink's bytes were let in under another limit, and are not owed under this one.
        count = min(count, bytes_per_step(rate))
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - RATE_STEP_SECONDS) + count / rate
            wait = self._free_at - now
        # A limit that is lifted meanwhile must not leave anybody waiting for the old one.
        while wait > 0 and not stop.wait(min(wait, RATE_RECHECK_SECONDS)) and self.rate() == rate:
            wait -= RATE_RECHECK_SECONDS
