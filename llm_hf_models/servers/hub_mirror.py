"""Serve a catalog in the Hub's protocol, read-only. Any Hub client can pull from it with HF_ENDPOINT.

Names in a request are parsed by hub.refs and then looked up in the catalog. No part of a request becomes a path.
The protocol is that of huggingface_hub (hf_api.py, file_download.py, utils/_http.py).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_hf_models.errors import BadInputError, BadRefError, HfModelsError
from llm_hf_models.hub.refs import RepoFile, RepoId, is_commit, parse_revision
from llm_hf_models.servers import hub_mirror_json
from llm_hf_models.servers.asgi_server import HttpServer, build_app, read_body
from llm_hf_models.servers.catalog import Catalog, ServedFile, ServedRepo
from llm_hf_models.servers.http_errors import HttpResponseError
from llm_hf_models.servers.request_limits import parse_host
from llm_hf_models.system.text import clean_text

GREETING = "A read-only mirror of the Hugging Face Hub. Set HF_ENDPOINT to this address.\n"
MAX_FORM_BYTES = 1 << 20
MAX_FIELDS = 10_000
Query = dict[str, list[str]]
T = TypeVar("T")
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-\d{1,18})")
_log = logging.getLogger(__name__)


class MirrorServer(HttpServer):
    """An HTTP server for the Hub's protocol.

    Attributes:
        hidden_repos: The repos that a person must name before they are served, each with the reason.
    """

    def __init__(self, catalog: Catalog, host: str, port: int, *, allowed_hosts: Collection[str] = ()) -> None:
        """Listen on an address."""
        self._catalog = catalog
        self.hidden_repos: Sequence[str] = ()
        names = {host, "localhost", socket.gethostname(), f"{socket.gethostname()}.local", *allowed_hosts}
        app = build_app(HubMirror(catalog).list_routes(), convert_error=_convert_error, render_error=render_error)
        app_of_names = _check_host(_route_quoted_path(app), {name.lower() for name in names})
        super().__init__(app_of_names, host, port, render_error, max_body_bytes=MAX_FORM_BYTES)

    def list_repos(self) -> Sequence[ServedRepo]:
        """Return the repos that are served now."""
        return self._catalog.list_repos()


def make_server(
    catalog: Catalog, host: str = "127.0.0.1", port: int = 0, *, allowed_hosts: Collection[str] = ()
) -> MirrorServer:
    """Return a server for the Hub's protocol: search, info, tree, paths-info, resolve with Range and ETag.

    Call `serve_forever()` on it; `server_address` has the port. A mirror has no accounts: it ignores tokens and
    rejects `whoami`.

    Args:
        catalog: The repos to serve.
        host: The address to listen on.
        port: The port; 0 chooses a free one.
        allowed_hosts: Names of this machine that clients may use, besides its addresses, host name and localhost.

    Raises:
        NotWritableError: The server can't listen on the address.
    """
    return MirrorServer(catalog, host, port, allowed_hosts=allowed_hosts)


def _check_host(app: ASGIApp, names: Collection[str]) -> ASGIApp:
    """Return an app that only accepts requests for IP addresses and known names.

    Otherwise a web page could read from the mirror after its own name was resolved to this machine's address (DNS
    rebinding). The header is replaced by its parsed value, from which links are built.
    """

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        headers = []
        for header, value in scope["headers"]:
            if header == b"host":
                name, port = parse_host(value)
                if name.rstrip(".") not in names and not _is_address(name):
                    hint = "Start the mirror with --allowed-host NAME to allow a name."
                    raise HttpResponseError(421, None, f"The Host header has a name that is not allowed. {hint}")
                shown = f"[{name}]" if ":" in name else name
                value = (shown if port is None else f"{shown}:{port}").encode()  # noqa: PLW2901
            headers.append((header, value))
        await app({**scope, "headers": headers}, receive, send)

    return check


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def _route_quoted_path(app: ASGIApp) -> ASGIApp:
    """Return an app whose routes match the quoted path, in which a slash inside a revision is `%2F`."""

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "path": scope["raw_path"].decode("ascii")}, receive, send)

    return route


class HubMirror:
    """The endpoints of a mirror. Starlette runs them in threads, because they read the catalog and the disk."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def list_routes(self) -> list[Route]:
        """Return the routes. The last one matches every other path, so that requests to write get status 405."""
        model = "/api/models/{owner}/{name}"
        return [
            Route("/", lambda _: PlainTextResponse(GREETING)),
            Route("/health", lambda _: PlainTextResponse("ok\n")),
            Route("/api/whoami-v2", self.reject_account),
            Route("/api/models", self.list_models),
            Route(model, self.show_model),
            Route(f"{model}/revision/{{revision}}", self.show_model),
            Route(f"{model}/refs", self.list_refs),
            Route(f"{model}/tree/{{revision}}", self.list_tree),
            Route(f"{model}/tree/{{revision}}/{{path:path}}", self.list_tree),
            Route(f"{model}/paths-info/{{revision}}", self.list_paths, methods=["POST"]),
            Route("/{owner}/{name}/resolve/{revision}/{path:path}", self.send_file),
            Route("/{owner}/{name}/raw/{revision}/{path:path}", self.send_file),
            Route("/{path:path}", self.reject_page),
        ]

    def reject_account(self, _: Request) -> Response:
        """Refuse to name the account of a token, because a mirror has no accounts."""
        raise HttpResponseError(401, None, "A mirror has no accounts and needs no token")

    def reject_page(self, _: Request) -> Response:
        """Refuse a request for a page that does not exist."""
        raise HttpResponseError(404, None, "Page not found")

    def list_models(self, request: Request) -> Response:
        """Return the repos that match a search."""
        query = _parse_query(request)
        size = min(_parse_number(query, "limit", hub_mirror_json.PAGE_SIZE), hub_mirror_json.PAGE_SIZE)
        found = hub_mirror_json.filter_repos(self._catalog.list_repos(), query)
        return _build_page_response(request, found, size, lambda page: hub_mirror_json.build_models(page, query))

    def show_model(self, request: Request) -> Response:
        """Return one repo."""
        return _build_json_response(
            request, hub_mirror_json.build_model(self._find_repo(request), _parse_query(request))
        )

    def list_refs(self, request: Request) -> Response:
        """Return the branches of a repo."""
        return _build_json_response(request, hub_mirror_json.build_refs(self._find_commits(request)))

    def list_tree(self, request: Request) -> Response:
        """Return the files and folders in a folder of a repo."""
        query, repo = _parse_query(request), self._find_repo(request)
        entries = hub_mirror_json.build_tree(repo, _get_parameter(request, "path"), query)
        if entries is None:
            raise make_entry_not_found_error(repo)
        size = (
            hub_mirror_json.EXPANDED_TREE_PAGE_SIZE
            if hub_mirror_json.is_true(query, "expand")
            else hub_mirror_json.TREE_PAGE_SIZE
        )
        return _build_page_response(request, entries, size, list)

    async def list_paths(self, request: Request) -> Response:
        """Return the entries at the given paths of a repo."""
        form = _parse_form(request, await read_body(request))
        repo = await run_in_threadpool(self._find_repo, request)
        expand = hub_mirror_json.is_true(form, "expand")
        return _build_json_response(
            request, hub_mirror_json.build_paths_info(repo, form.get("paths", ()), expand=expand)
        )

    def send_file(self, request: Request) -> Response:
        """Return a file, or the requested range of it."""
        repo = self._find_repo(request)
        file = find_file(repo, _get_parameter(request, "path"))
        headers = {
            **build_file_headers(repo, file),
            "ETag": f'"{file.etag}"',
            "X-Content-Type-Options": "nosniff",
        }
        if _is_cached_by_client(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        found = None
        with suppress(OSError):
            found = file.location.stat()
        if found is None or found.st_size != file.size:
            error = "The file is missing or was modified"
            raise HttpResponseError(404, "EntryNotFound", error, {"X-Repo-Commit": repo.commit})
        _drop_unusual_range(request)
        return _LargeFileResponse(
            file.location, headers=headers, media_type="application/octet-stream", stat_result=found
        )

    def _find_commits(self, request: Request) -> list[ServedRepo]:
        """Return the served commits of the repo in the path, newest first. Capitals don't matter, as on the Hub.

        Raises:
            HttpResponseError: No commit of the repo is served.
        """
        name = ""
        with suppress(BadRefError):
            name = str(RepoId(_get_parameter(request, "owner"), _get_parameter(request, "name"))).casefold()
        commits = [served for served in self._catalog.list_repos() if served.id.casefold() == name]
        if not commits:
            raise HttpResponseError(404, "RepoNotFound", "Repository not found")
        return commits

    def _find_repo(self, request: Request) -> ServedRepo:
        return select_commit(self._find_commits(request), _get_parameter(request, "revision"))


# The catalog. The stand-in Hub of the tests uses these functions too.


def select_commit(commits: Sequence[ServedRepo], revision: str) -> ServedRepo:
    """Return the commit of a repo that a revision names. Without a revision, it is main.

    Raises:
        HttpResponseError: The repo has no such revision.
    """
    if not revision:
        return next((repo for repo in commits if "main" in repo.revisions), commits[0])
    with suppress(BadRefError):
        parse_revision(revision)
        for repo in commits:
            if revision == repo.commit or (revision in repo.revisions and not is_commit(revision)):
                return repo
    raise HttpResponseError(404, "RevisionNotFound", f"Invalid rev id: {clean_text(revision, 80)}")


def find_file(repo: ServedRepo, path: str) -> ServedFile:
    """Return the file at a path.

    Raises:
        HttpResponseError: The repo has no such file.
    """
    file = None
    with suppress(BadRefError):
        file = repo.find_file(RepoFile(path).path)
    if file is None:
        raise make_entry_not_found_error(repo)
    return file


def make_entry_not_found_error(repo: ServedRepo) -> HttpResponseError:
    """Return the error for a file or folder that a repo does not have."""
    return HttpResponseError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})


