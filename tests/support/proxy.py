"""A real HTTP proxy for tests."""

from __future__ import annotations

import base64
import socket
import threading


class Proxy:
    """A real HTTP proxy: forwards absolute addresses and tunnels CONNECT.

    Args:
        credentials: the user name and password that it requires; None to serve everyone.
    """

    def __init__(self, credentials: str | None = "ann:s/cret") -> None:
        self._credentials = credentials
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lines: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (data := connection.recv(65536)):
            head += data
        if not head:
            return
        line, _, rest = head.decode("latin-1").partition("\r\n")
        self.lines.append(line)
        if self._credentials and base64.b64encode(self._credentials.encode()).decode() not in rest:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            connection.close()
            return
        method, target, _ = line.split()
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            upstream = socket.create_connection((host, int(port)))
            connection.sendall(b"HTTP/1.1 200 Go\r\n\r\n")
        else:
            address, _, path = target.removeprefix("http://").partition("/")
            host, _, port = address.rpartition(":")
            upstream = socket.create_connection((host, int(port)))
            kept = "".join(f"{one}\r\n" for one in rest.split("\r\n") if one and not one.startswith("Proxy-"))
            upstream.sendall(f"{method} /{path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n".encode("latin-1"))
        threading.Thread(target=_pump, args=(connection, upstream), daemon=True).start()
        _pump(upstream, connection)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
