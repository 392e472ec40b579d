"""The Hub, through huggingface_hub's public functions: the only module that imports it. Its errors become ours here.

Requests go over huggingface_hub's own session (`get_session`, `build_hf_headers`) rather than HfApi's methods: those
take no time-out for lists and `whoami`, sleep through retries of their own, and hide the ETags that save a repeat.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from llm_hf_models.errors import (
    BadInputError,
    FileNotFoundInRepoError,
    HfModelsError,
    HubUnavailableError,
    NotModifiedError,
    OfflineError,
    RevisionNotFoundError,
    TimedOutError,
    TokenInvalidError,
    TokenMissingError,
)
from llm_hf_models.hub.errors import LOGIN_HINT, HubRequest, make_hub_error
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import (
    Account,
    FileScan,
    Location,
    RepoDetails,
    RepoSummary,
    SearchFilters,
    build_search_params,
)
from llm_hf_models.network.errors import PROXY_HINT, make_connection_error, suggest_longer_timeout
from llm_hf_models.network.urls import is_same_origin, validate_endpoint
from llm_hf_models.system.disk import translate_disk_error
from llm_hf_models.system.text import clean_text, strip_user, suggest_word

if TYPE_CHECKING:
    import httpx2


LIBRARY_NAME = "llm-hf-models"
MAX_CARD_BYTES = 1_000_000
MAX_RESPONSE_BYTES = 64_000_000  # the largest repos' file lists are a few MB
MAX_REDIRECTS = 5
PATHS_PER_REQUEST = 50  # what a page of the Hub's holds where files are looked at closely (huggingface_hub, hf_api.py)
MAX_REVISIONS_IN_HINT = 12  # names in a hint
RESPONSE_TIMEOUT_FACTOR = 3  # times the time-out: how long a whole answer may take
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_NOT_MODIFIED = 304
_MISSING_TOKEN_STATUSES = (401, 403, 404)


def get_package_version() -> str:
    """Ours, as installed."""
    from importlib import metadata

    try:
        return metadata.version(LIBRARY_NAME)
    except metadata.PackageNotFoundError:
        return "0"


class Hub:
    """The Hub at one endpoint, with one token or none. Cheap to make; the first call imports huggingface_hub."""

    def __init__(
        self,
        endpoint: str,
        *,
        token: str | None = None,
        token_hint: str = LOGIN_HINT,
        timeout: float = 20,
        offline: bool = False,
        during_request: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Asks nothing yet.

        Args:
            endpoint: its address.
            token: what it is shown, if anything.
            token_hint: what a person does where it refuses that token, or wants one.
            timeout: seconds for each question.
            offline: refuse every call with OfflineError.
            during_request: stands around each question to its API, given its host.

        Raises:
            BadInputError: the endpoint is no http(s) address.
        """
        self._endpoint = validate_endpoint(endpoint).rstrip("/")
        self._token = token
        self._token_hint = token_hint
        self._timeout = timeout
        self._offline = offline
        self._during_request = during_request
        self.last_etag: str | None = None  # of the last answer to `search` or `details`

    def __repr__(self) -> str:
        return f"Hub({strip_user(self._endpoint)!r}, token={'…' if self._token else None})"

    # Questions

    def search(self, query: str, filters: SearchFilters, *, known_etag: str | None = None) -> list[RepoSummary]:
        """One request for the whole list.

        Args:
            query: words of a repo's name.
            filters: what it is narrowed by.
            known_etag: the `etag` of an answer that the caller still has.

        Raises:
            NotChangedError: that answer still stands.
            NetworkError and below, TokenInvalidError.
        """
        from llm_hf_models.hub import responses

        body = self._get_json("/api/models", self._describe_request(), build_search_params(query, filters), known_etag)
        return responses.parse_summaries(body, self._describe_request().host)[: filters.limit]

    def fetch_details(self, repo: RepoId, revision: str | None = None, *, known_etag: str | None = None) -> RepoDetails:
        """One repo with sizes, digests and scan results, at the commit that `revision` names now.

        Raises:
            NotChangedError: the answer with `known_etag` still stands.
            RepoNotFoundError, RevisionNotFoundError, GatedRepoError, TokenMissingError, TokenInvalidError, NetworkError
        """
        from llm_hf_models.hub import responses

        asked = self._describe_request(repo, revision)
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        params = {"blobs": "true", "securityStatus": "true"}
        try:
            body = self._get_json(f"/api/models/{repo}{at}", asked, params, known_etag)
        except RevisionNotFoundError as error:
            with suppress(HfModelsError):
                error.hint = self._suggest_revisions(repo, revision or "")
            raise
        return responses.parse_details(body, asked.host)

    def _suggest_revisions(self, repo: RepoId, meant: str) -> str:
        from llm_hf_models.hub import responses

        _, body = self._request_body(f"{self._endpoint}/api/models/{repo}/refs", self._describe_request(repo))
        names = responses.parse_revision_names(body, self._describe_request().host)
        more = f" and {len(names) - MAX_REVISIONS_IN_HINT} more" if len(names) > MAX_REVISIONS_IN_HINT else ""
        return f"{suggest_word(meant, names)}There are: {', '.join(names[:MAX_REVISIONS_IN_HINT])}{more}"

    def fetch_scans(self, repo: RepoId, commit: str, paths: Sequence[str]) -> tuple[FileScan, ...]:
        """Each scanner's word on some files, as the Hub has it now; a file of which it says nothing is left out.

        Raises:
            RepoNotFoundError, RevisionNotFoundError, AccessError, NetworkError
        """
        from llm_hf_models.hub import responses

        asked = self._describe_request(repo, commit)
        url = f"{self._endpoint}/api/models/{repo}/paths-info/{quote(commit, safe='')}"
        found: list[FileScan] = []
        for at in range(0, len(paths), PATHS_PER_REQUEST):
            form = {"paths": list(paths[at : at + PATHS_PER_REQUEST]), "expand": "true"}
            found += responses.parse_scans(self._request_body(url, asked, form=form)[1], asked.host)
        return tuple(found)

    def fetch_card(self, repo: RepoId, revision: str) -> str:
        """The model card's Markdown, front matter removed, untrusted. Empty where there is none; cut at 1 MB."""
        try:
            body = self.fetch_small_file(repo, RepoFile("README.md"), revision)
        except FileNotFoundInRepoError:
            return ""
        return _FRONT_MATTER.sub("", body.decode("utf-8", "replace")).lstrip("\n")

    def fetch_small_file(self, repo: RepoId, file: RepoFile, revision: str) -> bytes:
        """The bytes of a file that is no weights, untrusted; cut at 1 MB.

        Raises:
            FileNotFoundInRepoError, RepoNotFoundError, RevisionNotFoundError, AccessError, NetworkError
        """
        return self._request_body(
            self._build_resolve_url(repo, file, revision), self._describe_request(repo, revision, file), cut=True
        )[1]

    def locate(self, repo: RepoId, file: RepoFile, commit: str) -> Location:
        """Where a file's bytes are now: asked by HEAD, not followed to the storage host.

        Raises:
            FileNotFoundInRepoError, RepoNotFoundError, RevisionNotFoundError, AccessError, NetworkError
        """
        from llm_hf_models.hub import responses
        from llm_hf_models.network.urls import resolve_redirect

        asked = self._describe_request(repo, commit, file)
        url = home = self._build_resolve_url(repo, file, commit)
        told: dict[str, str] = {}
        for _ in range(MAX_REDIRECTS):
            headers = self._build_headers(with_token=is_same_origin(url, home))
            answer = self._send("HEAD", url, asked, headers={**headers, "Accept-Encoding": "identity"})
            told.update(
                {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("x-")}
            )
            if not answer.has_redirect_location:
                return responses.parse_location(asked, url, headers, told, answer.headers)
            url = resolve_redirect(url, answer.headers["Location"])
            if not is_same_origin(url, home) and "x-linked-etag" in told:
                return responses.parse_location(asked, url, self._build_headers(with_token=False), told, {})
        raise HubUnavailableError(f"{asked.host} redirects without end")

    def download(self, repo: RepoId, file: RepoFile, commit: str, cache_dir: Path) -> Path:
        """Has huggingface_hub fetch a file into its cache, by Xet where the repo has that. Its digest is not checked.

        Raises:
            FileNotFoundInRepoError, RepoNotFoundError, RevisionNotFoundError, AccessError, NetworkError, StorageError
        """
        import httpx2
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        asked = self._describe_request(repo, commit, file)
        self._open_session()  # refuses where we are offline
        try:
            place = hf_hub_download(
                str(repo),
                file.path,
                revision=commit,
                cache_dir=cache_dir,
                endpoint=self._endpoint,
                token=self._token or False,
                etag_timeout=self._timeout,
                library_name=LIBRARY_NAME,
                library_version=get_package_version(),
            )
        except OSError as error:
            # LocalEntryNotFoundError is its word for a Hub that could not be asked; the cause says why.
            cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
            if isinstance(cause, HfHubHTTPError) and cause.response is not None:
                raise make_hub_error(asked, cause.response.status_code, cause.response.headers) from None
            if cause is error and not isinstance(error, HfHubHTTPError):
                raise translate_disk_error(error, cache_dir, 0, 0) from None
            trouble = cause if isinstance(cause, Exception) else error
            raise make_connection_error(asked.host, trouble, self._timeout) from None
        except httpx2.HTTPError as error:
            raise make_connection_error(asked.host, error, self._timeout) from None
        return Path(place)

    def whoami(self) -> Account:
        """Whose token this is.

        Raises:
            TokenMissingError, TokenInvalidError, NetworkError
        """
        from llm_hf_models.hub import responses

        if not self._token:
            raise TokenMissingError("There is no token", hint=self._token_hint)
        asked = self._describe_request()
        return responses.parse_account(self._request_body(f"{self._endpoint}/api/whoami-v2", asked)[1], asked.host)

    def find_conversions(self, repo: RepoId, limit: int = 5) -> list[RepoSummary]:
        """GGUF repos that name `repo` as their base model, most downloaded first."""
        return self.search("", SearchFilters(tags=(f"base_model:quantized:{repo}",), sort="downloads", limit=limit))

    # One request

    def _describe_request(
        self, repo: RepoId | None = None, revision: str | None = None, path: RepoFile | None = None
    ) -> HubRequest:
        name = str(repo) if repo else None
        return HubRequest(
            strip_user(self._endpoint),
            bool(self._token),
            self._token_hint,
            name,
            revision,
            path.path if path else None,
        )

    def _build_resolve_url(self, repo: RepoId, file: RepoFile, revision: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(str(repo), file.path, revision=revision, endpoint=self._endpoint)

    def _build_headers(self, *, with_token: bool = True) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not typed so

        token = self._token if with_token else None
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise TokenInvalidError("The token holds characters that no token has", hint=self._token_hint)
        # False and not None: that would send whatever token huggingface_hub finds on this machine.
        return dict(
            build_hf_headers(token=token or False, library_name=LIBRARY_NAME, library_version=get_package_version())
        )

    def _get_json(self, path: str, asked: HubRequest, params: Mapping[str, Any], known_etag: str | None) -> bytes:
        extra = {"If-None-Match": known_etag} if known_etag else {}
        headers, body = self._request_body(f"{self._endpoint}{path}", asked, params=params, extra=extra)
        self.last_etag = headers.get("ETag")
        return body

    def _request_body(
        self,
        url: str,
        asked: HubRequest,
        *,
        params: Mapping[str, Any] | None = None,
        extra: Mapping[str, str] | None = None,
        form: Mapping[str, Any] | None = None,
        cut: bool = False,
    ) -> tuple[httpx2.Headers, bytes]:
        """A GET's headers and body, or a POST's with a form. httpx2 drops the token on a redirect to another origin."""
        limit = MAX_CARD_BYTES if cut else MAX_RESPONSE_BYTES
        deadline = time.monotonic() + self._timeout * RESPONSE_TIMEOUT_FACTOR
        session = self._open_session()
        with self._translate_errors(asked):
            request = session.stream("GET" if form is None else "POST", url, params=params, data=form,
                                     headers={**self._build_headers(), **(extra or {})},
                                     timeout=self._timeout, follow_redirects=True)  # fmt: skip
            with self._during_request(asked.host), request as answer:
                if answer.status_code == _NOT_MODIFIED and extra:
                    raise NotModifiedError("The Hub's answer has not changed")
                if not answer.is_success:
                    raise _make_response_error(asked, answer)
                body = bytearray()
                for block in answer.iter_bytes():
                    body += block
                    if len(body) > limit:
                        break
                    if time.monotonic() > deadline:
                        raise TimedOutError(
                            f"{asked.host} answers too slowly", hint=suggest_longer_timeout(self._timeout)
                        )
        if len(body) > limit and not cut:
            raise HubUnavailableError(f"{asked.host} answered with more than {limit} bytes")
        return answer.headers, bytes(body[:limit])

    def _send(self, method: str, url: str, asked: HubRequest, *, headers: Mapping[str, str]) -> httpx2.Response:
        """A request without a body to read, its redirects left to the caller."""
        session = self._open_session()
        with self._translate_errors(asked):
            answer = session.request(method, url, headers=headers, timeout=self._timeout, follow_redirects=False)
        if answer.is_error or answer.status_code == _NOT_MODIFIED:
            raise _make_response_error(asked, answer)
        return answer

    def _open_session(self) -> httpx2.Client:
        if self._offline:
            raise OfflineError("Offline mode is on (HF_HUB_OFFLINE)", hint="Unset HF_HUB_OFFLINE to ask the Hub.")
        import httpx2
        from huggingface_hub import get_session

        from llm_hf_models.network.tls import export_bundle, unreadable_bundle_error

        export_bundle()
        try:
            return get_session()
        except OSError as error:
            raise unreadable_bundle_error(error) from None
        except (httpx2.InvalidURL, ValueError) as error:  # no address is known to it yet but those of proxies
            raise BadInputError("The proxy's address can't be used", cause=str(error), hint=PROXY_HINT) from None
        except ImportError:  # what a SOCKS proxy would need; the transfer knows none either
            cause = "Proxies of the kind SOCKS are not supported."
            raise BadInputError("The proxy's address can't be used", cause=cause, hint=PROXY_HINT) from None

    @contextmanager
    def _translate_errors(self, asked: HubRequest) -> Iterator[None]:
        import httpx2
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled:  # huggingface_hub read the variable before it was unset for us
            raise OfflineError("Offline mode is on (HF_HUB_OFFLINE)", hint="Unset HF_HUB_OFFLINE.") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            raise make_connection_error(asked.host, error, self._timeout) from None


def _make_response_error(asked: HubRequest, answer: httpx2.Response) -> HfModelsError:
    """The error for an answer that is none. Where a redirect had led to another origin, it came without the token."""
    status, url = answer.status_code, str(answer.url)
    if status in _MISSING_TOKEN_STATUSES and asked.has_token and not is_same_origin(url, asked.endpoint):
        other = clean_text(urlsplit(url).netloc.rpartition("@")[2], 100)
        hint = (
            f"{asked.host} redirects to {other}, where the token is not sent. Is that your Hub? Name it in HF_ENDPOINT."
        )
        asked = replace(asked, has_token=False, token_hint=hint)
    return make_hub_error(asked, status, answer.headers)
