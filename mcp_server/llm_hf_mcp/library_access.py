"""Open the library for a request, under the name of the requesting host."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Resolve

from llm_hf_mcp.time_limit import HUB_SECONDS
from llm_hf_models.agent_library import AgentLibrary
from llm_hf_models.system.text import clean_text

MAX_NAME_CHARS = 80


def open_library(ctx: Context[Any, Any] | None = None) -> AgentLibrary:
    """Return the library for a request. Its changes are logged under the host's name."""
    return AgentLibrary(get_agent_name(ctx), seconds=HUB_SECONDS)


def get_agent_name(ctx: Context[Any, Any] | None) -> str:
    """Return the name that the host reports for itself, which is not verified."""
    info = ctx.session.client_params.client_info if ctx and ctx.session.client_params else None
    return clean_text(f"{info.name} {info.version}", MAX_NAME_CHARS) if info else "an MCP host"


# A parameter of a tool and of its resolvers. The SDK opens the library once for each call.
OpenLibrary = Annotated[AgentLibrary, Resolve(open_library)]
