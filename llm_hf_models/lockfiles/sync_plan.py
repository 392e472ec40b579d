"""Plan a sync: compare this machine with a lockfile, and find the bytes of each model. Changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads import plan_checks
from llm_hf_models.errors import (
    AccessError,
    BadInputError,
    HfModelsError,
    InterruptedByUserError,
    MissingFileError,
    NameTakenError,
    NotFoundError,
)
from llm_hf_models.library.file_states import UNPROVEN_STATES
from llm_hf_models.library.records import LocalModel
from llm_hf_models.lockfiles.diff import compare_models
from llm_hf_models.lockfiles.local_bytes import FILES_FOLDER, LocalBytes
from llm_hf_models.lockfiles.make import find_problem, lock_model
from llm_hf_models.lockfiles.pull_plans import explain_missing, plan_download, plan_from_local_bytes
from llm_hf_models.lockfiles.types import LockChange, LockedModel, Lockfile, SyncPlan, SyncStep
from llm_hf_models.models import names
from llm_hf_models.models.local import files as local_files
from llm_hf_models.models.repos.identity import find_model_of_variant
from llm_hf_models.network.urls import validate_endpoint
from llm_hf_models.system.disk import require_space
from llm_hf_models.transfer.types import Progress

CONTENT_FIELDS = frozenset({
    "model", "quant", "repo", "revision", "commit", "endpoint", "endpoint_model", "key_env", "key_name", "kind",
})  # fmt: skip
FROM_HINT = "If a mirror or a folder has it: llm hf sync FILE --from URL|DIR"


@dataclass(frozen=True)
class Source:
    """The place that replaces the Hub: the address of a mirror, or a folder that `llm hf export` made."""

    url: str | None = None
    folder: Path | None = None

    @classmethod
    def parse(cls, text: str | None) -> Source:
        """Return the source that a user named.

        Raises:
            BadInputError: The text is not an http(s) URL.
            MissingFileError: The folder does not exist, or has no files of an export.
        """
        if text is None:
            return cls()
        if "://" in text:
            return cls(url=validate_endpoint(text).rstrip("/"))
        folder = Path(text).expanduser().absolute()
        if not (folder / FILES_FOLDER).is_dir():
            raise MissingFileError(
                f"{folder} is not an exported folder",
                cause=f"It has no folder {FILES_FOLDER}.",
                hint="Make one: llm hf export DIR",
            )
        return cls(folder=folder)

    def derive_context(self, context: Context) -> Context:
        """Return the context for requests to this source. Another host than the Hub's gets no token."""
        if self.url is None or self.url == context.endpoint():
            return context
        return replace(context, own_endpoint=self.url, own_token=None)


def plan_sync(
    context: Context,
    lockfile: Lockfile,
    source: Source,
    *,
    prune: bool,
    progress: Progress,
    stop: threading.Event,
) -> SyncPlan:
    """Return what a sync would do. Files whose content is unproven are hashed for it.

    Args:
        context: The context with the library.
        lockfile: The lockfile.
        source: The place that replaces the Hub.
        prune: Remove the models that the lockfile does not list.
        progress: Called with the progress of hashing.
        stop: Ends the hashing when set.

    Raises:
        DiskFullError: There is not enough disk space for all models together.
    """
    planner = _Planner(source.derive_context(context), lockfile, source, prune=prune, progress=progress, stop=stop)
    steps = planner.refuse_taken_names([planner.plan_model(locked) for locked in lockfile.models])
    pulls = [step.pull for step in steps if step.pull]
    copies = sum(file.size for pull in pulls for file in pull.files if file.copy)
    fetch_bytes = sum(pull.fetch_bytes for pull in pulls)
    if fetch_bytes + copies:
        require_space(context.cache_dir(), fetch_bytes + copies, context.settings().disk_reserve_bytes)
    unlisted = planner.list_unlisted()
    return SyncPlan(
        tuple(steps),
        tuple(local_files.remove(context, model_id, dry_run=True) for model_id in unlisted) if prune else (),
        () if prune else unlisted,
        fetch_bytes,
        source.url or (str(source.folder) if source.folder else None),
        tuple(planner.list_concerns(steps)),
    )


