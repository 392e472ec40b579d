"""Client for the Hub's API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from llm_hf_models.errors import (
    AccessError,
    FileNotFoundInRepoError,
    HfModelsError,
    HubUnavailableError,
    MissingHeadersError,
    RevisionNotFoundError,
    TokenMissingError,
)
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.session import LIBRARY_NAME, HubSession, get_package_version
from llm_hf_models.hub.token_holder import unlock_if_refused
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
from llm_hf_models.network.errors import make_connection_error
from llm_hf_models.network.urls import is_same_origin
from llm_hf_models.system.disk import translate_disk_error
from llm_hf_models.system.text import suggest_word

if TYPE_CHECKING:
    from llm_hf_models.hub.collections import CollectionSlug, HubCollection


MAX_REDIRECTS = 5
PATHS_PER_REQUEST = 50  # the API's page size if `expand` is set (huggingface_hub, hf_api.py)
MAX_REVISIONS_IN_HINT = 12
MAX_TREE_PAGES = 100
_NEXT_PAGE = re.compile(r"<([^<>]+)>\s*;\s*rel=\"?next\b")
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


class Hub(HubSession):
    """A client for the Hub at one endpoint, with or without a token.

    Creating it is cheap. The first call imports huggingface_hub.
    """

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
