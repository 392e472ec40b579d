"""Limit and log the changes that agents make: `AgentLibrary` is the `Library` of the MCP server.

An agent may call every verb. Each verb that changes something is overridden here, so that the limits in `policy.py`
apply to it and its outcome is written to a log.
"""

from __future__ import annotations

import inspect
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar

from llm_hf_models import paths, policy
from llm_hf_models.disk_space.types import Pruning
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.errors import ConsentError, HfModelsError, PolicyError
from llm_hf_models.library.download_records import FINISHED_STATES
from llm_hf_models.lockfiles.types import SyncPlan
from llm_hf_models.models.collection_types import CollectionDeletion
from llm_hf_models.models.types import LocalModelView, Removal
from llm_hf_models.redaction import redact
from llm_hf_models.service import Library
from llm_hf_models.settings import Settings
from llm_hf_models.system.private_files import make_private_folder, open_private
from llm_hf_models.system.text import clean_text
from llm_hf_models.transfer.types import ignore_event
from llm_hf_models.types import (
    AliasChange,
    Consent,
    ConsentRequest,
    DownloadChange,
    DownloadClearance,
    DownloadVerb,
    EngineStop,
    Uninstallation,
)
from llm_hf_models.updates.types import UpdatedModel, UpdatedModels, UpdatePlan

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.downloads.plan_types import PullOptions, PullResult
    from llm_hf_models.downloads.types import DownloadView
    from llm_hf_models.lockfiles.types import Lockfile, SyncResult
    from llm_hf_models.models.signature_types import TrustChange
    from llm_hf_models.models.types import PromptResult
    from llm_hf_models.signatures.types import SigningResult
    from llm_hf_models.transfer.types import Progress

MAX_LOG_BYTES = 5_000_000

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=policy.Subject)


def log_path() -> Path:
    """Return the path of the log of changes that agents made or attempted.

    Each line is a JSON object with the time (`at`), agent (`who`), action (`what`), target (`about`) and `outcome`.
    After an error, `why` has its message. If the change needed consent, the actions are listed under the way in which
    consent was given: `agreed` (a person agreed in a form of the host), `confirmed_in_words` (the agent confirmed with
    the exact name, because the host can show no form) or `preapproved` (by the setting agent_yes_to).
    """
    return paths.data_dir() / "agents.log"


def _name(subject: policy.Subject) -> str | None:
    if isinstance(subject, PullPlan):
        return subject.ref
    if isinstance(subject, CollectionDeletion):
        return subject.name
    return subject.id if isinstance(subject, Removal | LocalModelView) else None


def _refuse_signing() -> NoReturn:
    raise PolicyError("Agents may not sign models", hint="A person can run `llm hf sign`.")


def _refuse_uninstallation() -> NoReturn:
    raise PolicyError("Agents may not uninstall", hint="A person can run `llm hf uninstall`.")


def _refuse_trust() -> NoReturn:
    raise PolicyError("Agents may not choose whom to trust", hint="A person can run `llm hf trust`.")


@dataclass(frozen=True)
class PreparedChange(Generic[S]):
    """A change that the policy allows, if consent to the requests is given.

    Attributes:
        action: A verb for the log, such as `download`.
        target: The model or file that the change affects.
        subject: The plan of the change, or the model to prompt.
        requests: The requests that need consent first.
        preapproved: The requests that the setting agent_yes_to allows.
        consent: How consent to the requests was given; None if it was not given.
    """

    action: str
    target: str
    subject: S
    requests: tuple[ConsentRequest, ...]
    preapproved: tuple[ConsentRequest, ...] = ()
    consent: Consent | None = None

    def list_consents(self) -> dict[str, list[str]]:
        """Return the actions that needed consent, by the way in which it was given, for the log."""
        given = {"agreed" if self.consent == "person" else "confirmed_in_words": self.requests}
        given["preapproved"] = self.preapproved
        return {way: sorted(request.action for request in requests) for way, requests in given.items() if requests}


def _limit(
    verb: Callable[Concatenate[Library, P], R], action: str, target: str = ""
) -> Callable[Concatenate[AgentLibrary, P], R]:
    """Return a verb that changes something, with the policy and the log around it.

    Args:
        verb: The method of `Library`.
        action: A verb for the log.
        target: The format of the target in the log, with the verb's parameters.
    """
    signature = inspect.signature(verb)

    @wraps(verb)
    def run(self: AgentLibrary, /, *args: P.args, **kwargs: P.kwargs) -> R:
        about = target.format_map(signature.bind(self, *args, **kwargs).arguments)
        return self._change_directly(action, about, partial(verb, self, *args, **kwargs))

    return run


