"""Data types of a transfer: byte ranges, events, the expected file and the limits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol


class Ranges:
    """A sorted set of disjoint half-open byte ranges. Not thread-safe: the caller holds a lock."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` to `end` (exclusive) and merge overlapping or adjacent ranges."""
        if start >= end:
            return
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self.total += end - start - sum(self._ends[i] - self._starts[i] for i in range(low, high))
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def find_run_end(self, position: int) -> int:
        """Return the end of the range that contains `position`, or `position` itself if no range does."""
        i = bisect_right(self._starts, position) - 1
        return max(position, self._ends[i]) if i >= 0 else position

    def iter_gaps(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the missing ranges between 0 and `size`."""
        position = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            if position < min(start, size):
                yield position, min(start, size)
            position = max(position, end)
        if position < size:
            yield position, size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))


RETRY_DELAY = ": retrying in "  # between the reason and the delay in an event's message
EventKind = Literal["started", "progress", "stalled", "retrying", "waiting", "verifying", "done"]


@dataclass(frozen=True)
class Event:
    """One event in the transfer of one file. Sizes are in bytes."""

    kind: EventKind
    file: str
    done: int
    total: int
    message: str | None = None  # for "retrying" and "waiting": the reason and the delay
    by_others: bool = False  # the bytes were received by another process or another download


Progress = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """Ignore a progress event."""


class ByteObserver(Protocol):
    """Receives the bytes of a file in order, from the thread that computes its digest."""

    def update(self, data: memoryview, /) -> None:
        """Process the next bytes."""


@dataclass(frozen=True)
class ExpectedFile:
    """The size in bytes and the digest of a file, as the Hub recorded them at the pinned commit."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def digest(self) -> str | None:
        """The recorded digest: sha256 if there is one, otherwise git's sha1."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class TransferLimits:
    """Limits of a transfer, taken from the settings when it starts. Times are in seconds, sizes in bytes."""

    connections: int = 8  # maximum
    connect_seconds: float = 10
    stall_seconds: float = 30
    network_wait_seconds: float = 900
    retry_seconds: float = 1
    disk_reserve: int = 0
