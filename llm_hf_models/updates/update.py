"""Plan and carry out updates of local models, and the return to an earlier version."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from llm_hf_models.context import Context
from llm_hf_models.downloads import pull as downloads_pull
from llm_hf_models.downloads.plan_types import PullPlan, VersionSwitch
from llm_hf_models.downloads.version_plan import plan_new_version, plan_old_version, refuse_other_place
from llm_hf_models.downloads.version_switch import remove_abandoned_files
from llm_hf_models.errors import BadInputError, HfModelsError, InterruptedByUserError, NotFoundError
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.local.files import list_kept
from llm_hf_models.system.text import clean_text
from llm_hf_models.transfer.types import Progress
from llm_hf_models.updates.outdated import Survey, select_models
from llm_hf_models.updates.types import (
    CHANGED,
    Outcome,
    OutdatedModel,
    PlannedUpdate,
    UpdatedModel,
    UpdatedModels,
    UpdatePlan,
)

MIN_COMMIT_CHARS = 4  # of a commit that a user names
MAX_REASON_CHARS = 300
STOP_CHECK_SECONDS = 0.1


def plan_update(
    context: Context, names: Sequence[str], *, keep_old: bool | None = None, draft_after: float | None = None
) -> UpdatePlan:
    """Plan the update of local models to the current commits of their branches.

    Args:
        context: The context with the library and the Hub.
        names: The models; empty for all.
        keep_old: Keep the files of the old versions; None takes the setting.
        draft_after: As in `plan_pull`.

    Raises:
        UnknownModelError: There is no model with a name.
    """
    switch = VersionSwitch("update", context.settings().keep_old_versions if keep_old is None else keep_old)
    survey = Survey(context, select_models(context, names), with_pinned=False)
    rows = {row.id: row for row in survey.rows}
    planned = tuple(
        _plan_one(context, model, rows[model.model_id], survey, switch, draft_after) for model in survey.models
    )
    fetch = sum(each.fetch_bytes for each in planned)
    return UpdatePlan(planned, fetch, fetch, sum(each.freed_bytes for each in planned), survey.problem)


def _plan_one(
    context: Context,
    model: LocalModel,
    row: OutdatedModel,
    survey: Survey,
    switch: VersionSwitch,
    draft_after: float | None,
) -> PlannedUpdate:
    planned = PlannedUpdate(
        row.id, "none", row.status, row.commit, row.new_commit, _explain(row), renamed_to=row.renamed_to
    )
    if row.status in ("pinned", "not tracked"):
        return replace(planned, action="skip", hint=f"llm hf pin --unpin {row.id}" if row.status == "pinned" else None)
    if row.stale:
        return replace(planned, action="refuse", reason=f"the Hub could not be asked: {row.note}")
    found = survey.comparisons.get(row.id)
    if row.status not in CHANGED or found is None or found.variant is None:
        action: Literal["none", "refuse", "skip"] = "refuse" if row.status == "unknown" else "skip"
        return replace(planned, action="none" if row.status == "up to date" else action)
    try:
        refuse_other_place(model)
    except BadInputError as error:
        return replace(planned, action="skip", reason=error.message, hint=error.hint)
    try:
        plan = plan_new_version(context, model, survey.details[row.id], found.variant, switch, draft_after=draft_after)
    except InterruptedByUserError:
        raise
    except HfModelsError as error:
        reason = clean_text(error.message, MAX_REASON_CHARS)
        return replace(planned, action="refuse", reason=reason, hint=error.hint)
    return replace(
        planned,
        action="update",
        fetch_bytes=plan.fetch_bytes,
        reused_bytes=plan.total_bytes - plan.fetch_bytes,
        freed_bytes=0 if switch.keep_old else _count_replaced_bytes(context, model, plan),
        keep_old=switch.keep_old,
        plan=plan,
    )


def _explain(row: OutdatedModel) -> str:
    return row.note or row.status


def _count_replaced_bytes(context: Context, model: LocalModel, plan: PullPlan) -> int:
    """Return the bytes of the files that neither the new version nor another model has."""
    with context.open_database() as db:
        users = list_kept(db.list_models(), db.list_all_versions())
    digests = {file.etag for file in plan.files}
    digests |= {file.sha256 or file.git_sha1 or "" for one in users if one != model for file in one.files}
    return sum(file.size for file in model.files if (file.sha256 or file.git_sha1) not in digests)


def update(context: Context, plan: UpdatePlan, *, progress: Progress, stop: threading.Event) -> UpdatedModels:
    """Carry out a plan, one model after the other. If one fails, it keeps its version, and the others are updated.

    Raises:
        InterruptedByUserError: The stop event was set. Updating again continues.
    """
    done = []
    for planned in plan.models:
        if stop.is_set():
            raise InterruptedByUserError("Interrupted; run the update again to continue it")
        done.append(_update_one(context, planned, progress, stop))
    return UpdatedModels(
        tuple(done),
        updated=sum(each.outcome == "updated" for each in done),
        failed=sum(each.outcome == "failed" for each in done),
    )


def _update_one(context: Context, planned: PlannedUpdate, progress: Progress, stop: threading.Event) -> UpdatedModel:
    if planned.plan is None:
        outcomes: dict[str, Outcome] = {"none": "up to date", "skip": "skipped", "refuse": "failed"}
        if planned.action == "none":
            remove_abandoned_files(context, planned.id)  # which a killed update has left
        return UpdatedModel(
            planned.id, outcomes[planned.action], planned.commit, None, message=planned.reason, hint=planned.hint
        )
    try:
        with _link(stop) as own_stop:
            return _switch(context, planned.plan, planned.commit, progress, own_stop)
    except InterruptedByUserError:
        raise
    except HfModelsError as error:
        message = clean_text(". ".join(filter(None, (error.message, error.cause))), MAX_REASON_CHARS)
        return UpdatedModel(planned.id, "failed", planned.commit, None, message=message, hint=error.hint)


@contextmanager
def _link(stop: threading.Event) -> Iterator[threading.Event]:
    """Yield an event that is set when `stop` is set. A pull that fails sets its event, which must not end the rest."""
    own, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(STOP_CHECK_SECONDS):
            if stop.is_set():
                own.set()
                return

    watcher = threading.Thread(target=watch, name="stop", daemon=True)
    watcher.start()
    try:
        yield own
    finally:
        ended.set()
        watcher.join()


def _switch(
    context: Context, plan: PullPlan, before: str | None, progress: Progress, stop: threading.Event
) -> UpdatedModel:
    result = downloads_pull.pull(context, plan, progress=progress, stop=stop)
    outcome: Outcome = "updated" if plan.switch and plan.switch.kind == "update" else "rolled back"
    return UpdatedModel(
        str(plan.model_id),
        outcome,
        plan.commit,
        before,
        result.fetched_bytes,
        result.elapsed_seconds,
        message="; ".join(result.warnings),
    )


def plan_rollback(context: Context, name: str, *, to: str | None = None, keep_old: bool | None = None) -> PullPlan:
    """Plan the return to an earlier version of a model.

    Args:
        context: The context with the library and the Hub.
        name: The model.
        to: The commit of the version, or its first characters. With None, the version that was replaced last.
        keep_old: Keep the files of the current version; None takes the setting.

    Raises:
        NotFoundError: The model has no such version, or its files are gone and the Hub no longer has them.
    """
    with context.open_database() as db:
        model = db.find_model(name)
        versions = [version for version in db.list_versions(model.model_id) if version.state in ("kept", "replaced")]
    refuse_other_place(model)
    if to is not None and len(to) < MIN_COMMIT_CHARS:
        raise BadInputError(f"{to!r} is too short for a commit", hint=f"Give at least {MIN_COMMIT_CHARS} characters.")
    found = [version for version in versions if (version.commit or "").startswith(to or "")]
    if not found:
        known = ", ".join((version.commit or "")[:12] for version in versions)
        raise NotFoundError(
            f"{model.model_id} has no earlier version" + (f" {clean_text(to, 40)!r}" if to else ""),
            cause=f"Its earlier versions: {known}" if known else "It was never updated with `llm hf update`.",
            hint=f"llm hf show {model.model_id}",
        )
    keep = context.settings().keep_old_versions if keep_old is None else keep_old
    return plan_old_version(context, model, found[0], VersionSwitch("rollback", keep))


def rollback(context: Context, plan: PullPlan, *, progress: Progress, stop: threading.Event) -> UpdatedModel:
    """Return to an earlier version, as planned. The current version answers until the other one is verified and loads.

    Raises:
        HfModelsError: An error of a pull, or the version failed its load test.
    """
    with context.open_database() as db:
        before = db.get_model(str(plan.model_id)).commit
    return _switch(context, plan, before, progress, stop)
