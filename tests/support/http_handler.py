"""The HTTP/1.1 server of the stand-in Hub: JSON with ETags, pages, error responses, files by range.

It is built on http.server, because its subclasses delay, damage and cut responses at any byte, which a framework does
not allow. Only single ranges are served; a request for several ranges returns the whole file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import socketserver
import sys
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

from llm_hf_models.servers.http_errors import HttpResponseError
from llm_hf_models.system.text import clean_text

T = TypeVar("T")
IDLE_SECONDS = 60  # an idle connection is closed after this time
MAX_FIELDS = 10_000
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class BaseHttpServer(ThreadingHTTPServer):
    """An HTTP server with one thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        """Bind the socket. HTTPServer would also look up this host's name in the DNS, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Ignore clients that reset their connection, and report any other error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class BaseHttpHandler(BaseHTTPRequestHandler):
    """The handler of one connection. A subclass implements `respond` with the `send_…` methods."""

    protocol_version = "HTTP/1.1"
    server_version = "llm-hf-models"
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Respond to one request; close the connection if its state is unknown afterwards."""
        unread = self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers
        if unread and self.command != "POST":
            self.close_connection = True
        try:
            self.respond()
        except HttpResponseError as error:
            self.send_error_response(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET  # noqa: N815

    def respond(self) -> None:
        """Respond to one request.

        Raises:
            HttpResponseError: The request gets an error response.
        """
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Log nothing: the Hub records requests itself."""

    # Requests

    @property
    def query(self) -> dict[str, list[str]]:
        """The parsed query string of the request."""
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True, max_num_fields=MAX_FIELDS)

    def parse_query_number(self, name: str, default: int) -> int:
        """Return a whole number from the query.

        Raises:
            HttpResponseError: The value is not a whole number.
        """
        text = self.query.get(name, [str(default)])[0]
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise HttpResponseError(400, None, f"{name} must be a whole number")
        return int(text)

    def read_form(self) -> dict[str, list[str]]:
        """Read the fields of a POST body, which is a form or a JSON object.

        Raises:
            HttpResponseError: The body is neither a form nor a JSON object.
        """
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if not self.headers.get("Content-Type", "").startswith("application/json"):
                return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
            values = json.loads(body)
            return {name: [str(v) for v in (value if isinstance(value, list) else [value])]
                    for name, value in values.items()}  # fmt: skip
        except (ValueError, AttributeError, RecursionError):
            raise HttpResponseError(400, None, "The body is neither a form nor a JSON object") from None

    # Responses

    def send_bytes(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a complete response, without the body if the request is a HEAD."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        """Send JSON with a weak ETag, or 304 if the client has this version already."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        etag = f'W/"{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"'
        every = {"ETag": etag, "Vary": "Authorization", **(headers or {})}
        if self._is_cached_by_client(etag):
            self._send_not_modified(every)
        else:
            self.send_bytes(200, body, {"Content-Type": "application/json; charset=utf-8", **every})

    def send_page(self, items: Sequence[T], size: int, to_rows: Callable[[Sequence[T]], list[dict[str, Any]]]) -> None:
        """Send one page of a list, with a Link header to the next page, as the Hub does."""
        start = self.parse_query_number("cursor", 0)
        headers = {}
        if size and start + size < len(items):
            following = urlencode({**self.query, "cursor": [str(start + size)]}, doseq=True)
            page = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            headers["Link"] = f'<{page}?{following}>; rel="next"'
        self.send_json(to_rows(items[start : start + size]), headers)

    def send_error_response(self, error: HttpResponseError) -> None:
        """Send an error in the Hub's format: X-Error-Code, X-Error-Message and a JSON body."""
        message = clean_text(error.detail, 300).encode("ascii", "replace").decode()
        codes = {"X-Error-Code": error.code} if error.code else {}
        body = json.dumps({"error": message}).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", "X-Error-Message": message, **codes}
        self.send_bytes(error.status_code, body, {**headers, **(error.headers or {})})

    def send_file(self, path: Path, size: int, etag: str, headers: Mapping[str, str]) -> None:
        """Send a file, or the requested range of it. The memory used does not depend on the file's size.

        Args:
            path: The file on disk.
            size: The size that the file must have, in bytes.
            etag: The ETag, without quotes.
            headers: Further response headers.

        Raises:
            HttpResponseError: The file is missing, its size differs, or the range is outside the file.
        """
        quoted = f'"{etag}"'
        every = {"ETag": quoted, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream",
                 "X-Content-Type-Options": "nosniff", **headers}  # fmt: skip
        if self._is_cached_by_client(quoted):
            self._send_not_modified(every)
            return
        with _open_unchanged(path, size, headers) as file:
            span = self._parse_range(size, quoted, every)
            start, length = span or (0, size)
            self.send_response(206 if span else 200)
            if span:
                every["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
            for name, value in {"Content-Length": str(length), **every}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD" and length:
                self.send_range(file, start, length)

    def send_range(self, file: BinaryIO, start: int, length: int) -> None:
        """Send part of a file, with the sendfile system call if the platform has it."""
        if self.connection.sendfile(file, start, length) < length:
            self.close_connection = True  # the file shrank: the client sees a truncated response, not a wrong one

    def _parse_range(self, size: int, quoted_etag: str, headers: Mapping[str, str]) -> tuple[int, int] | None:
        """Return the start and length of the requested range, or None for the whole file."""
        match = _RANGE.fullmatch(self.headers.get("Range", "").replace(" ", ""))
        condition = self.headers.get("If-Range")
        if not match or not any(match.groups()) or self.command != "GET" or condition not in (None, quoted_etag):
            return None
        first, last = match.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if first and last and int(last) < int(first):
            return None
        if start >= end:
            raise HttpResponseError(
                416, None, "The range is outside the file", {**headers, "Content-Range": f"bytes */{size}"}
            )
        return start, end - start

    def _is_cached_by_client(self, etag: str) -> bool:
        known = [tag.strip() for tag in self.headers.get("If-None-Match", "").split(",")]
        return self.command in ("GET", "HEAD") and ("*" in known or etag in known or f"W/{etag}" in known)

    def _send_not_modified(self, headers: Mapping[str, str]) -> None:
        self.send_response(304)
        for name, value in headers.items():
            if not name.startswith("Content-"):
                self.send_header(name, value)
        self.end_headers()


def _open_unchanged(path: Path, size: int, headers: Mapping[str, str]) -> BinaryIO:
    kept = {name: value for name, value in headers.items() if name == "X-Repo-Commit"}
    error = HttpResponseError(404, "EntryNotFound", "The file is missing or was modified", kept)
    try:
        file = path.open("rb")
    except OSError:
        raise error from None
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        raise error
    return file
