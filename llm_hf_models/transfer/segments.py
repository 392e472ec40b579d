"""Divide the missing bytes of a file among its connections."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from llm_hf_models.transfer.types import Ranges

MAX_SEGMENTS_BYTES = 512 << 20  # for all connections together; every new segment costs one round trip without bytes
MIN_SEGMENT_BYTES = 8 << 20
MIN_SHARE_BYTES = 1 << 20  # the minimum that an idle connection takes over from another
SPLIT_SECONDS = 0.5  # a segment that needs longer than this is shared with an idle connection
# A small segment that is older than this, and still needs at least as long, is taken over completely.
RESCUE_SECONDS = 5.0


@dataclass
class Segment:
    """The bytes of one connection. `position` advances; `end` moves down when another connection takes over a part."""

    position: int
    end: int
    started: float = 0.0
    first: int = 0  # the initial position


class SegmentQueue:
    """The missing bytes of a file, assigned to connections segment by segment. Thread-safe."""

    def __init__(self, size: int, done: Ranges, *, undivided: bool = False) -> None:
        self._lock = threading.Lock()
        self._gaps = list(done.iter_gaps(size))
        self._active: list[Segment] = []
        self._size, self._undivided = size, undivided

    def _choose_piece_bytes(self, sharers: int) -> int:
        """Return the size of the next segment in bytes.

        Segments become smaller towards the end, so that all connections finish at the same time and the digest is
        complete soon after the last byte.
        """
        if self._undivided:
            return self._size
        remaining = sum(end - start for start, end in self._gaps)
        share = remaining // (2 * sharers) if sharers > 1 else remaining
        return min(MAX_SEGMENTS_BYTES // sharers, max(MIN_SEGMENT_BYTES, share))

    def take(self, sharers: int) -> Segment | None:
        """Return the next segment in file order, or a part of another connection's segment if none is left.

        That part is half the rest of the slowest segment, or all of the rest if that segment is stuck.

        Args:
            sharers: the expected number of connections that will share the rest.

        Returns:
            The segment, or None if there is nothing to take over.
        """
        with self._lock:
            now = time.monotonic()
            if self._gaps:
                start, end = self._gaps[0]
                piece_bytes = self._choose_piece_bytes(sharers)
                # A rest smaller than half a segment is included, to save a request for a few bytes.
                cut = end if end - start < piece_bytes * 3 // 2 else start + piece_bytes
                self._gaps[:1] = [(cut, end)] if cut < end else []
                segment = Segment(start, cut, now, start)
            else:
                slowest = self._find_splittable(now)
                if slowest is None:
                    return None
                middle = slowest.position if self._is_stuck(slowest, now) else (slowest.position + slowest.end) // 2
                segment = Segment(middle, slowest.end, now, middle)
                slowest.end = middle
            self._active.append(segment)
            return segment

    def _find_splittable(self, now: float) -> Segment | None:
        """Return the segment of the slowest connection if enough is left to share, or if it is stuck."""
        slowest = max(self._active, key=lambda segment: _estimate_seconds_left(segment, now), default=None)
        if slowest is None or not (_is_large(slowest) or self._is_stuck(slowest, now)):
            return None
        return slowest if _estimate_seconds_left(slowest, now) >= SPLIT_SECONDS else None

    def _is_stuck(self, segment: Segment, now: float) -> bool:
        """Return whether the rest is too small to share but so slow that another connection should fetch it."""
        if self._undivided or _is_large(segment):
            return False
        return now - segment.started >= RESCUE_SECONDS <= _estimate_seconds_left(segment, now)

    def advance(self, segment: Segment, count: int) -> int:
        """Advance by up to `count` bytes; return how many of them still belong to the segment."""
        with self._lock:
            count = min(count, segment.end - segment.position)
            segment.position += count
            return count

    def get_span(self, segment: Segment) -> tuple[int, int]:
        """Return the remaining bytes as (start, end); the range is empty if another connection took them over."""
        with self._lock:
            return segment.position, segment.end

    def count_remaining(self, segment: Segment) -> int:
        """Return the number of remaining bytes of the segment."""
        position, end = self.get_span(segment)
        return end - position

    def give_back(self, segment: Segment) -> None:
        """End a segment and return its remaining bytes to the queue."""
        with self._lock:
            self._active.remove(segment)
            if segment.position < segment.end:
                self._gaps.append((segment.position, segment.end))
                self._gaps.sort()

    @property
    def has_work(self) -> bool:
        """Whether `take` would return a segment now."""
        with self._lock:
            return bool(self._gaps) or self._find_splittable(time.monotonic()) is not None

    @property
    def is_finished(self) -> bool:
        """Whether no bytes are missing and no segment is active."""
        with self._lock:
            return not self._gaps and not self._active


def _is_large(segment: Segment) -> bool:
    return segment.end - segment.position >= 2 * MIN_SHARE_BYTES


def _estimate_seconds_left(segment: Segment, now: float) -> float:
    fetched = segment.position - segment.first
    return (segment.end - segment.position) * (now - segment.started) / max(fetched, 1)
