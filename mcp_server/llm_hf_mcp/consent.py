"""Asking the person before an agent spends much, deletes, or uses their token. What is asked: llm_hf_models/policy.py.

A host that can ask shows a form (elicitation, in both eras of the protocol); with one that can't, the agent confirms
in words with the exact name, which its person sees in the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import AcceptedElicitation, Elicit, ElicitationResult
from mcp_types.version import is_version_at_least
from pydantic import BaseModel, Field

from llm_hf_models.service import Question
from llm_hf_models.text import clean_text

ASKS_BY_ANSWERING = "2026-07-28"  # since then a question is part of the answer, before it was a request of its own


class Agreement(BaseModel):
    """The form that the person sees."""

    agree: bool = Field(description="Go on with it")


AGREED = Agreement(agree=True)


def ask(questions: Sequence[Question], confirm: str | None, ctx: Context[Any, Any]) -> Elicit[Agreement] | Agreement:
    """The person's agreement: not needed, given in words, or to be asked for.

    Raises:
        ToolError: nobody can be asked; it says what to do.
    """
    if not questions or confirm == questions[0].about:
        return AGREED
    text = " ".join(question.text for question in questions)
    if confirm:
        raise ToolError(
            f"{clean_text(confirm, 100)!r} does not confirm this. {text}\n"
            f"Next: if the person agrees, call again with confirm={questions[0].about!r}."
        )
    if can_ask(ctx):
        return Elicit(text, Agreement)
    raise ToolError(
        f"A person has to agree first: {text}\n"
        f"Next: ask them, and only if they agree call again with confirm={questions[0].about!r}."
    )


def can_ask(ctx: Context[Any, Any]) -> bool:
    """Whether this host can show the person a form."""
    capabilities = ctx.client_capabilities
    asked = capabilities.elicitation if capabilities is not None else None
    if asked is None or (asked.form is None and asked.url is not None):
        return False
    modern = ctx.protocol_version is not None and is_version_at_least(ctx.protocol_version, ASKS_BY_ANSWERING)
    return modern or ctx.session.can_send_request


def agreed_to(outcome: ElicitationResult[Agreement], questions: Sequence[Question]) -> frozenset[str]:
    """The actions that the person agreed to.

    Raises:
        ToolError: they did not.
    """
    if isinstance(outcome, AcceptedElicitation) and outcome.data.agree:
        return frozenset(question.action for question in questions)
    raise ToolError("The person did not agree, so nothing was done. Don't ask again unless they bring it up.")
