"""Who fetches which bytes of a file, over how many connections, how fast. Opens no connection and writes no file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llm_hf_models.journal import Ranges

MAX_SEGMENT_BYTES = 64 << 20
MIN_SEGMENT_BYTES = 4 << 20
SPLIT_SECONDS = 2.0  # a segment that still needs longer than this is worth sharing with an idle connection
PROBE_SECONDS = 0.4  # how long one number of connections is tried before the next
REPROBE_SECONDS = 15.0  # a number that brought nothing is tried again after this
FAST_BYTES_PER_SECOND = 200_000_000  # at this speed, or this share of a core, it is we who are the limit,
BUSY_CPU = 0.5  # not the wire: more connections would only get in each other's way
WORTHWHILE = 0.25  # of what more connections could bring at best, this share must come, or they are taken back
RATE_RECHECK_SECONDS = 0.25
RATE_STEP_SECONDS = 0.05


@dataclass
class Segment:
    """One connection's share: from `position`, which moves, to `end`, which moves down when another takes the rest."""

    position: int
    end: int
    started: float = 0.0
    first: int = 0


class Segments:
    """The missing bytes of a file, handed out piece by piece. Locked: all threads ask here."""

    def __init__(self, size: int, done: Ranges, connections: int, *, undivided: bool = False) -> None:
        self._lock = threading.Lock()
        self._gaps = list(done.missing(size))
        self._active: list[Segment] = []
        missing = sum(end - start for start, end in self._gaps)
        self._piece = min(MAX_SEGMENT_BYTES, max(MIN_SEGMENT_BYTES, missing // (4 * connections)))
        if undivided:
            self._piece = size

    def take(self) -> Segment | None:
        """The next piece in file order; else half of what the slowest connection has left; None when all is taken."""
        with self._lock:
            now = time.monotonic()
            if self._gaps:
                start, end = self._gaps[0]
                # A rest smaller than half a piece goes along: no request for a handful of bytes.
                cut = end if end - start < self._piece * 3 // 2 else start + self._piece
                self._gaps[:1] = [(cut, end)] if cut < end else []
                piece = Segment(start, cut, now, start)
            else:
                slow = max(self._active, key=lambda segment: _seconds_left(segment, now), default=None)
                if slow is None or slow.end - slow.position < 2 * MIN_SEGMENT_BYTES:
                    return None
                if _seconds_left(slow, now) < SPLIT_SECONDS:
                    return None
                middle = (slow.position + slow.end) // 2
                piece = Segment(middle, slow.end, now, middle)
                slow.end = middle
            self._active.append(piece)
            return piece

    def advance(self, segment: Segment, count: int) -> int:
        """Moves a connection on by up to `count` bytes; returns how many of them are still its own."""
        with self._lock:
            count = min(count, segment.end - segment.position)
            segment.position += count
            return count

    def left(self, segment: Segment) -> int:
        """How many bytes the connection has before it."""
        with self._lock:
            return segment.end - segment.position

    def give_back(self, segment: Segment) -> None:
        """Ends a connection's share; what it didn't fetch is there for others."""
        with self._lock:
            self._active.remove(segment)
            if segment.position < segment.end:
                self._gaps.append((segment.position, segment.end))
                self._gaps.sort()

    @property
    def waiting(self) -> int:
        """How many bytes nobody fetches yet."""
        with self._lock:
            return sum(end - start for start, end in self._gaps)

    @property
    def finished(self) -> bool:
        """Whether nothing is missing and nobody is on the way."""
        with self._lock:
            return not self._gaps and not self._active


def _seconds_left(segment: Segment, now: float) -> float:
    fetched = segment.position - segment.first
    return (segment.end - segment.position) * (now - segment.started) / max(fetched, 1)


class Width:
    """How many connections to use: doubled as long as that brings clearly more bytes per second."""

    def __init__(self, most: int) -> None:
        self.wanted = 1
        self._most = most
        self._settled: float | None = None  # when the search ended
        self._since: tuple[float, int, float] | None = None  # when, bytes so far, CPU seconds so far
        self._before = (0, 0.0)  # the number tried before, and its bytes per second

    def look(self, now: float, fetched: int, busy: int) -> None:
        """Called often. `fetched`: bytes so far by all connections; `busy`: how many of them are receiving."""
        if busy < self.wanted or (self._settled is not None and now - self._settled < REPROBE_SECONDS):
            self._since = None
            return
        if self._since is None:
            self._since = (now, fetched, time.process_time())
            return
        seconds = now - self._since[0]
        if seconds < PROBE_SECONDS or fetched == self._since[1]:
            return
        rate = (fetched - self._since[1]) / seconds
        own_limit = rate >= FAST_BYTES_PER_SECOND or time.process_time() - self._since[2] >= BUSY_CPU * seconds
        self._since = None
        fewer, rate_before = self._before
        if self._settled is None and fewer and rate < rate_before * (1 + (self.wanted / fewer - 1) * WORTHWHILE):
            self.wanted, self._settled, self._before = fewer, now, (0, 0.0)
        elif self.wanted >= self._most or own_limit:
            self._settled, self._before = now, (0, 0.0)
        else:
            self._settled, self._before = None, (self.wanted, rate)
            self.wanted = min(self._most, self.wanted * 2)

    def refuse(self, accepted: int) -> None:
        """The other side does not want more than `accepted` connections."""
        self._most = self.wanted = max(1, accepted)


class Pace:
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
        rate = self.rate()
        return min(most, max(1, int(rate * RATE_STEP_SECONDS))) if rate else most

    def spend(self, count: int, stop: threading.Event) -> None:
        """Waits until `count` more bytes are within the limit, or `stop` is set."""
        rate = self.rate()
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - RATE_STEP_SECONDS) + count / rate
            wait = self._free_at - now
        # A limit that is lifted meanwhile must not leave anybody waiting for the old one.
        while wait > 0 and not stop.wait(min(wait, RATE_RECHECK_SECONDS)) and self.rate() == rate:
            wait -= RATE_RECHECK_SECONDS
