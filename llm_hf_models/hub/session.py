"""Send requests to the Hub. Translate errors of huggingface_hub and httpx2 into this package's errors.

Requests use huggingface_hub's session (`get_session`, `build_hf_headers`) instead of HfApi's
methods. Those methods accept no timeout for lists and `whoami`, retry with sleeps of their own, and
hide the ETags that make repeated requests cheap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llm_hf_models.errors import (
    BadInputError,
    HfModelsError,
    HubUnavailableError,
    NotModifiedError,
    OfflineError,
    TimedOutError,
    TokenInvalidError,
)
from llm_hf_models.hub.errors import LOGIN_HINT, HubRequest, make_hub_error
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.token_holder import RefusedWithoutTokenError, TokenHolder
from llm_hf_models.network.errors import PROXY_HINT, RETRY_HINT, make_connection_error, suggest_longer_timeout
from llm_hf_models.network.headers import parse_retry_after
from llm_hf_models.network.urls import is_same_origin, remember_proxy_passwords, validate_endpoint
from llm_hf_models.redaction import redact, redact_bytes
from llm_hf_models.system.text import clean_text, strip_credentials

if TYPE_CHECKING:
    import httpx2


LIBRARY_NAME = "llm-hf-models"
MAX_CARD_BYTES = 1_000_000
MAX_RESPONSE_BYTES = 64_000_000  # the file lists of the largest repos are a few MB
RESPONSE_TIMEOUT_FACTOR = 3  # a whole response may take this many times the timeout
_NOT_MODIFIED = 304
_MISSING_TOKEN_STATUSES = (401, 403, 404)


@cache
def get_package_version() -> str:
    """Return the installed version of this package."""
    from importlib import metadata

    try:
        return metadata.version(LIBRARY_NAME)
    except metadata.PackageNotFoundError:
        return "0"


class HubSession:
    """One Hub, with or without a token: sends requests and reads the responses up to a size limit.

    Creating it is cheap. The first call imports huggingface_hub.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        token: str | None = None,
        token_hint: str = LOGIN_HINT,
        unlock: Callable[[], str | None] | None = None,
        timeout: float = 20,
        deadline: float | None = None,
        offline: bool = False,
    ) -> None:
        """Create a client. This sends no request.

        Args:
            endpoint: URL of the Hub.
            token: access token, if any.
            token_hint: hint for errors caused by a missing or rejected token.
            unlock: function that asks the user to unlock a token, called if the Hub refuses a request without one.
            timeout: timeout of each request, in seconds.
            deadline: the time by which all requests must end, of time.monotonic().
            offline: raise OfflineError on every call.

        Raises:
            BadInputError: the endpoint is not an http(s) URL.
        """
        self._endpoint = validate_endpoint(endpoint).rstrip("/")
        self.token_holder = TokenHolder(token, token_hint, unlock)
        self._timeout = timeout
        self._deadline = deadline
        self._offline = offline
        self.pause_seconds: float | None = None  # until the next request, if the last response used up a rate limit
        self.last_etag: str | None = None  # of the last response to `search` or `fetch_details`

    def __repr__(self) -> str:
        return f"Hub({strip_credentials(self._endpoint)!r}, token={'…' if self.token_holder.value else None})"

    def _describe_request(
        self, repo: RepoId | None = None, revision: str | None = None, path: RepoFile | None = None
    ) -> HubRequest:
        name = str(repo) if repo else None
        return HubRequest(
            strip_credentials(self._endpoint),
            bool(self.token_holder.value),
            self.token_holder.hint,
            name,
            revision,
            path.path if path else None,
        )

    def _build_resolve_url(self, repo: RepoId, file: RepoFile, revision: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(str(repo), file.path, revision=revision, endpoint=self._endpoint)

    def _build_headers(self, *, with_token: bool = True) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not exported for type checkers

        token = self.token_holder.value if with_token else None
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise TokenInvalidError("The token contains invalid characters", hint=self.token_holder.hint)
        # False, because None would send any token that huggingface_hub finds on this machine.
        return dict(
            build_hf_headers(token=token or False, library_name=LIBRARY_NAME, library_version=get_package_version())
        )

    def _get_json(self, path: str, request: HubRequest, params: Mapping[str, Any], known_etag: str | None) -> bytes:
        extra = {"If-None-Match": known_etag} if known_etag else {}
        headers, body = self._request_body(f"{self._endpoint}{path}", request, params=params, extra=extra)
        self.last_etag = redact(headers.get("ETag", "")) or None
        return body

    def _request_body(
        self,
        url: str,
        request: HubRequest,
        *,
        params: Mapping[str, Any] | None = None,
        extra: Mapping[str, str] | None = None,
        form: Mapping[str, Any] | None = None,
        truncate: bool = False,
    ) -> tuple[httpx2.Headers, bytes]:
        """Send a GET request, or a POST request if there is a form. Return the response's headers and body.

        httpx2 drops the token on a redirect to another origin.
        """
        import httpx2

        limit = MAX_CARD_BYTES if truncate else MAX_RESPONSE_BYTES
        deadline = time.monotonic() + self._timeout * RESPONSE_TIMEOUT_FACTOR
        session, body = self._open_session(), bytearray()
        with self._translate_errors(request), self._limit_time(RESPONSE_TIMEOUT_FACTOR), ExitStack() as stack:
            with self._limit_time():
                exchange = session.stream("GET" if form is None else "POST", url, params=params, data=form,
                                          headers={**self._build_headers(), **(extra or {})},
                                          timeout=self._timeout, follow_redirects=True)  # fmt: skip
                response = stack.enter_context(exchange)
            self.pause_seconds = parse_retry_after(response.headers.get)
            if response.status_code == _NOT_MODIFIED and extra:
                raise NotModifiedError("The Hub's response has not changed")
            if not response.is_success:
                raise self._make_response_error(request, response)
            try:
                for block in response.iter_bytes():
                    body += block
                    if len(body) > limit:
                        break
            except httpx2.ReadTimeout:
                if time.monotonic() < deadline or (self._deadline and deadline > self._deadline):
                    raise
                hint = suggest_longer_timeout(self._timeout)
                raise TimedOutError(f"{request.host} responds too slowly", hint=hint) from None
        if len(body) > limit and not truncate:
            raise HubUnavailableError(f"{request.host} returned more than {limit} bytes")
        return response.headers, redact_bytes(bytes(body))[:limit]

    def _send(self, method: str, url: str, request: HubRequest, *, headers: Mapping[str, str]) -> httpx2.Response:
        """Send a request whose response body is not needed, and don't follow redirects."""
        session = self._open_session()
        with self._translate_errors(request), self._limit_time():
            response = session.request(method, url, headers=headers, timeout=self._timeout, follow_redirects=False)
        self.pause_seconds = parse_retry_after(response.headers.get)
        if response.is_error or response.status_code == _NOT_MODIFIED:
            raise self._make_response_error(request, response)
        return response

    @contextmanager
    def _limit_time(self, factor: float = 1) -> Iterator[None]:
        """Limit the time for requests to the timeout times `factor`, and to the deadline."""
        from llm_hf_models.network.time_limit import limit_time

        left = math.inf if self._deadline is None else self._deadline - time.monotonic()
        with limit_time(min(self._timeout * factor, left)):
            yield

    def _open_session(self) -> httpx2.Client:
        if self._offline:
            raise OfflineError("Offline mode is on (HF_HUB_OFFLINE)", hint="Unset HF_HUB_OFFLINE to use the Hub.")
        import httpx2
        from huggingface_hub import get_session

        from llm_hf_models.network.time_limit import watch_client
        from llm_hf_models.network.tls import export_bundle, make_unreadable_bundle_error

        export_bundle()
        remember_proxy_passwords()
        try:
            session = get_session()
        except OSError as error:
            raise make_unreadable_bundle_error(error) from None
        except (httpx2.InvalidURL, ValueError) as error:  # the session knows no URLs yet except those of proxies
            raise BadInputError("The proxy's address can't be used", cause=str(error), hint=PROXY_HINT) from None
        watch_client(session)
        hooks = session.event_hooks
        if _check_redirect not in hooks["response"]:
            session.event_hooks = {**hooks, "response": [*hooks["response"], _check_redirect]}
        return session

    @contextmanager
    def _translate_errors(self, request: HubRequest) -> Iterator[None]:
        import httpx2
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled:  # huggingface_hub read the variable at its import, before it was unset
            raise OfflineError("Offline mode is on (HF_HUB_OFFLINE)", hint="Unset HF_HUB_OFFLINE.") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            if isinstance(error, httpx2.TimeoutException) and self._deadline and time.monotonic() >= self._deadline:
                raise TimedOutError(f"{request.host} did not respond in time", hint=RETRY_HINT) from None
            raise make_connection_error(request.host, error, self._timeout) from None

    def _make_response_error(
        self, request: HubRequest, response: httpx2.Response
    ) -> HfModelsError | RefusedWithoutTokenError:
        """Return the error for a refused request.

        If the Hub redirected to another origin, that origin received no token. The hint explains this.
        """
        status, url = response.status_code, str(response.url)
        is_elsewhere = not is_same_origin(url, request.endpoint)
        if status in _MISSING_TOKEN_STATUSES and request.has_token and is_elsewhere:
            other = clean_text(urlsplit(url).netloc.rpartition("@")[2], 100)
            hint = (
                f"{request.host} redirects to {other}, which receives no token. "
                "If it is your Hub, set HF_ENDPOINT to it."
            )
            request = replace(request, has_token=False, token_hint=hint)
        error = make_hub_error(request, status, response.headers)
        return RefusedWithoutTokenError(error) if self.token_holder.can_unlock(status) and not is_elsewhere else error


def _check_redirect(response: httpx2.Response) -> None:
    """Replace the target of a redirect by the URL that may be requested. httpx2 and huggingface_hub then follow it."""
    from llm_hf_models.network.redirects import resolve_redirect

    if response.has_redirect_location:
        response.headers["Location"] = resolve_redirect(str(response.request.url), response.headers["Location"])
