"""The service as one host's agent uses it. Asks it nothing."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import Context

from llm_hf_models.service import Library
from llm_hf_models.system.text import clean_text

MAX_NAME_CHARS = 80


def open_library(ctx: Context[Any, Any] | None = None) -> Library:
    """The service for this request: its changes are noted under the host's name."""
    return Library(requested_by="mcp", agent=get_agent_name(ctx))


def get_agent_name(ctx: Context[Any, Any] | None) -> str:
    """The host's name as it gave it, which proves nothing."""
    info = ctx.session.client_params.client_info if ctx and ctx.session.client_params else None
    return clean_text(f"{info.name} {info.version}", MAX_NAME_CHARS) if info else "an MCP host"
