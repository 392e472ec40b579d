"""Commands about this installation: status, settings, mirror and mcp."""

from __future__ import annotations

import json
import shlex

import click

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli import mcp_hosts, output
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import LOOPBACK, SettingKey, confirm, json_option, listen_options
from llm_hf_models.cli.views import local as local_views

PASSWORD_LEFT_OUT = (
    f"The user name and password in {mcp_hosts.ENDPOINT_VARIABLE} are left out, because hosts' files are often shared. "
    "If the endpoint needs them, set the variable in the host's environment."
)


@click.command(epilog=format_examples("llm hf status", "llm hf status --json"))
@json_option
def status(as_json: bool) -> None:
    """Show memory, disk, cache, engines, token and versions."""
    now = open_library(uses_hub=True).status()
    output.print_json(now) if as_json else output.emit(local_views.render_status(now, output.get_width()))


@click.command(
    context_settings={"ignore_unknown_options": True},  # so that -1 is a value
    epilog=format_examples(
        "llm hf settings",
        "llm hf settings context",
        "llm hf settings keep_alive 30m",
        "llm hf settings keep_alive --unset",
    ),
)
@click.argument("key", type=SettingKey(), required=False)
@click.argument("value", required=False)
@click.option("--unset", is_flag=True, help="Restore the default.")
@json_option
def settings(key: str | None, value: str | None, unset: bool, as_json: bool) -> None:
    """List the settings, show one, or change it.

    Sizes take units (5M, 2GiB), and so do times (30s, 5m). Switches are on or off. The environment variable LLM_HF_KEY,
    such as LLM_HF_CONTEXT, overrides the stored value of KEY.
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
    epilog=format_examples(
        "llm hf mirror",
        "llm hf mirror --host 0.0.0.0 --port 8642",
        "HF_ENDPOINT=http://127.0.0.1:8642 llm hf search    # from another shell",
    )
)
@listen_options(8642)
@click.option(
    "allowed",
    "--allow",
    multiple=True,
    metavar="REPO",
    help="Also serve this gated or private repo, or imported model (local/NAME); repeatable.",
)
@click.option(
    "allowed_hosts",
    "--allowed-host",
    multiple=True,
    metavar="NAME",
    help="Also accept requests for this name of the machine; repeatable.",
)
def mirror(host: str, port: int, allowed: tuple[str, ...], allowed_hosts: tuple[str, ...]) -> None:
    """Serve this machine's models to other machines.

    Works like a read-only Hub: any Hub client can pull from it with HF_ENDPOINT. Prints the address and the
    repos, and runs until Ctrl-C. Gated and private repos, and models imported from local files that were not found on
    the Hub, are served only if named with --allow.
    """
    with open_library().mirror(host, port, allow=allowed, allowed_hosts=allowed_hosts) as server:
        address = cli_format.format_server_url(server.server_address)
        output.emit(address)
        served = {repo.id: sum(file.size for file in repo.files) for repo in reversed(server.list_repos())}
        open_to_others = host not in LOOPBACK
        output.note(local_views.render_mirror(address, served, server.hidden_repos, open_to_others=open_to_others))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            output.note("Stopped.")


@click.command(
    epilog=format_examples(
        "llm hf mcp",
        "llm hf mcp claude-desktop --install",
        "llm hf mcp cursor -- --read-only",
        "claude mcp add hf-models -- llm-hf-mcp",
    ),
)
@click.argument("host", type=click.Choice(mcp_hosts.HOST_KEYS), default="json")
@click.argument("flags", nargs=-1, metavar="[-- SERVER OPTIONS]")
@click.option("--install", is_flag=True, help="Write to the host's file after showing a diff; a backup is kept.")
@click.option("-y", "--yes", is_flag=True, help="With --install: don't ask for confirmation.")
def mcp(host: str, flags: tuple[str, ...], install: bool, yes: bool) -> None:
    """Configure an MCP host to use this machine's models.

    Prints the configuration that starts llm-hf-mcp, the MCP server. The `agent_...` settings limit agents; see
    `llm hf settings`. Options for the server follow `--`.
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
        command = shlex.join(["llm", "hf", "mcp", host, "--install", *(("--", *flags) if flags else ())])
        output.note(f"For {chosen.title}, add this to {chosen.path}, or run: {command}")


def _install(change: mcp_hosts.ConfigChange, title: str, *, yes: bool) -> None:
    if not change.is_needed:
        output.note(f"{change.path} already contains this configuration.")
        return
    output.note(change.diff)
    if not yes:
        confirm(
            f"Write these changes to {change.path}?",
            refused="Nothing was written",
            hint="Pass -y to write without asking.",
        )
    backup = mcp_hosts.write_change(change)
    kept = f" The previous file is kept as {backup}." if backup else ""
    output.note(f"Written.{kept} Restart {title} to use it.")
