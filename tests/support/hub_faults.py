"""What can go wrong on the way from the tests' Hub: plain nouns. hub_server.py makes them happen.

Offsets named `after` count body bytes of one answer; `at` counts from the file's start.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Status:
    """Answers with this status instead: 429, 500, 503, 403 …"""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)  # such as {"Retry-After": "3"}
    body: bytes = b'{"error":"weather"}'
    content_type: str = "application/json"


@dataclass(frozen=True)
class Page:
    """Answers 200 with a web page instead, as a captive portal does."""

    body: bytes = b"<!doctype html><title>Log in to the network</title>"


@dataclass(frozen=True)
class Reset:
    """Resets the connection (RST): before any answer, or after so many bytes of the body."""

    after: int | None = None


@dataclass(frozen=True)
class Truncate:
    """Promises the whole body, closes politely after so many bytes."""

    after: int = 0


@dataclass(frozen=True)
class Stall:
    """Goes silent after so many body bytes (None: before answering) until `release` is set, or the Hub ends."""

    after: int | None = None
    release: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Delay:
    """Answers this many seconds late."""

    seconds: float


@dataclass(frozen=True)
class Throttle:
    """Sends no more than so many bytes a second on each connection."""

    bytes_per_second: float


@dataclass(frozen=True)
class FlipBit:
    """One bit of the file's byte `at` is wrong."""

    at: int
    bit: int = 0


@dataclass(frozen=True)
class LieAboutRange:
    """The Content-Range says that the bytes stand `by` bytes further than they do."""

    by: int = 1


@dataclass(frozen=True)
class IgnoreRange:
    """Answers a Range with 200 and the whole file."""


@dataclass(frozen=True)
class Headers:
    """Replaces headers of the answer: a changed ETag, another Content-Length. An empty value leaves one out."""

    values: Mapping[str, str]


Fault = Status | Page | Reset | Truncate | Stall | Delay | Throttle | FlipBit | LieAboutRange | IgnoreRange | Headers
