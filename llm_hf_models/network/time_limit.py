"""Limit the time for whole requests of httpx2, whose own timeouts apply to each read.

A host that sends a byte now and then never reaches the timeout of a read. network/response_heads.py limits urllib3.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import httpcore2
from httpcore2 import NetworkBackend, NetworkStream

if TYPE_CHECKING:
    import ssl

    import httpx2

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)  # of time.monotonic()


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """Limit the time of the requests in the `with` block together, which watched clients send in this thread.

    After that time they fail with a timeout. A block inside another one can only shorten the time.
    """
    outer, until = _deadline.get(), time.monotonic() + seconds
    token = _deadline.set(until if outer is None else min(outer, until))
    try:
        yield
    finally:
        _deadline.reset(token)


def watch_client(client: httpx2.Client) -> None:
    """Let a client obey `limit_time`. Its transports have no public option for the network backend."""
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001 - as explained above
        pool = getattr(transport, "_pool", None)
        if pool is not None and not isinstance(pool._network_backend, _LimitedBackend):  # noqa: SLF001
            pool._network_backend = _LimitedBackend(pool._network_backend)  # noqa: SLF001


def _shorten(timeout: float | None, error: type[Exception]) -> float | None:
    """Return a timeout that does not reach beyond the deadline."""
    until = _deadline.get()
    if until is None:
        return timeout
    left = until - time.monotonic()
    if left <= 0:
        raise error("timed out")
    return left if timeout is None else min(left, timeout)


class _LimitedStream(NetworkStream):
    """A connection whose reads and writes end at the deadline."""

    def __init__(self, stream: NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _shorten(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _shorten(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        limit = _shorten(timeout, httpcore2.ConnectTimeout)
        return _LimitedStream(self._stream.start_tls(ssl_context, server_hostname, limit))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore2's own type
        return self._stream.get_extra_info(info)


class _LimitedBackend(NetworkBackend):
    """Opens connections whose reads and writes end at the deadline."""

    def __init__(self, backend: NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> NetworkStream:
        limit = _shorten(timeout, httpcore2.ConnectTimeout)
        return _LimitedStream(self._backend.connect_tcp(host, port, limit, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> NetworkStream:
        limit = _shorten(timeout, httpcore2.ConnectTimeout)
        return _LimitedStream(self._backend.connect_unix_socket(path, limit, socket_options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)
