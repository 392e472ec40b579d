"""Serve a catalog in the Hub's protocol, read-only. Any Hub client can pull from it with HF_ENDPOINT.

Names in a request are parsed by hub.refs and then looked up in the catalog. No part of a request becomes a path.
The protocol is that of huggingface_hub (hf_api.py, file_download.py, utils/_http.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from llm_hf_models.errors import BadInputError, BadRefError, HfModelsError
from llm_hf_models.hub.refs import RepoFile, RepoId, is_commit, parse_revision
from llm_hf_models.servers import hub_mirror_json
from llm_hf_models.servers.catalog import Catalog, ServedFile, ServedRepo
from llm_hf_models.servers.http_server import BaseHttpHandler, BaseHttpServer, HttpResponseError, translate_bind_errors
from llm_hf_models.system.text import clean_text

GREETING = b"A read-only mirror of the Hugging Face Hub. Set HF_ENDPOINT to this address.\n"
PAGE_NOT_FOUND = HttpResponseError(404, None, "Page not found")
_log = logging.getLogger(__name__)


class HubMirrorServer(BaseHttpServer):
    """An HTTP server that serves a catalog."""

    def __init__(self, address: tuple[str, int], handler: type[HubMirrorHandler], catalog: Catalog) -> None:
        self.catalog = catalog
        super().__init__(address, handler)


def make_server(catalog: Catalog, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """Return a server for the Hub's protocol: search, info, tree, paths-info, resolve with Range and ETag.

    Call `serve_forever()` on it; `server_address` has the port. A mirror has no accounts: it ignores tokens and
    rejects `whoami`.

    Raises:
        NotWritableError: The server can't listen on the address.
    """
    with translate_bind_errors(host, port):
        return HubMirrorServer((host, port), HubMirrorHandler, catalog)


class HubMirrorHandler(BaseHttpHandler):
    """The handler of one connection to a mirror.

    A subclass can override `find_commits`, `list_repos`, `send_account` and `send_repo_file`.
    """

    server: HubMirrorServer

    def respond(self) -> None:
        """Respond to one request.

        Raises:
            HttpResponseError: The request gets an error response.
        """
        try:
            parts = [unquote(part, errors="strict") for part in urlsplit(self.path).path.split("/")[1:]]
            self._dispatch(parts)
        except BadInputError as error:
            raise HttpResponseError(400, None, error.message) from None
        except ValueError:
            raise HttpResponseError(400, None, "The request is malformed") from None
        except HfModelsError:
            _log.exception("The catalog could not be read")
            raise HttpResponseError(500, None, "The catalog could not be read") from None

    def _dispatch(self, parts: list[str]) -> None:
        match (self.command, *parts):
            case ("POST", "api", "models", owner, name, "paths-info", revision):
                form = self.read_form()
                repo = self._find_repo(owner, name, revision)
                self.send_json(
                    hub_mirror_json.build_paths_info(
                        repo, form.get("paths", ()), expand=hub_mirror_json.is_true(form, "expand")
                    )
                )
            case ("POST", *_):
                self.close_connection = True  # its body is not read
                raise HttpResponseError(405, None, "This mirror is read-only", {"Allow": "GET, HEAD"})
            case (_, "" | "health" as page):
                self.send_bytes(200, b"ok\n" if page else GREETING, {"Content-Type": "text/plain; charset=utf-8"})
            case (_, "api", "whoami-v2"):
                self.send_account()
            case (_, "api", "models"):
                size = min(self.parse_query_number("limit", hub_mirror_json.PAGE_SIZE), hub_mirror_json.PAGE_SIZE)
                found = hub_mirror_json.filter_repos(self.list_repos(), self.query)
                self.send_page(found, size, lambda page: hub_mirror_json.build_models(page, self.query))
            case (_, "api", "models", owner, name, *route):
                self._send_repo_details(owner, name, route)
            case (_, owner, name, "resolve" | "raw", revision, *path):
                repo = self._find_repo(owner, name, revision)
                self.send_repo_file(repo, find_file(repo, "/".join(path)))
            case _:
                raise PAGE_NOT_FOUND

    def _send_repo_details(self, owner: str, name: str, route: list[str]) -> None:
        match route:
            case []:
                self.send_json(hub_mirror_json.build_model(self._find_repo(owner, name), self.query))
            case ["revision", revision]:
                self.send_json(hub_mirror_json.build_model(self._find_repo(owner, name, revision), self.query))
            case ["refs"]:
                self._find_repo(owner, name)
                self.send_json(hub_mirror_json.build_refs(self.find_commits(RepoId(owner, name))))
            case ["tree", revision, *folder]:
                self._send_tree(self._find_repo(owner, name, revision), "/".join(folder))
            case _:
                raise PAGE_NOT_FOUND

    # Repos that this client may access

    def find_commits(self, repo: RepoId) -> list[ServedRepo]:
        """Return the served commits of a repo, newest first; none if this client may not know of the repo.

        Raises:
            HttpResponseError: This client may know of the repo but not read it.
        """
        return [served for served in self.server.catalog.list_repos() if served.id == str(repo)]

    def list_repos(self) -> Sequence[ServedRepo]:
        """Return the repos that a search by this client may find."""
        return self.server.catalog.list_repos()

    def _find_repo(self, owner: str, name: str, revision: str | None = None) -> ServedRepo:
        commits: list[ServedRepo] = []
        with suppress(BadRefError):
            commits = self.find_commits(RepoId(owner, name))
        if not commits:
            raise self.make_repo_not_found_error()
        if revision is None:
            return next((repo for repo in commits if "main" in repo.revisions), commits[0])
        with suppress(BadRefError):
            parse_revision(revision)
            for repo in commits:
                if revision == repo.commit or (revision in repo.revisions and not is_commit(revision)):
                    return repo
        raise HttpResponseError(404, "RevisionNotFound", f"Invalid rev id: {clean_text(revision, 80)}")

    # Responses

    def make_repo_not_found_error(self) -> HttpResponseError:
        """Return the error for a repo that does not exist, or that this client may not know of."""
        return HttpResponseError(404, "RepoNotFound", "Repository not found")

    def send_account(self) -> None:
        """Send the account that the token belongs to.

        Raises:
            HttpResponseError: Always, because a mirror has no accounts.
        """
        raise HttpResponseError(401, None, "A mirror has no accounts and needs no token")

    def _send_tree(self, repo: ServedRepo, folder: str) -> None:
        entries = hub_mirror_json.build_tree(repo, folder, self.query)
        if entries is None:
            raise _make_entry_not_found_error(repo)
        size = (
            hub_mirror_json.EXPANDED_TREE_PAGE_SIZE
            if hub_mirror_json.is_true(self.query, "expand")
            else hub_mirror_json.TREE_PAGE_SIZE
        )
        self.send_page(entries, size, list)

    def send_repo_file(self, repo: ServedRepo, file: ServedFile) -> None:
        """Send one file of a repo."""
        self.send_file(file.location, file.size, file.etag, build_file_headers(repo, file))


def build_file_headers(repo: ServedRepo, file: ServedFile) -> dict[str, str]:
    """Return the headers that `resolve` sends with a file."""
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)} if file.sha256 else {}
    return {"X-Repo-Commit": repo.commit, **linked}


def find_file(repo: ServedRepo, path: str) -> ServedFile:
    """Return the file at a path.

    Raises:
        HttpResponseError: The repo has no such file.
    """
    file = None
    with suppress(BadRefError):
        file = repo.find_file(RepoFile(path).path)
    if file is None:
        raise _make_entry_not_found_error(repo)
    return file


def _make_entry_not_found_error(repo: ServedRepo) -> HttpResponseError:
    return HttpResponseError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})
