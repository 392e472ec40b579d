"""What goes wrong between us and the Hub, in our errors: one refusal or one broken connection at a time."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.request import getproxies_environment

from llm_hf_models.errors import (
    AccessError,
    BadInputError,
    FileNotFoundInRepoError,
    GatedRepoError,
    HfModelsError,
    HubTroubleError,
    HubUnavailableError,
    NetworkError,
    OfflineError,
    ProxyRefusedError,
    RateLimitedError,
    RepoNotFoundError,
    RevisionNotFoundError,
    TimedOutError,
    TlsError,
    TokenInvalidError,
    TokenMissingError,
)
from llm_hf_models.text import clean_text
from llm_hf_models.weather import retry_after

LOGIN_HINT = "llm hf login"
PROXY_REFUSES = 407
LINK_REFUSED = (400, 401, 403, 410)  # how storage hosts refuse a signed link whose time is over
PROXY_HINT = "Check the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names."
HTTPS_HINT = "Does it speak https? If not, its address begins with http://."
# `RateLimit: "api";r=0;t=55`: nothing remains of the quota for 55 seconds (IETF draft-ietf-httpapi-ratelimit-headers).
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY, _SERVER_ERRORS, _UNAVAILABLE = 401, 403, 404, 429, 500, 503
_FIRST_ERROR, _LOST_PATIENCE = 400, (408, 425)
_AGAIN_HINT = "It may pass: try again in a while."


@dataclass(frozen=True)
class Asked:
    """What was asked for, to word a refusal with. `endpoint` without a trailing slash."""

    endpoint: str
    has_token: bool
    token_hint: str = LOGIN_HINT  # what a person does where the token, or the want of one, is what is refused
    repo: str | None = None
    revision: str | None = None
    path: str | None = None

    @property
    def host(self) -> str:
        """The Hub's host, as people name it."""
        return self.endpoint.partition("://")[2] or self.endpoint


def refusal(asked: Asked, status: int, headers: Mapping[str, str]) -> HfModelsError:
    """The error for an answer that is none: a status of 400 or above, or a redirect to nowhere.

    Args:
        asked: what was asked for.
        status: HTTP's.
        headers: the answer's; names compare as httpx2's do, without case.
    """
    said = clean_text(headers.get("X-Error-Message", ""), 200) or None
    if status == _TOO_MANY:
        return _rate_limited(asked, retry_after(headers.get), said)
    if status >= _SERVER_ERRORS:
        told = retry_after(headers.get) if status == _UNAVAILABLE else None
        if told is not None:
            return RateLimitedError(f"{asked.host} asks us to wait", retry_after=told, cause=said or f"HTTP {status}")
        return HubTroubleError(f"{asked.host} has a problem of its own (HTTP {status})", cause=said, hint=_AGAIN_HINT)
    by_code = {
        "GatedRepo": _gated,
        "RepoNotFound": _repo_not_found,
        "RevisionNotFound": _revision_not_found,
        "EntryNotFound": _entry_not_found,
    }
    if known := by_code.get(headers.get("X-Error-Code", "")):
        return known(asked)
    return _refused_otherwise(asked, status, said)


def proxy_refusal(cause: str) -> ProxyRefusedError:
    """The error for a proxy that wants to know who we are."""
    return ProxyRefusedError(
        "The proxy refuses us", cause=cause, hint="Put user and password into HTTP_PROXY and HTTPS_PROXY."
    )


def storage_refusal(host: str, name: str, status: int, header: Callable[[str], str | None]) -> HfModelsError:
    """The error for a storage host's answer that is not the bytes, but for one of `LINK_REFUSED`.

    Args:
        host: who answered.
        name: the file, as people name it.
        status: HTTP's.
        header: gives the answer's header of that name.
    """
    told = retry_after(header)
    if status == PROXY_REFUSES:
        return proxy_refusal(f"HTTP {status}")
    if status == _NOT_FOUND:
        hint = "The Hub lists it. If it stays so, its storage, or a mirror's, has lost it."
        return FileNotFoundInRepoError(f"{host} does not have {name}", cause=f"HTTP {status}", hint=hint)
    if status == _TOO_MANY or (told is not None and status == _UNAVAILABLE):
        return RateLimitedError(f"{host} asks us to wait", retry_after=told, cause=f"HTTP {status}")
    if status in _LOST_PATIENCE:
        return NetworkError(f"{host} lost patience", cause=f"HTTP {status}")
    if status >= _SERVER_ERRORS or status < _FIRST_ERROR:
        return HubUnavailableError(f"{host} answered with HTTP {status}")
    return AccessError(
        f"{host} refuses {name}", cause=f"HTTP {status}", hint="A proxy or a firewall on the way may be who refuses it."
    )


def links_refused(host: str, name: str) -> AccessError:
    """The error for a storage host that takes no link, however fresh."""
    return AccessError(
        f"{host} refuses {name}",
        cause="Each link to it was refused, fresh ones too.",
        hint="If it stays so, the repo may be gated, or this machine's clock may be wrong.",
    )


