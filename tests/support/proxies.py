"""Proxies on loopback that require a password: HTTP (also over TLS) and SOCKS5."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import struct
import threading
from asyncio import StreamReader, StreamWriter
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

USER, PASSWORD = "ann", "s/cret"


class Proxy:
    """An HTTP proxy: forwards absolute addresses and tunnels CONNECT. A context manager."""

    scheme = "http"

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.lines: list[str] = []  # what the clients asked for
        self.hosts: dict[str, str] = {}  # names that only this proxy knows
        self._tls, self._loop, started = tls, asyncio.new_event_loop(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()

    def make_url(self, password: str = "s%2Fcret", scheme: str | None = None) -> str:
        scheme = scheme or ("https" if self._tls else self.scheme)
        return f"{scheme}://{USER}:{password}@127.0.0.1:{self._listener.getsockname()[1]}"

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._serve, sock=self._listener, ssl=self._tls)
        server = self._loop.run_until_complete(serving)
        started.set()
        self._loop.run_forever()
        server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if upstream := await self.negotiate(reader, writer):
                await asyncio.gather(_pump(reader, upstream[1]), _pump(upstream[0], writer))
        writer.close()

    async def negotiate(self, reader: StreamReader, writer: StreamWriter) -> tuple[StreamReader, StreamWriter] | None:
        """Return the connection to the host that the client asked for, or None if it was refused."""
        line, _, rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").partition("\r\n")
        self.lines.append(line)
        if base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in rest:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return None
        method, target, _ = line.split()
        address, _, path = target.removeprefix("http://").partition("/")
        host, _, port = address.rpartition(":")
        upstream = await asyncio.open_connection(self.hosts.get(host, host), int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Go\r\n\r\n")
        else:
            kept = "".join(f"{one}\r\n" for one in rest.split("\r\n") if one and not one.startswith("Proxy-"))
            upstream[1].write(f"{method} /{path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n".encode("latin-1"))
        return upstream


class SocksProxy(Proxy):
    """A SOCKS5 proxy (RFC 1928 and 1929)."""

    scheme = "socks5"

    async def negotiate(self, reader: StreamReader, writer: StreamWriter) -> tuple[StreamReader, StreamWriter] | None:
        _, count = await reader.readexactly(2)
        if 2 not in await reader.readexactly(count):
            writer.write(b"\5\xff")  # no acceptable method
            return None
        writer.write(b"\5\2")
        user = await reader.readexactly((await reader.readexactly(2))[1])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        is_right = (user, password) == (USER.encode(), PASSWORD.encode())
        writer.write(b"\1\0" if is_right else b"\1\1")
        if not is_right:
            return None
        kind = (await reader.readexactly(4))[3]
        if kind == 1:
            host = socket.inet_ntoa(await reader.readexactly(4))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        self.lines.append(f"{host}:{port}")
        try:
            upstream = await asyncio.open_connection(host, port)
        except OSError:
            writer.write(b"\5\5\0\1" + bytes(6))  # connection refused
            return None
        writer.write(b"\5\0\0\1" + bytes(6))
        return upstream


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
