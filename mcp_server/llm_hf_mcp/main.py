"""`llm-hf-mcp`: the command line of the server. Settings are llm hf's; the flags here hold for this process alone."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# Flags that are settings of this process, and of the worker that it starts: flag, setting, what it takes, help.
_SETTINGS = (
    ("--read-only", "agent_read_only", None, "offer only tools that change nothing"),
    ("--allow-delete", "agent_allow_delete", None, "offer delete_model (the person is still asked)"),
    (
        "--ask-above",
        "agent_ask_above_bytes",
        "SIZE",
        "ask before a download larger than this, such as 5GB; 0 never asks",
    ),
    ("--max-download", "max_download_bytes", "SIZE", "refuse a download larger than this"),
    ("--max-total", "agent_max_total_bytes", "SIZE", "refuse a download that makes the library larger than this"),
    ("--disk-reserve", "disk_reserve", "SIZE", "bytes that downloads leave free on the disk"),
    ("--allow-owners", "allowed_owners", "NAMES", "download from these owners only (comma-separated)"),
    ("--allow-licenses", "allowed_licenses", "NAMES", "download these licences only (comma-separated)"),
    ("--downloads", "concurrent_downloads", "N", "downloads that run at the same time at most"),
    ("--max-prompt-tokens", "agent_max_prompt_tokens", "N", "length of an answer to run_prompt at most"),
    ("--yes-to", "agent_yes_to", "ACTIONS", "don't ask before: any of delete, large, token, unverified"),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="llm-hf-mcp",
        description="MCP server: open models from the Hugging Face Hub on this machine. Speaks over stdin and stdout.",
        epilog="`llm hf mcp` prints the configuration for your host.",
    )
    rules = made.add_argument_group("what agents may do (else as `llm hf settings` says)")
    for flag, setting, takes, words in _SETTINGS:
        if takes is None:
            rules.add_argument(flag, dest=setting, action="store_const", const="on", help=words)
        else:
            rules.add_argument(flag, dest=setting, metavar=takes, help=words)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until the host closes the connection."""
    given = parser().parse_args(arguments)
    for _, setting, _, _ in _SETTINGS:
        value = getattr(given, setting)
        if value is not None:
            os.environ[f"LLM_HF_{setting.upper()}"] = value
    from llm_hf_models.errors import HfModelsError

    try:
        _serve(given)
    except HfModelsError as error:
        sys.exit(f"llm-hf-mcp: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _serve(given: argparse.Namespace) -> None:
    del given
    from llm_hf_mcp.server import build

    build().run("stdio")
