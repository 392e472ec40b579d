"""The command about agents: mcp. It configures hosts for the MCP server, which is a program of its own."""

from __future__ import annotations

import json
import shlex

import click

from llm_hf_models import host_config, output
from llm_hf_models.cli_common import confirm, examples

WITHHELD = (
    f"{host_config.ENDPOINT} has a user or a password in it, which is left out: files of hosts are read and shared. "
    "Where that server wants it, give it to the host's own environment."
)


@click.command(
    epilog=examples(
        "llm hf mcp",
        "llm hf mcp claude-desktop --install",
        "llm hf mcp cursor -- --read-only",
        "claude mcp add hf-models -- llm-hf-mcp",
    ),
)
@click.argument("host", type=click.Choice(host_config.KEYS), default="json")
@click.argument("flags", nargs=-1, metavar="[-- SERVER OPTIONS]")
@click.option("--install", is_flag=True, help="Write it into the host's file: shows a diff, asks, keeps a backup.")
@click.option("-y", "--yes", is_flag=True, help="With --install: don't ask.")
def mcp(host: str, flags: tuple[str, ...], install: bool, yes: bool) -> None:
    """Connect an agent's host to this machine's models.

    Prints the configuration with which that host starts llm-hf-mcp, the MCP server. What agents may do is set by
    `llm hf settings agent_...`, or by options for the server after `--`.
    """
    host_config.check(flags)
    if host_config.withholds_password():
        output.note(WITHHELD)
    chosen = host_config.hosts()[host]
    if install:
        _install(host_config.change(chosen, flags), chosen.title, yes=yes)
        return
    output.emit(json.dumps(host_config.snippet(chosen, flags), indent=2))
    if chosen.path is not None:
        again = shlex.join(["llm", "hf", "mcp", host, "--install", *(("--", *flags) if flags else ())])
        output.note(f"For {chosen.title} this goes into {chosen.path}. To write it there: {again}")


def _install(change: host_config.Change, title: str, *, yes: bool) -> None:
    if not change.is_needed:
        output.note(f"{change.path} has it already.")
        return
    output.note(change.diff)
    if not yes:
        confirm(f"Write this to {change.path}?", refused="Nothing was written", hint="-y writes without asking.")
    backup = host_config.write(change)
    kept = f" What was there is kept as {backup}." if backup else ""
    output.note(f"Written.{kept} Restart {title} to use it.")
