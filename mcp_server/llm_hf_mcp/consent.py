"""Ask the user before an agent's large download, deletion, use of the token, or run of unverified files.

llm_hf_models/policy.py decides which actions need the user's agreement.

A host that supports elicitation shows a form (in both versions of the protocol). With other hosts, the agent confirms
by passing the exact name, which the user sees in the tool call.
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
from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.errors import ConsentError
from llm_hf_models.models.types import LocalModelView, Removal
from llm_hf_models.system.text import clean_text
from llm_hf_models.types import ConsentRequest

T = TypeVar("T")

# The first protocol version in which an elicitation is part of the result, not a request of its own.
ELICITS_IN_RESULT_SINCE = "2026-07-28"


class Agreement(BaseModel):
    """The form that the user sees."""

    agree: bool = Field(description="Go ahead")


AGREED = Agreement(agree=True)


@dataclass(frozen=True)
class PendingAction:
    """An action that may need the user's agreement: its verb and its subject."""

    verb: str
    subject: PullPlan | Removal | LocalModelView

    @property
    def log_name(self) -> str:
        """The subject's name in the log."""
        return self.subject.ref if isinstance(self.subject, PullPlan) else self.subject.model_id


async def call_and_log_failure(
    ctx: Context[Any, Any], verb: str, log_name: str, function: Callable[..., T], *arguments: object
) -> T:
    """Call a function that precedes a change, such as planning a download, and log it if it fails or is refused.

    Raises:
        ToolError: The function raised an HfModelsError.
    """
    service = open_library(ctx)

    def attempt() -> T:
        with service.log_failed_attempt(verb, log_name):
            return function(*arguments)

    return await call(attempt)


async def request_agreement(
    ctx: Context[Any, Any], action: PendingAction, confirm: str | None
) -> Elicit[Agreement] | Agreement:
    """Return the user's agreement, if it is given or not needed; otherwise return the form to show.

    Raises:
        ToolError: The host can't show a form, or `confirm` is not the expected name. The error has the next step.
    """

    def resolve() -> Elicit[Agreement] | Agreement:
        return _resolve_agreement(open_library(ctx).list_consent_requests(action.subject), confirm, ctx)

    return await call_and_log_failure(ctx, action.verb, action.log_name, resolve)


async def get_agreed_actions(
    ctx: Context[Any, Any], action: PendingAction, outcome: ElicitationResult[Agreement]
) -> frozenset[str]:
    """Return the actions that the user agreed to.

    Raises:
        ToolError: The user did not agree.
    """

    def read_outcome() -> frozenset[str]:
        if isinstance(outcome, AcceptedElicitation) and outcome.data.agree:
            return frozenset(request.action for request in open_library(ctx).list_consent_requests(action.subject))
        raise ConsentError(
            "The user did not agree, so nothing was changed", hint="Don't ask again unless the user brings it up."
        )

    return await call_and_log_failure(ctx, action.verb, action.log_name, read_outcome)


def _resolve_agreement(
    requests: Sequence[ConsentRequest], confirm: str | None, ctx: Context[Any, Any]
) -> Elicit[Agreement] | Agreement:
    if not requests or confirm == requests[0].target:
        return AGREED
    text = " ".join(request.text for request in requests)
    if confirm:
        raise ConsentError(
            f"{clean_text(confirm, 100)!r} does not confirm this: {text}",
            hint=f"Next: if the user agrees, call again with confirm={requests[0].target!r}.",
        )
    if can_elicit(ctx):
        return Elicit(text, Agreement)
    raise ConsentError(
        f"The user must agree first: {text}",
        hint=f"Next: ask the user. Only if they agree, call again with confirm={requests[0].target!r}.",
    )


def can_elicit(ctx: Context[Any, Any]) -> bool:
    """Return whether the host can show a form to the user."""
    capabilities = ctx.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    modern = ctx.protocol_version is not None and is_version_at_least(ctx.protocol_version, ELICITS_IN_RESULT_SINCE)
    return modern or ctx.session.can_send_request
