"""Open the service for a request, under the name of the requesting host."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import Context

from llm_hf_models.service import Library
from llm_hf_models.system.text import clean_text

MAX_NAME_CHARS = 80


def open_library(ctx: Context[Any, Any] | None = None) -> Library:
    """Return the service for a request. Its changes are logged under the host's name."""
    return Library(requested_by="mcp", agent=get_agent_name(ctx))


def get_agent_name(ctx: Context[Any, Any] | None) -> str:
    """Return the name that the host reports for itself, which is not verified."""
    info = ctx.session.client_params.client_info if ctx and ctx.session.client_params else None
    return clean_text(f"{info.name} {info.version}", MAX_NAME_CHARS) if info else "an MCP host"
