"""What an agent may do: refusals, what a person is asked first, and the line that is kept of it. People have no policy.

An agent is whoever uses the service with `agent` set (the MCP server does). Its rules are the `agent_…` settings.
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
from llm_hf_models.downloads.types import PullPlan
from llm_hf_models.errors import ConsentError, HfModelsError, PolicyError
from llm_hf_models.models.types import LocalModelView, Removal
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size
from llm_hf_models.types import ConsentRequest

MAX_LOG_BYTES = 5_000_000


def log_path() -> Path:
    """A line of JSON for each thing that an agent changed, or tried to: when, who, what, outcome."""
    return paths.data_dir() / "agents.log"


def is_read_only(context: Context) -> bool:
    """Whether agents may only look."""
    return context.settings().agent_read_only


def can_delete(context: Context) -> bool:
    """Whether agents may delete models (a person is still asked)."""
    now = context.settings()
    return now.agent_allow_delete and not now.agent_read_only


def limit_prompt_tokens(context: Context, asked: int | None) -> int | None:
    """How many tokens an answer may have.

    Raises:
        PolicyError: an agent asked for more than is allowed.
    """
    most = context.settings().agent_max_prompt_tokens
    if context.agent is None or not most:
        return asked
    if asked is not None and asked > most:
        raise PolicyError(
            f"An answer may have {most} tokens here, and {asked} were asked for",
            hint="llm hf settings agent_max_prompt_tokens",
        )
    return asked or most


def list_consent_requests(context: Context, subject: PullPlan | Removal | LocalModelView) -> tuple[ConsentRequest, ...]:
    """What a person should agree to before an agent goes on: none for a person, nor for what was agreed to for good."""
    if context.agent is None:
        return ()
    if isinstance(subject, PullPlan):
        asked = list(_request_pull_consent(context, subject))
    elif isinstance(subject, Removal):
        freed = format_size(subject.freed_bytes)
        asked = [ConsentRequest("delete", subject.model_id, f"Delete {subject.model_id} and free {freed}?")]
    else:
        asked = list(_request_run_consent(subject))
    agreed = get_preapproved_actions(context)
    return tuple(question for question in asked if question.action not in agreed)


def get_preapproved_actions(context: Context) -> frozenset[str]:
    """The actions that the operator allows without asking."""
    return settings.split_list(context.settings().agent_yes_to)


def _request_pull_consent(context: Context, plan: PullPlan) -> Iterator[ConsentRequest]:
    limit = context.settings().agent_ask_above_bytes
    if limit and plan.fetch_bytes > limit:
        yield ConsentRequest("large", plan.ref, f"Download {format_size(plan.fetch_bytes)} for {plan.ref}?")
    closed = [word for word in ("gated", "private") if (plan.hub or {}).get(word)]
    if closed and plan.fetch_bytes and context.token() is not None:
        yield ConsentRequest(
            "token", plan.ref, f"Use your Hub token to fetch {plan.ref}, which is {' and '.join(closed)}?"
        )


def _request_run_consent(model: LocalModelView) -> Iterator[ConsentRequest]:
    if model.state == "unverified":
        yield ConsentRequest(
            "unverified", model.model_id, f"Run {model.model_id}, whose files were never proven against a digest?"
        )


@contextmanager
def log_failed_attempt(context: Context, what: str, about: object) -> Iterator[None]:
    """Around all that an agent does on the way to a change: what refuses it or goes wrong there is noted.

    Args:
        context: whose.
        what: the verb, for the log.
        about: what it is done to.
    """
    try:
        yield
    except HfModelsError as error:
        outcome = "refused" if isinstance(error, PolicyError) else "failed"
        _append_log(context, what, about, {"outcome": outcome, "why": clean_text(error.message, 300)})
        raise


@contextmanager
def guard_change(
    context: Context,
    what: str,
    about: object,
    subject: PullPlan | Removal | LocalModelView | None = None,
    agreed: Collection[str] = (),
) -> Iterator[None]:
    """Around everything that changes something: refused, or done and noted, where an agent does it.

    Args:
        context: whose.
        what: the verb, for the log.
        about: what it is done to.
        subject: what a person may have to agree to, and limits may refuse.
        agreed: the actions that a person agreed to.

    Raises:
        PolicyError: agents may not.
        ConsentError: nobody agreed.
    """
    if context.agent is None:
        yield
        return
    with log_failed_attempt(context, what, about):
        _refuse_if_forbidden(context, what, subject, agreed)
        yield
    _append_log(context, what, about, {"outcome": "done", **({"agreed": sorted(agreed)} if agreed else {})})


def _refuse_if_forbidden(
    context: Context, what: str, subject: PullPlan | Removal | LocalModelView | None, agreed: Collection[str]
) -> None:
    if is_read_only(context):
        raise PolicyError(
            "Agents may only look here",
            cause="The setting agent_read_only is on.",
            hint="llm hf settings agent_read_only",
        )
    if what == "delete" and not can_delete(context):
        raise PolicyError(
            "Agents may not delete models here",
            cause="The setting agent_allow_delete is off.",
            hint="llm hf settings agent_allow_delete on",
        )
    if subject is None:
        return
    if isinstance(subject, PullPlan):
        _refuse_to_overfill(context, subject)
    missing = [question for question in list_consent_requests(context, subject) if question.action not in agreed]
    if missing:
        raise ConsentError(
            "A person has to agree to this first",
            cause=" ".join(question.text for question in missing),
            hint=f"Once they have, confirm it with the exact name: {missing[0].target}",
        )


def _refuse_to_overfill(context: Context, plan: PullPlan) -> None:
    most = context.settings().agent_max_total_bytes
    if not most:
        return
    with context.open_library() as db:
        kept = {file.location: file.size for model in db.list_models() for file in model.files}
        total = sum(kept.values()) + plan.fetch_bytes
    if total > most:
        raise PolicyError(
            f"With this pull the library would hold {format_size(total)}, more than agents may fill",
            cause=f"The setting agent_max_total_bytes is {format_size(most)}.",
            hint="llm hf settings agent_max_total_bytes",
        )


def _append_log(context: Context, what: str, about: object, outcome: Mapping[str, object]) -> None:
    if context.agent is None:
        return
    now, about = round(time.time(), 3), clean_text(str(about), 300)
    line = {"at": now, "who": context.agent, "what": what, "about": about, **outcome}
    path = log_path()
    with suppress(OSError):  # a log that can't be written must not undo what was done
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        # One write of a whole line: several processes append to it.
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(opened, (json.dumps(line) + "\n").encode())
        finally:
            os.close(opened)