def build_file_headers(repo: ServedRepo, file: ServedFile) -> dict[str, str]:
    """Return the headers that `resolve` sends with a file."""
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)} if file.sha256 else {}
    return {"X-Repo-Commit": repo.commit, **linked}


# Requests


def _get_parameter(request: Request, name: str) -> str:
    """Return a part of the path, unquoted. It is empty if the route does not have it.

    Raises:
        HttpResponseError: It is not valid UTF-8.
    """
    try:
        return unquote(request.path_params.get(name, ""), errors="strict")
    except UnicodeDecodeError:
        raise HttpResponseError(400, None, "The path is not valid UTF-8") from None


def _parse_query(request: Request) -> Query:
    try:
        return parse_qs(
            request.scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise HttpResponseError(400, None, "The query is malformed") from None


def _parse_number(query: Query, name: str, default: int) -> int:
    text = query.get(name, [str(default)])[0]
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise HttpResponseError(400, None, f"{name} must be a whole number")
    return int(text)


def _parse_form(request: Request, body: bytearray) -> Query:
    """Return the fields of a body, which is a form or a JSON object."""
    try:
        if not request.headers.get("content-type", "").startswith("application/json"):
            return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        values = json.loads(body)
        return {
            name: [str(one) for one in (value if isinstance(value, list) else [value])]
            for name, value in values.items()
        }
    except (ValueError, AttributeError, RecursionError):
        raise HttpResponseError(400, None, "The body is neither a form nor a JSON object") from None


def _is_cached_by_client(request: Request, etag: str) -> bool:
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    return "*" in known or etag in known or f"W/{etag}" in known


def _drop_unusual_range(request: Request) -> None:
    """Remove a Range header unless it is a single valid range in a GET, so that the whole file is sent.

    A server may ignore the header (RFC 9110, section 14.2). Starlette would send status 400 or several parts.
    """
    found = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    first, last = found.groups() if found else (None, None)
    if not found or (first and last and int(last) < int(first)) or request.method != "GET":
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]


