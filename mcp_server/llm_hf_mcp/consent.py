"""Ask the user before an agent's change that needs consent (llm_hf_models/policy.py decides which changes do).

A host that supports elicitation shows a form (in both versions of the protocol), whatever the agent passes as
`confirm`. With other hosts, the agent confirms by passing the exact name, which the user sees in the tool call. The log
keeps the two apart.

Consent to prompt a model on another server is asked once per session. Over stdio, a session is the server's process.
Over HTTP it is the client's session up to protocol version 2025-11-25; later versions have no sessions, so each call
asks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import AcceptedElicitation, Elicit, ElicitationResult
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp_types.version import is_version_at_least
from pydantic import BaseModel, Field

from llm_hf_mcp.answers import call
from llm_hf_mcp.time_limit import continue_after_form, stop_for_form
from llm_hf_models.agent_library import AgentLibrary, PreparedChange, S
from llm_hf_models.errors import ConsentError
from llm_hf_models.system.text import clean_text
from llm_hf_models.types import Consent, ConsentRequest

# Since this protocol version, an elicitation is part of the result, not a request of its own, and HTTP has no sessions.
MODERN_SINCE = "2026-07-28"
MAX_QUESTION_CHARS = 1000
STDIO = "stdio"  # the only session of a server over stdio


class Agreement(BaseModel):
    """The form that the user sees."""

    agree: bool = Field(description="Go ahead")


@dataclass(frozen=True)
class SettledConsent:
    """A change that needs no form: no consent is needed (`given` is None), or it was given in another way."""

    given: Consent | None = None


async def request_agreement(
    ctx: Context[Any, Any], library: AgentLibrary, change: PreparedChange[Any], confirm: str | None
) -> Elicit[Agreement] | SettledConsent:
    """Return the form to show, or how consent was given without a form.

    Raises:
        ToolError: The host can't show a form, and `confirm` is not the expected name. The error has the next step.
    """
    if not change.requests:
        return SettledConsent()
    # policy.py has quoted the names in the texts. A host may show a question as it is, so it is cleaned as a whole too.
    text = clean_text(" ".join(request.text for request in change.requests), MAX_QUESTION_CHARS)
    name = change.requests[0].target
    if given := _get_session_consents(ctx).get(change.requests):
        return SettledConsent(given)
    if can_elicit(ctx):
        stop_for_form()
        return Elicit(text, Agreement)
    if confirm == name:
        return SettledConsent("words")
    if confirm:
        error = ConsentError(
            f"{clean_text(confirm, 100)!r} does not confirm this: {text}",
            hint=f"Next: if the user agrees, call again with confirm={name!r}.",
        )
    else:
        error = ConsentError(
            f"The user must agree first: {text}",
            hint=f"Next: ask the user. Only if they agree, call again with confirm={name!r}.",
        )
    return await call(library.refuse, change, error)


async def record_answer(
    library: AgentLibrary, change: PreparedChange[S], answer: ElicitationResult[Agreement]
) -> PreparedChange[S]:
    """Return the change with the consent that was given.

    Args:
        library: The library of the call.
        change: The change.
        answer: The answer to the form, or the `SettledConsent` that the SDK wraps in an accepted answer.

    Raises:
        ToolError: The user did not agree.
    """
    continue_after_form()
    data: object = answer.data if isinstance(answer, AcceptedElicitation) else None
    if isinstance(data, SettledConsent):
        return replace(change, consent=data.given)
    if isinstance(data, Agreement) and data.agree:
        return replace(change, consent="person")
    hint = "Don't ask again unless the user brings it up."
    return await call(library.refuse, change, ConsentError("The user did not agree, so nothing was changed", hint=hint))


def remember_consent(ctx: Context[Any, Any], change: PreparedChange[Any]) -> None:
    """Remember the consent to a change for the rest of the session, if the session exists."""
    if change.requests and change.consent:
        _get_session_consents(ctx)[change.requests] = change.consent


def _get_session_consents(ctx: Context[Any, Any]) -> dict[tuple[ConsentRequest, ...], Consent]:
    """Return the remembered consents of the session, by the exact requests; a new dict without a session."""
    if ctx.headers is None:
        session: str | None = STDIO
    else:
        session = None if _is_modern(ctx) else ctx.headers.get(MCP_SESSION_ID_HEADER)
    sessions: dict[str, dict[tuple[ConsentRequest, ...], Consent]] = ctx.request_context.lifespan_context
    return sessions.setdefault(session, {}) if session else {}


def can_elicit(ctx: Context[Any, Any]) -> bool:
    """Return whether the host can show a form to the user."""
    capabilities = ctx.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return _is_modern(ctx) or ctx.session.can_send_request


def _is_modern(ctx: Context[Any, Any]) -> bool:
    return ctx.protocol_version is not None and is_version_at_least(ctx.protocol_version, MODERN_SINCE)
