"""A server that begins each response and never ends its head: it sends a byte of a header now and then."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_PER_BYTE = 0.05
START = b"HTTP/1.1 200 OK\r\nX-Padding: "


@contextmanager
def run_dripping_server(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Yield the address of such a server, `127.0.0.1:PORT`. With a context, it uses TLS."""
    closing = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, context, closing), daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        closing.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, context: ssl.SSLContext | None, closing: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection = listener.accept()[0]
            threading.Thread(target=_drip, args=(connection, context, closing), daemon=True).start()


def _drip(connection: socket.socket, context: ssl.SSLContext | None, closing: threading.Event) -> None:
    with contextlib.suppress(OSError):
        secured = context.wrap_socket(connection, server_side=True) if context else connection
        with secured:
            secured.recv(65536)
            secured.sendall(START)
            while not closing.wait(SECONDS_PER_BYTE):
                secured.sendall(b"x")
