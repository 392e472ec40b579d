"""Do several pieces of waiting at once, within a time limit."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Collection
from typing import TypeVar

MAX_THREADS = 8

K = TypeVar("K")
V = TypeVar("V")


def compute_at_once(
    compute: Callable[[K], V], keys: Collection[K], *, seconds: float, threads: int = MAX_THREADS
) -> dict[K, V]:
    """Return the value for each key. Keys whose values did not arrive in time are missing in the result.

    Args:
        compute: returns the value of a key, and must not raise. It is called in threads.
        keys: the keys, in the order in which they are started.
        seconds: the time limit for all keys together; it may be infinite.
        threads: the maximum number of threads.
    """
    until = time.monotonic() + seconds
    waiting: queue.SimpleQueue[K] = queue.SimpleQueue()
    for key in keys:
        waiting.put(key)
    values: dict[K, V] = {}

    def work() -> None:
        while time.monotonic() < until:
            try:
                key = waiting.get_nowait()
            except queue.Empty:
                return
            values[key] = compute(key)

    # Daemon threads, so that a slow response does not delay the end of the process.
    running = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(keys)))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(None if until == math.inf else max(0.0, until - time.monotonic()))
    return dict(values)
