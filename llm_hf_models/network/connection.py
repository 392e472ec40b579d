"""One connection that reads byte ranges over HTTP: proxies, certificates, redirects. Retries nothing, writes nothing.

The transport was chosen by measurement: 2 GiB over loopback into tmpfs, sha256 in a second thread, two cores, best and
worst of three runs; curl without a digest took 2.5-2.7 s of wall time.

    transport                wall s     CPU s     peak MB
    http.client, readinto    2.9-4.2    4.3-5.6   26
    urllib3, read            3.0-3.8    4.2-5.0   31
    urllib3, readinto        5.0-6.0    7.1-7.9   33
    pycurl, 512 KiB          2.9-3.2    4.5-4.9   33
    httpx2, iter_raw         5.0-7.0    6.9-9.0   43

http.client, urllib3's read and pycurl are equal within noise (sha256 alone is 1.6 s of the CPU); http.client brings no
dependency and gives us the socket, which a stop must be able to shut, and from which Linux can splice
(transfer/copy_body.py).
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from llm_hf_models.errors import HubUnavailableError, TlsError
from llm_hf_models.network.errors import PROXY_AUTH_REQUIRED, PROXY_HINT, make_proxy_error, translate_error
from llm_hf_models.network.proxy import add_url_credentials, build_proxy_headers, find_proxy
from llm_hf_models.network.response import RangeResponse
from llm_hf_models.network.tls import create_tls_context
from llm_hf_models.network.urls import Origin, format_host, resolve_redirect
from llm_hf_models.system.text import clean_text

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


class RangeConnection:
    """At most one open connection, used again while the origin stays the same. For one thread; `shut` is for any."""

    def __init__(self, *, connect_seconds: float, stall_seconds: float) -> None:
        self._connect_seconds, self._stall_seconds = connect_seconds, stall_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._sock: socket.socket | None = None  # http.client lets go of it when the other side says it will close
        self._route: tuple[Origin, str | None] | None = None
        self._reply: RangeResponse | None = None
        self._shut = False

    def get(self, url: str, headers: Mapping[str, str], extra: Mapping[str, str]) -> RangeResponse:
        """Sends a GET and follows redirects.

        Args:
            url: where to.
            headers: for the origin of `url` alone: they are dropped when a redirect leaves it.
            extra: for every host: Range, If-Range.

        Raises:
            NetworkError and below.
        """
        origin = Origin.parse(url)
        for _ in range(MAX_REDIRECTS):
            here = Origin.parse(url)
            reply = self._ask(url, here, {**(headers if here == origin else {}), **extra})
            target = reply.header("Location")
            if reply.status not in _REDIRECTS or not target:
                return reply
            self.close()
            url = resolve_redirect(url, target.encode("latin-1"))  # the bytes that came: http.client decodes them so
            if here.scheme == "https" and Origin.parse(url).scheme != "https":
                raise TlsError(f"{here.host} redirects to an address without encryption")
        raise HubUnavailableError(f"{format_host(url)} redirects without end")

    def _ask(self, url: str, origin: Origin, headers: dict[str, str]) -> RangeResponse:
        proxy = find_proxy(origin)
        if self._route != (origin, proxy) or (self._reply and not self._reply.reusable):
            self.close()
        used_before = self._connection is not None
        try:
            return self._send(url, origin, proxy, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if not used_before or self._shut:
                raise translate_error(error, origin.host, connecting=False) from None
        # A kept connection that the host had closed meanwhile says nothing about the host: once more on a new one.
        try:
            return self._send(url, origin, proxy, headers)
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise translate_error(error, origin.host, connecting=False) from None

    def _send(self, url: str, origin: Origin, proxy: str | None, headers: dict[str, str]) -> RangeResponse:
        connection = self._connection or self._connect(origin, proxy)
        headers = {"Accept-Encoding": "identity", **add_url_credentials(url, headers)}
        target = urlsplit(url)
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        if proxy and origin.scheme == "http":
            path = target._replace(netloc=target.netloc.rpartition("@")[2], fragment="").geturl()
            headers.update(build_proxy_headers(proxy))
        try:
            if self._sock is not None:
                self._sock.settimeout(self._stall_seconds)
            connection.request("GET", path, headers=headers)
            self._reply = RangeResponse(connection.getresponse(), url, self._sock, self._stall_seconds)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            raise
        except (http.client.HTTPException, OSError, ValueError) as error:
            self.close()
            raise translate_error(error, origin.host, connecting=False) from None
        return self._reply

    def _connect(self, origin: Origin, proxy: str | None) -> http.client.HTTPConnection:
        via = Origin.parse(proxy) if proxy else origin
        connection: http.client.HTTPConnection
        if (via if proxy and origin.scheme == "http" else origin).scheme == "https":
            connection = http.client.HTTPSConnection(via.host, via.port, context=create_tls_context())
        else:
            connection = http.client.HTTPConnection(via.host, via.port)
        connection.timeout = self._connect_seconds
        if proxy and origin.scheme == "https":
            connection.set_tunnel(origin.host, origin.port, headers=build_proxy_headers(proxy))
        try:
            connection.connect()
        except (http.client.HTTPException, OSError, UnicodeError) as error:  # UnicodeError: a host that is no name
            connection.close()
            if proxy and str(PROXY_AUTH_REQUIRED) in str(error):  # http.client has no other word for it
                raise make_proxy_error(clean_text(str(error))) from None
            trouble = translate_error(error, via.host, connecting=True)
            if proxy and not trouble.hint:
                trouble.hint = PROXY_HINT
            raise trouble from None
        self._connection, self._sock, self._route, self._reply = connection, connection.sock, (origin, proxy), None
        if self._shut:
            self.shut()
        return connection

    def shut(self) -> None:
        """Wakes a thread that waits for bytes here: its read ends with an error at once. May come from any thread."""
        self._shut = True
        if self._sock is not None:
            with contextlib.suppress(OSError):  # it may be gone already
                # Below TLS, whose own shutdown would wait for the other side.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connection, if one is open."""
        if self._reply is not None:
            self._reply.close()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._sock = self._route = self._reply = None
