"""Who fetches which bytes of a file, over how many connections, how fast. Opens no connection and writes no file."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from llm_hf_models.transfer.types import Ranges

MAX_SEGMENTS_BYTES = 512 << 20  # of all connections together: each new segment costs a moment without bytes
MIN_SEGMENT_BYTES = 8 << 20
MIN_SHARE_BYTES = 1 << 20  # what an idle connection takes over from another one is at least this much
SPLIT_SECONDS = 0.5  # a segment that still needs longer than this is worth sharing with an idle connection
RESCUE_SECONDS = 5.0  # a segment this old that needs as long again is taken over whole, however small it is
GROWTH_FACTOR = 4  # how many times more connections are tried next
PROBE_SECONDS = 0.1  # how long a number of connections must run before more are tried,
TRIAL_SECONDS = 0.8  # and before it is given up: a young connection is slow, and one moment proves nothing
REPROBE_SECONDS = 15.0  # a number that brought nothing is tried again after this,
REFUSED_SECONDS = 60.0  # and one that the other side refused after this
FAST_BYTES_PER_SECOND = 800_000_000  # at this speed, or this share of all cores, it is we who are the limit,
BUSY_CORES = 0.5  # not the wire: more connections would only get in each other's way, and in the digest's
NEAR_LIMIT_SHARE = 0.8  # so are we where this share of the limit that was set is reached
MIN_GAIN_SHARE = 0.25  # of what more connections could bring at best, this share must come, or they are taken back
RATE_RECHECK_SECONDS = 0.25
RATE_STEP_SECONDS = 0.05


@dataclass
class Segment:
    """One connection's share: from `position`, which moves, to `end`, which moves down when another takes the rest."""

    position: int
    end: int
    started: float = 0.0
    first: int = 0


class SegmentQueue:
    """The missing bytes of a file, handed out piece by piece. Locked: all threads ask here."""

    def __init__(self, size: int, done: Ranges, *, undivided: bool = False) -> None:
        self._lock = threading.Lock()
        self._gaps = list(done.missing(size))
        self._active: list[Segment] = []
        self._size, self._undivided = size, undivided

    def _choose_piece_bytes(self, sharers: int) -> int:
        """How many bytes to hand out next: ever fewer towards the end, so that all connections end at one time.

        What was received last is hashed last: small pieces keep the digest close behind, too.
        """
        if self._undivided:
            return self._size
        left = sum(end - start for start, end in self._gaps)
        share = left // (2 * sharers) if sharers > 1 else left
        return min(MAX_SEGMENTS_BYTES // sharers, max(MIN_SEGMENT_BYTES, share))

    def take(self, sharers: int) -> Segment | None:
        """The next piece in file order; else half of what the slowest connection has left; None when all is taken.

        Args:
            sharers: among how many connections the rest will be divided, as far as can be foreseen.
        """
        with self._lock:
            now = time.monotonic()
            if self._gaps:
                start, end = self._gaps[0]
                piece_bytes = self._choose_piece_bytes(sharers)
                # A rest smaller than half a piece goes along: no request for a handful of bytes.
                cut = end if end - start < piece_bytes * 3 // 2 else start + piece_bytes
                self._gaps[:1] = [(cut, end)] if cut < end else []
                piece = Segment(start, cut, now, start)
            else:
                slow = self._find_splittable(now)
                if slow is None:
                    return None
                middle = slow.position if self._is_stuck(slow, now) else (slow.position + slow.end) // 2
                piece = Segment(middle, slow.end, now, middle)
                slow.end = middle
            self._active.append(piece)
            return piece

    def _find_splittable(self, now: float) -> Segment | None:
        """The slowest connection's share, if there is enough left of it for two, or it hardly moves."""
        slow = max(self._active, key=lambda segment: _estimate_seconds_left(segment, now), default=None)
        if slow is None or not (_is_large(slow) or self._is_stuck(slow, now)):
            return None
        return slow if _estimate_seconds_left(slow, now) >= SPLIT_SECONDS else None

    def _is_stuck(self, segment: Segment, now: float) -> bool:
        """Whether a connection's rest is best fetched by another: too small to be shared, and still far away."""
        if self._undivided or _is_large(segment):
            return False
        return now - segment.started >= RESCUE_SECONDS <= _estimate_seconds_left(segment, now)

    def advance(self, segment: Segment, count: int) -> int:
        """Moves a connection on by up to `count` bytes; returns how many of them are still its own."""
        with self._lock:
            count = min(count, segment.end - segment.position)
            segment.position += count
            return count

    def span(self, segment: Segment) -> tuple[int, int]:
        """From where to where, exclusive, the connection has bytes before it; none where another took them over."""
        with self._lock:
            return segment.position, segment.end

    def left(self, segment: Segment) -> int:
        """How many bytes those are."""
        position, end = self.span(segment)
        return end - position

    def give_back(self, segment: Segment) -> None:
        """Ends a connection's share; what it didn't fetch is there for others."""
        with self._lock:
            self._active.remove(segment)
            if segment.position < segment.end:
                self._gaps.append((segment.position, segment.end))
                self._gaps.sort()

    @property
    def takeable(self) -> bool:
        """Whether `take` would give something now."""
        with self._lock:
            return bool(self._gaps) or self._find_splittable(time.monotonic()) is not None

    @property
    def finished(self) -> bool:
        """Whether nothing is missing and nobody is on the way."""
        with self._lock:
            return not self._gaps and not self._active


def _is_large(segment: Segment) -> bool:
    return segment.end - segment.position >= 2 * MIN_SHARE_BYTES


def _estimate_seconds_left(segment: Segment, now: float) -> float:
    fetched = segment.position - segment.first
    return (segment.end - segment.position) * (now - segment.started) / max(fetched, 1)


def bytes_per_step(rate: int) -> int:
    return max(1, int(rate * RATE_STEP_SECONDS))
