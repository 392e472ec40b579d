"""Commands about this installation: status, settings, mirror and mcp."""

from __future__ import annotations

import json
import shlex

import click

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli import mcp_hosts, output
from llm_hf_models.cli.framework import examples, open_library
from llm_hf_models.cli.params import LOOPBACK, SettingKey, confirm, json_option
from llm_hf_models.cli.views import local as local_views


@click.command(epilog=examples("llm hf status", "llm hf status --json"))
@json_option
def status(as_json: bool) -> None:
    """Show this machine at a glance.

    Memory, disk, cache, library, engines, endpoint, token and versions.
    """
    now = open_library().status()
    output.print_json(now) if as_json else output.emit(local_views.render_status(now, output.get_width()))


@click.command(
    context_settings={"ignore_unknown_options": True},  # so that -1 is a value
    epilog=examples(
        "llm hf settings",
        "llm hf settings context",
        "llm hf settings keep_alive 30m",
        "llm hf settings keep_alive --unset",
    ),
)
@click.argument("key", type=SettingKey(), required=False)
@click.argument("value", required=False)
@click.option("--unset", is_flag=True, help="Go back to the default.")
@json_option
def settings(key: str | None, value: str | None, unset: bool, as_json: bool) -> None:
    """List the settings, show one, or change it.

    Sizes take units (5M, 2GiB), times too (30s, 5m), switches on and off. LLM_HF_KEY in the environment goes before
    what is stored here.
    """
    if unset and (key is None or value is not None):
        raise click.UsageError("--unset takes one KEY and no VALUE.")
    library = open_library()
    if key is None:
        every = library.settings()
        output.print_json(every) if as_json else output.emit(local_views.render_settings(every, output.get_width()))
        return
    one = library.set_setting(key, value) if unset or value is not None else library.get_setting(key)
    output.print_json(one) if as_json else output.emit(local_views.render_setting(one, output.get_width()))


@click.command(
    epilog=examples(
        "llm hf mirror",
        "llm hf mirror --host 0.0.0.0 --port 8642",
        "HF_ENDPOINT=http://127.0.0.1:8642 llm hf search    # from another shell",
    )
)
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="PORT", default=8642, show_default=True, help="0 takes a free one."
)
@click.option("allowed", "--allow", multiple=True, metavar="REPO", help="Serve this gated or private repo too.")
def mirror(host: str, port: int, allowed: tuple[str, ...]) -> None:
    """Serve this machine's models to other machines.

    It answers as the Hub does, read-only.

    Prints the address and runs until Ctrl-C. Any Hub client pulls from it with HF_ENDPOINT. Gated and private repos
    are served only when named.
    """
    with open_library().mirror(host, port, allow=allowed) as server:
        address = cli_format.format_server_url(server.server_address)
        output.emit(address)
        output.note(local_views.render_mirror(address, open_to_others=host not in LOOPBACK))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            output.note("Stopped.")


PASSWORD_LEFT_OUT = (
    f"{mcp_hosts.ENDPOINT_VARIABLE} has a user or a password in it, which is left out: "
    "files of hosts are read and shared. "
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
@click.argument("host", type=click.Choice(mcp_hosts.HOST_KEYS), default="json")
@click.argument("flags", nargs=-1, metavar="[-- SERVER OPTIONS]")
@click.option("--install", is_flag=True, help="Write it into the host's file: shows a diff, asks, keeps a backup.")
@click.option("-y", "--yes", is_flag=True, help="With --install: don't ask.")
def mcp(host: str, flags: tuple[str, ...], install: bool, yes: bool) -> None:
    """Connect an agent's host to this machine's models.

    Prints the configuration with which that host starts llm-hf-mcp, the MCP server. What agents may do is set by
    `llm hf settings agent_...`, or by options for the server after `--`.
    """
    mcp_hosts.check_options(flags)
    if mcp_hosts.has_endpoint_password():
        output.note(PASSWORD_LEFT_OUT)
    chosen = mcp_hosts.list_hosts()[host]
    if install:
        _install(mcp_hosts.plan_change(chosen, flags), chosen.title, yes=yes)
        return
    output.emit(json.dumps(mcp_hosts.build_snippet(chosen, flags), indent=2))
    if chosen.path is not None:
        again = shlex.join(["llm", "hf", "mcp", host, "--install", *(("--", *flags) if flags else ())])
        output.note(f"For {chosen.title} this goes into {chosen.path}. To write it there: {again}")


def _install(change: mcp_hosts.ConfigChange, title: str, *, yes: bool) -> None:
    if not change.is_needed:
        output.note(f"{change.path} has it already.")
        return
    output.note(change.diff)
    if not yes:
        confirm(f"Write this to {change.path}?", refused="Nothing was written", hint="-y writes without asking.")
    backup = mcp_hosts.write_change(change)
    kept = f" What was there is kept as {backup}." if backup else ""
    output.note(f"Written.{kept} Restart {title} to use it.")
