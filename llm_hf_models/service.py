"""The application: one method per verb. CLI, MCP and Python call only this; the verbs stand in their modules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, FileNotFoundInRepoError, PolicyError

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

    from llm_hf_models.downloads.types import DownloadEvent, DownloadView, PullOptions, PullPlan, PullResult
    from llm_hf_models.hub.types import SearchFilters
    from llm_hf_models.library.download_records import DownloadNote
    from llm_hf_models.models.types import (
        CheckReport,
        ImportResult,
        Inspection,
        LoadTestReport,
        LocalModelView,
        ModelInfo,
        PromptResult,
        Removal,
        SearchPage,
        Verification,
    )
    from llm_hf_models.servers.openai_relay import RelayServer
    from llm_hf_models.transfer.types import Event, Progress
    from llm_hf_models.types import Cleanup, ConsentRequest, EngineView, SettingView, Status, TokenStatus


def _ignore_event(event: Event) -> None:
    """Progress for whoever asks for none."""


def _ignore_notice(notice: str) -> None:
    """Notices for whoever asks for none."""


class Library:
    """What is on this machine, and the Hub it comes from: every verb of the product, with typed results.

    Reads settings and the environment when a verb is called, keeps nothing open between verbs, and may be used from
    several threads. Every error is an `errors.HfModelsError`.

    Args:
        requested_by: who is told of in the record of downloads: `cli`, `mcp` or `python`.
        ask_passphrase: asks a person for the passphrase of the encrypted token file, and gives None where nobody is
            there; None in its place leaves that file alone.
        agent: which agent uses it, if one does: then the `agent_…` settings hold, and what it changes is noted.
        notify: tells a person why a question to the Hub waits (HTTP 429); None does not wait.
        list_taken_names: names of other plugins' models in llm, by a kind of model; None asks llm in a process of its
        own.
        during_request: stands around each question to the Hub's API, given the Hub's host.
    """

    def __init__(
        self,
        *,
        requested_by: str = "python",
        ask_passphrase: Callable[[], str | None] | None = None,
        agent: str | None = None,
        notify: Callable[[str], None] | None = None,
        list_taken_names: Callable[[str], Mapping[str, str]] | None = None,
        during_request: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._context = Context(
            requested_by, ask_passphrase, agent, notify, during_request, list_taken_names=list_taken_names
        )

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
        from llm_hf_models.hub import types as hub_types
        from llm_hf_models.models import search

        return search.search(self._context, query, filters or hub_types.SearchFilters(), fits=fits, refresh=refresh)

    def info(self, ref: str, *, revision: str | None = None, card: bool = False, refresh: bool = False) -> ModelInfo:
        """One repo in full: variants weighed against this machine, facts, licence, access, scans; its card if asked."""
        from llm_hf_models.models import repo_info

        return repo_info.fetch_model_info(self._context, ref, revision=revision, card=card, refresh=refresh)

    def inspect(
        self, name: str, *, metadata: bool = False, tensors: bool = False, template: bool = False
    ) -> Inspection:
        """The header of a GGUF: a file, a local model, or one that is still on the Hub (only its header is fetched)."""
        from llm_hf_models.models import inspect as models_inspect

        return models_inspect.inspect(self._context, name, metadata=metadata, tensors=tensors, template=template)

    def check(self, name: str) -> CheckReport:
        """What the validator says of a GGUF: a file, a local model, or the header of one that is still on the Hub."""
        from llm_hf_models.models import inspect as models_inspect

        return models_inspect.check(self._context, name)

    def test(self, name: str) -> LoadTestReport:
        """Loads a local model or a GGUF file in a sandboxed child, has it say a few words, and records the outcome."""
        from llm_hf_models.models import load_test

        with self._enforce_policy("test", name):
            return load_test.run_load_test(self._context, name)

    # Pulling

    def plan(self, ref: str, options: PullOptions | None = None) -> PullPlan:
        """What a pull of `ref` would do; a policy, a full disk and a bad header refuse here."""
        from llm_hf_models.downloads import plan as downloads_plan
        from llm_hf_models.downloads import types as downloads_types

        return downloads_plan.plan_pull(self._context, ref, options or downloads_types.PullOptions())

    def pull(
        self,
        ref: str | PullPlan,
        options: PullOptions | None = None,
        *,
        progress: Progress = _ignore_event,
        stop: threading.Event | None = None,
        agreed: Collection[str] = (),
    ) -> PullResult:
        """Fetches one variant, proves it and registers it. Continues what an earlier pull left.

        Args:
            ref: what to pull, or a plan that was shown before.
            options: how; not with a plan, which has its own.
            progress: called with events, from any thread.
            stop: when set, ends the pull with InterruptedByUserError and keeps what arrived.
            agreed: of an agent: the actions that a person agreed to (see `questions`).
        """
        from llm_hf_models.downloads import pull
        from llm_hf_models.downloads import types as downloads_types

        if isinstance(ref, downloads_types.PullPlan) and options is not None:
            raise BadInputError("A plan has its options already")
        with self.attempt("pull", ref if isinstance(ref, str) else ref.ref):
            plan = self.plan(ref, options) if isinstance(ref, str) else ref
        with self._enforce_policy("pull", plan.ref, plan, agreed):
            return pull.pull(self._context, plan, progress=progress, stop=stop or threading.Event())

    def download_file(
        self,
        repo: str,
        file: str,
        path: Path | str | None = None,
        *,
        revision: str | None = None,
        progress: Progress = _ignore_event,
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
        from llm_hf_models.downloads import pull
        from llm_hf_models.downloads import types as downloads_types
        from llm_hf_models.hub import refs

        ref = refs.ModelRef(refs.RepoId.parse(repo), file=refs.RepoFile(file))
        options = downloads_types.PullOptions(revision=revision, to=Path(path) if path else None, file_only=True)
        plan = self.plan(str(ref), options)
        with self._enforce_policy("fetch", plan.ref, plan):
            result = pull.pull(self._context, plan, progress=progress, stop=stop or threading.Event())
        for planned, location in zip(result.plan.files, result.files, strict=True):
            if planned.path == file:
                return Path(location)
        raise FileNotFoundInRepoError(f"{repo} has no file {file}")

    # Downloads

    def enqueue(
        self,
        ref: str | PullPlan,
        options: PullOptions | None = None,
        *,
        on_done: str | None = None,
        agreed: Collection[str] = (),
    ) -> DownloadView:
        """Pulls in the background: queues a plan, and sees to it that a worker carries it out.

        Args:
            ref: what to pull, or a plan that was shown before.
            options: how; not with a plan, which has its own.
            on_done: a command line to run when it is done, with LLM_HF_MODEL in its environment; not for agents.
            agreed: as in `pull`.
        """
        from llm_hf_models.downloads import queue as downloads_queue

        with self.attempt("download", ref if isinstance(ref, str) else ref.ref):
            plan = self.plan(ref, options) if isinstance(ref, str) else ref
            if on_done and self._context.agent is not None:
                raise PolicyError("An agent can't have a command run")
        with self._enforce_policy("download", plan.ref, plan, agreed):
            return downloads_queue.enqueue(self._context, plan, on_done=on_done)

    def downloads(self, *, include_finished: bool = False, limit: int = 100) -> tuple[DownloadView, ...]:
        """Downloads, newest first, `limit` at most (-1: all): those not over; with `include_finished`, the finished
        ones too.
        """
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.list_downloads(self._context, include_finished=include_finished, limit=limit)

    def get_download(self, number: int) -> DownloadView:
        """One download by its id."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.get_download(self._context, number)

    def get_download_log(self, number: int) -> tuple[DownloadNote, ...]:
        """What happened to a download, oldest first."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.read_log(self._context, number)

    def pause(self, number: int) -> DownloadView:
        """Stops a download and keeps what arrived."""
        from llm_hf_models.downloads import queue as downloads_queue

        with self._enforce_policy("pause", number):
            return downloads_queue.pause(self._context, number)

    def resume(self, number: int) -> DownloadView:
        """Lets a paused download go on, in the background."""
        from llm_hf_models.downloads import queue as downloads_queue

        with self._enforce_policy("resume", number):
            return downloads_queue.resume(self._context, number)

    def cancel(self, number: int) -> DownloadView:
        """Ends a download for good."""
        from llm_hf_models.downloads import queue as downloads_queue

        with self._enforce_policy("cancel", number):
            return downloads_queue.cancel(self._context, number)

    def retry(self, number: int) -> DownloadView:
        """Tries a failed or cancelled download again, in the background."""
        from llm_hf_models.downloads import queue as downloads_queue

        with self._enforce_policy("retry", number):
            return downloads_queue.retry(self._context, number)

    def send_to_background(self, number: int) -> DownloadView:
        """Hands a running foreground pull to the worker."""
        from llm_hf_models.downloads import queue as downloads_queue

        with self._enforce_policy("to_background", number):
            return downloads_queue.send_to_background(self._context, number)

    def continue_in_background(self, plan: PullPlan) -> None:
        """Makes a pull that runs one of the background: it goes on when its process ends. `enqueue` brings a worker."""
        from llm_hf_models.downloads import queue as downloads_queue

        with self._enforce_policy("to_background", plan.ref):
            downloads_queue.continue_in_background(self._context, plan)

    def clear_downloads(self) -> int:
        """Removes the rows of downloads that are over. Returns how many."""
        from llm_hf_models.downloads import queue as downloads_queue

        with self._enforce_policy("clear downloads", ""):
            return downloads_queue.clear(self._context)

    def follow(self, number: int, *, stop: threading.Event | None = None) -> Iterator[DownloadEvent]:
        """Events of a download, whichever process carries it out, until it is over or paused."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.follow(self._context, number, stop=stop)

    # The library

    def list(self, *, health: bool = False) -> tuple[LocalModelView, ...]:
        """What is on this machine, newest first; with `health`, those served elsewhere are asked if they answer."""
        from llm_hf_models.models import local_models

        with self._context.open_library() as db:
            models = db.list_models()
        found = {}
        if health and (asked := [model for model in models if model.endpoint]):
            from llm_hf_models.models import remote_endpoints  # late: other lists need no engine and no network

            found = remote_endpoints.check_health(asked)
        return tuple(local_models.make_view(model, found.get(model.model_id)) for model in models)

    def show(self, name: str) -> LocalModelView:
        """One local model, by id, alias or repo, with every fact that was established about it."""
        from llm_hf_models.models import local_models

        with self._context.open_library() as db:
            return local_models.make_full_view(db.find_model(name))

    def path(self, name: str) -> tuple[str, ...]:
        """Where a local model's files are: its shards in order, then its mmproj."""
        with self._context.open_library() as db:
            model = db.find_model(name)
        model.refuse_if_remote()
        return tuple(file.location for file in model.files)

    def plan_removal(self, name: str) -> Removal:
        """What `remove` would remove and free."""
        from llm_hf_models.models import local_files

        return local_files.remove(self._context, name, dry_run=True)

    def remove(self, name: str, *, agreed: Collection[str] = ()) -> Removal:
        """Forgets a local model and frees what nothing else uses; `agreed` as in `pull`."""
        from llm_hf_models.models import local_files

        with self.attempt("delete", name):
            plan = self.plan_removal(name)
        with self._enforce_policy("delete", plan.model_id, plan, agreed):
            return local_files.remove(self._context, plan.model_id, dry_run=False)

    def verify(self, name: str, *, progress: Progress = _ignore_event) -> Verification:
        """Re-hashes a local model's files against their recorded digests, and records the outcome."""
        from llm_hf_models.models import local_files

        with self._enforce_policy("verify", name):
            return local_files.verify(self._context, name, progress)

    def add_alias(self, name: str, alias: str) -> LocalModelView:
        """Gives a local model one more name."""
        from llm_hf_models.hub import refs
        from llm_hf_models.models import local_models
        from llm_hf_models.models import names as models_names

        with self._enforce_policy("alias", f"{name} {alias}"), self._context.open_library() as db:
            model = db.find_model(name)
            models_names.refuse_taken_names(self._context, [refs.parse_alias(alias)], model.facts.kind)
            db.add_alias(alias, model.model_id)
            return local_models.make_view(db.get_model(model.model_id))

    def remove_alias(self, alias: str) -> None:
        """Takes a name away."""
        with self._enforce_policy("remove alias", alias), self._context.open_library() as db:
            db.remove_alias(alias)

    def import_file(
        self,
        file: Path | str,
        *,
        repo: str | None = None,
        copy: bool = False,
        mmproj: Path | str | None = None,
        with_mmproj: bool = True,
        aliases: Sequence[str] = (),
        progress: Progress = _ignore_event,
    ) -> ImportResult:
        """Registers a GGUF that is on the disk already; a generation_config.json that lies beside it counts.

        Args:
            file: the file; any shard of a split model stands for all.
            repo: where it came from; its digest is checked against that repo when it can be reached.
            copy: keep a copy of our own instead of using it where it is.
            mmproj: its projector; where none is named, one that lies beside it and can be no other model's.
            with_mmproj: False takes none.
            aliases: names for it.
            progress: told of hashing.
        """
        from llm_hf_models.models import import_file as models_import_file

        with self._enforce_policy("import", file):
            return models_import_file.import_file(
                self._context,
                Path(file),
                repo=repo,
                copy=copy,
                mmproj=Path(mmproj) if mmproj is not None else None,
                with_mmproj=with_mmproj,
                aliases=aliases,
                progress=progress,
            )

    def prompt(
        self,
        name: str,
        text: str,
        *,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        stop: threading.Event | None = None,
        agreed: Collection[str] = (),
    ) -> PromptResult:
        """One short prompt to a local model, answered in one piece.

        Args:
            name: its id, an alias or its repo.
            text: what it is asked.
            system: a system prompt instead of the model's own.
            options: as `llm -o` takes them: max_tokens, temperature, seed …
            stop: ends it with InterruptedByUserError when set.
            agreed: as in `pull`.
        """
        from llm_hf_models import policy
        from llm_hf_models.models import prompt as models_prompt

        given = dict(options or {})
        with self.attempt("prompt", name):
            model = self.show(name)
            limit = policy.limit_prompt_tokens(self._context, given.get("max_tokens"))
        given = given if limit is None else {**given, "max_tokens": limit}
        with self._enforce_policy("prompt", model.model_id, model, agreed):
            return models_prompt.prompt(
                self._context, model.model_id, text, system=system, options=given, stop=stop or threading.Event()
            )

    # Agents

    def questions(self, subject: PullPlan | Removal | LocalModelView) -> tuple[ConsentRequest, ...]:
        """What a person should agree to before an agent carries this out; its action is what `agreed` takes."""
        from llm_hf_models import policy

        return policy.list_consent_requests(self._context, subject)

    def attempt(self, what: str, about: object) -> AbstractContextManager[None]:
        """Around what an agent does on the way to a change (a plan, a question): what refuses it there is noted."""
        from llm_hf_models import policy

        return nullcontext() if self._context.agent is None else policy.log_failed_attempt(self._context, what, about)

    def is_read_only_for_agents(self) -> bool:
        """Whether agents may change nothing."""
        from llm_hf_models import policy

        return policy.is_read_only(self._context)

    def can_agents_delete(self) -> bool:
        """Whether agents may delete models."""
        from llm_hf_models import policy

        return policy.can_delete(self._context)

    def _enforce_policy(
        self,
        what: str,
        about: object,
        subject: PullPlan | Removal | LocalModelView | None = None,
        agreed: Collection[str] = (),
    ) -> AbstractContextManager[None]:
        """Around whatever changes something: an agent is held to its policy, people have none."""
        from llm_hf_models import policy

        if self._context.agent is None:
            return nullcontext()
        return policy.guard_change(self._context, what, about, subject, agreed)

    # Cleaning up

    def plan_gc(self) -> Cleanup:
        """What `gc` would remove now: leftovers of downloads, old rows and answers. Never a model."""
        from llm_hf_models import cleanup

        return cleanup.plan_cleanup(self._context)

    def gc(self) -> Cleanup:
        """Removes what is dead; what has come alive since a plan was shown stays."""
        from llm_hf_models import cleanup

        with self._enforce_policy("gc", ""):
            return cleanup.clean_up(self._context)

    # How models run

    def set_options(self, name: str, values: Mapping[str, Any], unset: Collection[str] = ()) -> LocalModelView:
        """Keeps options for a model: they hold where a prompt doesn't give its own.

        Args:
            name: which model.
            values: by name, typed or as text: temperature, context, system …; `template` is the template itself.
            unset: options to go back on.
        """
        from llm_hf_models.models import default_options, local_models

        with self._enforce_policy("set options", name):
            return local_models.make_full_view(default_options.set_options(self._context, name, values, unset))

    def attach(
        self,
        name: str,
        endpoint: str,
        *,
        key_env: str | None = None,
        key_name: str | None = None,
        model: str | None = None,
        kind: Literal["chat", "embedding"] = "chat",
        modalities: Collection[str] = (),
    ) -> LocalModelView:
        """Registers a model that is served elsewhere in OpenAI's protocol.

        Args:
            name: what to call it here.
            endpoint: the server's address, with or without /v1.
            key_env: the environment variable that holds the key; the key itself is never kept.
            key_name: or its name among llm's own keys (`llm keys set NAME`).
            model: what the server calls it; None asks a server that has a single one.
            kind: what it is for.
            modalities: what it takes beside text (image, audio), where the server doesn't say it by itself.
        """
        from llm_hf_models.models import local_models, remote_endpoints

        with self._enforce_policy("attach", name):
            found = remote_endpoints.attach(
                self._context,
                name,
                endpoint,
                key_env=key_env,
                key_name=key_name,
                model=model,
                kind=kind,
                modalities=modalities,
            )
        return local_models.make_full_view(found, remote_endpoints.check_health([found])[found.model_id])

    # Engines

    def list_engines(self) -> tuple[EngineView, ...]:
        """The llama.cpp processes that run now."""
        from llm_hf_models import status as status_module
        from llm_hf_models.inference import running_engines

        with self._context.open_library() as db:
            return tuple(status_module.make_engine_view(row) for row in running_engines.list_running_engines(db))

    def stop_engines(self, name: str | None = None) -> int:
        """Ends the engines of one local model, or all. Returns how many there were."""
        from llm_hf_models.inference import running_engines

        with self._enforce_policy("stop engines", name or "all"), self._context.open_library() as db:
            if name is not None:
                return running_engines.stop_model(db, db.find_model(name).model_id)
            rows = running_engines.list_running_engines(db)
            for row in rows:
                running_engines.stop_engine(db, row)
            return len(rows)

    # The account and the machine

    def login(self, token: str, *, ask_passphrase: Callable[[], str]) -> TokenStatus:
        """Validates a token with the Hub, then keeps it in the keychain, or encrypted where there is none."""
        from llm_hf_models import account

        with self._enforce_policy("login", ""):
            return account.login(self._context, token, ask_passphrase)

    def logout(self) -> tuple[str, ...]:
        """Removes the token that `login` kept. Returns where it was."""
        from llm_hf_models import account

        with self._enforce_policy("logout", ""):
            return account.logout()

    def whoami(self) -> TokenStatus:
        """Whose token is in force and where it came from; never the token."""
        from llm_hf_models import account

        return account.whoami(self._context)

    def status(self) -> Status:
        """Memory, disk, cache, engines, endpoint, token."""
        from llm_hf_models import status as status_module

        return status_module.collect_status(self._context)

    def settings(self) -> tuple[SettingView, ...]:
        """Every setting with its value, default, source and what it does."""
        from llm_hf_models import status as status_module

        return status_module.list_settings()

    def get_setting(self, key: str) -> SettingView:
        """One of them."""
        from llm_hf_models import status as status_module

        return status_module.get_setting(key)

    def set_setting(self, key: str, value: str | None) -> SettingView:
        """Stores one setting from a person's words; None goes back to the default."""
        from llm_hf_models import status as status_module

        with self._enforce_policy("set", key):
            return status_module.set_setting(key, value)

    @staticmethod
    def check_setting(key: str, value: str) -> None:
        """Refuses a value that a setting does not take; stores nothing."""
        from llm_hf_models import settings

        settings.parse_value(key, value)

    # Serving

    def serve(
        self,
        names: Sequence[str],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        key: str | None = None,
        notify: Callable[[str], None] = _ignore_notice,
    ) -> RelayServer:
        """A server of some models in OpenAI's protocol; call `serve_forever()` on it.

        Args:
            names: which models.
            host: the address to listen on.
            port: 0 takes a free one; `server_address` tells which.
            key: what clients must know; None makes one: `key` tells it.
            notify: told what a person should know: an engine that was evicted, a smaller context.

        Raises:
            NotWritableError: the address can't be listened on.
        """
        from llm_hf_models.servers import openai_relay

        return openai_relay.make_server(self._context, names, host, port, key=key, notice=notify)

    def mirror(self, host: str = "127.0.0.1", port: int = 0, *, allow: Sequence[str] = ()) -> ThreadingHTTPServer:
        """A server of this library in the Hub's protocol, read-only; call `serve_forever()` on it.

        Args:
            host: the address to listen on.
            port: 0 takes a free one; `server_address` tells which.
            allow: gated and private repos to serve too; others of that kind are not shown.

        Raises:
            NotWritableError: the address can't be listened on.
        """
        from llm_hf_models.hub import refs
        from llm_hf_models.servers import hub_mirror, library_catalog

        served = library_catalog.LibraryCatalog(self._context, frozenset(refs.RepoId.parse(name) for name in allow))
        if self._context.notify and (absent := served.list_missing_repos()):
            self._context.notify(f"Not on this machine (yet): {', '.join(absent)}. `llm hf list` shows what is.")
        return hub_mirror.make_server(served, host, port)
