"""The command line of the MCP server, `llm-hf-mcp`. Its flags override the settings of `llm hf` for this process."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence

DEFAULT_PORT = 8765
DEFAULT_HOST = "127.0.0.1"
INTERRUPTED = 130  # the exit code after Ctrl-C
TERMINAL_NOTICE = """\
llm-hf-mcp uses stdin and stdout for MCP. It is usually started by a host: `llm hf mcp` prints the configuration.
Press Ctrl-C to stop it.
"""
_HTTP_FLAGS = ("--host", "--no-auth", "--allowed-host", "--allowed-origin")  # they need --http
# Flags that override settings for this process and its download worker: flag, setting, metavar, help.
_SETTING_FLAGS = (
    ("--read-only", "agent_read_only", None, "offer only the tools that change nothing"),
    (
        "--allow-delete",
        "agent_allow_delete",
        None,
        "offer hf_delete_model and hf_prune_models (they still ask the user)",
    ),
    (
        "--ask-above",
        "agent_ask_above_bytes",
        "SIZE",
        "ask the user before downloads larger than SIZE, such as 5GB; 0 never asks",
    ),
    ("--max-download", "max_download_bytes", "SIZE", "refuse downloads larger than SIZE"),
    ("--max-total", "agent_max_total_bytes", "SIZE", "refuse downloads that make the library larger than SIZE"),
    ("--disk-reserve", "disk_reserve_bytes", "SIZE", "disk space that downloads leave free"),
    ("--allow-owners", "allowed_owners", "NAMES", "download only from these owners (comma-separated)"),
    ("--allow-licenses", "allowed_licenses", "NAMES", "download only models with these licences (comma-separated)"),
    ("--downloads", "concurrent_downloads", "N", "maximum number of concurrent downloads"),
    ("--max-prompt-tokens", "agent_max_prompt_tokens", "N", "maximum length of a hf_run_prompt response, in tokens"),
    (
        "--yes-to",
        "agent_yes_to",
        "ACTIONS",
        "actions that need no agreement: delete, large, token, unverified, interrupt, endpoint, alias, comma-separated",
    ),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="llm-hf-mcp",
        description="MCP server for open models from the Hugging Face Hub. It uses stdin and stdout by default.",
        epilog="`llm hf mcp` prints the configuration for your host.",
    )
    parser.add_argument(
        "--http",
        nargs="?",
        type=int,
        const=DEFAULT_PORT,
        metavar="PORT",
        help=f"serve Streamable HTTP at /mcp on PORT instead (default {DEFAULT_PORT}; 0 for a free port)",
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help=f"with --http: the address to listen on (default {DEFAULT_HOST})",
    )
    parser.add_argument("--no-auth", action="store_true", help="with --http on a loopback address: require no token")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="with --http: accept requests with this Host header too; repeatable",
    )
    parser.add_argument(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="with --http: accept browser requests with this Origin header; repeatable",
    )
    rules = parser.add_argument_group("limits for agents (each overrides a setting of `llm hf settings`)")
    for flag, setting, metavar, help_text in _SETTING_FLAGS:
        if metavar is None:
            rules.add_argument(flag, dest=setting, action="store_const", const="on", help=help_text)
        else:
            rules.add_argument(flag, dest=setting, metavar=metavar, help=help_text)
    parser.add_argument(
        "--check",
        action="count",
        default=0,
        help="check that a host can start the server with these options, and exit",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the host closes the connection."""
    given = _parse_arguments(arguments)
    if given.check:
        return
    gc.disable()  # imported modules stay in memory, so collecting garbage would only cost a tenth of the start time
    from llm_hf_models.errors import HfModelsError
    from llm_hf_models.redaction import redact_stderr

    redact_stderr()
    try:
        _serve(given)
    except HfModelsError as error:
        sys.stderr.write(f"llm-hf-mcp: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line and export its settings to the environment; exit if one is not valid."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    from llm_hf_models.errors import BadInputError
    from llm_hf_models.service import Library

    _refuse_wrong_transport(parser, given)
    for flag, setting, _, _ in _SETTING_FLAGS:
        value = getattr(given, setting)
        if value is not None:
            try:
                Library.check_setting(setting, value)
            except BadInputError as error:
                parser.error(f"argument {flag}: {error.message}. {error.hint or ''}".rstrip())
            os.environ[f"LLM_HF_{setting.upper()}"] = value
    return given


def _refuse_wrong_transport(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Exit if options for HTTP are given without --http, or if a host can't use the options."""
    if given.check > 1:  # `llm hf mcp` adds one
        parser.error("argument --check: a host needs a server that keeps running")
    if given.http is not None:
        if given.check:
            parser.error("argument --http: a host uses the server's stdin and stdout, not HTTP")
        return
    for flag in _HTTP_FLAGS:
        if getattr(given, flag.removeprefix("--").replace("-", "_")):
            parser.error(f"argument {flag}: it needs --http")


def _serve(given: argparse.Namespace) -> None:
    if given.http is None:
        _serve_stdio()
        return
    from llm_hf_mcp import http_transport

    http_transport.serve(
        http_transport.build_options(
            given.host or DEFAULT_HOST,
            given.http,
            auth=not given.no_auth,
            allowed_hosts=given.allowed_host,
            allowed_origins=given.allowed_origin,
        )
    )


def _serve_stdio() -> None:
    # The SDK reads stdin in a thread that can't be interrupted: without this, Ctrl-C would wait until stdin is closed.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    if sys.stdin is not None and sys.stdin.isatty():
        sys.stderr.write(TERMINAL_NOTICE)
    from llm_hf_mcp import stdio_transport
    from llm_hf_mcp.server import build_server

    stdio_transport.serve(build_server())