class _Planner:
    """Plans the step of each model, with the state of this machine that the steps share."""

    def __init__(
        self,
        context: Context,
        lockfile: Lockfile,
        source: Source,
        *,
        prune: bool,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._context, self._lockfile, self._source, self._prune = context, lockfile, source, prune
        self._stop = stop
        with context.open_database() as db:
            self._models = db.list_models()
        self._bytes = LocalBytes(context.cache_dir(), self._models, source.folder, progress, stop)
        self._local = {locked.id: self._find_local(locked) for locked in lockfile.models}
        self._owners = {alias.casefold(): model.model_id for model in self._models for alias in model.aliases}

    def _find_local(self, locked: LockedModel) -> LocalModel | None:
        same_id = (model for model in self._models if model.model_id.casefold() == locked.id.casefold())
        if (found := next(same_id, None)) or not locked.repo:
            return found
        return find_model_of_variant(self._models, locked.repo, locked.quant, locked.revision)

    def list_unlisted(self) -> tuple[str, ...]:
        """Return the models on this machine that the lockfile does not list."""
        listed = {model.model_id for model in self._local.values() if model}
        return tuple(sorted(model.model_id for model in self._models if model.model_id not in listed))

    def plan_model(self, locked: LockedModel) -> SyncStep:
        """Return the step of one model.

        Raises:
            InterruptedByUserError: `stop` was set.
        """
        if self._stop.is_set():
            raise InterruptedByUserError("Stopped while comparing this machine with the lockfile")
        local = self._local[locked.id]
        changes = tuple(self._compare(local, locked))
        step = SyncStep(local.model_id if local else locked.id, locked, "none", changes=changes)
        try:
            step = self._plan_endpoint(step, locked) if locked.endpoint else self._plan_files(step, local, locked)
        except InterruptedByUserError:
            raise
        except HfModelsError as error:
            return self._explain(step, locked, error)
        return replace(step, moved_aliases=self._find_moved_aliases(step.id, locked))

    def _compare(self, local: LocalModel | None, locked: LockedModel) -> list[LockChange]:
        if local is None:
            return [LockChange(locked.id, "model", None, "listed")]
        if find_problem(local) or (local.endpoint is None) != (locked.endpoint is None):
            return [LockChange(locked.id, "model", "another model", "listed")]
        # The stored name of a repo may have other capitals, or be the one before a rename.
        here = lock_model(local)
        same = here.commit == locked.commit and here.repo and locked.repo
        return compare_models(replace(here, repo=locked.repo) if same else here, locked)

    def _plan_endpoint(self, step: SyncStep, locked: LockedModel) -> SyncStep:
        if not step.changes:
            return step
        only_settings = not any(_is_content(change) for change in step.changes)
        if self._context.is_agent and not only_settings:
            raise BadInputError(
                f"Agents may not attach {locked.id}", cause="It runs on another server.", hint="llm hf sync FILE"
            )
        return replace(step, action="set" if only_settings else "attach", reason=f"runs on {locked.endpoint}")

    def _plan_files(self, step: SyncStep, local: LocalModel | None, locked: LockedModel) -> SyncStep:
        if local is None or any(_is_content(change) for change in step.changes):
            return self._plan_pull(replace(step, replaces=self._find_replaced(local, locked)), locked)
        states = {file.compare_with_disk() for file in local.files}
        if states & {"missing", "other size"}:
            gone = "files are missing" if "missing" in states else "a file was modified"
            return self._plan_pull(replace(step, changes=(*step.changes, _make_state_change(locked, gone))), locked)
        if states & UNPROVEN_STATES or local.has_digest_mismatch:
            if not self._bytes.prove(local.files):
                change = _make_state_change(locked, "a file does not have the digest")
                return self._plan_pull(replace(step, changes=(*step.changes, change)), locked)
            return replace(step, action="hash", reason="its files were touched, and have the digests")
        return replace(step, action="set" if step.changes else "none")

    def _find_replaced(self, local: LocalModel | None, locked: LockedModel) -> str | None:
        """Return a file of the user, if the library's entry of it would be replaced by another file."""
        if local is None or local.place != "in place" or local.state == "missing":
            return None
        digests = {file.digest for file in locked.files}
        return next((file.location for file in local.files if file.sha256 not in digests), None)

    def _plan_pull(self, step: SyncStep, locked: LockedModel) -> SyncStep:
        cached, elsewhere = self._bytes.find_cached(locked), self._bytes.find_elsewhere(locked)
        missing = [file.path for file in locked.files if file.path not in cached and file.path not in elsewhere]
        if missing:
            self._refuse_without_source(locked, missing[0])
        plan = plan_download if missing or self._must_judge_signature(locked) else plan_from_local_bytes
        pull = plan(self._context, locked, step.id, cached, elsewhere)
        if missing:
            reason = f"missing: {len(missing)} of {len(locked.files)} files"
            return replace(step, action="download", reason=reason, fetch_bytes=pull.fetch_bytes, pull=pull)
        place = next(iter(pull.sources.values()), None) or next(iter(cached.values()))
        step = replace(step, reason=f"its bytes are in {place}", pull=pull)
        return replace(step, action="copy" if pull.sources else "link")

    def _must_judge_signature(self, locked: LockedModel) -> bool:
        """Return whether the settings require the signature, which only the Hub or a mirror has."""
        is_required = self._context.settings().require_signature != "off"
        return is_required and locked.repo is not None and self._source.folder is None

    def _refuse_without_source(self, locked: LockedModel, path: str) -> None:
        """Raise an error if no source has a missing file.

        Raises:
            MissingFileError: The folder does not have the file, or the model was imported and has no repo.
        """
        if self._source.folder is not None:
            raise MissingFileError(f"{path} of {locked.id} is not in {self._source.folder}", hint=FROM_HINT)
        if locked.repo is None and self._source.url is None:
            raise MissingFileError(
                f"{locked.id} was imported from a file that is not on this machine",
                cause=f"No local file has the digest {locked.files[0].digest}.",
                hint=FROM_HINT,
            )

    def _explain(self, step: SyncStep, locked: LockedModel, error: HfModelsError) -> SyncStep:
        hint = error.hint
        problem = error.message + (f". {error.cause}" if error.cause else "")
        if isinstance(error, NotFoundError | AccessError):
            kept = {**self._bytes.find_elsewhere(locked), **self._bytes.find_cached(locked)}
            problem, hint = explain_missing(error, kept), self._suggest_source(locked) or FROM_HINT
        return replace(step, action="fail", problem=problem, hint=hint)

    def _suggest_source(self, locked: LockedModel) -> str | None:
        """Return where the Hub still has the bytes, if only the commit is gone."""
        from llm_hf_models.hub.refs import ModelRef, RepoId
        from llm_hf_models.models.repos.info import fetch_details

        if not locked.repo:
            return None
        try:
            details, _ = fetch_details(
                self._context, ModelRef(RepoId.parse(locked.repo), locked.revision), refresh=True
            )
        except HfModelsError:
            return None
        digests = {file.sha256 or file.git_sha1 for file in details.files}
        if not {file.digest for file in locked.files} <= digests:
            return None
        ref = f"{locked.repo}{f'@{locked.revision}' if locked.revision else ''}:{locked.quant}"
        return f"Commit {details.commit[:12]} has the same bytes. Pull them, then sync again: llm hf pull {ref}"

    # Names

    def _find_moved_aliases(self, model_id: str, locked: LockedModel) -> dict[str, str]:
        """Return the aliases that a model outside the lockfile has, with its id."""
        listed = {model.model_id for model in self._local.values() if model}
        moved = {}
        for alias in locked.aliases:
            owner = self._owners.get(alias.casefold(), model_id)
            if owner != model_id and owner not in listed and not self._prune:
                moved[alias] = owner
        return moved

    def refuse_taken_names(self, steps: Sequence[SyncStep]) -> list[SyncStep]:
        """Return the steps, of which those fail whose new aliases another plugin's model has in llm."""
        free = {kind for kind in map(self._get_kind, self._lockfile.models) if not self._find_taken(kind, steps)}
        return [step if self._get_kind(step.locked) in free else self._fail_if_taken(step) for step in steps]

    def _find_taken(self, kind: str, steps: Sequence[SyncStep]) -> NameTakenError | None:
        """Return the error if a new alias of any model of a kind is taken. llm is started once for it."""
        new = [self._list_new_aliases(step) for step in steps if self._get_kind(step.locked) == kind]
        return _find_taken_name([alias for aliases in new for alias in aliases], kind)

    def _fail_if_taken(self, step: SyncStep) -> SyncStep:
        error = _find_taken_name(self._list_new_aliases(step), self._get_kind(step.locked))
        if error is None:
            return step
        return replace(step, action="fail", problem=f"{error.message}. {error.cause}", hint=error.hint)

    def _list_new_aliases(self, step: SyncStep) -> list[str]:
        local = self._local[step.locked.id]
        known = {alias.casefold() for alias in local.aliases} if local else set[str]()
        return [alias for alias in step.locked.aliases if alias.casefold() not in known and step.action != "fail"]

    def _get_kind(self, locked: LockedModel) -> str:
        local = self._local[locked.id]
        return str(locked.options.get("kind") or (local.facts.kind if local else locked.kind) or "chat")

    # Questions

    def list_concerns(self, steps: Sequence[SyncStep]) -> list[str]:
        """Return the reasons to ask a person before the steps are carried out."""
        found = [
            f"{alias!r} names {owner} now, and will name {step.id}."
            for step in steps
            for alias, owner in step.moved_aliases.items()
        ]
        found += [_explain_attachment(step) for step in steps if step.action == "attach"]
        found += [f"{step.id} is {step.replaces} now, and will be another file." for step in steps if step.replaces]
        found += [
            f"{step.id}: {concern}"
            for step in steps
            if step.pull
            for concern in plan_checks.list_concerns(self._context, step.pull)
        ]
        return found


def _find_taken_name(aliases: Sequence[str], kind: str) -> NameTakenError | None:
    try:
        names.refuse_taken_names(aliases, kind)
    except NameTakenError as error:
        return error
    return None


def _explain_attachment(step: SyncStep) -> str:
    key = step.locked.key_env or step.locked.key_name
    return f"{step.id} will send prompts{f' and the key {key}' if key else ''} to {step.locked.endpoint}."


def _is_content(change: LockChange) -> bool:
    return change.field in (
        *CONTENT_FIELDS,
        "endpoint_model",
        "key_env",
        "key_name",
        "kind",
    ) or change.field.startswith(("files ", "modality "))


def _make_state_change(locked: LockedModel, state: str) -> LockChange:
    return LockChange(locked.id, "state", state, "complete")
