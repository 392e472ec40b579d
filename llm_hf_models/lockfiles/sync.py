"""Carry out a sync: pull each model as planned, then set its names and options in one transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads import pull, queue
from llm_hf_models.errors import HfModelsError, InterruptedByUserError, UnknownModelError
from llm_hf_models.gguf.facts import Kind, ModelFacts
from llm_hf_models.hub.types import HubFile
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import ENDPOINT_KEY_ENV, ENDPOINT_KEY_NAME, ENDPOINT_MODEL, Check, LocalModel
from llm_hf_models.lockfiles.sync_plan import Source
from llm_hf_models.lockfiles.types import LockedModel, SyncedModel, SyncPlan, SyncResult, SyncStep
from llm_hf_models.models import local_files
from llm_hf_models.models.default_options import change_options
from llm_hf_models.models.local_files import MATCHES, UNCHANGED
from llm_hf_models.models.types import Removal
from llm_hf_models.system import verified_files
from llm_hf_models.system.hashing import FileStamp, read_stamp
from llm_hf_models.transfer.types import Progress

STOP_CHECK_SECONDS = 0.1
CONTINUE_HINT = "Run the same sync again to continue it."


def sync(
    context: Context, plan: SyncPlan, *, progress: Progress, stop: threading.Event, in_background: bool = False
) -> SyncResult:
    """Carry out a plan. If one model fails, the others are still synced, and no model is removed.

    Each model is registered only when all its files are verified, so a killed sync is continued by the next one. With
    `in_background`, missing files are downloaded by the worker, and the next sync sets names and options.

    Raises:
        InterruptedByUserError: The sync was stopped. The downloaded bytes are kept.
    """
    source = Source.parse(plan.source).derive_context(context)
    done = [
        _enqueue(source, step)
        if in_background and step.action == "download"
        else _sync_model(source, step, progress, stop)
        for step in plan.steps
    ]
    fetched_bytes = sum(model.fetched_bytes for model in done)
    # The files of a model to remove may be the only source of one that is not complete yet.
    if not all(model.done for model in done):
        return SyncResult(tuple(done), (), fetched_bytes, not_removed=tuple(removal.id for removal in plan.removals))
    if plan.removals and stop.is_set():
        raise InterruptedByUserError("Stopped before models were removed", hint=CONTINUE_HINT)
    return SyncResult(tuple(done), tuple(_remove_models(context, plan.removals)), fetched_bytes)


def _remove_models(context: Context, removals: Iterable[Removal]) -> Iterator[Removal]:
    """Remove models, except for those that another process has removed."""
    for removal in removals:
        with suppress(UnknownModelError):
            yield local_files.remove(context, removal.id, dry_run=False)


def _sync_model(context: Context, step: SyncStep, progress: Progress, stop: threading.Event) -> SyncedModel:
    if step.action in ("none", "fail"):
        return SyncedModel(step.id, step.action, step.action == "none", problem=step.problem, hint=step.hint)
    fetched = 0
    try:
        if step.pull is not None:
            with _follow(stop) as own_stop:
                fetched = pull.pull(context, step.pull, progress=progress, stop=own_stop).fetched_bytes
        with context.open_database() as db:
            _finish(db, step, step.locked)
    except InterruptedByUserError as error:
        error.hint = CONTINUE_HINT
        raise
    except HfModelsError as error:
        return _make_failure(step, error)
    return SyncedModel(step.id, step.action, done=True, fetched_bytes=fetched)


def _enqueue(context: Context, step: SyncStep) -> SyncedModel:
    if step.pull is None:
        raise ValueError(f"{step.id} has nothing to download")
    try:
        row = queue.enqueue(context, step.pull)
    except HfModelsError as error:
        return _make_failure(step, error)
    return SyncedModel(step.id, step.action, done=False, download_id=row.id)


def _make_failure(step: SyncStep, error: HfModelsError) -> SyncedModel:
    problem = error.message + (f". {error.cause}" if error.cause else "")
    return SyncedModel(step.id, step.action, done=False, problem=problem, hint=error.hint)


@contextmanager
def _follow(stop: threading.Event) -> Iterator[threading.Event]:
    """Yield an event that is set when `stop` is. A pull that fails sets its event, which must not end the others."""
    own, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if stop.wait(STOP_CHECK_SECONDS):
                own.set()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield own
    finally:
        ended.set()
        watcher.join()


def _finish(db: Database, step: SyncStep, locked: LockedModel) -> None:
    """Set everything about a registered model that the lockfile records, in one transaction."""
    stamps = _read_proven_stamps(db.get_model(step.id)) if step.action == "hash" else {}
    with db.transaction():
        if step.action == "attach":
            _register_endpoint(db, step.id, locked)
        model = db.get_model(step.id)
        if stamps:
            db.record_verified_files(step.id, stamps)
            detail = {"repo": model.repo, "commit": model.commit, "files": len(model.files)}
            db.add_check(step.id, Check("digest", MATCHES if model.commit else UNCHANGED, time.time(), detail))
        if locked.repo is None and locked.endpoint is None and (model.repo or model.commit):
            # An import has no origin: its digest was compared with the lockfile, and never with the Hub.
            checks = tuple(check for check in reversed(model.checks) if check.kind != "digest")
            db.register(replace(model, repo=None, revision=None, commit=None, checks=checks))
        db.replace_aliases(step.id, locked.aliases)
        unset = [key for key in model.user_options if key not in locked.all_options]
        change_options(db, step.id, locked.all_options, unset)


def _read_proven_stamps(model: LocalModel) -> dict[str, FileStamp]:
    """Return the stamps of the files that the plan has proven, unless they have changed since."""
    stamps = {}
    for file in model.files:
        hub_file, location = HubFile(file.path, file.size, file.sha256, file.git_sha1), Path(file.location)
        stamp = read_stamp(location)
        if verified_files.is_verified(hub_file.etag, location, stamp):
            stamps[file.location] = stamp
    return stamps


def _register_endpoint(db: Database, model_id: str, locked: LockedModel) -> None:
    kind: Kind = "embedding" if locked.kind == "embedding" else "chat"
    model = LocalModel(
        model_id=model_id,
        repo=None,
        revision=None,
        commit=None,
        quant="",
        files=(),
        facts=ModelFacts(kind=kind, tools=kind == "chat", modalities=locked.modalities),
        endpoint=locked.endpoint,
    )
    user_options = db.register(model).user_options
    named = {
        ENDPOINT_MODEL: locked.endpoint_model,
        ENDPOINT_KEY_ENV: locked.key_env,
        ENDPOINT_KEY_NAME: locked.key_name,
    }
    db.set_options(model_id, {**user_options, **{key: value for key, value in named.items() if value}})
