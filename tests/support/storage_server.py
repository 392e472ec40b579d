"""A storage host with planned faults: raw HTTP over real sockets, one file, faults in the order of planning."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from llm_hf_models.hub.types import Location
from llm_hf_models.transfer.types import ExpectedFile

if TYPE_CHECKING:
    from typing_extensions import Self

COMMIT = "c" * 40
BLOCK = 64 * 1024


@dataclass(frozen=True)
class Fault:
    """The faults of one response. `after` counts body bytes."""

    after: int | None = None  # then `end` happens; None sends everything
    end: str = "reset"  # reset, close, stall
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    flip: int | None = None  # position in the file of a byte with one bit turned
    shift: int = 0  # how far the bytes, and the Content-Range that describes them, are off
    swap: bool = False  # the halves of the body are swapped
    total: int | None = None  # the size that Content-Range claims
    ignore_range: bool = False
    raw: bytes | None = None  # instead of a response
    silent: bool = False  # no response at all
    refuse: bool = False  # the connection is closed before a response


@dataclass
class Request:
    """One received request."""

    line: str
    headers: dict[str, str]

    @property
    def range(self) -> tuple[int, int | None] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) if match[2] else None) if match else None


@dataclass
class StorageServer:
    """Serves `content` at any path whose query is the current signature; counts the sent bytes."""

    content: bytes
    host: str = "127.0.0.1"
    ranges: bool = True
    chunked: bool = False  # no length is sent, as by proxies that inspect the body
    keep_alive: bool = True  # False closes each connection after its response
    etag: str = '"storage-1"'
    rate: float = 0  # bytes per second on each connection
    latency: float = 0  # seconds before each response
    tls: ssl.SSLContext | None = None
    redirect_to: str | None = None
    most: int = 64  # parallel responses; a request beyond them is refused
    beyond: int = 403  # with this status
    sent: int = 0
    located: int = 0
    busy: int = 0  # responses that are being sent now
    most_at_once: int = 0
    requests: list[Request] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None  # after all other faults
    token: str | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._signature = 0
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self._bind(0)
        self.reconnect()

    def _bind(self, port: int) -> None:
        self._listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.host, port))
        self.port = self._listener.getsockname()[1]

    def disconnect(self) -> None:
        """Stop listening and cut every connection, as a lost network does. The port stays reserved."""
        # A blocked accept would keep the port listening after its socket is closed.
        with contextlib.suppress(OSError):  # it may be stopped already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._bind(self.port)
            gone = list(self._open)
        for connection in gone:
            _reset(connection)

    def reconnect(self) -> None:
        """Listen again on the same port."""
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def expire(self) -> None:
        """Refuse the links given so far."""
        self._signature += 1

    @property
    def expected(self) -> ExpectedFile:
        return ExpectedFile("model.gguf", len(self.content), sha256=self.sha256)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/file?sig={self._signature}"

    def locate(self) -> Location:
        """Return the link that a Hub would give."""
        self.located += 1
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return Location(self.url, headers, len(self.content), self.sha256, COMMIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self.disconnect()
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if listener is not self._listener:  # it arrived when the network was lost
                    _reset(connection)
                    return
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        raw = connection
        try:
            connection.settimeout(60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            stream = connection.makefile("rb")
            while (request := _read_request(stream)) is not None:
                with self._lock:
                    self.requests.append(request)
                    fault = self.faults.popleft() if self.faults else self.always or Fault()
                    self.busy += 1
                    self.most_at_once = max(self.most_at_once, self.busy)
                try:
                    if not self._answer(connection, request, fault):
                        return
                finally:
                    with self._lock:
                        self.busy -= 1
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(raw)
            connection.close()

    def _answer(self, connection: socket.socket, request: Request, fault: Fault) -> bool:  # noqa: PLR0911
        if self.latency:
            time.sleep(self.latency)  # the delay of a long network; no synchronisation
        if fault.refuse:
            return False
        if fault.silent:
            self._closing.wait(60)
            return False
        if fault.raw is not None:
            connection.sendall(fault.raw)
            return False
        if self.redirect_to:
            return _send_head(connection, 302, [("Location", self.redirect_to), ("Content-Length", "0")])
        if fault.status:
            return _send_head(connection, fault.status, [*fault.headers, ("Content-Length", "0")])
        if self.busy > self.most:
            return _send_head(connection, self.beyond, [("Content-Length", "0")])
        if not request.line.split()[1].endswith(f"sig={self._signature}"):
            return _send_head(connection, 403, [("Content-Length", "0")])
        return self._send_body(connection, request, fault)

    def _send_body(self, connection: socket.socket, request: Request, fault: Fault) -> bool:
        size, wanted = len(self.content), request.range
        unchanged = request.headers.get("if-range", self.etag) == self.etag
        if wanted is None or not self.ranges or fault.ignore_range or not unchanged:
            start, end = 0, size
            head = [*self._told_framing(size), ("ETag", self.etag)]
            _send_head(connection, 200, head)
        else:
            start, end = wanted[0], min(size, (wanted[1] if wanted[1] is not None else size - 1) + 1)
            shift = min(fault.shift, size - end)
            start, end = start + shift, end + shift
            claim = f"bytes {start}-{end - 1}/{fault.total or size}"
            head = [*self._told_framing(end - start), ("Content-Range", claim), ("ETag", self.etag)]
            _send_head(connection, 206, head)
        body = memoryview(self.content)[start:end]
        if fault.flip is not None and start <= fault.flip < end:
            copy = bytearray(body)
            copy[fault.flip - start] ^= 1
            body = memoryview(copy)
        if fault.swap:
            half = len(body) // 2
            body = memoryview(bytes(body[half:]) + bytes(body[:half]))
        self._send(connection, body[: fault.after] if fault.after is not None else body)
        if fault.after is None:
            if self.chunked:
                connection.sendall(b"0\r\n\r\n")
            return self.keep_alive
        if fault.end == "stall":
            self._closing.wait(60)
        elif fault.end == "reset":
            _reset(connection)
        return False

    def _told_framing(self, length: int) -> list[tuple[str, str]]:
        body = ("Transfer-Encoding", "chunked") if self.chunked else ("Content-Length", str(length))
        return [body] if self.keep_alive else [body, ("Connection", "close")]

    def _send(self, connection: socket.socket, body: memoryview) -> None:
        began, done = time.monotonic(), 0
        block = min(BLOCK, max(1, int(self.rate / 50))) if self.rate else BLOCK
        while done < len(body):
            part = body[done : done + block]
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if self.chunked else part)
            done += len(part)
            with self._lock:
                self.sent += len(part)
            if self.rate and (ahead := done / self.rate - (time.monotonic() - began)) > 0:
                time.sleep(ahead)  # as slow as a real network


class GuardedServer(StorageServer):
    """A storage host whose address contains user and password."""

    @property
    def url(self) -> str:
        return super().url.replace("://", "://ann:s%2Fcret@")


def _read_request(stream: object) -> Request | None:
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b""):  # type: ignore[attr-defined]
        lines.append(line.decode("latin-1").strip())
    if not lines:
        return None
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return Request(lines[0], {name.lower(): value for name, value in headers.items()})


def _send_head(connection: socket.socket, status: int, headers: list[tuple[str, str]]) -> bool:
    text = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    connection.sendall(text.encode("latin-1"))
    return True


def _reset(connection: socket.socket) -> None:
    """Close with RST, as a crashed machine does."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    except OSError:
        pass