# Responses


class _LargeFileResponse(FileResponse):
    chunk_size = 1 << 20  # each chunk costs a switch between threads


def _build_json_response(request: Request, value: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON with a weak ETag, or 304 if the client has this version already."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    etag = f'W/"{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"'
    every = {"ETag": etag, "Vary": "Authorization", **(headers or {})}
    if request.method != "POST" and _is_cached_by_client(request, etag):
        return Response(status_code=304, headers=every)
    return Response(body, headers=every, media_type="application/json; charset=utf-8")


def _build_page_response(
    request: Request, items: Sequence[T], size: int, to_rows: Callable[[Sequence[T]], list[dict[str, Any]]]
) -> Response:
    """Return one page of a list, with a Link header to the next page, as the Hub does."""
    query = _parse_query(request)
    start = _parse_number(query, "cursor", 0)
    headers = {}
    if size and start + size < len(items):
        page = str(request.url).partition("?")[0]  # the host has been checked
        headers["Link"] = f'<{page}?{urlencode({**query, "cursor": start + size}, doseq=True)}>; rel="next"'
    return _build_json_response(request, to_rows(items[start : start + size]), headers)


def render_error(error: HttpResponseError) -> Response:
    """Return an error in the Hub's format: X-Error-Code, X-Error-Message and a JSON body."""
    read_only = error.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    message = "This mirror is read-only" if read_only else clean_text(error.detail, 300)
    message = message.encode("ascii", "replace").decode()
    codes = {"X-Error-Code": error.code} if error.code else {}
    headers = {"X-Error-Message": message, **codes, **(error.headers or {})}
    return JSONResponse({"error": message}, error.status_code, headers)


def _convert_error(error: HfModelsError) -> HttpResponseError:
    if isinstance(error, BadInputError):
        return HttpResponseError(400, None, error.message)
    _log.error("The catalog could not be read", exc_info=error)
    return HttpResponseError(500, None, "The catalog could not be read")
