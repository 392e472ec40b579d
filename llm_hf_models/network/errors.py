"""Translate errors of the network and of storage hosts into the errors of this package."""

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
    TimedOutError,
    TlsError,
)
from llm_hf_models.network.headers import parse_retry_after
from llm_hf_models.system.text import clean_text

_UNREACHABLE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}


def translate_error(error: Exception, host: str, *, connecting: bool) -> NetworkError:
    """Ours for what went wrong on the way to `host`."""
    cause = clean_text(str(error)) or type(error).__name__
    if (connecting or isinstance(error, ssl.SSLCertVerificationError)) and (trouble := make_tls_error(host, error)):
        return trouble
    if isinstance(error, socket.gaierror):
        return OfflineError(f"The address of {host} was not found", cause=cause)
    if isinstance(error, TimeoutError):
        return TimedOutError(f"{host} did not answer in time" if connecting else f"{host} went silent", cause=cause)
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return OfflineError(f"{host} can't be reached", cause=cause)
    return NetworkError(f"The connection to {host} was lost", cause=cause)


PROXY_AUTH_REQUIRED = 407
EXPIRED_LINK_STATUSES = (400, 401, 403, 410)  # how storage hosts refuse a signed link whose time is over
PROXY_HINT = "Check the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names."
HTTPS_HINT = "Does it speak https? If not, its address begins with http://."

# `RateLimit: "api";r=0;t=55`: nothing remains of the quota for 55 seconds (IETF draft-ietf-httpapi-ratelimit-headers).
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY_REQUESTS, _SERVER_ERRORS, _UNAVAILABLE = 401, 403, 404, 429, 500, 503
_FIRST_ERROR_STATUS, _TIMEOUT_STATUSES = 400, (408, 425)
_RETRY_HINT = "It may pass: try again in a while."


def make_proxy_error(cause: str) -> ProxyRefusedError:
    """The error for a proxy that wants to know who we are."""
    return ProxyRefusedError(
        "The proxy refuses us", cause=cause, hint="Put user and password into HTTP_PROXY and HTTPS_PROXY."
    )


def make_storage_host_error(host: str, name: str, status: int, header: Callable[[str], str | None]) -> HfModelsError:
    """The error for a storage host's answer that is not the bytes, but for one of `LINK_REFUSED`.

    Args:
        host: who answered.
        name: the file, as people name it.
        status: HTTP's.
        header: gives the answer's header of that name.
    """
    told = parse_retry_after(header)
    if status == PROXY_AUTH_REQUIRED:
        return make_proxy_error(f"HTTP {status}")
    if status == _NOT_FOUND:
        hint = "The Hub lists it. If it stays so, its storage, or a mirror's, has lost it."
        return FileNotFoundInRepoError(f"{host} does not have {name}", cause=f"HTTP {status}", hint=hint)
    if status == _TOO_MANY_REQUESTS or (told is not None and status == _UNAVAILABLE):
        return RateLimitedError(f"{host} asks us to wait", retry_after=told, cause=f"HTTP {status}")
    if status in _TIMEOUT_STATUSES:
        return NetworkError(f"{host} lost patience", cause=f"HTTP {status}")
    if status >= _SERVER_ERRORS or status < _FIRST_ERROR_STATUS:
        return HubUnavailableError(f"{host} answered with HTTP {status}")
    return AccessError(
        f"{host} refuses {name}", cause=f"HTTP {status}", hint="A proxy or a firewall on the way may be who refuses it."
    )


def make_link_error(host: str, name: str) -> AccessError:
    """The error for a storage host that takes no link, however fresh."""
    return AccessError(
        f"{host} refuses {name}",
        cause="Each link to it was refused, fresh ones too.",
        hint="If it stays so, the repo may be gated, or this machine's clock may be wrong.",
    )


def suggest_longer_timeout(seconds: float) -> str:
    """How to have the Hub waited for longer than that."""
    return f"To wait longer: llm hf settings metadata_seconds {max(1, round(3 * seconds))}"


def make_connection_error(host: str, error: Exception, timeout: float) -> HfModelsError:
    """The error for a request that got no answer.

    Args:
        host: who was asked.
        error: httpx2's or the system's; its causes are looked through.
        timeout: the limit that stood, in seconds.
    """
    import httpx2

    causes = list(_iter_causes(error))
    why = clean_text(str(causes[-1]) or type(causes[-1]).__name__, 200)
    if isinstance(error, httpx2.TimeoutException):
        return TimedOutError(f"{host} did not answer within {timeout:g} s", hint=suggest_longer_timeout(timeout))
    if isinstance(error, httpx2.ProxyError):
        trouble = NetworkError("The proxy did not pass the request on", cause=why, hint=PROXY_HINT)
        return make_proxy_error(why) if str(PROXY_AUTH_REQUIRED) in why else trouble
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return BadInputError(f"{host} can't be asked", cause=why, hint="Set HF_ENDPOINT to an http(s) address.")
    if isinstance(error, httpx2.ConnectError):
        return _make_connect_error(host, causes, why)
    endless = isinstance(error, httpx2.TooManyRedirects)  # to no address is an error without a class of its own
    if endless or (isinstance(error, httpx2.RemoteProtocolError) and "location header" in str(error)):
        return HubUnavailableError(f"{host} redirects {'without end' if endless else 'to no web address'}")
    return NetworkError(f"The connection to {host} broke off", cause=why, hint=_RETRY_HINT)


def _make_connect_error(host: str, causes: Iterable[BaseException], why: str) -> NetworkError:
    """The error for a connection that could not be made: a certificate, a name, a door that is closed."""
    causes = list(causes)
    kinds = tuple(type(cause) for cause in causes)
    if trouble := next((found for cause in causes if (found := make_tls_error(host, cause))), None):
        return trouble
    if any(issubclass(kind, ssl.SSLEOFError) for kind in kinds):
        return NetworkError(f"{host} hung up when it was asked for a secure connection", cause=why, hint=HTTPS_HINT)
    if any(issubclass(kind, socket.gaierror) for kind in kinds):
        return OfflineError(f"{host} was not found: no network, or no such host", cause=why)
    return OfflineError(f"{host} can't be reached", cause=why, hint=PROXY_HINT if getproxies_environment() else None)


def make_tls_error(host: str, error: BaseException) -> TlsError | None:
    """The error for a secure connection that could not be agreed on; None where it is another trouble, or broke off."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"The certificate of {host} was not accepted",
            cause=error.verify_message or clean_text(str(error), 200),
            hint="Behind a company proxy, point SSL_CERT_FILE to its certificate.",
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return TlsError(
            f"{host} could not agree on a secure connection",
            cause=clean_text(str(error), 200),
            hint=HTTPS_HINT,
        )
    return None


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came from, the first cause last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def is_transient(error: BaseException) -> bool:
    """Whether an error is weather: it may be gone at the next try."""
    return isinstance(error, NetworkError) and not isinstance(error, (ProxyRefusedError, TlsError))
