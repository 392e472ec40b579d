"""`llm-hf-mcp`: the command line of the server. Settings are llm hf's; the flags here hold for this process alone."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence

DEFAULT_PORT = 8765
INTERRUPTED = 130  # the exit code after Ctrl-C
TERMINAL_NOTICE = """\
llm-hf-mcp speaks MCP over stdin and stdout: a host starts it. `llm hf mcp` prints the configuration for one.
Ctrl-C ends it.
"""
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


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="llm-hf-mcp",
        description="MCP server: open models from the Hugging Face Hub on this machine. Speaks over stdin and stdout.",
        epilog="`llm hf mcp` prints the configuration for your host.",
    )
    made.add_argument(
        "--http",
        nargs="?",
        type=int,
        const=DEFAULT_PORT,
        metavar="PORT",
        help=f"serve Streamable HTTP instead, at /mcp on this port ({DEFAULT_PORT}; 0 takes a free one)",
    )
    made.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="with --http: the address to listen on")
    made.add_argument("--no-auth", action="store_true", help="with --http on this machine alone: ask for no token")
    made.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="with --http: a Host that requests may be for, beside this machine's; repeatable",
    )
    made.add_argument(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="with --http: an Origin that browsers may come from; repeatable",
    )
    rules = made.add_argument_group("what agents may do (else as `llm hf settings` says)")
    for flag, setting, takes, words in _SETTINGS:
        if takes is None:
            rules.add_argument(flag, dest=setting, action="store_const", const="on", help=words)
        else:
            rules.add_argument(flag, dest=setting, metavar=takes, help=words)
    made.add_argument("--check", action="store_true", help="only see whether these options can be used, and end")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until the host closes the connection."""
    given = _parse_arguments(arguments)
    if given.check:
        return
    gc.disable()  # nothing that is imported goes again: looking for garbage meanwhile is a tenth of the start
    from llm_hf_models.errors import HfModelsError

    try:
        _serve(given)
    except HfModelsError as error:
        sys.stderr.write(f"llm-hf-mcp: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, its settings put into the environment; ends the process where they can't be used."""
    made = build_parser()
    given = made.parse_args(arguments)
    from llm_hf_models.errors import BadInputError
    from llm_hf_models.service import Library

    for flag, setting, _, _ in _SETTINGS:
        value = getattr(given, setting)
        if value is not None:
            try:
                Library.check_setting(setting, value)
            except BadInputError as error:
                made.error(f"argument {flag}: {error.message}. {error.hint or ''}".rstrip())
            os.environ[f"LLM_HF_{setting.upper()}"] = value
    return given


def _serve(given: argparse.Namespace) -> None:
    if given.http is None:
        _serve_stdio()
        return
    from llm_hf_mcp import http_transport

    http_transport.serve(
        http_transport.build_options(
            given.host,
            given.http,
            auth=not given.no_auth,
            allowed_hosts=given.allowed_host,
            allowed_origins=given.allowed_origin,
        )
    )


def _serve_stdio() -> None:
    # The SDK reads stdin in a thread that nothing wakes: without this, Ctrl-C would wait for the host to close it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    if sys.stdin is not None and sys.stdin.isatty():
        sys.stderr.write(TERMINAL_NOTICE)
    from llm_hf_mcp.server import build_server

    build_server().run("stdio")
