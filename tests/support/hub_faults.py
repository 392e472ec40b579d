"""Faults of the stand-in Hub, as plain values. hub_server.py applies them.

Offsets named `after` count body bytes of one response; `at` counts from the start of the file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Status:
    """Respond with this status instead: 429, 500, 503, 403 …"""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)  # such as {"Retry-After": "3"}
    body: bytes = b'{"error":"weather"}'
    content_type: str = "application/json"


@dataclass(frozen=True)
class Page:
    """Respond with 200 and a web page instead, as a captive portal does."""

    body: bytes = b"<!doctype html><title>Log in to the network</title>"


@dataclass(frozen=True)
class Reset:
    """Reset the connection (RST) before any response, or after that many bytes of the body."""

    after: int | None = None


@dataclass(frozen=True)
class Truncate:
    """Promise the whole body, and close the connection after that many bytes."""

    after: int = 0


@dataclass(frozen=True)
class Stall:
    """Stall after that many body bytes (None: before the response) until `release` is set, or the Hub ends."""

    after: int | None = None
    release: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Delay:
    """Respond this many seconds late."""

    seconds: float


@dataclass(frozen=True)
class Throttle:
    """Send at most that many bytes a second on each connection."""

    bytes_per_second: float


@dataclass(frozen=True)
class FlipBit:
    """Flip one bit of the file's byte `at`."""

    at: int
    bit: int = 0


@dataclass(frozen=True)
class LieAboutRange:
    """Send a Content-Range that is wrong by `by` bytes."""

    by: int = 1


@dataclass(frozen=True)
class IgnoreRange:
    """Respond to a range request with 200 and the whole file."""


@dataclass(frozen=True)
class Headers:
    """Replace headers of the response, such as ETag or Content-Length. An empty value removes one.

    `{n}` in a value becomes the number of requests so far.
    """

    values: Mapping[str, str]


@dataclass(frozen=True)
class Compress:
    """Compress the whole file with gzip, although that was not requested; or only claim it in the header."""

    only_claim: bool = False


@dataclass(frozen=True)
class EditJson:
    """Send the bytes that a function makes of the response's JSON value."""

    edit: Callable[[object], bytes]


Fault = (
    Status | Page | Reset | Truncate | Stall | Delay | Throttle | FlipBit | LieAboutRange | IgnoreRange | Headers
    | Compress
    | EditJson
)  # fmt: skip
