"""Client for the Hub's API. Translates errors of huggingface_hub and httpx2 into this package's errors.

Requests use huggingface_hub's session (`get_session`, `build_hf_headers`) instead of HfApi's
methods. Those methods accept no timeout for lists and `whoami`, retry with sleeps of their own, and
hide the ETags that make repeated requests cheap.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from llm_hf_models.errors import (
    AccessError,
    BadInputError,
    FileNotFoundInRepoError,
    HfModelsError,
    HubUnavailableError,
    MissingHeadersError,
    NotModifiedError,
    OfflineError,
    RevisionNotFoundError,
    TimedOutError,
    TokenInvalidError,
    TokenMissingError,
)
from llm_hf_models.hub.errors import LOGIN_HINT, HubRequest, make_hub_error
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.token_holder import RefusedWithoutTokenError, TokenHolder, unlock_if_refused
from llm_hf_models.hub.types import (
    Account,
    FileScan,
    FoundRepo,
    HubFile,
    Location,
    RepoDetails,
    SearchFilters,
    build_search_params,
)
from llm_hf_models.network.errors import PROXY_HINT, RETRY_HINT, make_connection_error, suggest_longer_timeout
from llm_hf_models.network.headers import parse_retry_after
from llm_hf_models.network.urls import is_same_origin, remember_proxy_passwords, validate_endpoint
from llm_hf_models.redaction import redact, redact_bytes
from llm_hf_models.system.disk import translate_disk_error
from llm_hf_models.system.text import clean_text, strip_credentials, suggest_word

if TYPE_CHECKING:
    import httpx2

    from llm_hf_models.hub.collections import CollectionSlug, HubCollection


LIBRARY_NAME = "llm-hf-models"
MAX_CARD_BYTES = 1_000_000
MAX_RESPONSE_BYTES = 64_000_000  # the file lists of the largest repos are a few MB
MAX_REDIRECTS = 5
PATHS_PER_REQUEST = 50  # the API's page size if `expand` is set (huggingface_hub, hf_api.py)
MAX_REVISIONS_IN_HINT = 12
RESPONSE_TIMEOUT_FACTOR = 3  # a whole response may take this many times the timeout
MAX_TREE_PAGES = 100
_NEXT_PAGE = re.compile(r"<([^<>]+)>\s*;\s*rel=\"?next\b")
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
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


class Hub:
    """A client for the Hub at one endpoint, with or without a token.

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

    # API calls

    @unlock_if_refused
    def search(self, query: str, filters: SearchFilters, *, known_etag: str | None = None) -> list[FoundRepo]:
        """Search for model repos with one request.

        Args:
            query: words of a repo's name.
            filters: filters, order and maximum number of results.
            known_etag: `last_etag` of a response that the caller has cached.

        Raises:
            NotModifiedError: the cached response is still current.
            TokenInvalidError: the Hub rejected the token.
            NetworkError: the request failed.
        """
        from llm_hf_models.hub import responses

        body = self._get_json("/api/models", self._describe_request(), build_search_params(query, filters), known_etag)
        return responses.parse_summaries(body, self._describe_request().host)[: filters.limit]

    @unlock_if_refused
    def fetch_details(self, repo: RepoId, revision: str | None = None, *, known_etag: str | None = None) -> RepoDetails:
        """Return a repo's files with sizes, digests and scan results, at the commit that `revision` names now.

        Raises:
            NotModifiedError: the response with `known_etag` is still current.
            RepoNotFoundError, RevisionNotFoundError, GatedRepoError: the Hub has no such repo or
                revision, or denied access.
            TokenMissingError, TokenInvalidError: the Hub requires a token, or rejected it.
            NetworkError: the request failed.
        """
        from llm_hf_models.hub import listing, responses

        request = self._describe_request(repo, revision)
        suffix = f"/revision/{quote(revision, safe='')}" if revision else ""
        params = {"blobs": "true", "securityStatus": "true"}
        try:
            body = self._get_json(f"/api/models/{repo}{suffix}", request, params, known_etag)
        except RevisionNotFoundError as error:
            with suppress(HfModelsError):
                error.hint = self._suggest_revisions(repo, revision or "")
            raise
        details, is_whole = responses.parse_details(body, request.host, repo, revision)
        return listing.complete_details(self, details, is_whole=is_whole)

    @unlock_if_refused
    def fetch_tree(self, repo: RepoId, commit: str) -> list[HubFile]:
        """Return all files of a repo with the sizes and digests that the Hub reports. Unsafe names are left out.

        Raises:
            RepoNotFoundError, RevisionNotFoundError, AccessError: the Hub has no such repo or
                commit, or denied access.
            NetworkError: the request failed.
        """
        from llm_hf_models.hub import responses

        request = self._describe_request(repo, commit)
        url = f"{self._endpoint}/api/models/{repo}/tree/{quote(commit, safe='')}?recursive=true"
        files: list[HubFile] = []
        for _ in range(MAX_TREE_PAGES):
            headers, body = self._request_body(url, request)
            files += responses.parse_tree(body, request.host)
            following = _NEXT_PAGE.search(headers.get("Link", ""))
            if following is None:
                break
            url = urljoin(url, following[1])
            if not is_same_origin(url, self._endpoint):  # it would receive the token
                break
        return files

    def _suggest_revisions(self, repo: RepoId, revision: str) -> str:
        """Return a hint that lists the repo's branches and tags."""
        from llm_hf_models.hub import responses

        _, body = self._request_body(f"{self._endpoint}/api/models/{repo}/refs", self._describe_request(repo))
        names = responses.parse_revision_names(body, self._describe_request().host)
        more = f" and {len(names) - MAX_REVISIONS_IN_HINT} more" if len(names) > MAX_REVISIONS_IN_HINT else ""
        return f"{suggest_word(revision, names)}Use one of: {', '.join(names[:MAX_REVISIONS_IN_HINT])}{more}"

    @unlock_if_refused
    def fetch_scans(self, repo: RepoId, commit: str, paths: Sequence[str]) -> tuple[FileScan, ...]:
        """Return the results of the Hub's scanners for some files. Files without results are left out.

        Raises:
            RepoNotFoundError, RevisionNotFoundError, AccessError: the Hub has no such repo or
                commit, or denied access.
            NetworkError: the request failed.
        """
        from llm_hf_models.hub import responses

        request = self._describe_request(repo, commit)
        url = f"{self._endpoint}/api/models/{repo}/paths-info/{quote(commit, safe='')}"
        found: list[FileScan] = []
        for start in range(0, len(paths), PATHS_PER_REQUEST):
            form = {"paths": list(paths[start : start + PATHS_PER_REQUEST]), "expand": "true"}
            found += responses.parse_scans(self._request_body(url, request, form=form)[1], request.host)
        return tuple(found)

    @unlock_if_refused
    def fetch_collection(self, slug: CollectionSlug) -> HubCollection:
        """Return a collection with all its items.

        Raises:
            UnknownCollectionError: the Hub has no such collection, or it is private.
            TokenInvalidError: the Hub rejected the token.
            NetworkError: the request failed.
        """
        from llm_hf_models.hub import collections

        request = replace(self._describe_request(), collection=str(slug))
        body = self._request_body(f"{self._endpoint}/api/collections/{slug}", request)[1]
        return collections.parse_collection(body, request.host)

    def fetch_card(self, repo: RepoId, revision: str) -> str:
        """Return the model card's Markdown without its front matter. Untrusted, and truncated at 1 MB.

        The text is empty if there is no card.
        """
        try:
            body = self.fetch_small_file(repo, RepoFile("README.md"), revision)
        except FileNotFoundInRepoError:
            return ""
        return _FRONT_MATTER.sub("", body.decode("utf-8", "replace")).lstrip("\n")

    @unlock_if_refused
    def fetch_small_file(self, repo: RepoId, file: RepoFile, revision: str) -> bytes:
        """Return the content of a file that contains no weights. Untrusted, and truncated at 1 MB.

        Raises:
            FileNotFoundInRepoError, RepoNotFoundError, RevisionNotFoundError: the Hub has no such
                file, repo or revision.
            AccessError: the Hub denied access.
            NetworkError: the request failed.
        """
        return self._request_body(
            self._build_resolve_url(repo, file, revision), self._describe_request(repo, revision, file), truncate=True
        )[1]

    @unlock_if_refused
    def locate(self, repo: RepoId, file: RepoFile, commit: str) -> Location:
        """Return the current URL of a file's bytes. Sends HEAD requests to the Hub, and none to the storage host.

        Raises:
            FileNotFoundInRepoError, RepoNotFoundError, RevisionNotFoundError: the Hub has no such
                file, repo or commit.
            AccessError: the Hub denied access.
            NetworkError: a request failed.
        """
        from llm_hf_models.hub.location import find_new_name, parse_location

        request = self._describe_request(repo, commit, file)
        url = home = self._build_resolve_url(repo, file, commit)
        hub_headers: dict[str, str] = {}
        name: str | None = None
        for _ in range(MAX_REDIRECTS):
            is_home = is_same_origin(url, home)
            headers = self._build_headers(with_token=is_home)
            try:
                response = self._send("HEAD", url, request, headers={**headers, "Accept-Encoding": "identity"})
            except (AccessError, HubUnavailableError) as error:
                if is_home or type(error) not in (AccessError, HubUnavailableError):
                    raise
                return parse_location(request, url, headers, hub_headers, {})  # a signed link, valid only for GET
            hub_headers.update(
                {name.lower(): value for name, value in response.headers.items() if name.lower().startswith("x-")}
            )
            if not response.has_redirect_location:
                return replace(parse_location(request, url, headers, hub_headers, response.headers), repo=name)
            url = response.headers["Location"]  # which _check_redirect has resolved
            name = find_new_name(self._endpoint, url, str(repo)) or name
            if not is_same_origin(url, home) and "x-linked-etag" in hub_headers:
                found = parse_location(request, url, self._build_headers(with_token=False), hub_headers, {})
                return replace(found, repo=name)
        raise HubUnavailableError(f"Too many redirects from {request.host}")

    @unlock_if_refused
    def download(self, repo: RepoId, file: RepoFile, commit: str, cache_dir: Path) -> Path:
        """Download a file into the cache with huggingface_hub, by Xet if the repo supports it.

        The file's digest is not checked.

        Raises:
            FileNotFoundInRepoError, RepoNotFoundError, RevisionNotFoundError: the Hub has no such
                file, repo or commit.
            AccessError: the Hub denied access.
            MissingHeadersError: the Hub's response lacks headers that huggingface_hub needs.
            NetworkError: a request failed.
            StorageError: the file could not be written.
        """
        import httpx2
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError

        request = self._describe_request(repo, commit, file)
        self._open_session()  # raises OfflineError in offline mode
        try:
            path = hf_hub_download(
                str(repo),
                file.path,
                revision=commit,
                cache_dir=cache_dir,
                endpoint=self._endpoint,
                token=self.token_holder.value or False,
                etag_timeout=self._timeout,
                library_name=LIBRARY_NAME,
                library_version=get_package_version(),
            )
        except OSError as error:
            # huggingface_hub raises LocalEntryNotFoundError if it can't reach the Hub. The cause is the real error.
            cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
            if isinstance(cause, HfHubHTTPError) and cause.response is not None:
                raise self._make_response_error(request, cause.response) from None
            if isinstance(cause, FileMetadataError):
                raise MissingHeadersError(
                    f"huggingface_hub can't download {file.path} from {request.host}",
                    cause="X-Repo-Commit, ETag or Content-Length is missing.",
                ) from None
            if cause is error and not isinstance(error, HfHubHTTPError):
                raise translate_disk_error(error, cache_dir, 0, 0) from None
            failure = cause if isinstance(cause, Exception) else error
            raise make_connection_error(request.host, failure, self._timeout) from None
        except httpx2.HTTPError as error:
            raise make_connection_error(request.host, error, self._timeout) from None
        return Path(path)

    def whoami(self) -> Account:
        """Return the account that the token belongs to.

        Raises:
            TokenMissingError, TokenInvalidError: there is no token, or the Hub rejected it.
            NetworkError: the request failed.
        """
        from llm_hf_models.hub import responses

        if not self.token_holder.value:
            raise TokenMissingError("No token is set", hint=self.token_holder.hint)
        request = self._describe_request()
        return responses.parse_account(self._request_body(f"{self._endpoint}/api/whoami-v2", request)[1], request.host)

    def find_conversions(self, repo: RepoId, limit: int = 5) -> list[FoundRepo]:
        """Return GGUF repos that name `repo` as their base model, most downloaded first."""
        return self.search("", SearchFilters(tags=(f"base_model:quantized:{repo}",), sort="downloads", limit=limit))

    # Sending requests

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
