"""Translate errors of the network and of storage hosts into the errors of llm_hf_models.errors."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from urllib.request import getproxies_environment

from llm_hf_models.errors import (
    AccessError,
    BadInputError,
    FileNotFoundInRepoError,
    HfModelsError,
    HubUnavailableError,
    NetworkError,
    OfflineError,
    ProxyRefusedError,
    RateLimitedError,
    RedirectRefusedError,
    TimedOutError,
    TlsError,
)
from llm_hf_models.network.headers import parse_retry_after
from llm_hf_models.system.text import clean_text, describe_error

_UNREACHABLE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
PROXY_AUTH_REQUIRED = 407
EXPIRED_LINK_STATUSES = (400, 401, 403, 410)  # the responses of storage hosts to an expired signed link
PROXY_HINT = "Check the proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY."
HTTPS_HINT = "If the host does not support HTTPS, use an http:// URL."
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_MANY_REQUESTS, FIRST_SERVER_ERROR, UNAVAILABLE = 401, 403, 404, 429, 500, 503
_FIRST_ERROR_STATUS, TIMEOUT_STATUSES = 400, (408, 425)
RETRY_HINT = "Try again later."


def translate_error(error: Exception, host: str, *, requesting: bool = False) -> NetworkError:
    """Return the NetworkError that corresponds to an exception of a connection to `host`.

    Args:
        error: the exception of urllib3 or of the operating system. Its chain of causes is searched.
        host: the host of the connection.
        requesting: True until the response begins. A TLS error is then one of the handshake.
    """
    from urllib3 import exceptions

    causes = list(_iter_causes(error))
    # The text of a ValueError may contain a URL with a signature or a header with a token.
    is_text_private = isinstance(causes[-1], ValueError)
    cause = type(causes[-1]).__name__ if is_text_private else clean_text(describe_error(causes[-1]), 200)
    if requesting and (translated := next((found for each in causes if (found := make_tls_error(host, each))), None)):
        return translated
    if any(isinstance(each, socket.gaierror) for each in causes):
        return OfflineError(f"The host name {host} can't be resolved", cause=cause)
    if any(isinstance(each, TimeoutError) for each in causes):
        is_connecting = any(isinstance(each, exceptions.ConnectTimeoutError) for each in causes)
        message = f"Connecting to {host} timed out" if is_connecting else f"{host} stopped sending data"
        return TimedOutError(message, cause=cause)
    if any(isinstance(each, OSError) and each.errno in _UNREACHABLE for each in causes):
        return OfflineError(f"{host} can't be reached", cause=cause)
    return NetworkError(f"The connection to {host} was lost", cause=cause)


def translate_proxy_error(error: Exception, proxy_host: str, host: str) -> NetworkError | None:
    """Return the error for a proxy that can't be reached or that refuses to connect to `host`, otherwise None."""
    from urllib3 import exceptions

    causes = list(_iter_causes(error))
    if not any(isinstance(each, exceptions.ProxyError | exceptions.ConnectTimeoutError) for each in causes):
        return None
    # A SOCKS proxy with the scheme socks5 does not resolve host names.
    is_reached = any(type(each).__name__ == "GeneralProxyError" for each in causes)
    translated = translate_error(error, host if is_reached else proxy_host, requesting=True)
    if type(translated) is NetworkError:
        why = translated.cause or ""
        if str(PROXY_AUTH_REQUIRED) in why or "authentication" in why:  # known only from the text
            return make_proxy_error(why)
        translated = NetworkError("The proxy did not forward the request", cause=why)
    translated.hint = translated.hint or PROXY_HINT
    return translated


def make_proxy_error(cause: str) -> ProxyRefusedError:
    """Return the error for a proxy that requires authentication."""
    return ProxyRefusedError(
        "The proxy requires authentication",
        cause=cause,
        hint="Add the user name and password to HTTPS_PROXY, HTTP_PROXY or ALL_PROXY.",
    )


def make_storage_host_error(
    host: str, name: str, status: int, get_header: Callable[[str], str | None]
) -> HfModelsError:
    """Return the error for an unexpected response of a storage host, except those in `EXPIRED_LINK_STATUSES`.

    Args:
        host: the storage host.
        name: the file, as shown to the user.
        status: the HTTP status.
        get_header: returns the response header of a given name.
    """
    retry_after = parse_retry_after(get_header)
    if status == PROXY_AUTH_REQUIRED:
        return make_proxy_error(f"HTTP {status}")
    if status == NOT_FOUND:
        hint = "Try again later. The Hub lists the file, but its storage or a mirror may have lost it."
        return FileNotFoundInRepoError(f"{host} does not have {name}", cause=f"HTTP {status}", hint=hint)
    if status == TOO_MANY_REQUESTS or (retry_after is not None and status == UNAVAILABLE):
        return RateLimitedError(f"Rate limited by {host}", retry_after=retry_after, cause=f"HTTP {status}")
    if status in TIMEOUT_STATUSES:
        return NetworkError(f"The request to {host} timed out", cause=f"HTTP {status}")
    if status >= FIRST_SERVER_ERROR or status < _FIRST_ERROR_STATUS:
        return HubUnavailableError(f"{host} returned HTTP {status}")
    return AccessError(
        f"{host} denied access to {name}",
        cause=f"HTTP {status}",
        hint="Check whether a proxy or firewall blocks the download.",
    )


