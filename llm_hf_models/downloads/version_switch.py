"""Replace the version of a local model: test the new version first, and release the files of the old one afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads.leftovers import remove_leftovers
from llm_hf_models.downloads.plan_types import PullPlan, VersionSwitch
from llm_hf_models.downloads.records import load_plan_if_readable
from llm_hf_models.errors import (
    HfModelsError,
    InterruptedByUserError,
    NewVersionError,
    NotWritableError,
    StorageError,
    UnknownModelError,
)
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.hub import cache_files, cache_layout
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.inference import running_engines
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import STATES_WITH_FILES, Check, LocalFile, LocalModel, ModelVersion
from llm_hf_models.library.versions import make_version
from llm_hf_models.models.load_test import load_files
from llm_hf_models.models.local.files import RemovalPlanner, delete_from_cache, list_kept
from llm_hf_models.models.local.repairs import format_pull_ref
from llm_hf_models.system.units import format_size

PASSED = "loads"
FROM_HUB = frozenset({"scan", "signature"})  # checks of a version that need the Hub


def record_target(context: Context, plan: PullPlan) -> None:
    """Record the version that a plan leads to, before its files appear in the cache.

    The record keeps `gc` from removing them. After a kill, the next update finds them by it.

    Raises:
        NewVersionError: The plan is an update, and the model was pinned or changed after it was planned.
    """
    with context.open_database() as db, suppress(UnknownModelError), db.transaction():
        model_id = str(plan.model_id)
        _refuse_outdated_plan(db.get_model(model_id), plan.commit, plan.switch)
        known = next((one for one in db.list_versions(model_id) if one.commit == plan.commit), None)
        if known is None:
            db.save_version(model_id, _make_target(context, plan))
        else:
            was_in_force = known.state in ("kept", "replaced")
            db.set_version_state(model_id, plan.commit, "kept" if was_in_force else "untested")


def _make_target(context: Context, plan: PullPlan) -> ModelVersion:
    cache, repo = context.cache_dir().absolute(), RepoId.parse(plan.repo)
    files = tuple(
        LocalFile(
            file.path,
            "mmproj" if file.path == plan.mmproj else "weights",
            file.size,
            str(cache_layout.cache_path(cache, repo, plan.commit, file.path)),
            file.sha256,
            file.git_sha1,
        )
        for file in plan.files
    )
    facts = plan.facts or ModelFacts()
    return ModelVersion(plan.repo, plan.commit, facts, plan.hub or {}, files, (), time.time(), "untested")


def _refuse_outdated_plan(model: LocalModel, commit: str | None, switch: VersionSwitch | None) -> None:
    """Refuse an update to a commit if the model was pinned or got another version after it was planned."""
    if switch is None or switch.kind != "update":
        return
    now = (model.commit or "")[:12]
    if model.pinned:
        raise NewVersionError(
            f"{model.model_id} was pinned, and stays at {now}",
            hint=f"Unpin it before you update it again: llm hf pin --unpin {model.model_id}",
        )
    if model.commit not in (switch.replaces, commit):
        raise NewVersionError(
            f"{model.model_id} has another version, {now}, since this update was planned",
            hint=f"Plan it again: llm hf update {model.model_id}",
        )


def check_before_switch(
    context: Context, before: LocalModel, model: LocalModel, switch: VersionSwitch, stop: threading.Event
) -> LocalModel:
    """Load-test a new version of a model, and return it with the result.

    A version with the same files takes over the last load test.

    Raises:
        NewVersionError: The new version failed the load test, or the model was pinned or changed since the plan.
            The files of the new version are kept until `gc` or the next update.
        InterruptedByUserError: The stop event was set.
    """
    _refuse_outdated_plan(before, model.commit, switch)
    model = replace(model, options=before.options, quant=before.quant)
    with context.open_database() as db:
        known = next((one for one in db.list_versions(model.model_id) if one.commit == model.commit), None)
    model = _take_over_reports(known, model)
    if _list_digests(before) == _list_digests(model):
        last = before.latest_check("load_test")
        return replace(model, checks=(*model.checks, *([last] if last else [])))
    tested = replace(model, checks=(*model.checks, _test(context, model, stop)))
    check = tested.checks[-1]
    if check.result == PASSED:
        return tested
    _refuse(context, tested)
    commit = (model.commit or "")[:12]
    raise NewVersionError(
        f"{model.model_id} stays at {(before.commit or '')[:12]}: the load test of {commit} failed ({check.result})",
        cause=str(check.detail.get("reason") or "") or None,
        hint="Upgrade with `llm install -U llm-hf-models xllamacpp` and update again, or leave the new version out: "
        f"`llm hf pin {model.model_id}`. To replace the model without a load test: "
        f"`llm hf pull {format_pull_ref(before.model_id)}`.",
    )


def _take_over_reports(known: ModelVersion | None, model: LocalModel) -> LocalModel:
    """Return a version with the recorded reports that need the Hub, if it was not asked for them now."""
    asked = {check.kind for check in model.checks if check.result != "not asked"}
    recorded = {check.kind: check for check in (known.checks[::-1] if known else ()) if check.kind in FROM_HUB - asked}
    others = (check for check in model.checks if check.kind not in recorded)
    return replace(model, checks=(*recorded.values(), *others))


def _test(context: Context, model: LocalModel, stop: threading.Event) -> Check:
    """Return the result of the load test.

    Raises:
        EngineError: The test could not be run.
        InterruptedByUserError: The stop event was set.
    """
    try:
        return load_files(context, model, stop)
    except InterruptedByUserError:
        raise
    except HfModelsError as error:
        reason = Check("load_test", "not run", time.time(), {"reason": error.message})
        _refuse(context, replace(model, checks=(*model.checks, reason)))
        raise


def _refuse(context: Context, model: LocalModel) -> None:
    """Record that a version failed its load test. One that was in force before stays as it was recorded."""
    with context.open_database() as db, db.transaction():
        known = next((one for one in db.list_versions(model.model_id) if one.commit == model.commit), None)
        if known is None or known.state not in ("kept", "replaced"):
            db.save_version(model.model_id, make_version(model, "refused"))


def _list_digests(model: LocalModel) -> set[tuple[str, str | None]]:
    return {(file.role, file.sha256 or file.git_sha1) for file in model.files}


def complete_switch(context: Context, before: LocalModel, model: LocalModel) -> list[str]:
    """Let the engines of the old version end, and remove its files unless they are kept or used.

    Returns:
        Why the files could not be removed. `gc` removes them later.
    """
    with context.open_database() as db:
        if {file.location for file in before.files} != {file.location for file in model.files}:
            _retire_engines(db, model.model_id)
    try:
        _cancel_superseded(context, model.model_id)
        remove_abandoned_files(context, model.model_id)
    except StorageError as error:
        return [f"the files of the previous version were not removed: {error.message}"]
    return []


def _retire_engines(db: Database, model_id: str) -> None:
    """Let the engines of a model end after their current requests. The next prompt starts one with the new files."""
    for row in running_engines.list_running_engines(db):
        if row.model_id == model_id:
            running_engines.get_engine_folder(row).renew_lease(0)


def _cancel_superseded(context: Context, model_id: str) -> None:
    """Cancel the interrupted updates and rollbacks of a model, which now has another version, and remove their files.

    Otherwise nothing would end an update that was interrupted before the repo changed again.
    """
    stale, superseded = context.stale_seconds(), []
    with context.open_database() as db, db.transaction():
        for row in db.list_downloads(states=("paused",), limit=-1):
            plan = load_plan_if_readable(row)
            is_of_model = plan is not None and plan.switch is not None and plan.model_id == model_id
            if is_of_model and not row.is_owner_running(stale_seconds=stale):
                db.update_download(row.id, state="cancelled", wanted=None)
                superseded.append(row)
        for version in db.list_versions(model_id):
            if version.state == "untested":
                db.set_version_state(model_id, version.commit, "refused")
    remove_leftovers(context, superseded)


def remove_abandoned_files(context: Context, model_id: str) -> None:
    """Remove the files of a model's versions that are not kept, except for files that something else uses.

    A refused version is forgotten as well. Repeating this after a kill continues it.

    Raises:
        NotWritableError: The system refused to remove a file.
    """
    with context.open_database() as db:
        model, versions = db.get_model(model_id), db.list_versions(model_id)
        delete_from_cache(RemovalPlanner(db.list_models(), db.list_all_versions()).list_abandoned(model))
        for version in versions:
            if version.state not in STATES_WITH_FILES:
                _remove_unused_ref(db, version.files, version.commit)
                _remove_empty_snapshot(version)
            if version.state == "refused":
                db.remove_version(model_id, version.commit)


def _remove_empty_snapshot(version: ModelVersion) -> None:
    """Remove the folder of a version that has no files any more, which a killed deletion has left."""
    for file in version.files[:1]:
        folder = cache_layout.infer_repo_folder(file.location, file.path)
        try:
            cache_files.remove_empty_snapshot(folder, folder / "snapshots" / str(version.commit))
        except OSError as error:
            raise NotWritableError(f"Can't remove {error.filename}", cause=error.strerror) from None


def _remove_unused_ref(db: Database, files: Iterable[LocalFile], commit: str | None) -> None:
    """Let other tools prune a commit, unless a model or a kept version has files of it."""
    file = next(iter(files), None)
    if file is None or commit is None:
        return
    # The name of the folder is that of the repo when the files were downloaded.
    folder = cache_layout.infer_repo_folder(file.location, file.path)
    others = {
        (cache_layout.infer_repo_folder(one.files[0].location, one.files[0].path), one.commit)
        for one in list_kept(db.list_models(), db.list_all_versions())
        if one.files and not (isinstance(one, LocalModel) and one.place != "cache")
    }
    if (folder, commit) not in others:
        cache_layout.remove_own_ref(folder, commit)


def release_old_files(context: Context, before: LocalModel, model: LocalModel) -> list[str]:
    """Let other tools prune the files of the model's previous version, by removing the ref that protects them.

    Returns:
        Warnings that name the previous files, which are not removed.
    """
    current = {file.location for file in model.files}
    old = [file for file in before.files if file.location not in current and Path(file.location).exists()]
    if not old or before.place == "in place":
        return []
    size = format_size(sum(file.size for file in old))
    if before.place != "cache" or before.commit is None:
        return [f"the model's previous files ({size}) are not removed: {old[0].location}"]
    with context.open_database() as db:
        _remove_unused_ref(db, old, before.commit)
    return [f"the model's previous files ({size}) remain in the cache: `hf cache ls` lists them"]
