"""Limit the actions of agents: refuse them, require a person's consent, and log them.

An agent is a caller that sets `agent` in the context, as the MCP server does. The `agent_…` settings define its limits.
Callers without `agent` have no limits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from llm_hf_models import paths, settings
from llm_hf_models.context import Context
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.errors import ConsentError, HfModelsError, PolicyError
from llm_hf_models.models.types import LocalModelView, Removal
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size
from llm_hf_models.types import ConsentRequest

MAX_LOG_BYTES = 5_000_000


def log_path() -> Path:
    """Return the path of the log of changes that agents made or attempted.

    Each line is a JSON object with the time (`at`), agent (`who`), action (`what`), target (`about`) and `outcome`.
    After an error, `why` has its message.
    """
    return paths.data_dir() / "agents.log"


def is_read_only(context: Context) -> bool:
    """Return whether agents may change nothing."""
    return context.settings().agent_read_only


def can_delete(context: Context) -> bool:
    """Return whether agents may delete models at all. A person must still agree, unless agent_yes_to has delete."""
    current = context.settings()
    return current.agent_allow_delete and not current.agent_read_only


def limit_prompt_tokens(context: Context, requested: int | None) -> int | None:
    """Return the maximum number of tokens in a response; None means no limit.

    Raises:
        PolicyError: an agent requested more than the limit.
    """
    limit = context.settings().agent_max_prompt_tokens
    if context.agent is None or not limit:
        return requested
    if requested is not None and requested > limit:
        raise PolicyError(
            f"{requested} tokens were requested, but agents may request at most {limit}",
            hint="llm hf settings agent_max_prompt_tokens",
        )
    return requested or limit


def list_consent_requests(context: Context, subject: PullPlan | Removal | LocalModelView) -> tuple[ConsentRequest, ...]:
    """Return the requests that a person must agree to before an agent may act.

    The result is empty if the caller is not an agent. Actions in the setting agent_yes_to are left out.
    """
    if context.agent is None:
        return ()
    if isinstance(subject, PullPlan):
        requests = list(_request_pull_consent(context, subject))
    elif isinstance(subject, Removal):
        freed = format_size(subject.freed_bytes)
        requests = [ConsentRequest("delete", subject.model_id, f"Delete {subject.model_id} and free {freed}?")]
    else:
        requests = list(_request_run_consent(subject))
    preapproved = get_preapproved_actions(context)
    return tuple(request for request in requests if request.action not in preapproved)


def get_preapproved_actions(context: Context) -> frozenset[str]:
    """Return the actions that the operator allows without consent."""
    return settings.split_list(context.settings().agent_yes_to)


def _request_pull_consent(context: Context, plan: PullPlan) -> Iterator[ConsentRequest]:
    limit = context.settings().agent_ask_above_bytes
    if limit and plan.fetch_bytes > limit:
        yield ConsentRequest("large", plan.ref, f"Download {format_size(plan.fetch_bytes)} for {plan.ref}?")
    restrictions = [name for name in ("gated", "private") if (plan.hub or {}).get(name)]
    if restrictions and plan.fetch_bytes and context.token() is not None:
        text = f"Use your Hub token to download {plan.ref}, which is {' and '.join(restrictions)}?"
        yield ConsentRequest("token", plan.ref, text)


def _request_run_consent(model: LocalModelView) -> Iterator[ConsentRequest]:
    if model.state == "unverified":
        text = f"Run {model.model_id}, whose files were never verified against a digest?"
        yield ConsentRequest("unverified", model.model_id, text)


@contextmanager
def log_failed_attempt(context: Context, action: str, target: object) -> Iterator[None]:
    """Log an error in the `with` block if the caller is an agent. The block prepares or makes a change.

    Args:
        context: the caller's context.
        action: a verb for the log, such as `pull`.
        target: the model or file that the action changes.
    """
    try:
        yield
    except HfModelsError as error:
        outcome = "refused" if isinstance(error, PolicyError) else "failed"
        _append_log(context, action, target, {"outcome": outcome, "why": clean_text(error.message, 300)})
        raise


@contextmanager
def guard_change(
    context: Context,
    action: str,
    target: object,
    subject: PullPlan | Removal | LocalModelView | None = None,
    agreed: Collection[str] = (),
) -> Iterator[None]:
    """Guard a `with` block that changes something: if the caller is an agent, refuse the change or log it.

    Args:
        context: the caller's context.
        action: a verb for the log, such as `pull`.
        target: the model or file that the action changes.
        subject: the plan or model to check against the limits and for required consent.
        agreed: the actions that a person agreed to.

    Raises:
        PolicyError: a setting forbids the action to agents.
        ConsentError: a person must agree first.
    """
    if context.agent is None:
        yield
        return
    with log_failed_attempt(context, action, target):
        _refuse_if_forbidden(context, action, subject, agreed)
        yield
    _append_log(context, action, target, {"outcome": "done", **({"agreed": sorted(agreed)} if agreed else {})})


def _refuse_if_forbidden(
    context: Context, action: str, subject: PullPlan | Removal | LocalModelView | None, agreed: Collection[str]
) -> None:
    if is_read_only(context):
        raise PolicyError(
            "Agents may not change anything",
            cause="The setting agent_read_only is on.",
            hint="llm hf settings agent_read_only",
        )
    if action == "delete" and not can_delete(context):
        raise PolicyError(
            "Agents may not delete models",
            cause="The setting agent_allow_delete is off.",
            hint="llm hf settings agent_allow_delete on",
        )
    if subject is None:
        return
    if isinstance(subject, PullPlan):
        _refuse_to_overfill(context, subject)
    missing = [request for request in list_consent_requests(context, subject) if request.action not in agreed]
    if missing:
        raise ConsentError(
            "A person must agree to this first",
            cause=" ".join(request.text for request in missing),
            hint=f"After they agree, confirm with the exact name: {missing[0].target}",
        )


def _refuse_to_overfill(context: Context, plan: PullPlan) -> None:
    limit = context.settings().agent_max_total_bytes
    if not limit:
        return
    with context.open_database() as db:
        sizes = {file.location: file.size for model in db.list_models() for file in model.files}
        total = sum(sizes.values()) + plan.fetch_bytes
    if total > limit:
        raise PolicyError(
            f"With this pull the library would take {format_size(total)}, over the limit for agents",
            cause=f"The setting agent_max_total_bytes is {format_size(limit)}.",
            hint="llm hf settings agent_max_total_bytes",
        )


def _append_log(context: Context, action: str, target: object, outcome: Mapping[str, object]) -> None:
    if context.agent is None:
        return
    now, name = round(time.time(), 3), clean_text(str(target), 300)
    line = {"at": now, "who": context.agent, "what": action, "about": name, **outcome}
    path = log_path()
    with suppress(OSError):  # the action is done, so a failure to log it is ignored
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        # Several processes append to the log, so each line is written in one call.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)