class AgentLibrary(Library):
    """The library as an agent uses it: for one call, within the `agent_…` settings, with a log of its changes.

    A change that may need a person's consent can be prepared first. The prepared change is then passed to the verb, in
    place of the ref or the name, so that the plan and the decision of the policy are made once:

        change = library.prepare_removal(name)
        # Ask a person to agree to change.requests.
        library.remove(replace(change, consent="person"))

    Args:
        agent: The name of the agent in the log.
        requested_by: As for `Library`.
        seconds: The time for all requests to the Hub together, from now on; None for no limit.
    """

    def __init__(self, agent: str, *, requested_by: str = "mcp", seconds: float | None = None) -> None:
        super().__init__(requested_by=requested_by)
        self._context = replace(self._context, is_agent=True).limit_time(seconds)
        self._agent = agent

    @cached_property
    def _limits(self) -> Settings:
        """The settings in force, which are read once."""
        return self._context.settings()

    @property
    def _reading_context(self) -> Context:
        """The context for reading downloads, which changes nothing: a lost worker is restarted by `resume`."""
        return replace(self._context, reads_only=True)

    def explain_prohibition(self, action: str) -> str | None:
        """Return why the settings forbid an action, such as `delete`, in all cases. None if they allow it."""
        error = policy.find_prohibition(self._limits, action)
        return (error.cause or error.message) if error else None

    # Changes with a plan

    def prepare_download(
        self, ref: str, options: PullOptions | None = None, *, draft_after: float | None = None
    ) -> PreparedChange[PullPlan]:
        """Plan a pull of `ref`, and return it with the requests that need consent first.

        The consent depends on the sizes in the repo's list of files, which a draft (`draft_after`, see `Library.plan`)
        has too. The worker that completes a draft downloads exactly these files.
        """
        return self._prepare("download", ref, partial(self.plan, ref, options, draft_after=draft_after))

    def prepare_removal(self, name: str) -> PreparedChange[Removal]:
        """Plan the removal of a model, and return it with the requests that need consent first."""
        return self._prepare("delete", name, partial(self.plan_removal, name))

    def prepare_prompt(self, name: str) -> PreparedChange[LocalModelView]:
        """Find a model, and return it with the requests that need consent before a prompt."""
        return self._prepare("prompt", name, partial(self.show, name))

    def pull(
        self,
        ref: str | PullPlan | PreparedChange[PullPlan],
        options: PullOptions | None = None,
        *,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> PullResult:
        """Pull a model, as `Library.pull` does."""
        change = self._prepare_pull("pull", ref, options)
        return self._change(change, partial(super().pull, progress=progress, stop=stop))

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
        """Download one file, as `Library.download_file` does."""
        change = self._prepare("fetch", f"{repo}/{file}", partial(self._plan_file, repo, file, path, revision))
        return Path(self._change(change, partial(super().pull, progress=progress, stop=stop)).files[0])

    def enqueue(
        self,
        ref: str | PullPlan | PreparedChange[PullPlan],
        options: PullOptions | None = None,
        *,
        on_done: str | None = None,
    ) -> DownloadView:
        """Pull in the background, as `Library.enqueue` does. `on_done` is refused."""
        change = self._prepare_pull("download", ref, options)
        if on_done:
            self.refuse(change, PolicyError("Agents may not run a command after a download"))
        return self._change(change, super().enqueue)

    def prepare_update(
        self, names: Sequence[str], *, keep_old: bool | None = None, draft_after: float | None = None
    ) -> PreparedChange[UpdatePlan]:
        """Plan the update of models, and return it with the requests that need consent first."""
        plan = partial(self.plan_update, names, keep_old=keep_old, draft_after=draft_after)
        return self._prepare("update", " ".join(names) or "all", plan)

    def update(
        self,
        plan: UpdatePlan | Sequence[str] | PreparedChange[UpdatePlan] = (),
        *,
        keep_old: bool | None = None,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> UpdatedModels:
        """Update local models, as `Library.update` does."""
        if isinstance(plan, UpdatePlan):
            known = plan
            change = self._prepare("update", " ".join(each.id for each in plan.models), lambda: known)
        elif isinstance(plan, PreparedChange):
            change = plan
        else:
            change = self.prepare_update(plan, keep_old=keep_old)
        return self._change(change, partial(super().update, progress=progress, stop=stop))

    def rollback(
        self,
        name: str | PullPlan,
        *,
        to: str | None = None,
        keep_old: bool | None = None,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> UpdatedModel:
        """Return a model to an earlier version, as `Library.rollback` does."""

        def plan() -> PullPlan:
            return self.plan_rollback(name, to=to, keep_old=keep_old) if isinstance(name, str) else name

        change = self._prepare("rollback", name if isinstance(name, str) else str(name.model_id), plan)
        return self._change(change, partial(super().rollback, progress=progress, stop=stop))

    def remove(self, name: str | PreparedChange[Removal]) -> Removal:
        """Remove a local model, as `Library.remove` does."""
        remove = super().remove
        change = self.prepare_removal(name) if isinstance(name, str) else name
        return self._change(change, lambda removal: remove(removal.id))

    def prepare_pruning(
        self, *, unused_seconds: float | None = None, larger_bytes: int | None = None, keep: Sequence[str] = ()
    ) -> PreparedChange[Pruning]:
        """Plan a pruning, and return it with the requests that need consent first."""
        plan = partial(self.plan_pruning, unused_seconds=unused_seconds, larger_bytes=larger_bytes, keep=keep)
        return self._prepare("delete", "prune", plan)

    def prune(self, plan: Pruning | PreparedChange[Pruning]) -> Pruning:
        """Remove the models of a plan, as `Library.prune` does."""
        prune = super().prune
        change = plan if isinstance(plan, PreparedChange) else self._prepare("delete", "prune", lambda: plan)
        return self._change(change, prune)

    def prompt(
        self,
        name: str | PreparedChange[LocalModelView],
        text: str,
        *,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        stop: threading.Event | None = None,
    ) -> PromptResult:
        """Send one short prompt to a local model, as `Library.prompt` does. The length of the response is limited."""
        prompt = super().prompt

        def run(model: LocalModelView) -> PromptResult:
            limited = policy.limit_prompt_tokens(self._limits, options or {})
            return prompt(model.id, text, system=system, options=limited, stop=stop)

        return self._change(self.prepare_prompt(name) if isinstance(name, str) else name, run)

    # Lockfiles

    save_lockfile = _limit(Library.save_lockfile, "lock", "{path}")
    export = _limit(Library.export, "export", "{folder}")

    def prepare_sync(self, lockfile: Lockfile | Path | str, *, prune: bool = False) -> PreparedChange[SyncPlan]:
        """Plan a sync from the Hub, and return it with the requests that need consent first."""
        return self._prepare("sync", policy.SYNC_TARGET, partial(self.plan_sync, lockfile, prune=prune))

    def sync(
        self,
        lockfile: Lockfile | SyncPlan | PreparedChange[SyncPlan] | Path | str,
        *,
        source: str | None = None,
        prune: bool = False,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
        in_background: bool = False,
    ) -> SyncResult:
        """Make this machine match a lockfile, as `Library.sync` does."""
        sync = super().sync
        if isinstance(lockfile, PreparedChange):
            change = lockfile
        elif isinstance(lockfile, SyncPlan):
            planned = lockfile
            change = self._prepare("sync", policy.SYNC_TARGET, lambda: planned)
        else:
            plan = partial(self.plan_sync, lockfile, source=source, prune=prune, progress=progress, stop=stop)
            change = self._prepare("sync", policy.SYNC_TARGET, plan)
        return self._change(change, partial(sync, progress=progress, stop=stop, in_background=in_background))

    # Changes that stop or discard something

    def prepare_control(self, verb: DownloadVerb, download_id: int) -> PreparedChange[DownloadChange]:
        """Find a download to pause, resume, cancel or retry, and return it with the requests that need consent."""
        return self._prepare(verb, str(download_id), partial(self._find_download, verb, download_id))

    def _find_download(self, verb: DownloadVerb, download_id: int) -> DownloadChange:
        from llm_hf_models.downloads import queue as downloads_queue

        return DownloadChange(
            verb, self.get_download(download_id), downloads_queue.read_plan(self._context, download_id)
        )

    def control(self, change: PreparedChange[DownloadChange]) -> DownloadView:
        """Pause, resume, cancel or retry a download, as `prepare_control` has prepared it."""
        verbs = {"pause": super().pause, "resume": super().resume, "cancel": super().cancel, "retry": super().retry}
        return self._change(change, lambda subject: verbs[subject.verb](subject.download.id))

    def pause(self, download_id: int) -> DownloadView:
        """Pause a download, as `Library.pause` does."""
        return self.control(self.prepare_control("pause", download_id))

    def resume(self, download_id: int) -> DownloadView:
        """Continue a paused download, as `Library.resume` does."""
        return self.control(self.prepare_control("resume", download_id))

    def cancel(self, download_id: int) -> DownloadView:
        """Cancel a download, as `Library.cancel` does."""
        return self.control(self.prepare_control("cancel", download_id))

    def retry(self, download_id: int) -> DownloadView:
        """Try a download again, as `Library.retry` does."""
        return self.control(self.prepare_control("retry", download_id))

    def clear_downloads(self) -> int:
        """Remove the records of finished downloads, as `Library.clear_downloads` does."""
        clear = super().clear_downloads
        return self._change(self._prepare("clear downloads", "", self._find_finished), lambda _: clear())

    def _find_finished(self) -> DownloadClearance:
        rows = self.downloads(include_finished=True, limit=-1)
        return DownloadClearance(tuple(row for row in rows if row.state in FINISHED_STATES))

    def stop_engines(self, name: str | None = None) -> int:
        """Stop engines, as `Library.stop_engines` does."""
        stop = super().stop_engines
        change = self._prepare("stop engines", name or "all", partial(self._find_engines, name))
        return self._change(change, lambda _: stop(name))

    def _find_engines(self, name: str | None) -> EngineStop:
        model_id = self.show(name).id if name is not None else None
        return EngineStop(tuple(each for each in self.list_engines() if model_id in (None, each.id)))

    # Other changes

    test = _limit(Library.test, "test", "{name}")
    continue_in_background = _limit(Library.continue_in_background, "to_background", "{plan.ref}")
    verify = _limit(Library.verify, "verify", "{name}")
    import_file = _limit(Library.import_file, "import", "{file}")
    import_from = _limit(Library.import_from, "import", "{tool}")
    import_modelfile = _limit(Library.import_modelfile, "import", "{path}")
    gc = _limit(Library.gc, "gc")
    deduplicate = _limit(Library.deduplicate, "deduplicate")
    pin = _limit(Library.pin, "pin", "{name}")
    set_options = _limit(Library.set_options, "set options", "{name}")
    attach = _limit(Library.attach, "attach", "{name}")
    login = _limit(Library.login, "login")
    logout = _limit(Library.logout, "logout")
    set_setting = _limit(Library.set_setting, "set", "{key}")

    create_collection = _limit(Library.create_collection, "create collection", "{name}")
    add_to_collection = _limit(Library.add_to_collection, "change collection", "{name}")
    remove_from_collection = _limit(Library.remove_from_collection, "change collection", "{name}")
    import_collection = _limit(Library.import_collection, "import collection", "{source}")
    rename_collection = _limit(Library.rename_collection, "rename collection", "{name}")

    def prepare_collection_deletion(self, name: str) -> PreparedChange[CollectionDeletion]:
        """Plan the deletion of a collection, and return it with the requests that need consent first."""
        return self._prepare("delete", name, partial(self.plan_collection_deletion, name))

    def prepare_collection_edit(self, name: str, *, deletes: bool) -> PreparedChange[CollectionDeletion | None]:
        """Prepare a change of a collection for `request_agreement`. Only a deletion may need consent."""
        if deletes:
            change = self.prepare_collection_deletion(name)
            return PreparedChange(change.action, change.target, change.subject, change.requests, change.preapproved)
        return PreparedChange("change collection", name, None, ())

    def delete_collection(self, name: str | PreparedChange[CollectionDeletion]) -> CollectionDeletion:
        """Delete a collection, as `Library.delete_collection` does."""
        delete = super().delete_collection
        change = self.prepare_collection_deletion(name) if isinstance(name, str) else name
        return self._change(change, lambda deletion: delete(deletion.name))

    def uninstall(self, *, keep_models: bool = False) -> Uninstallation:  # noqa: ARG002 - as in Library
        """Refuse: only a person removes the library, its settings and the token."""
        return self._change_directly("uninstall", "", _refuse_uninstallation)

    def add_trusted_signer(self, owner: str, **_: object) -> TrustChange:
        """Refuse: only a person decides whom to trust."""
        return self._change_directly("trust", owner, _refuse_trust)

    def remove_trusted_signers(self, which: str, *, dry_run: bool = False) -> TrustChange:  # noqa: ARG002 - as in Library
        """Refuse: only a person decides whom to trust."""
        return self._change_directly("stop trusting", which, _refuse_trust)

    def sign(self, name: str, key: Path | str, **options: Any) -> SigningResult:  # noqa: ANN401, ARG002
        """Refuse: only a person uses a private key."""
        return self._change_directly("sign", name, _refuse_signing)

    def add_alias(self, name: str, *aliases: str) -> LocalModelView:
        """Add aliases, as `Library.add_alias` does."""
        return self.change_aliases(name, add=aliases)

    def remove_alias(self, *aliases: str) -> None:
        """Remove aliases, as `Library.remove_alias` does."""
        remove = super().remove_alias
        plan = partial(self._find_aliases, None, (), aliases)
        return self._change(
            self._prepare("remove alias", " ".join(aliases), plan), lambda change: remove(*change.remove)
        )

    def prepare_aliases(
        self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> PreparedChange[AliasChange]:
        """Find the models that lose an alias, and return the change with the requests that need consent first."""
        action, target = "alias", " ".join((name, *add))
        if remove:
            old = " ".join(remove)
            action, target = ("change aliases", f"{target} instead of {old}") if add else ("remove alias", old)
        return self._prepare(action, target, partial(self._find_aliases, name, add, remove))

    def change_aliases(
        self, name: str | PreparedChange[AliasChange], *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> LocalModelView:
        """Remove and add aliases, as `Library.change_aliases` does."""
        change = self.prepare_aliases(name, add=add, remove=remove) if isinstance(name, str) else name
        run = super().change_aliases
        return self._change(change, lambda found: run(str(found.name), add=found.add, remove=found.remove))

    def _find_aliases(self, name: str | None, add: Sequence[str], remove: Sequence[str]) -> AliasChange:
        owners = {alias.casefold(): model.id for model in self.list() for alias in model.aliases} if remove else {}
        lost = {alias: owners[alias.casefold()] for alias in remove if alias.casefold() in owners}
        return AliasChange(name, tuple(add), tuple(remove), lost)

    # The policy and the log

    def _prepare_pull(
        self, action: str, ref: str | PullPlan | PreparedChange[PullPlan], options: PullOptions | None
    ) -> PreparedChange[PullPlan]:
        if isinstance(ref, PreparedChange):
            return replace(ref, action=action)
        return self._prepare(action, ref if isinstance(ref, str) else ref.ref, partial(self._find_plan, ref, options))

    def _prepare(self, action: str, target: str, plan: Callable[[], S]) -> PreparedChange[S]:
        """Refuse a change that the policy forbids; otherwise plan it, and list the requests for consent."""
        with self.log_failure(action, target):
            if prohibition := policy.find_prohibition(self._limits, action):
                raise prohibition
            subject = plan()
        target = _name(subject) or target
        with self.log_failure(action, target):
            requests = policy.review(self._context, self._limits, subject)
        preapproved = tuple(request for request in requests if policy.is_preapproved(self._limits, request))
        needed = tuple(request for request in requests if request not in preapproved)
        return PreparedChange(action, target, subject, needed, preapproved)

    def _change(self, change: PreparedChange[S], run: Callable[[S], R]) -> R:
        """Carry out a prepared change, and log its outcome."""
        with self.log_failure(change.action, change.target):
            if change.requests and not change.consent:
                raise ConsentError(
                    "A person must agree to this first",
                    cause=" ".join(request.text for request in change.requests),
                    hint=f"After they agree, confirm with the exact name: {change.requests[0].target}",
                )
            result = run(change.subject)
        self._append_to_log(change.action, change.target, {"outcome": "done", **change.list_consents()})
        return result

    def _change_directly(self, action: str, target: str, run: Callable[[], R]) -> R:
        """Make a change that needs no plan, if the policy allows it."""
        return self._change(self._prepare(action, target, lambda: None), lambda _: run())

    def refuse(self, change: PreparedChange[Any], error: PolicyError) -> NoReturn:
        """Log that a change is refused, and raise the error."""
        with self.log_failure(change.action, change.target):
            raise error

    @contextmanager
    def log_failure(self, action: str, target: str) -> Iterator[None]:
        """Log an error in the `with` block, which prepares or makes a change."""
        try:
            yield
        except HfModelsError as error:
            outcome = "refused" if isinstance(error, PolicyError) else "failed"
            self._append_to_log(action, target, {"outcome": outcome, "why": clean_text(error.message, 300)})
            raise

    def _append_to_log(self, action: str, target: str, outcome: Mapping[str, object]) -> None:
        line = {"at": round(time.time(), 3), "who": self._agent, "what": action, "about": clean_text(target, 300)}
        path = log_path()
        with suppress(OSError):  # the action is done, so a failure to log it is ignored
            make_private_folder(path.parent)
            if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))
            # Several processes append to the log, so each line is written in one call.
            descriptor = open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                os.write(descriptor, (redact(json.dumps({**line, **outcome})) + "\n").encode())
            finally:
                os.close(descriptor)
