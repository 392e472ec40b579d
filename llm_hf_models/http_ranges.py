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
dependency and gives us the socket, which a stop must be able to shut, and from which Linux can splice (carrier.py).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import os
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from llm_hf_models.errors import BadInputError, HubUnavailableError, TlsError
from llm_hf_models.http_reply import Reply, host_of, translated
from llm_hf_models.hub_errors import PROXY_HINT, PROXY_REFUSES, proxy_refusal
from llm_hf_models.text import clean_text

MAX_REDIRECTS = 5
BUNDLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # the first that is set counts
_ADDRESS_SIGNS = "%:/?#[]@!$&'()*+,;=~"  # RFC 3986, 2.1 and 2.2
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port: what a header with a token must never leave."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an http or https address.

        Raises:
            NetworkError: it is no such address.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = SplitResult("", "", "", "", ""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HubUnavailableError("The Hub gave a link that is not a web address", cause=clean_text(url, 80))
        return cls(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


def followed(url: str, target: str | bytes) -> str:
    """Where the Location of an answer from `url` leads. What may not stand in an address is escaped, as browsers do.

    Raises:
        NetworkError: to no http or https address.
    """
    address = quote(target, safe=_ADDRESS_SIGNS)
    with contextlib.suppress(ValueError):
        address = urljoin(url, address)
    Origin.of(address)
    return address


_told: dict[str, str] = {}  # variables that we set, and whose value it is


@functools.lru_cache(maxsize=4)
def _tls_context(bundle: str | None) -> ssl.SSLContext:
    if bundle:
        folder = Path(bundle).is_dir()
        return ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
    import httpx2  # its trust is huggingface_hub's too: one answer to "is this certificate good" in the whole product

    return httpx2.create_ssl_context()


def _named() -> str | None:
    """The variable that names the bundle."""
    return next((name for name in BUNDLES if os.environ.get(name)), None)


def unreadable_bundle(error: OSError) -> TlsError:
    """The error for certificates that can't be read: those that the environment names, or else the system's."""
    cause, named = clean_text(error.strerror or str(error), 200), _named()
    if named is None:
        return TlsError("Can't read this system's certificates", cause=cause)
    return TlsError(
        f"Can't read the certificates in {clean_text(os.environ[named], 200)}",
        cause=cause,
        hint=f"{_told.get(named, named)} in the environment names them: change it, or unset it.",
    )


def tls_context() -> ssl.SSLContext:
    """Certificates from SSL_CERT_FILE or SSL_CERT_DIR, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, else the system's.

    Raises:
        TlsError: the bundle that was named can't be read.
    """
    named = _named()
    try:
        return _tls_context(os.environ[named] if named else None)
    except OSError as error:
        raise unreadable_bundle(error) from None


def tell_bundle() -> None:
    """Names the bundle in the variables that httpx2 reads, for huggingface_hub's session: it knows no others."""
    named = _named()
    if named and not named.startswith("SSL_"):
        bundle = os.environ[named]
        told = "SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"
        os.environ[told], _told[told] = bundle, named


class RangeConnection:
    """At most one open connection, used again while the origin stays the same. For one thread; `shut` is for any."""

    def __init__(self, *, connect_seconds: float, stall_seconds: float) -> None:
        self._connect_seconds, self._stall_seconds = connect_seconds, stall_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._sock: socket.socket | None = None  # http.client lets go of it when the other side says it will close
        self._route: tuple[Origin, str | None] | None = None
        self._reply: Reply | None = None
        self._shut = False

    def get(self, url: str, headers: Mapping[str, str], extra: Mapping[str, str]) -> Reply:
        """Sends a GET and follows redirects.

        Args:
            url: where to.
            headers: for the origin of `url` alone: they are dropped when a redirect leaves it.
            extra: for every host: Range, If-Range.

        Raises:
            NetworkError and below.
        """
        origin = Origin.of(url)
        for _ in range(MAX_REDIRECTS):
            here = Origin.of(url)
            reply = self._ask(url, here, {**(headers if here == origin else {}), **extra})
            target = reply.header("Location")
            if reply.status not in _REDIRECTS or not target:
                return reply
            self.close()
            url = followed(url, target.encode("latin-1"))  # the bytes that came: http.client decodes them so
            if here.scheme == "https" and Origin.of(url).scheme != "https":
                raise TlsError(f"{here.host} redirects to an address without encryption")
        raise HubUnavailableError(f"{host_of(url)} redirects without end")

    def _ask(self, url: str, origin: Origin, headers: dict[str, str]) -> Reply:
        proxy = _proxy_for(origin)
        if self._route != (origin, proxy) or (self._reply and not self._reply.reusable):
            self.close()
        used_before = self._connection is not None
        try:
            return self._send(url, origin, proxy, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if not used_before or self._shut:
                raise translated(error, origin.host, connecting=False) from None
        # A kept connection that the host had closed meanwhile says nothing about the host: once more on a new one.
        try:
            return self._send(url, origin, proxy, headers)
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise translated(error, origin.host, connecting=False) from None

    def _send(self, url: str, origin: Origin, proxy: str | None, headers: dict[str, str]) -> Reply:
        connection = self._connection or self._connect(origin, proxy)
        headers = {"Accept-Encoding": "identity", **_with_user(url, headers)}
        target = urlsplit(url)
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        if proxy and origin.scheme == "http":
            path = target._replace(netloc=target.netloc.rpartition("@")[2], fragment="").geturl()
            headers.update(_proxy_headers(proxy))
        try:
            if self._sock is not None:
                self._sock.settimeout(self._stall_seconds)
            connection.request("GET", path, headers=headers)
            self._reply = Reply(connection.getresponse(), url, self._sock, self._stall_seconds)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            raise
        except (http.client.HTTPException, OSError, ValueError) as error:
            self.close()
            raise translated(error, origin.host, connecting=False) from None
        return self._reply

    def _connect(self, origin: Origin, proxy: str | None) -> http.client.HTTPConnection:
        via = Origin.of(proxy) if proxy else origin
        connection: http.client.HTTPConnection
        if (via if proxy and origin.scheme == "http" else origin).scheme == "https":
            connection = http.client.HTTPSConnection(via.host, via.port, context=tls_context())
        else:
            connection = http.client.HTTPConnection(via.host, via.port)
        connection.timeout = self._connect_seconds
        if proxy and origin.scheme == "https":
            connection.set_tunnel(origin.host, origin.port, headers=_proxy_headers(proxy))
        try:
            connection.connect()
        except (http.client.HTTPException, OSError, UnicodeError) as error:  # UnicodeError: a host that is no name
            connection.close()
            if proxy and str(PROXY_REFUSES) in str(error):  # http.client has no other word for it
                raise proxy_refusal(clean_text(str(error))) from None
            trouble = translated(error, via.host, connecting=True)
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


def _proxy_for(origin: Origin) -> str | None:
    """The proxy for an origin: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, or the system's (macOS, Windows)."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    hosts = [origin.host, f"[{origin.host}]"] if ":" in origin.host else [origin.host]  # NO_PROXY is written both ways
    if not proxy or any(urllib.request.proxy_bypass(f"{host}:{origin.port}") for host in hosts):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    _refuse_what_cant_be_used(proxy, origin)
    return proxy


def _refuse_what_cant_be_used(proxy: str, origin: Origin) -> None:
    """A web page over TLS goes through proxies reached without it (CONNECT); without TLS, through either kind.

    Raises:
        BadInputError: this proxy is of another kind, or no address; which may hold a password, and is not shown.
    """
    variables = [f"{origin.scheme}_proxy", "all_proxy"]
    named = next((name for name in os.environ if name.lower() == variables[0]), None)
    named = named or next((name for name in os.environ if name.lower() == variables[1]), "The system's settings")
    kind = proxy.partition("://")[0].lower()
    if kind == "http" or (kind == "https" and origin.scheme == "http"):
        try:
            Origin.of(proxy)
        except HubUnavailableError:
            hint = f"Write it like http://proxy.example:3128, or put {origin.host} into NO_PROXY."
            raise BadInputError(f"{named} holds no address of a proxy", hint=hint) from None
        return
    what = (
        "a proxy that is itself reached by https" if kind == "https" else f"a proxy of the kind {clean_text(kind, 20)}"
    )
    raise BadInputError(
        f"{named} names {what}, which can't be used for {origin.host}",
        cause="Downloads go through proxies whose address begins with http://.",
        hint=f"Name one in {origin.scheme.upper()}_PROXY, or put {origin.host} into NO_PROXY.",
    )


def _proxy_headers(proxy: str) -> dict[str, str]:
    user = _basic(proxy)
    return {"Proxy-Authorization": user} if user else {}


def _with_user(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers for an address; a user named in it comes first, as with httpx2, which asks the Hub."""
    user = _basic(url)
    if user is None:
        return headers
    return {
        **{name: value for name, value in headers.items() if name.lower() != "authorization"},
        "Authorization": user,
    }


def _basic(url: str) -> str | None:
    """User and password of an address in the form of a header; None where it names none."""
    parts = urlsplit(url)
    if not parts.username:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
