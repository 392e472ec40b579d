"""Limit the time for the whole head of a response in urllib3, whose timeout applies to each read."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer
    from urllib3 import HTTPConnectionPool, PoolManager


class _HeadReader(io.RawIOBase):
    """Reads from a socket. Until `limited` is False, all reads together must end within the socket's timeout."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._raw, self._timeout = sock, sock.makefile("rb", buffering=0), sock.gettimeout()
        self._until = time.monotonic() + (self._timeout or 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int | None:
        if self._timeout is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def end_limit(self) -> None:
        """Apply the timeout to each read from now on."""
        if self._timeout is not None:
            self._sock.settimeout(self._timeout)
            self._timeout = None

    def close(self) -> None:
        super().close()
        self._raw.close()


class _LimitedResponse(http.client.HTTPResponse):
    """A response whose whole head must arrive within the connection's timeout, also that of a proxy to CONNECT."""

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:  # noqa: ANN401 - http.client's arguments
        super().__init__(sock, *args, **more)
        self.fp.close()
        self._reader = _HeadReader(sock)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        super().begin()
        self._reader.end_limit()


def limit_heads(pools: PoolManager) -> PoolManager:
    """Let the timeout of a read limit the time for the whole head of each response."""
    limited = {}
    pool: type[HTTPConnectionPool]
    for scheme, pool in pools.pool_classes_by_scheme.items():
        connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": _LimitedResponse})
        limited[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})
    pools.pool_classes_by_scheme = limited
    return pools