def _refused_otherwise(asked: Asked, status: int, said: str | None) -> HfModelsError:
    if status == _UNAUTHORIZED and asked.has_token:
        return TokenInvalidError(f"{asked.host} does not accept the token", cause=said, hint=asked.token_hint)
    if status == _UNAUTHORIZED:
        return TokenMissingError(f"{asked.host} wants a token for this", cause=said, hint=asked.token_hint)
    if status == _FORBIDDEN:
        what = f"{asked.host} refuses this to the token" if asked.has_token else f"{asked.host} refuses this"
        hint = f"See what the token may do: {asked.endpoint}/settings/tokens"
        return AccessError(what, cause=said, hint=hint if asked.has_token else asked.token_hint)
    if status == PROXY_REFUSES:
        return proxy_refusal(f"HTTP {status}")
    if status in _LOST_PATIENCE:
        return HubTroubleError(f"{asked.host} lost patience (HTTP {status})", cause=said, hint=_AGAIN_HINT)
    why = "without the Hub's word why" if said is None else said
    return HubUnavailableError(f"{asked.host} answered HTTP {status}", cause=why, hint="Is HF_ENDPOINT a Hub?")


def _repo_not_found(asked: Asked) -> HfModelsError:
    if asked.has_token:
        return RepoNotFoundError(
            f"There is no repo {asked.repo} on {asked.host}, or it is private and not this token's to see",
            hint="Check its name; `llm hf whoami` shows whose token this is.",
        )
    return RepoNotFoundError(
        f"There is no repo {asked.repo} on {asked.host}, or it is private",
        hint=f"Check its name; if it is private: {asked.token_hint}",
    )


def _revision_not_found(asked: Asked) -> HfModelsError:
    hint = "Without one, the default branch is taken."
    return RevisionNotFoundError(f"{asked.repo} has no revision {asked.revision or 'main'!r}", hint=hint)


def _entry_not_found(asked: Asked) -> HfModelsError:
    return FileNotFoundInRepoError(
        f"{asked.repo} has no file {asked.path!r} at {asked.revision or 'main'}",
        hint=f"llm hf info {asked.repo} --files",
    )


def _gated(asked: Asked) -> HfModelsError:
    page = f"{asked.endpoint}/{asked.repo}"
    if not asked.has_token:
        return TokenMissingError(
            f"{asked.repo} is gated, and was asked for without a token",
            cause=f"Its owners ask people to agree to terms on {page}",
            hint=asked.token_hint,
        )
    return GatedRepoError(
        f"{asked.repo} is gated, and the token's owner has not been granted access", hint=f"Ask for it on {page}"
    )


def _rate_limited(asked: Asked, wait: float | None, said: str | None) -> RateLimitedError:
    when = f"in {wait:.0f} s" if wait is not None else "in a few minutes"
    more = "" if asked.has_token else f" With a token more is allowed: {asked.token_hint}"
    return RateLimitedError(
        f"{asked.host} has had too many requests from here",
        retry_after=wait,
        cause=said,
        hint=f"Try again {when}.{more}",
    )


def wait_hint(seconds: float) -> str:
    """How to have the Hub waited for longer than that."""
    return f"To wait longer: llm hf settings metadata_seconds {max(1, round(3 * seconds))}"


def connection_trouble(host: str, error: Exception, timeout: float) -> HfModelsError:
    """The error for a request that got no answer.

    Args:
        host: who was asked.
        error: httpx2's or the system's; its causes are looked through.
        timeout: the limit that stood, in seconds.
    """
    import httpx2

    causes = list(_causes(error))
    why = clean_text(str(causes[-1]) or type(causes[-1]).__name__, 200)
    if isinstance(error, httpx2.TimeoutException):
        return TimedOutError(f"{host} did not answer within {timeout:g} s", hint=wait_hint(timeout))
    if isinstance(error, httpx2.ProxyError):
        trouble = NetworkError("The proxy did not pass the request on", cause=why, hint=PROXY_HINT)
        return proxy_refusal(why) if str(PROXY_REFUSES) in why else trouble
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return BadInputError(f"{host} can't be asked", cause=why, hint="Set HF_ENDPOINT to an http(s) address.")
    if isinstance(error, httpx2.ConnectError):
        return _no_connection(host, causes, why)
    endless = isinstance(error, httpx2.TooManyRedirects)  # to no address is an error without a class of its own
    if endless or (isinstance(error, httpx2.RemoteProtocolError) and "location header" in str(error)):
        return HubUnavailableError(f"{host} redirects {'without end' if endless else 'to no web address'}")
    return NetworkError(f"The connection to {host} broke off", cause=why, hint=_AGAIN_HINT)


def _no_connection(host: str, causes: Iterable[BaseException], why: str) -> NetworkError:
    """The error for a connection that could not be made: a certificate, a name, a door that is closed."""
    causes = list(causes)
    kinds = tuple(type(cause) for cause in causes)
    if trouble := next((found for cause in causes if (found := tls_trouble(host, cause))), None):
        return trouble
    if any(issubclass(kind, ssl.SSLEOFError) for kind in kinds):
        return NetworkError(f"{host} hung up when it was asked for a secure connection", cause=why, hint=HTTPS_HINT)
    if any(issubclass(kind, socket.gaierror) for kind in kinds):
        return OfflineError(f"{host} was not found: no network, or no such host", cause=why)
    return OfflineError(f"{host} can't be reached", cause=why, hint=PROXY_HINT if getproxies_environment() else None)


def tls_trouble(host: str, error: BaseException) -> TlsError | None:
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


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came from, the first cause last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
