"""Define the limits of agents: the changes that are refused, and those that need consent.

The `agent_…` settings define these limits. `agent_library.py` applies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.disk_space.types import Pruning
from llm_hf_models.downloads.plan_types import PullPlan, list_restrictions
from llm_hf_models.errors import PolicyError
from llm_hf_models.library.download_records import AGENT, UNFINISHED_STATES
from llm_hf_models.lockfiles.types import SyncPlan
from llm_hf_models.models.collection_types import CollectionDeletion
from llm_hf_models.models.types import LocalModelView, Removal
from llm_hf_models.settings import Settings
from llm_hf_models.system.text import quote_label
from llm_hf_models.system.units import format_size
from llm_hf_models.types import AliasChange, ConsentRequest, DownloadChange, DownloadClearance, EngineStop
from llm_hf_models.updates.types import UpdatePlan

# The plan of a change, or the model to prompt.
OtherSubject = (
    Removal
    | CollectionDeletion
    | Pruning
    | LocalModelView
    | DownloadChange
    | DownloadClearance
    | EngineStop
    | AliasChange
)
Subject = PullPlan | UpdatePlan | SyncPlan | OtherSubject | None
MAX_NAME_CHARS = 120  # of a name in a question; longer than the names of almost all models
MAX_NAMES = 5  # in a question
SYNC_TARGET = "lockfile"  # the name that confirms a sync
_STARTERS = {"cli": "a person started in a terminal", "python": "a Python program started"}


def find_prohibition(limits: Settings, action: str) -> PolicyError | None:
    """Return the error for an action that agents may not take at all, or None."""
    if limits.agent_read_only:
        return PolicyError(
            "Agents may not change anything",
            cause="The setting agent_read_only is on.",
            hint="llm hf settings agent_read_only",
        )
    if action == "delete" and not limits.agent_allow_delete:
        return PolicyError(
            "Agents may not delete models or collections",
            cause="The setting agent_allow_delete is off.",
            hint="llm hf settings agent_allow_delete on",
        )
    return None


def review(context: Context, limits: Settings, subject: Subject) -> tuple[ConsentRequest, ...]:
    """Return the requests that need consent before an agent may make a change.

    Raises:
        PolicyError: With this pull, the library would exceed its limit; or a sync would delete, which is forbidden.
    """
    if isinstance(subject, PullPlan | UpdatePlan | SyncPlan):
        _refuse_to_overfill(context, limits, subject.fetch_bytes)
    return tuple(_request_consent(context, limits, subject)) if subject else ()


def _request_consent(
    context: Context, limits: Settings, subject: PullPlan | UpdatePlan | SyncPlan | OtherSubject
) -> Iterator[ConsentRequest]:
    if isinstance(subject, PullPlan):
        yield from _request_pull_consent(context, limits, subject)
    elif isinstance(subject, UpdatePlan):
        for each in subject.models:
            if each.plan is not None:
                yield from _request_pull_consent(context, limits, each.plan)
    elif isinstance(subject, SyncPlan):
        yield from _request_sync_consent(context, limits, subject)
    elif isinstance(subject, Removal | CollectionDeletion | Pruning):
        yield from _request_deletion_consent(subject)
    elif isinstance(subject, LocalModelView):
        yield from _request_run_consent(subject)
    elif isinstance(subject, DownloadChange):
        yield from _request_control_consent(context, limits, subject)
    elif isinstance(subject, AliasChange):
        yield from _request_alias_consent(subject)
    else:
        yield from _request_interruption_consent(subject)


def is_preapproved(limits: Settings, request: ConsentRequest) -> bool:
    """Return whether the setting agent_yes_to allows an action without consent."""
    return request.action in settings.split_list(limits.agent_yes_to)


def _quote(name: str) -> str:
    """Return a name, which others may have chosen, so that it can not look like a part of the question."""
    return quote_label(name, MAX_NAME_CHARS)


def _refuse_to_overfill(context: Context, limits: Settings, fetch_bytes: int) -> None:
    limit = limits.agent_max_total_bytes
    if not limit:
        return
    with context.open_database() as db:
        sizes = {file.location: file.size for model in db.list_models() for file in model.files}
        total = sum(sizes.values()) + fetch_bytes
    if total > limit:
        raise PolicyError(
            f"With this pull the library would take {format_size(total)}, over the limit for agents",
            cause=f"The setting agent_max_total_bytes is {format_size(limit)}.",
            hint="llm hf settings agent_max_total_bytes",
        )


def _request_pull_consent(context: Context, limits: Settings, plan: PullPlan) -> Iterator[ConsentRequest]:
    limit = limits.agent_ask_above_bytes
    if limit and plan.fetch_bytes > limit:
        yield ConsentRequest("large", plan.ref, f"Download {format_size(plan.fetch_bytes)} for {_quote(plan.ref)}?")
    restrictions = list_restrictions(plan)
    if restrictions and context.token() is not None:
        text = f"Use your Hub token to download {_quote(plan.ref)}, which is {' and '.join(restrictions)}?"
        yield ConsentRequest("token", plan.ref, text)


def _request_deletion_consent(subject: Removal | CollectionDeletion | Pruning) -> Iterator[ConsentRequest]:
    if isinstance(subject, Removal):
        freed = format_size(subject.freed_bytes)
        yield ConsentRequest("delete", subject.id, f"Delete {_quote(subject.id)} and free {freed}?")
    elif isinstance(subject, CollectionDeletion):
        count = len(subject.collections)
        what = _quote(subject.name) + (f" and the {count - 1} in it" if count > 1 else "")
        yield ConsentRequest("delete", subject.name, f"Delete the collection {what}? Its models are kept.")
    elif subject.models:
        ids = [each.id for each in subject.models]
        names = ", ".join(map(_quote, ids[:MAX_NAMES])) + (" and others" if len(ids) > MAX_NAMES else "")
        text = f"Delete {len(ids)} models and free {format_size(subject.freed_bytes)}: {names}?"
        yield ConsentRequest("delete", f"prune {len(ids)} models", text)


def _request_sync_consent(context: Context, limits: Settings, plan: SyncPlan) -> Iterator[ConsentRequest]:
    """Request consent to everything that a sync does, with one name that confirms all of it.

    Raises:
        PolicyError: It deletes models, and agents may not.
    """
    if plan.removals and (prohibition := find_prohibition(limits, "delete")):
        raise prohibition
    limit, pulls = limits.agent_ask_above_bytes, [step.pull for step in plan.steps if step.pull]
    if limit and plan.fetch_bytes > limit:
        text = f"Download {format_size(plan.fetch_bytes)} for {len(pulls)} models of the lockfile?"
        yield ConsentRequest("large", SYNC_TARGET, text)
    for pull in pulls:
        for request in _request_pull_consent(context, limits, pull):
            if request.action == "token":
                yield replace(request, target=SYNC_TARGET)
    if plan.removals:
        names = ", ".join(_quote(removal.id) for removal in plan.removals)
        yield ConsentRequest("delete", SYNC_TARGET, f"Delete {names}, which the lockfile does not list?")
    for step in plan.steps:
        moved = [f"the alias {_quote(alias)} from {_quote(owner)}" for alias, owner in step.moved_aliases.items()]
        taken = [*moved, *([f"the id of the imported file {_quote(step.replaces)}"] if step.replaces else [])]
        if taken:
            text = f"Give {_quote(step.id)} {', '.join(taken)}?"
            yield ConsentRequest("interrupt", SYNC_TARGET, text)


def _request_run_consent(model: LocalModelView) -> Iterator[ConsentRequest]:
    # The prompt itself verifies or refuses a file that has changed since its digest matched.
    digest = next((check.result for check in model.checks if check.kind == "digest"), None)  # the newest is first
    if model.state == "unverified" and digest != "matches":
        text = f"Run {_quote(model.id)}, whose files were never verified against a digest?"
        yield ConsentRequest("unverified", model.id, text)
    if model.endpoint:
        key = model.key_name or model.key_env
        with_key = f" with your API key {_quote(key)}" if key else ""
        text = f"Prompt {_quote(model.id)} on {_quote(model.endpoint)}{with_key}?"
        yield ConsentRequest("endpoint", model.id, text)


def _request_control_consent(context: Context, limits: Settings, change: DownloadChange) -> Iterator[ConsentRequest]:
    """Request consent to stop a download that a person started. Continuing one needs the consent that starting needs.

    The text must not contain progress: the host sends the call again with the answer, which is for this exact text.
    """
    download = change.download
    if change.verb in ("resume", "retry"):
        yield from review(context, limits, change.plan)
    elif download.requested_by != AGENT and download.state in UNFINISHED_STATES:
        what = f"{change.verb.capitalize()} download {download.id} of {_quote(download.ref)}"
        lost = " Its downloaded data is discarded." if change.verb == "cancel" else ""
        starter = _STARTERS.get(download.requested_by, "a person started")
        text = f"{what} ({format_size(download.total_bytes)}), which {starter}?{lost}"
        yield ConsentRequest("interrupt", f"{change.verb} {download.id}", text)


def _request_interruption_consent(change: DownloadClearance | EngineStop) -> Iterator[ConsentRequest]:
    if isinstance(change, EngineStop):
        if ids := sorted({engine.id for engine in change.engines}):
            names = ", ".join(map(_quote, ids[:MAX_NAMES])) + (" and others" if len(ids) > MAX_NAMES else "")
            yield ConsentRequest("interrupt", "stop engines", f"Stop the engines of {names}, which may be in use?")
    elif count := sum(row.requested_by != AGENT for row in change.downloads):
        text = f"Remove the records of {count} downloads that a person started?"
        yield ConsentRequest("interrupt", "clear downloads", text)


def _request_alias_consent(change: AliasChange) -> Iterator[ConsentRequest]:
    """Request consent to take names from models: a command with such a name then fails, or uses another model."""
    if change.owners:
        taken = [f"{_quote(alias)} from {_quote(owner)}" for alias, owner in change.owners.items()]
        names = ", ".join(taken[:MAX_NAMES]) + (" and others" if len(taken) > MAX_NAMES else "")
        moved = {alias.casefold() for alias in change.add} & {alias.casefold() for alias in change.owners}
        to = f" and give {'them' if len(moved) > 1 else 'it'} to {_quote(change.name or '')}" if moved else ""
        kind = "name" if len(taken) == 1 else "names"
        yield ConsentRequest("alias", " ".join(change.owners), f"Take the {kind} {names}{to}?")


def limit_prompt_tokens(limits: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a prompt with the maximum number of tokens that an agent may request.

    Raises:
        PolicyError: The agent requested more than that.
    """
    limit, requested = limits.agent_max_prompt_tokens, options.get("max_tokens")
    if limit and requested is not None and requested > limit:
        raise PolicyError(
            f"{requested} tokens were requested, but agents may request at most {limit}",
            hint="llm hf settings agent_max_prompt_tokens",
        )
    return {**options, "max_tokens": limit} if limit and requested is None else dict(options)
