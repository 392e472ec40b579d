"""Transfers of one file from the tests' storage server."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_hf_models.errors import InterruptedByUserError
from llm_hf_models.transfer.download_file import download_file
from llm_hf_models.transfer.pacing import RateLimiter
from llm_hf_models.transfer.types import Event, ExpectedFile, TransferLimits
from tests.support.storage_server import Fault, StorageServer

MB = 1_000_000
LIMITS = TransferLimits(connections=4, connect_seconds=2, stall_seconds=0.4, network_wait_seconds=4, retry_seconds=0.02)


def make_content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def server() -> Iterator[StorageServer]:
    with StorageServer(make_content(6 * MB + 123)) as server:
        yield server


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "work" / "file.part"


def pull(
    server: StorageServer,
    partial: Path,
    *,
    limits: TransferLimits = LIMITS,
    get_connection_limit: Callable[[], int] | None = None,
    rate_limiter: RateLimiter | None = None,
    progress: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
    expected: ExpectedFile | None = None,
) -> list[Event]:
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if progress:
            progress(event)

    download_file(
        server.locate,
        expected or server.expected,
        partial,
        limits=limits,
        get_connection_limit=get_connection_limit,
        rate_limiter=rate_limiter,
        progress=tell,
        stop=stop or threading.Event(),
    )
    return events


def make_stop(done: int) -> tuple[threading.Event, Callable[[Event], None]]:
    stop = threading.Event()
    return stop, lambda event: stop.set() if event.done >= done else None


def interrupt_transfer(server: StorageServer, partial: Path, done: int) -> None:
    """Leave a partial with at least `done` bytes of a slow, interrupted transfer."""
    stop, watch = make_stop(done)
    server.rate = 8 * MB
    with pytest.raises(InterruptedByUserError):
        pull(server, partial, progress=watch, stop=stop)
    server.rate = 0


WEATHER = {
    "reset": Fault(after=100_000),
    "reset before the first byte": Fault(after=0),
    "truncation": Fault(after=100_000, end="close"),
    "stall": Fault(after=100_000, end="stall"),
    "no answer": Fault(silent=True),
    "closed before an answer": Fault(refuse=True),
    "not HTTP": Fault(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503 with Retry-After": Fault(status=503, headers=(("Retry-After", "0"),)),
    "408": Fault(status=408),
    "429": Fault(status=429, headers=(("Retry-After", "1"),)),
    "expired link": Fault(status=403),
    "a 200 to a range": Fault(ignore_range=True),
    "a lying Content-Range": Fault(shift=5),
    "a flipped bit": Fault(flip=4000),
    "a redirect to nowhere": Fault(status=302, headers=(("Location", "http://[::1/"),)),
    "a length of endless digits": Fault(raw=f"HTTP/1.1 200 X\r\nContent-Length: {'9' * 5000}\r\n\r\n".encode()),
    "a range of endless digits": Fault(raw=f"HTTP/1.1 206 X\r\nContent-Range: bytes 0-{'9' * 5000}/*\r\n\r\n".encode()),
    "a limit of endless digits": Fault(status=429, headers=(("RateLimit", f'"api";r={"0" * 5000};t=1'),)),
}


def list_names(partial: Path) -> set[str]:
    return {path.name for path in partial.parent.iterdir()} - {f"{partial.name}.lock"}
