"""What a transfer is asked for and what it reports. Does nothing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal


class Ranges:
    """A set of byte positions as disjoint half-open ranges in order. Not locked: its owner does that."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0

    def add(self, start: int, end: int) -> None:
        """Adds `start` to `end`, exclusive; merges with what it touches."""
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

    def end_of_run(self, position: int) -> int:
        """Up to where all bytes from `position` on are in the set; `position` itself when it is not."""
        i = bisect_right(self._starts, position) - 1
        return max(position, self._ends[i]) if i >= 0 else position

    def missing(self, size: int) -> Iterator[tuple[int, int]]:
        """The gaps between 0 and `size`."""
        position = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            if position < min(start, size):
                yield position, min(start, size)
            position = max(position, end)
        if position < size:
            yield position, size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))


EventKind = Literal["started", "progress", "stalled", "retrying", "waiting", "verifying", "done"]


@dataclass(frozen=True)
class Event:
    """What happened to one file's transfer. Sizes in bytes."""

    kind: EventKind
    file: str
    done: int
    total: int
    message: str | None = None  # for retrying and waiting: why, and for how long
    by_others: bool = False  # what another process, or another download, brought of it


Progress = Callable[[Event], None]


@dataclass(frozen=True)
class ExpectedFile:
    """What the file must be: its size in bytes and its digest, as the Hub recorded them at the pinned commit."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def digest(self) -> str | None:
        """The digest that proves it, whichever there is."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class TransferLimits:
    """Figures from settings. Seconds and bytes."""

    connections: int = 8  # at most
    connections_now: Callable[[], int] | None = None  # at most while others run too; asked again while running
    bytes_per_second: Callable[[], int] = lambda: 0  # asked again while running; 0 is no limit
    connect_seconds: float = 10
    stall_seconds: float = 30
    network_wait_seconds: float = 900
    retry_seconds: float = 1
    disk_reserve: int = 0
