"""Asking the person before an agent spends much, deletes, or uses their token. What is asked: llm_hf_models/policy.py.

A host that can ask shows a form (elicitation, in both eras of the protocol); with one that can't, the agent confirms
in words with the exact name, which its person sees in the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import AcceptedElicitation, Elicit, ElicitationResult
from mcp_types.version import is_version_at_least
from pydantic import BaseModel, Field

from llm_hf_mcp.answers import call
from llm_hf_mcp.library_access import open_library
from llm_hf_models.downloads.types import PullPlan
from llm_hf_models.errors import ConsentError
from llm_hf_models.models.types import LocalModelView, Removal
from llm_hf_models.system.text import clean_text
from llm_hf_models.types import ConsentRequest

T = TypeVar("T")

ELICITS_IN_RESULT_SINCE = (
    "2026-07-28"  # since then a question is part of the answer, before it was a request of its own
)


class Agreement(BaseModel):
    """The form that the person sees."""

    agree: bool = Field(description="Go on with it")


AGREED = Agreement(agree=True)


@dataclass(frozen=True)
class PendingAction:
    """What an agent wants to do, before a person has been asked: the verb, and what it is done to."""

    verb: str
    subject: PullPlan | Removal | LocalModelView

    @property
    def log_name(self) -> str:
        """As the log names it."""
        return self.subject.ref if isinstance(self.subject, PullPlan) else self.subject.model_id


async def call_and_log_failure(
    ctx: Context[Any, Any], what: str, about: str, function: Callable[..., T], *arguments: object
) -> T:
    """What precedes a change, such as a plan or a question; where it refuses or fails, that is noted.

    Raises:
        ToolError: for every error of ours.
    """
    service = open_library(ctx)

    def attempt() -> T:
        with service.attempt(what, about):
            return function(*arguments)

    return await call(attempt)


async def request_agreement(
    ctx: Context[Any, Any], plan: PendingAction, confirm: str | None
) -> Elicit[Agreement] | Agreement:
    """The person's agreement: not needed, given in words, or to be asked for.

    Raises:
        ToolError: nobody can be asked; it says what to do.
    """

    def asked() -> Elicit[Agreement] | Agreement:
        return _resolve_agreement(open_library(ctx).questions(plan.subject), confirm, ctx)

    return await call_and_log_failure(ctx, plan.verb, plan.log_name, asked)


async def get_agreed_actions(
    ctx: Context[Any, Any], plan: PendingAction, outcome: ElicitationResult[Agreement]
) -> frozenset[str]:
    """The actions that the person agreed to.

    Raises:
        ToolError: they did not.
    """

    def agreed() -> frozenset[str]:
        if isinstance(outcome, AcceptedElicitation) and outcome.data.agree:
            return frozenset(question.action for question in open_library(ctx).questions(plan.subject))
        raise ConsentError(
            "The person did not agree, so nothing was done", hint="Don't ask again unless they bring it up."
        )

    return await call_and_log_failure(ctx, plan.verb, plan.log_name, agreed)


def _resolve_agreement(
    questions: Sequence[ConsentRequest], confirm: str | None, ctx: Context[Any, Any]
) -> Elicit[Agreement] | Agreement:
    if not questions or confirm == questions[0].target:
        return AGREED
    text = " ".join(question.text for question in questions)
    if confirm:
        raise ConsentError(
            f"{clean_text(confirm, 100)!r} does not confirm this: {text}",
            hint=f"Next: if the person agrees, call again with confirm={questions[0].target!r}.",
        )
    if can_elicit(ctx):
        return Elicit(text, Agreement)
    raise ConsentError(
        f"A person has to agree first: {text}",
        hint=f"Next: ask them, and only if they agree call again with confirm={questions[0].target!r}.",
    )


def can_elicit(ctx: Context[Any, Any]) -> bool:
    """Whether this host can show the person a form."""
    capabilities = ctx.client_capabilities
    asked = capabilities.elicitation if capabilities is not None else None
    if asked is None or (asked.form is None and asked.url is not None):
        return False
    modern = ctx.protocol_version is not None and is_version_at_least(ctx.protocol_version, ELICITS_IN_RESULT_SINCE)
    return modern or ctx.session.can_send_request
