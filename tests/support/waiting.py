"""Wait for other processes or threads."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_SECONDS = 60
POLL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], object],
    seconds: float = WAIT_SECONDS,
    *,
    message: str | Callable[[], object] = "the condition was not met in time",
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Poll until the condition is true; fail the test after that many seconds.

    Args:
        condition: Called every `poll_seconds`.
        seconds: How long to wait at most.
        message: Text of the failure, or a function that returns it when the time is up.
        poll_seconds: Seconds between two calls of the condition; 0 to call it again at once.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message() if callable(message) else message
        time.sleep(poll_seconds)
