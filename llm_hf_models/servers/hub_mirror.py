"""The Hub's protocol over a catalogue, read-only: any Hub client pulls from it with HF_ENDPOINT. Knows no library.

Names in a request are parsed by refs and then looked up in the catalogue: nothing from outside becomes a path.
Protocol: what huggingface_hub sends and reads (hf_api.py, file_download.py, utils/_http.py).
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
from llm_hf_models.servers.catalog import Catalogue, ServedFile, ServedRepo
from llm_hf_models.servers.http_server import AnsweringHandler, MirrorServer, RefusedError, listening
from llm_hf_models.system.text import clean_text

GREETING = b"A read-only mirror in the Hugging Face Hub's protocol. Point HF_ENDPOINT here.\n"
NO_SUCH_PAGE = RefusedError(404, None, "This Hub has no such page")
_log = logging.getLogger(__name__)


class HubServer(MirrorServer):
    """A server with a catalogue to serve."""

    def __init__(self, address: tuple[str, int], handler: type[HubHandler], catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        super().__init__(address, handler)


def make_server(catalogue: Catalogue, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """A server that answers the Hub's protocol: search, info, tree, paths-info, resolve with Range and ETag.

    Call `serve_forever()` on it; `server_address` tells the port that was taken. A mirror has no accounts: it never
    looks at a token, and refuses `whoami`.

    Raises:
        NotWritableError: the address can't be listened on.
    """
    with listening(host, port):
        return HubServer((host, port), HubHandler, catalogue)


class HubHandler(AnsweringHandler):
    """One connection to a mirror. Another Hub may differ in `commits_of`, `listed`, `send_account`, `send_served`."""

    server: HubServer

    def respond(self) -> None:
        """Answers one request.

        Raises:
            RefusedError: the answer is a refusal.
        """
        try:
            parts = [unquote(part, errors="strict") for part in urlsplit(self.path).path.split("/")[1:]]
            self._route(parts)
        except BadInputError as error:
            raise RefusedError(400, None, error.message) from None
        except ValueError:
            raise RefusedError(400, None, "The request is malformed") from None
        except HfModelsError:
            _log.exception("the catalogue failed")
            raise RefusedError(500, None, "The catalogue could not be read") from None

    def _route(self, parts: list[str]) -> None:
        match (self.command, *parts):
            case ("POST", "api", "models", owner, name, "paths-info", revision):
                form = self.form()
                repo = self._repo(owner, name, revision)
                self.send_json(
                    hub_mirror_json.paths_info(
                        repo, form.get("paths", ()), expand=hub_mirror_json.is_true(form, "expand")
                    )
                )
            case ("POST", *_):
                self.close_connection = True  # its body stays unread
                raise RefusedError(405, None, "This Hub is read-only", {"Allow": "GET, HEAD"})
            case (_, "" | "health" as page):
                self.send_bytes(200, b"ok\n" if page else GREETING, {"Content-Type": "text/plain; charset=utf-8"})
            case (_, "api", "whoami-v2"):
                self.send_account()
            case (_, "api", "models"):
                size = min(self.number("limit", hub_mirror_json.PAGE), hub_mirror_json.PAGE)
                found = hub_mirror_json.search(self.listed(), self.query)
                self.send_page(found, size, lambda page: hub_mirror_json.models(page, self.query))
            case (_, "api", "models", owner, name, *what):
                self._send_about(owner, name, what)
            case (_, owner, name, "resolve" | "raw", revision, *path):
                repo = self._repo(owner, name, revision)
                self.send_served(repo, file_of(repo, "/".join(path)))
            case _:
                raise NO_SUCH_PAGE

    def _send_about(self, owner: str, name: str, what: list[str]) -> None:
        match what:
            case []:
                self.send_json(hub_mirror_json.model(self._repo(owner, name), self.query))
            case ["revision", revision]:
                self.send_json(hub_mirror_json.model(self._repo(owner, name, revision), self.query))
            case ["refs"]:
                self._repo(owner, name)
                self.send_json(hub_mirror_json.refs(self.commits_of(RepoId(owner, name))))
            case ["tree", revision, *folder]:
                self._send_tree(self._repo(owner, name, revision), "/".join(folder))
            case _:
                raise NO_SUCH_PAGE

    # What this client may know of

    def commits_of(self, repo: RepoId) -> list[ServedRepo]:
        """Every served commit of a repo, the newest first; empty where there is none for this client.

        Raises:
            RefusedError: this client is told why not.
        """
        return [served for served in self.server.catalogue.repos() if served.id == str(repo)]

    def listed(self) -> Sequence[ServedRepo]:
        """Every repo that a search by this client may find."""
        return self.server.catalogue.repos()

    def _repo(self, owner: str, name: str, revision: str | None = None) -> ServedRepo:
        commits: list[ServedRepo] = []
        with suppress(BadRefError):
            commits = self.commits_of(RepoId(owner, name))
        if not commits:
            raise self.repo_not_found()
        if revision is None:
            return next((repo for repo in commits if "main" in repo.revisions), commits[0])
        with suppress(BadRefError):
            parse_revision(revision)
            for repo in commits:
                if revision == repo.commit or (revision in repo.revisions and not is_commit(revision)):
                    return repo
        raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {clean_text(revision, 80)}")

    # Answers

    def repo_not_found(self) -> RefusedError:
        """The answer to an unknown repo, and to one that this client may not know of."""
        return RefusedError(404, "RepoNotFound", "Repository not found")

    def send_account(self) -> None:
        """Whose token it is.

        Raises:
            RefusedError: nobody's.
        """
        raise RefusedError(401, None, "A mirror has no accounts and needs no token")

    def _send_tree(self, repo: ServedRepo, folder: str) -> None:
        entries = hub_mirror_json.tree(repo, folder, self.query)
        if entries is None:
            raise _entry_not_found(repo)
        size = (
            hub_mirror_json.TREE_PAGE_EXPANDED
            if hub_mirror_json.is_true(self.query, "expand")
            else hub_mirror_json.TREE_PAGE
        )
        self.send_page(entries, size, list)

    def send_served(self, repo: ServedRepo, file: ServedFile) -> None:
        """One file of a repo."""
        self.send_file(file.location, file.size, file.etag, file_headers(repo, file))


def file_headers(repo: ServedRepo, file: ServedFile) -> dict[str, str]:
    """What `resolve` says of a file beside its bytes."""
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)} if file.sha256 else {}
    return {"X-Repo-Commit": repo.commit, **linked}


def file_of(repo: ServedRepo, path: str) -> ServedFile:
    """The file at that path.

    Raises:
        RefusedError: there is none.
    """
    file = None
    with suppress(BadRefError):
        file = repo.file(RepoFile(path).path)
    if file is None:
        raise _entry_not_found(repo)
    return file


def _entry_not_found(repo: ServedRepo) -> RefusedError:
    return RefusedError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})
