"""The application: one method per verb. CLI, MCP and Python call only this; the verbs stand in their modules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path

from llm_hf_models import account, downloads, engine, inspection, local, mirror, pull, search
from llm_hf_models.account import EngineView, SettingView, Status, TokenStatus
from llm_hf_models.catalogue import LibraryCatalogue
from llm_hf_models.context import Context, Freshness
from llm_hf_models.downloads import DownloadEvent, DownloadView
from llm_hf_models.errors import BadInputError, FileNotFoundInRepoError
from llm_hf_models.hub import SearchFilters
from llm_hf_models.inspection import CheckReport, Inspection
from llm_hf_models.records import DownloadNote
from llm_hf_models.local import Imported, LocalModelView, Removal, Verification
from llm_hf_models.pull import PullResult
from llm_hf_models.pull_plan import PlannedFile, PullOptions, PullPlan, plan_pull
from llm_hf_models.refs import ModelRef, RepoFile, RepoId, parse_alias
from llm_hf_models.search import ModelInfo, SearchPage, SearchResult, VariantInfo
from llm_hf_models.transfer import Event, Progress


def _quiet(event: Event) -> None:
    """Progress for whoever asks for none."""


class Library:
    """What is on this machine, and the Hub it comes from: every verb of the product, with typed results.

    Reads settings and the environment when a verb is called, keeps nothing open between verbs, and may be used from
    several threads. Every error is an `errors.HfModelsError`.

    Args:
        asked_by: who is told of in the record of downloads: `cli`, `mcp` or `python`.
        ask_passphrase: asks a person for the passphrase of the encrypted token file; None leaves that file alone.
    """

    def __init__(self, *, asked_by: str = "python", ask_passphrase: Callable[[], str] | None = None) -> None:
        self._context = Context(asked_by, ask_passphrase)

    # The Hub

    def search(
        self, query: str = "", filters: SearchFilters | None = None, *, fits: bool = False, refresh: bool = False
    ) -> SearchPage:
        """Models on the Hub.

        Args:
            query: words of the repo's name.
            filters: what to narrow by; GGUF repos, trending first, twenty of them by default.
            fits: only what fits this machine's memory.
            refresh: ask the Hub even where a fresh answer is kept.
        """
        return search.search(self._context, query, filters or SearchFilters(), fits=fits, refresh=refresh)

    def info(self, ref: str, *, revision: str | None = None, card: bool = False, refresh: bool = False) -> ModelInfo:
        """One repo in full: variants weighed against this machine, facts, licence, access, scans; its card if asked."""
        return search.info(self._context, ref, revision=revision, card=card, refresh=refresh)

    def inspect(
        self, name: str, *, metadata: bool = False, tensors: bool = False, template: bool = False
    ) -> Inspection:
        """The header of a GGUF: a file, a local model, or one that is still on the Hub (only its header is fetched)."""
        return inspection.inspect(self._context, name, metadata=metadata, tensors=tensors, template=template)

    def check(self, name: str) -> CheckReport:
        """What the validator says of a GGUF: a file, a local model, or the header of one that is still on the Hub."""
        return inspection.check(self._context, name)

    # Pulling

    def plan(self, ref: str, options: PullOptions | None = None) -> PullPlan:
        """What a pull of `ref` would do; a policy, a full disk and a bad header refuse here."""
        return plan_pull(self._context, ref, options or PullOptions())

    def pull(
        self,
        ref: str | PullPlan,
        options: PullOptions | None = None,
        *,
        progress: Progress = _quiet,
        stop: threading.Event | None = None,
    ) -> PullResult:
        """Fetches one variant, proves it and registers it. Continues what an earlier pull left.

        Args:
            ref: what to pull, or a plan that was shown before.
            options: how; not with a plan, which has its own.
            progress: called with events, from any thread.
            stop: when set, ends the pull with InterruptedByUserError and keeps what arrived.
        """
        if isinstance(ref, PullPlan) and options is not None:
            raise BadInputError("A plan has its options already")
        plan = ref if isinstance(ref, PullPlan) else self.plan(ref, options)
        return pull.pull(self._context, plan, progress=progress, stop=stop or threading.Event())

    def download_file(
        self,
        repo: str,
        file: str,
        path: Path | str | None = None,
        *,
        revision: str | None = None,
        progress: Progress = _quiet,
        stop: threading.Event | None = None,
    ) -> Path:
        """Fetches any one file of a repo, checked against its digest.

        Args:
            repo: `owner/name`.
            file: its path in the repo.
            path: a folder to put it in; None keeps it in the Hugging Face cache.
            revision: branch, tag or commit.
            progress: as in `pull`.
            stop: as in `pull`.

        Returns:
            Where the file is.
        """
        ref = ModelRef(RepoId.parse(repo), file=RepoFile(file))
        options = PullOptions(revision=revision, to=Path(path) if path else None, mmproj=False)
        plan = self.plan(str(ref), options)
        result = pull.pull(self._context, plan, progress=progress, stop=stop or threading.Event())
        for planned, location in zip(result.plan.files, result.files, strict=True):
            if planned.path == file:
                return Path(location)
        raise FileNotFoundInRepoError(f"{repo} has no file {file}")

    # Downloads

    def enqueue(
        self, ref: str | PullPlan, options: PullOptions | None = None, *, on_done: str | None = None
    ) -> DownloadView:
        """Pulls in the background: queues a plan, and sees to it that a worker carries it out.

        Args:
            ref: what to pull, or a plan that was shown before.
            options: how; not with a plan, which has its own.
            on_done: a command line to run when it is done, with LLM_HF_MODEL in its environment.
        """
        plan = ref if isinstance(ref, PullPlan) else self.plan(ref, options)
        return downloads.enqueue(self._context, plan, on_done=on_done)

    def downloads(self, *, every: bool = False, limit: int = 100) -> tuple[DownloadView, ...]:
        """Downloads, newest first: those that are not over; with `every`, the finished ones too."""
        return downloads.listing(self._context, every=every, limit=limit)

    def download(self, number: int) -> DownloadView:
        """One download by its id."""
        return downloads.get(self._context, number)

    def download_log(self, number: int) -> tuple[DownloadNote, ...]:
        """What happened to a download, oldest first."""
        return downloads.log(self._context, number)

    def pause(self, number: int) -> DownloadView:
        """Stops a download and keeps what arrived."""
        return downloads.pause(self._context, number)

    def resume(self, number: int) -> DownloadView:
        """Lets a paused download go on, in the background."""
        return downloads.resume(self._context, number)

    def cancel(self, number: int) -> DownloadView:
        """Ends a download for good."""
        return downloads.cancel(self._context, number)

    def retry(self, number: int) -> DownloadView:
        """Tries a failed or cancelled download again, in the background."""
        return downloads.retry(self._context, number)

    def to_background(self, number: int) -> DownloadView:
        """Hands a running foreground pull to the worker."""
        return downloads.to_background(self._context, number)

    def clear_downloads(self) -> int:
        """Removes the rows of downloads that are over. Returns how many."""
        return downloads.clear(self._context)

    def follow(self, number: int, *, stop: threading.Event | None = None) -> Iterator[DownloadEvent]:
        """Events of a download, whichever process carries it out, until it is over or paused."""
        return downloads.follow(self._context, number, stop=stop)

    # The library

    def list(self) -> tuple[LocalModelView, ...]:
        """What is on this machine, newest first."""
        with self._context.db() as db:
            return tuple(local.view(model) for model in db.models())

    def show(self, name: str) -> LocalModelView:
        """One local model, by id, alias or repo, with every fact that was established about it."""
        with self._context.db() as db:
            return local.view(db.find(name))

    def path(self, name: str) -> tuple[str, ...]:
        """Where a local model's files are: its shards in order, then its mmproj."""
        return tuple(file.location for file in self.show(name).files)

    def plan_removal(self, name: str) -> Removal:
        """What `remove` would remove and free."""
        return local.remove(self._context, name, dry_run=True)

    def remove(self, name: str) -> Removal:
        """Forgets a local model and frees what nothing else uses."""
        return local.remove(self._context, name, dry_run=False)

    def verify(self, name: str, *, progress: Progress = _quiet) -> Verification:
        """Re-hashes a local model's files against their recorded digests, and records the outcome."""
        return local.verify(self._context, name, progress)

    def add_alias(self, name: str, alias: str) -> LocalModelView:
        """Gives a local model one more name."""
        with self._context.db() as db:
            model = db.find(name)
            db.add_alias(parse_alias(alias), model.model_id)
            return local.view(db.model(model.model_id))

    def remove_alias(self, alias: str) -> None:
        """Takes a name away."""
        with self._context.db() as db:
            db.remove_alias(alias)

    def import_file(
        self,
        file: Path | str,
        *,
        repo: str | None = None,
        copy: bool = False,
        aliases: Sequence[str] = (),
        progress: Progress = _quiet,
    ) -> Imported:
        """Registers a GGUF that is on the disk already.

        Args:
            file: the file; any shard of a split model stands for all.
            repo: where it came from; its digest is checked against that repo when it can be reached.
            copy: keep a copy of our own instead of using it where it is.
            aliases: names for it.
            progress: told of hashing.
        """
        return local.import_file(self._context, Path(file), repo=repo, copy=copy, aliases=aliases, progress=progress)

    # Engines

    def engines(self) -> tuple[EngineView, ...]:
        """The llama.cpp processes that run now."""
        with self._context.db() as db:
            return tuple(account.engine_view(row) for row in engine.running(db))

    def stop_engines(self, name: str | None = None) -> int:
        """Ends the engines of one local model, or all. Returns how many there were."""
        with self._context.db() as db:
            if name is not None:
                return engine.stop_model(db, db.find(name).model_id)
            rows = engine.running(db)
            for row in rows:
                engine.stop(db, row)
            return len(rows)

    # The account and the machine

    def login(self, token: str, *, ask_passphrase: Callable[[], str]) -> TokenStatus:
        """Validates a token with the Hub, then keeps it in the keychain, or encrypted where there is none."""
        return account.login(self._context, token, ask_passphrase)

    def logout(self) -> tuple[str, ...]:
        """Removes the token that `login` kept. Returns where it was."""
        return account.logout()

    def whoami(self) -> TokenStatus:
        """Whose token is in force and where it came from; never the token."""
        return account.whoami(self._context)

    def status(self) -> Status:
        """Memory, disk, cache, engines, endpoint, token."""
        return account.status(self._context)

    def settings(self) -> tuple[SettingView, ...]:
        """Every setting with its value, default, source and what it does."""
        return account.setting_views()

    def set_setting(self, key: str, value: str | None) -> SettingView:
        """Stores one setting from a person's words; None goes back to the default."""
        return account.set_setting(key, value)

    # Serving

    def mirror(self, host: str = "127.0.0.1", port: int = 0, *, allow: Sequence[str] = ()) -> ThreadingHTTPServer:
        """A server of this library in the Hub's protocol, read-only; call `serve_forever()` on it.

        Args:
            host: the address to listen on.
            port: 0 takes a free one; `server_address` tells which.
            allow: gated and private repos to serve too; others of that kind are not shown.

        Raises:
            NotWritableError: the address can't be listened on.
        """
        catalogue = LibraryCatalogue(self._context, frozenset(RepoId.parse(name) for name in allow))
        return mirror.make_server(catalogue, host, port)


__all__ = [
    "CheckReport",
    "DownloadEvent",
    "DownloadNote",
    "DownloadView",
    "EngineView",
    "Event",
    "Freshness",
    "Imported",
    "Inspection",
    "Library",
    "LocalModelView",
    "ModelInfo",
    "PlannedFile",
    "Progress",
    "PullOptions",
    "PullPlan",
    "PullResult",
    "Removal",
    "SearchFilters",
    "SearchPage",
    "SearchResult",
    "SettingView",
    "Status",
    "TokenStatus",
    "VariantInfo",
    "Verification",
]  # fmt: skip
