"""Define the application: one method per verb, which the CLI, the MCP server and Python code call.

Each method imports the modules that it needs, so that listing downloads does not take as long to import as a pull.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError
from llm_hf_models.system.arguments import check_arguments
from llm_hf_models.transfer.types import ignore_event
from llm_hf_models.verbs.collections import CollectionVerbs
from llm_hf_models.verbs.disk_space import DiskSpaceVerbs
from llm_hf_models.verbs.lockfiles import LockfileVerbs
from llm_hf_models.verbs.other_tools import OtherToolVerbs
from llm_hf_models.verbs.signatures import SignatureVerbs
from llm_hf_models.verbs.summaries import SummaryVerbs
from llm_hf_models.verbs.trust import TrustVerbs
from llm_hf_models.verbs.updates import UpdateVerbs

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PullOptions, PullPlan, PullResult
    from llm_hf_models.downloads.types import DownloadEvent, DownloadView
    from llm_hf_models.hub.types import SearchFilters
    from llm_hf_models.library.download_records import DownloadNote
    from llm_hf_models.models.repo_types import CheckReport, Inspection, ModelInfo, SearchPage
    from llm_hf_models.models.types import (
        ImportResult,
        LibrarySurvey,
        LoadTestReport,
        LocalModelView,
        PromptResult,
        Removal,
        Verification,
    )
    from llm_hf_models.servers.hub_mirror import MirrorServer
    from llm_hf_models.servers.openai_relay import RelayServer
    from llm_hf_models.transfer.types import Progress
    from llm_hf_models.types import (
        Cleanup,
        EngineView,
        SettingView,
        Status,
        StoredItem,
        TokenStatus,
        Uninstallation,
    )


def _ignore_message(message: str) -> None:
    """Ignore a message."""


def _normalize_endpoint(endpoint: str) -> str:
    from llm_hf_models.network.urls import validate_endpoint

    return validate_endpoint(endpoint).rstrip("/")


@check_arguments
class Library(
    CollectionVerbs,
    DiskSpaceVerbs,
    LockfileVerbs,
    OtherToolVerbs,
    SignatureVerbs,
    SummaryVerbs,
    TrustVerbs,
    UpdateVerbs,
):
    """The library on this machine and the Hub: one method per verb of the product, with typed results.

    Each method reads the settings and the environment when it is called, and keeps nothing open afterwards. A library
    may be used from several threads. Every error is an `errors.HfModelsError`.

    Args:
        requested_by: The interface of the caller, stored with each download: `cli`, `mcp` or `python`.
        ask_passphrase: Returns the passphrase of the encrypted token file, or None if no user can enter it. With
            None instead of a callable, that file is not used.
        notify: Shows the user why a request to the Hub is waiting (HTTP 429). With None, requests don't wait,
            except for those that plan a pull.
        show_activity: Shows the user what a long request is doing; each text replaces the previous one.
        endpoint: The URL of the Hub, instead of HF_ENDPOINT. It receives no other token than `token`, unless it is the
            Hub of the environment.
        cache_dir: The Hugging Face cache, instead of HF_HUB_CACHE.
        token: The token for this Hub, instead of HF_TOKEN or the stored one. It is kept in memory only.

    Raises:
        BadInputError: `endpoint` is not an http(s) URL.
    """

    def __init__(
        self,
        *,
        requested_by: str = "python",
        ask_passphrase: Callable[[], str | None] | None = None,
        notify: Callable[[str], None] | None = None,
        show_activity: Callable[[str], None] | None = None,
        endpoint: str | None = None,
        cache_dir: Path | str | None = None,
        token: str | None = None,
    ) -> None:
        self._context = Context(
            requested_by,
            ask_passphrase,
            notify,
            show_activity,
            own_endpoint=_normalize_endpoint(endpoint) if endpoint else None,
            own_cache=Path(cache_dir).expanduser().absolute() if cache_dir else None,
            own_token=token,
        )

    @property
    def _reading_context(self) -> Context:
        """The context for reading downloads, which also corrects their states and restarts a lost worker."""
        return self._context

    # The Hub

    def search(
        self, query: str = "", filters: SearchFilters | None = None, *, fits: bool = False, refresh: bool = False
    ) -> SearchPage:
        """Search for models on the Hub.

        Args:
            query: Words in the repo's name.
            filters: How to narrow and sort the results; by default the twenty most trending GGUF repos.
            fits: Return only models that fit into this machine's memory.
            refresh: Send a request to the Hub even if a fresh response is cached.
        """
        from llm_hf_models.hub import types as hub_types
        from llm_hf_models.models import search

        return search.search(self._context, query, filters or hub_types.SearchFilters(), fits=fits, refresh=refresh)

    def info(self, ref: str, *, revision: str | None = None, card: bool = False, refresh: bool = False) -> ModelInfo:
        """Return the details of one repo: its variants and their memory fit, facts, licence, access and scans.

        With `card`, the result also contains the model card.
        """
        from llm_hf_models.models import repo_info

        return repo_info.fetch_model_info(self._context, ref, revision=revision, card=card, refresh=refresh)

    def inspect(
        self, name: str, *, metadata: bool = False, tensors: bool = False, template: bool = False
    ) -> Inspection:
        """Read the header of a GGUF file: on disk, of a local model, or on the Hub without downloading the file."""
        from llm_hf_models.models import inspect as models_inspect

        return models_inspect.inspect(self._context, name, metadata=metadata, tensors=tensors, template=template)

    def check(self, name: str) -> CheckReport:
        """Validate a GGUF file: on disk, of a local model, or the header of one on the Hub."""
        from llm_hf_models.models import inspect as models_inspect

        return models_inspect.check(self._context, name)

    def test(self, name: str) -> LoadTestReport:
        """Load a local model or a GGUF file in a sandboxed child, generate a few tokens, and record the result."""
        from llm_hf_models.models import load_test

        return load_test.run_load_test(self._context, name)

    # Pulling

    def plan(self, ref: str, options: PullOptions | None = None, *, draft_after: float | None = None) -> PullPlan:
        """Plan a pull of `ref`. Raise an error if a policy, the disk space or an invalid header prevents it.

        Args:
            ref: The model ref.
            options: The options of the pull.
            draft_after: The seconds after which the plan is returned without the header and the scan reports, if they
                are slow. The process that carries out the plan then reads and checks them first.
        """
        from llm_hf_models.downloads import plan as downloads_plan
        from llm_hf_models.downloads import plan_types

        return downloads_plan.plan_pull(
            self._context, ref, options or plan_types.PullOptions(), draft_after=draft_after
        )

    def list_concerns(self, plan: PullPlan) -> tuple[str, ...]:
        """Return the reasons to ask a person before a plan is carried out, such as that the model does not fit."""
        from llm_hf_models.downloads import plan_checks

        return plan_checks.list_concerns(self._context, plan)

    def pull(
        self,
        ref: str | PullPlan,
        options: PullOptions | None = None,
        *,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> PullResult:
        """Download one variant, verify it and register it. Continue an earlier pull that was interrupted.

        Args:
            ref: The model ref to pull, or a plan that was shown before.
            options: The options of the pull. A plan has its own.
            progress: Called with events, from any thread.
            stop: Ends the pull with InterruptedByUserError when set. The downloaded bytes are kept. Each pull needs its
                own event, because the pull sets it too when it is paused or fails.
        """
        from llm_hf_models.downloads import pull

        plan = self._find_plan(ref, options)
        return pull.pull(self._context, plan, progress=progress, stop=stop or threading.Event())

    def _find_plan(self, ref: str | PullPlan, options: PullOptions | None) -> PullPlan:
        if isinstance(ref, str):
            return self.plan(ref, options)
        if options is not None:
            raise BadInputError("A plan already has its options")
        return ref

    def download_file(
        self,
        repo: str,
        file: str,
        path: Path | str | None = None,
        *,
        revision: str | None = None,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> Path:
        """Download any one file of a repo, and verify its digest.

        Args:
            repo: The repo, `owner/name`.
            file: The path of the file in the repo.
            path: The folder for the file; None stores it in the Hugging Face cache.
            revision: A branch, tag or commit.
            progress: As in `pull`.
            stop: As in `pull`.

        Returns:
            The path of the file on this machine.
        """
        plan = self._plan_file(repo, file, path, revision)
        return Path(self.pull(plan, progress=progress, stop=stop).files[0])

    def _plan_file(self, repo: str, file: str, path: Path | str | None, revision: str | None) -> PullPlan:
        from llm_hf_models.downloads import plan_types
        from llm_hf_models.hub import refs

        ref = refs.ModelRef(refs.RepoId.parse(repo), file=refs.RepoFile(file))
        return self.plan(
            str(ref), plan_types.PullOptions(revision=revision, to=Path(path) if path else None, file_only=True)
        )

    # Downloads

    def enqueue(
        self,
        ref: str | PullPlan,
        options: PullOptions | None = None,
        *,
        on_done: str | None = None,
    ) -> DownloadView:
        """Pull in the background: queue a plan, and start a worker if none is running.

        Args:
            ref: The model ref to pull, or a plan that was shown before.
            options: The options of the pull. A plan has its own.
            on_done: A command line to run when the download is done, with LLM_HF_MODEL in its environment.
        """
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.enqueue(self._context, self._find_plan(ref, options), on_done=on_done)

    def downloads(self, *, include_finished: bool = False, limit: int = 100) -> tuple[DownloadView, ...]:
        """List at most `limit` downloads (-1: all), newest first; finished ones only with `include_finished`."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.list_downloads(self._reading_context, include_finished=include_finished, limit=limit)

    def get_download(self, download_id: int) -> DownloadView:
        """Return one download by its id."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.get_download(self._reading_context, download_id)

    def get_download_log(self, download_id: int) -> tuple[DownloadNote, ...]:
        """Return the log of a download, oldest entry first."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.read_log(self._reading_context, download_id)

    def pause(self, download_id: int) -> DownloadView:
        """Pause a download and keep the downloaded bytes."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.pause(self._context, download_id)

    def resume(self, download_id: int) -> DownloadView:
        """Continue a paused download in the background."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.resume(self._context, download_id)

    def cancel(self, download_id: int) -> DownloadView:
        """Cancel a download and remove its files."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.cancel(self._context, download_id)

    def retry(self, download_id: int) -> DownloadView:
        """Try a failed or cancelled download again, in the background."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.retry(self._context, download_id)

    def continue_in_background(self, plan: PullPlan) -> None:
        """Mark a running pull as a background download, which a worker continues when its process ends.

        This does not start the worker; `enqueue` does.
        """
        from llm_hf_models.downloads import queue as downloads_queue

        downloads_queue.continue_in_background(self._context, plan)

    def clear_downloads(self) -> int:
        """Remove the rows of finished downloads. Return the number of removed rows."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.clear_finished(self._context)

    def follow(self, download_id: int, *, stop: threading.Event | None = None) -> Iterator[DownloadEvent]:
        """Yield the events of a download until it has finished or is paused, whichever process carries it out."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.follow(self._reading_context, download_id, stop=stop)

    # The library

    def list(
        self, *, health: bool = False, collection: str | None = None, with_collections: bool = False
    ) -> tuple[LocalModelView, ...]:
        """List the local models, newest first.

        Args:
            health: Check whether the servers of remote models respond.
            collection: Return only the models of a collection.
            with_collections: Fill in the names of the collections of each model.
        """
        from llm_hf_models.models import local_models

        return local_models.list_views(
            self._context, health=health, collection=collection, with_collections=with_collections
        )

    def survey(self, text: str = "", *, collection: str | None = None) -> LibrarySurvey:
        """Return the local models, newest first, with the updates on the Hub and the space that removing them frees.

        The Hub is asked for at most 3 seconds. A model whose repo did not answer is unknown.

        Args:
            text: Return only models with this text in their id or in an alias.
            collection: Return only the models of a collection.
        """
        from llm_hf_models.models import survey

        return survey.survey(self._context, text, collection)

    def show(self, name: str) -> LocalModelView:
        """Return one local model, by id, alias or repo, with every fact that is known about it."""
        from llm_hf_models.models import local_models

        return local_models.show(self._context, name)

    def path(self, name: str) -> tuple[str, ...]:
        """Return the paths of a local model's files: its shards in order, then its mmproj."""
        with self._context.open_database() as db:
            model = db.find_model(name)
        model.refuse_if_remote()
        return tuple(file.location for file in model.files)

    def plan_removal(self, name: str) -> Removal:
        """Return the files that `remove` would remove, and the space it would free."""
        from llm_hf_models.models import local_files

        return local_files.remove(self._context, name, dry_run=True)

    def remove(self, name: str) -> Removal:
        """Remove a local model and the files that nothing else uses."""
        from llm_hf_models.models import local_files

        return local_files.remove(self._context, name, dry_run=False)

    def verify(self, name: str, *, progress: Progress = ignore_event) -> Verification:
        """Compare the digests of a local model's files with the recorded ones, and record the result."""
        from llm_hf_models.models import local_files

        return local_files.verify(self._context, name, progress)

    def add_alias(self, name: str, *aliases: str) -> LocalModelView:
        """Add aliases to a local model: all of them, or none if one is taken."""
        return Library.change_aliases(self, name, add=aliases)

    def remove_alias(self, *aliases: str) -> None:
        """Remove aliases: all of them, or none if one does not exist."""
        with self._context.open_database() as db, db.transaction():
            for alias in dict.fromkeys(aliases):
                db.remove_alias(alias)

    def change_aliases(self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> LocalModelView:
        """Remove aliases, and add others to a local model: all of the changes are made, or none if one fails."""
        from llm_hf_models.hub import refs
        from llm_hf_models.models import local_models
        from llm_hf_models.models import names as models_names

        with self._context.open_database() as db:
            model = db.find_model(name)
            models_names.refuse_taken_names(map(refs.parse_alias, add), model.facts.kind)
            with db.transaction():
                for alias in dict.fromkeys(remove):
                    db.remove_alias(alias)
                for alias in add:
                    db.add_alias(alias, model.model_id)
            return local_models.make_view(db.get_model(model.model_id))

    def import_file(
        self,
        file: Path | str,
        *,
        repo: str | None = None,
        copy: bool = False,
        mmproj: Path | str | None = None,
        with_mmproj: bool = True,
        aliases: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        progress: Progress = ignore_event,
    ) -> ImportResult:
        """Register a GGUF file on this machine. A generation_config.json in the same folder is used as well.

        Args:
            file: The file. Any shard of a split model stands for all its shards.
            repo: The repo that the file is from. Its digest is compared with that repo if the Hub can be reached.
            copy: Store a copy of the file instead of using it where it is.
            mmproj: The model's projector. Without it, a projector in the same folder is used if it can't belong to
                another model.
            with_mmproj: False registers the model without a projector.
            aliases: The aliases of the model.
            options: Options to store for the model, as `set_options` does: `kind` and `pooling`.
            progress: Called with the progress of hashing.
        """
        from llm_hf_models.models import import_file as models_import_file

        return models_import_file.import_file(
            self._context,
            Path(file),
            repo=repo,
            copy=copy,
            mmproj=Path(mmproj) if mmproj is not None else None,
            with_mmproj=with_mmproj,
            aliases=aliases,
            options=options or {},
            progress=progress,
        )

    @staticmethod
    def list_importable(*paths: Path | str) -> tuple[Path, ...]:
        """Return a file of each model among files and folders, for `import_file`. Subfolders are included."""
        from llm_hf_models.gguf import shards

        return tuple(shards.list_models([Path(path) for path in paths]))

    def prompt(
        self,
        name: str,
        text: str,
        *,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        stop: threading.Event | None = None,
    ) -> PromptResult:
        """Send one short prompt to a local model, and return the complete response.

        Args:
            name: The model's id, an alias, or its repo.
            text: The prompt.
            system: A system prompt that replaces the model's own.
            options: The options that `llm -o` accepts, such as max_tokens, temperature and seed.
            stop: Ends the prompt with InterruptedByUserError when set.
        """
        from llm_hf_models.models import prompt as models_prompt

        return models_prompt.prompt(
            self._context, name, text, system=system, options=dict(options or {}), stop=stop or threading.Event()
        )

    # Cleaning up

    def plan_gc(self) -> Cleanup:
        """Return the leftover files, old rows and old responses that `gc` would remove now. It never removes models."""
        from llm_hf_models import cleanup

        return cleanup.plan_cleanup(self._context)

    def gc(self) -> Cleanup:
        """Remove leftover files, old rows and old responses. Files that have come into use since `plan_gc` are kept."""
        from llm_hf_models import cleanup

        return cleanup.clean_up(self._context)

    def list_stored_files(self) -> tuple[StoredItem, ...]:
        """List the files and folders that this package has stored on this machine."""
        from llm_hf_models import stored_files

        return stored_files.list_stored_files(self._context)

    def plan_uninstallation(self, *, keep_models: bool = False) -> Uninstallation:
        """Return what `uninstall` would remove."""
        from llm_hf_models import stored_files

        return stored_files.plan_uninstallation(self._context, keep_models=keep_models)

    def uninstall(self, *, keep_models: bool = False) -> Uninstallation:
        """Stop the engines and downloads, and remove everything that this package has stored on this machine."""
        from llm_hf_models import stored_files

        return stored_files.uninstall(self._context, keep_models=keep_models)

    # How models run

    def set_options(self, name: str, values: Mapping[str, Any], unset: Collection[str] = ()) -> LocalModelView:
        """Store default options of a model. A prompt's own options take precedence.

        Args:
            name: The model.
            values: The options by name, typed or as text, such as temperature, context and system. The value of
                `template` is the template itself.
            unset: The options to reset to their defaults.
        """
        from llm_hf_models.models import default_options, local_models

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
        """Register a model that a server offers in OpenAI's protocol.

        Args:
            name: The name of the model in this library.
            endpoint: The address of the server, with or without /v1.
            key_env: The environment variable that contains the API key. The key itself is never stored.
            key_name: Alternatively, the name of the key among llm's keys (`llm keys set NAME`).
            model: The server's name for the model. With None, the server must offer exactly one model.
            kind: The kind of model.
            modalities: The input that the model accepts besides text (image, audio), if the server does not report it.
        """
        from llm_hf_models.models import local_models, remote_endpoints

        attached = remote_endpoints.attach(
            self._context,
            name,
            endpoint,
            key_env=key_env,
            key_name=key_name,
            model=model,
            kind=kind,
            modalities=modalities,
        )
        return local_models.make_full_view(attached, remote_endpoints.check_health([attached])[attached.model_id])

    # Engines

    def list_engines(self) -> tuple[EngineView, ...]:
        """List the running llama.cpp processes."""
        from llm_hf_models import status as status_module
        from llm_hf_models.inference import running_engines

        with self._context.open_database() as db:
            return tuple(status_module.make_engine_view(row) for row in running_engines.list_running_engines(db))

    def stop_engines(self, name: str | None = None) -> int:
        """Stop the engines of one local model, or all engines. Return the number of stopped engines."""
        from llm_hf_models.inference import running_engines

        with self._context.open_database() as db:
            return running_engines.stop_engines(db, None if name is None else db.find_model(name).model_id)

    # The account and the machine

    def login(self, token: str, *, ask_passphrase: Callable[[], str], plain: bool = False) -> TokenStatus:
        """Validate a token with the Hub, and store it in the keychain, or in an encrypted file without a keychain.

        With `plain`, store it in a file that only this user can read, as `hf auth login` does.
        """
        from llm_hf_models import account

        return account.login(self._context, token, ask_passphrase, plain=plain)

    def logout(self) -> tuple[str, ...]:
        """Remove the token that `login` stored. Return the places that it was removed from."""
        from llm_hf_models import account

        return account.logout()

    def whoami(self) -> TokenStatus:
        """Return the owner and the source of the current token, never the token itself."""
        from llm_hf_models import account

        return account.whoami(self._context)

    def get_hub_host(self) -> str:
        """Return the host of the Hub in use; an empty string in offline mode."""
        from llm_hf_models import settings

        return "" if settings.is_offline() else self._context.display_endpoint().partition("://")[2]

    def status(self) -> Status:
        """Return the state of this machine: memory, disk, cache, engines, endpoint and token."""
        from llm_hf_models import status as status_module

        return status_module.collect_status(self._context)

    def settings(self) -> tuple[SettingView, ...]:
        """List every setting with its value, default, source and description."""
        from llm_hf_models import status as status_module

        return status_module.list_settings()

    def get_setting(self, key: str) -> SettingView:
        """Return one setting."""
        from llm_hf_models import status as status_module

        return status_module.get_setting(key)

    def set_setting(self, key: str, value: str | None) -> SettingView:
        """Parse and store the value of one setting. None resets it to the default."""
        from llm_hf_models import status as status_module

        return status_module.set_setting(key, value)

    @staticmethod
    def list_options() -> dict[str, str]:
        """Return the options that `set_options` accepts, with their descriptions."""
        from llm_hf_models.inference.protocol import options

        return {key: field.description or "" for key, field in options.StoredOptions.model_fields.items()}

    @staticmethod
    def check_setting(key: str, value: str) -> None:
        """Raise an error if a setting does not accept a value. Nothing is stored."""
        from llm_hf_models import settings

        settings.parse_value(key, value)

    # Serving

    def serve(
        self,
        names: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        key: str | None = None,
        notify: Callable[[str], None] = _ignore_message,
        log: Callable[[str], None] | None = None,
    ) -> RelayServer:
        """Create a server that offers some models in OpenAI's protocol. Call `serve_forever()` to run it.

        Args:
            names: The models; empty serves all models.
            host: The address to listen on.
            port: The port; 0 chooses a free one, which `server_address` contains.
            key: The API key that clients must send. With None, a random key is generated (see its `key` attribute).
            notify: Shows a message to the user, for example that an engine was evicted or a context reduced.
            log: Receives a line for each request, without its content and key.

        Raises:
            NotWritableError: The server can't listen on that address.
        """
        from llm_hf_models.servers import openai_relay

        return openai_relay.make_server(self._context, names, host, port, key=key, notify=notify, log=log)

    def mirror(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        allow: Sequence[str] = (),
        allowed_hosts: Collection[str] = (),
        source: Path | str | None = None,
    ) -> MirrorServer:
        """Create a read-only server of this library in the Hub's protocol. Call `serve_forever()` to run it.

        Args:
            host: The address to listen on.
            port: The port; 0 chooses a free one, which `server_address` contains.
            allow: The gated and private repos and the imported models (local/NAME) to serve. Others are hidden.
            allowed_hosts: Names of this machine that clients may use, besides its addresses, host name and localhost.
            source: A folder that `export` made, to serve in place of the library.

        Raises:
            NotWritableError: The server can't listen on that address.
            MissingFileError, LockfileError: The folder is not an exported one.
        """
        from llm_hf_models.hub import refs
        from llm_hf_models.servers import hub_mirror, library_catalog

        allowed, exported = frozenset(refs.RepoId.parse(name) for name in allow), None
        if source is not None:
            from llm_hf_models.lockfiles import export  # imported late: rarely needed

            models = export.read_exported_models(Path(source).expanduser().absolute())
            exported = lambda: models  # noqa: E731
        catalog = library_catalog.LibraryCatalog(self._context, allowed, exported)
        if self._context.notify and (missing := catalog.list_missing_repos()):
            self._context.notify(f"Not on this machine: {', '.join(missing)}. List local models with `llm hf list`.")
        server = hub_mirror.make_server(catalog, host, port, allowed_hosts=allowed_hosts)
        server.hidden_repos = catalog.describe_hidden_repos()
        return server