def make_link_error(host: str, name: str) -> AccessError:
    """Return the error for a storage host that refuses every link, including fresh ones."""
    return AccessError(
        f"{host} denied access to {name}",
        cause="All links were refused, including fresh ones.",
        hint="Check whether the repo is gated and whether this machine's clock is correct.",
    )


def suggest_longer_timeout(seconds: float) -> str:
    """Return the hint that suggests a longer timeout than `seconds` for requests to the Hub."""
    return f"Increase the timeout: llm hf settings metadata_seconds {max(1, round(3 * seconds))}"


def make_connection_error(host: str, error: Exception, timeout: float) -> HfModelsError:
    """Return the error for a request that received no response.

    Args:
        host: the host of the request.
        error: the exception of httpx2 or of the operating system. Its chain of causes is searched.
        timeout: the timeout of the request in seconds.
    """
    import httpx2

    causes = list(_iter_causes(error))
    why = clean_text(describe_error(causes[-1]), 200)
    if isinstance(error, httpx2.TimeoutException):
        return TimedOutError(f"{host} did not respond within {timeout:g} s", hint=suggest_longer_timeout(timeout))
    if isinstance(error, httpx2.ProxyError):
        translated = NetworkError("The proxy did not forward the request", cause=why, hint=PROXY_HINT)
        return make_proxy_error(why) if str(PROXY_AUTH_REQUIRED) in why else translated
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return BadInputError(f"The URL of {host} is invalid", cause=why, hint="Set HF_ENDPOINT to an http(s) URL.")
    if isinstance(error, httpx2.ConnectError):
        return _make_connect_error(host, causes, why)
    is_loop = isinstance(error, httpx2.TooManyRedirects)  # an invalid target has no exception class
    if is_loop or (isinstance(error, httpx2.RemoteProtocolError) and "location header" in str(error)):
        return HubUnavailableError(
            f"Too many redirects from {host}" if is_loop else f"{host} redirected to an invalid URL"
        )
    return NetworkError(f"The connection to {host} was interrupted", cause=why, hint=RETRY_HINT)


def _make_connect_error(host: str, causes: Iterable[BaseException], why: str) -> NetworkError:
    """Return the error for a failed connection: a TLS error, an unknown host name or an unreachable host."""
    causes = list(causes)
    kinds = tuple(type(cause) for cause in causes)
    if translated := next((found for cause in causes if (found := make_tls_error(host, cause))), None):
        return translated
    if any(issubclass(kind, ssl.SSLEOFError) for kind in kinds):
        return NetworkError(f"{host} closed the connection during the TLS handshake", cause=why, hint=HTTPS_HINT)
    if any(issubclass(kind, socket.gaierror) for kind in kinds):
        return OfflineError(f"The host name {host} can't be resolved", cause=why)
    return OfflineError(f"{host} can't be reached", cause=why, hint=PROXY_HINT if getproxies_environment() else None)


def make_tls_error(host: str, error: BaseException) -> TlsError | None:
    """Return the error for a failed TLS handshake, or None for another error or a closed connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"The TLS certificate of {host} is not trusted",
            cause=error.verify_message or clean_text(str(error), 200),
            hint="Behind a company proxy, set SSL_CERT_FILE to the proxy's certificate.",
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        if "BAD_RECORD_MAC" in str(error.reason):  # bytes were damaged on their way
            return None
        return TlsError(
            f"The TLS handshake with {host} failed",
            cause=clean_text(str(error), 200),
            hint=HTTPS_HINT,
        )
    return None


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, then its cause, then the cause of that, up to the root cause."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        # urllib3 wraps some exceptions as an argument.
        wrapped = next((argument for argument in current.args if isinstance(argument, BaseException)), None)
        current = current.__cause__ or current.__context__ or wrapped


def is_transient(error: BaseException) -> bool:
    """Return whether an error is transient, so that a retry may succeed."""
    return isinstance(error, NetworkError) and not isinstance(
        error, (ProxyRefusedError, RedirectRefusedError, TlsError)
    )
