"""Limit the time of each request to the server: hosts give up after about a minute.

The time in which the user reads a form does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import anyio

CALL_SECONDS = 48.0  # for one request, so that its answer arrives within 50 seconds
HUB_SECONDS = 40.0  # for all requests to the Hub together; after that, the answer says so or has cached facts
PLAN_SECONDS = 12.0  # for the header and the scans of a download; after that, the worker reads them
RESERVED_SECONDS = 2.0  # for the answer after a wait


@dataclass
class _Timer:
    """The deadline of one request, and the time at which a form was shown, both in anyio's time."""

    deadline: float
    asked_at: float | None = None


_timer: ContextVar[_Timer | None] = ContextVar("timer", default=None)


@contextmanager
def start_timer() -> Iterator[None]:
    """Start the time of a request, which ends with the `with` block."""
    token = _timer.set(_Timer(anyio.current_time() + CALL_SECONDS))
    try:
        yield
    finally:
        _timer.reset(token)


def count_seconds_left() -> float:
    """Return the seconds left for the current request."""
    timer = _timer.get()
    return max(0.0, timer.deadline - anyio.current_time()) if timer else CALL_SECONDS


def stop_for_form() -> None:
    """Stop the time while the user reads a form."""
    if timer := _timer.get():
        timer.asked_at = anyio.current_time()


def continue_after_form() -> None:
    """Let the time continue, if it was stopped."""
    if (timer := _timer.get()) and timer.asked_at is not None:
        timer.deadline += anyio.current_time() - timer.asked_at
        timer.asked_at = None
