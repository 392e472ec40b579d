"""The Hub's protocol for a stand-in Hub on http.server, whose subclasses delay, damage and cut responses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from llm_hf_models.errors import BadInputError, BadRefError
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.servers import hub_mirror, hub_mirror_json
from llm_hf_models.servers.catalog import ServedFile, ServedRepo
from llm_hf_models.servers.http_errors import HttpResponseError
from tests.support.http_handler import BaseHttpHandler

PAGE_NOT_FOUND = HttpResponseError(404, None, "Page not found")


class HubHandler(BaseHttpHandler):
    """The handler of one connection. A subclass defines which repos a client sees, and sends accounts and files."""

    def find_commits(self, repo: RepoId) -> list[ServedRepo]:
        """Return the commits of a repo, newest first; none if this client may not know of the repo."""
        raise NotImplementedError

    def list_repos(self) -> Sequence[ServedRepo]:
        """Return the repos that a search by this client may find."""
        raise NotImplementedError

    def send_account(self) -> None:
        """Send the account that the token belongs to."""
        raise NotImplementedError

    def send_collection(self, slug: str) -> None:
        """Send one collection with its items."""
        raise NotImplementedError

    def send_repo_file(self, repo: ServedRepo, file: ServedFile) -> None:
        """Send one file of a repo."""
        raise NotImplementedError

    def respond(self) -> None:
        try:
            parts = [unquote(part, errors="strict") for part in urlsplit(self.path).path.split("/")[1:]]
            self.dispatch(parts)
        except BadInputError as error:
            raise HttpResponseError(400, None, error.message) from None
        except ValueError:
            raise HttpResponseError(400, None, "The request is malformed") from None

    def dispatch(self, parts: list[str]) -> None:
        match (self.command, *parts):
            case ("POST", "api", "models", owner, name, "paths-info", revision):
                form, repo = self.read_form(), self.find_repo(owner, name, revision)
                expand = hub_mirror_json.is_true(form, "expand")
                self.send_json(hub_mirror_json.build_paths_info(repo, form.get("paths", ()), expand=expand))
            case ("POST", *_):
                self.close_connection = True  # its body is not read
                raise HttpResponseError(405, None, "This Hub is read-only", {"Allow": "GET, HEAD"})
            case (_, "api", "whoami-v2"):
                self.send_account()
            case (_, "api", "models"):
                size = min(self.parse_query_number("limit", hub_mirror_json.PAGE_SIZE), hub_mirror_json.PAGE_SIZE)
                found = hub_mirror_json.filter_repos(self.list_repos(), self.query)
                self.send_page(found, size, lambda page: hub_mirror_json.build_models(page, self.query))
            case (_, "api", "collections", owner, name):
                self.send_collection(f"{owner}/{name}")
            case (_, "api", "models", owner, name, *route):
                self._send_repo_details(owner, name, route)
            case (_, owner, name, "resolve" | "raw", revision, *path):
                repo = self.find_repo(owner, name, revision)
                self.send_repo_file(repo, hub_mirror.find_file(repo, "/".join(path)))
            case _:
                raise PAGE_NOT_FOUND

    def _send_repo_details(self, owner: str, name: str, route: list[str]) -> None:
        match route:
            case []:
                self.send_json(hub_mirror_json.build_model(self.find_repo(owner, name), self.query))
            case ["revision", revision]:
                self.send_json(hub_mirror_json.build_model(self.find_repo(owner, name, revision), self.query))
            case ["refs"]:
                self.find_repo(owner, name)
                self.send_json(hub_mirror_json.build_refs(self.find_commits(RepoId(owner, name))))
            case ["tree", revision, *folder]:
                self._send_tree(self.find_repo(owner, name, revision), "/".join(folder))
            case _:
                raise PAGE_NOT_FOUND

    def _send_tree(self, repo: ServedRepo, folder: str) -> None:
        entries = hub_mirror_json.build_tree(repo, folder, self.query)
        if entries is None:
            raise hub_mirror.make_entry_not_found_error(repo)
        expand = hub_mirror_json.is_true(self.query, "expand")
        size = hub_mirror_json.EXPANDED_TREE_PAGE_SIZE if expand else hub_mirror_json.TREE_PAGE_SIZE
        self.send_page(entries, size, list)

    def find_repo(self, owner: str, name: str, revision: str = "") -> ServedRepo:
        commits: list[ServedRepo] = []
        with suppress(BadRefError):
            commits = self.find_commits(RepoId(owner, name))
        if not commits:
            raise self.make_repo_not_found_error()
        return hub_mirror.select_commit(commits, revision)

    def make_repo_not_found_error(self) -> HttpResponseError:
        return HttpResponseError(404, "RepoNotFound", "Repository not found")
