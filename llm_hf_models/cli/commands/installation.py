"""Commands about this installation: status, settings, mirror and mcp."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import click

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli import mcp_hosts, output
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import (
    LOOPBACK,
    Folder,
    SettingKey,
    confirm,
    json_option,
    listen_options,
    quiet_option,
    yes_option,
)
from llm_hf_models.cli.views import host_config as host_views
from llm_hf_models.cli.views import local as local_views
from llm_hf_models.system.units import format_size


@dataclass(frozen=True)
class InstalledEntry:
    """The change of a host's file by `mcp --install`."""

    path: Path
    changed: bool  # whether the file needs a change
    written: bool
    backup: Path | None  # a copy of the previous file
    kept: tuple[str, ...]  # members of the existing entry that a new one would not have
    differing: tuple[str, ...]  # kept variables that select other files or servers than this process uses
    diff: str


@click.command(epilog=format_examples("llm hf status", "llm hf status --json", "llm hf status --files"))
@click.option("--files", is_flag=True, help="List everything that this package has stored on this machine.")
@quiet_option("Hide notes.")
@json_option
def status(files: bool, as_json: bool) -> None:
    """Show memory, disk, cache, engines, token and versions."""
    from llm_hf_models.types import StoredItemList

    if files:
        stored = open_library().list_stored_files()
        output.print_json(StoredItemList(stored)) if as_json else output.emit(
            local_views.render_stored_files(stored, output.get_width())
        )
        return
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
@quiet_option("Print only the value of KEY, and nothing after a change.", is_passed=True)
@json_option
def settings(key: str | None, value: str | None, unset: bool, quiet: bool, as_json: bool) -> None:
    """List the settings, show one, or change it.

    Sizes take units (5M, 2GiB), and so do times (30s, 5m) and numbers of tokens (16k is 16384). Switches are on or off.
    The environment variable LLM_HF_KEY, such as LLM_HF_CONTEXT, overrides the stored value of KEY. A setting that is
    also a flag of `pull` or an option of a model has the same name; other names end in their unit.
    """
    from llm_hf_models.types import SettingList

    if unset and (key is None or value is not None):
        raise click.UsageError("--unset takes one KEY and no VALUE.")
    library = open_library()
    if key is None:
        every = library.settings()
        if as_json:
            output.print_json(SettingList(every))
        else:
            output.emit(local_views.render_settings(every, output.get_width()))
        return
    one = library.set_setting(key, value) if unset or value is not None else library.get_setting(key)
    if key != one.key:
        output.note(f"The setting {key} is now called {one.key}.")
    if as_json:
        output.print_json(SettingList((one,)))
    elif not quiet:
        output.emit(local_views.render_setting(one, output.get_width()))
    elif not unset and value is None:
        output.emit(cli_format.format_setting(one.value))


@click.command(
    epilog=format_examples(
        "llm hf mirror",
        "llm hf mirror --host 0.0.0.0 --port 8642",
        "llm hf mirror --from /media/disk/models",
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
@click.option(
    "source",
    "--from",
    metavar="DIR",
    type=Folder(file_okay=False, path_type=Path),
    help="Serve a folder that `llm hf export` made, instead of this machine's models.",
)
@quiet_option("Print only the address.")
def mirror(host: str, port: int, allowed: tuple[str, ...], allowed_hosts: tuple[str, ...], source: Path | None) -> None:
    """Serve this machine's models to other machines.

    Works like a read-only Hub: any Hub client can pull from it with HF_ENDPOINT. Prints the address and the
    repos, and runs until Ctrl-C. Gated and private repos, and models imported from local files that were not found on
    the Hub, are served only if named with --allow.
    """
    with open_library().mirror(host, port, allow=allowed, allowed_hosts=allowed_hosts, source=source) as server:
        address = cli_format.format_server_url(server.server_address)
        output.emit(address)
        served = {repo.id: sum(file.size for file in repo.files) for repo in reversed(server.list_repos())}
        open_to_others = host not in LOOPBACK
        output.note(local_views.render_mirror(address, served, server.hidden_repos, open_to_others=open_to_others))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            output.note("Stopped.")


@click.command(epilog=format_examples("llm hf uninstall --dry-run", "llm hf uninstall --keep-models"))
@click.option("--keep-models", is_flag=True, help="Keep the files of the models, for other tools.")
@click.option("--dry-run", is_flag=True, help="List the files without removing anything.")
@yes_option
@quiet_option("Print nothing, except for the list of --dry-run.", is_passed=True)
@json_option
def uninstall(keep_models: bool, dry_run: bool, yes: bool, quiet: bool, as_json: bool) -> None:
    """Remove everything that this package has stored.

    Stops the engines and downloads, and removes the models, the library, the settings, the logs and the stored token.
    Files that were imported in place, and files that other tools or models use, stay. Remove the package itself
    afterwards.
    """
    library = open_library()
    result = library.plan_uninstallation(keep_models=keep_models)
    if not dry_run:
        if not yes:
            output.alert(local_views.render_stored_files(result.files, output.get_width()))
            size = format_size(result.freed_bytes)
            confirm(
                f"Remove these {len(result.files)} files and folders ({size})?",
                refused="Nothing was removed",
                hint="Pass -y to remove without asking.",
            )
        result = library.uninstall(keep_models=keep_models)
    if as_json:
        output.print_json(result)
    elif dry_run or not quiet:
        output.emit(local_views.render_uninstallation(result, output.get_width()))
    if result.done:
        output.note(host_views.render_next_step_of_uninstallation(mcp_hosts.find_hosts_with_entry()))


@click.command(
    epilog=format_examples(
        "llm hf mcp",
        "llm hf mcp claude-desktop --install",
        "llm hf mcp vscode --install --dry-run",
        "llm hf mcp cursor --install -- --read-only",
        "llm hf mcp cursor --uninstall",
        "claude mcp add hf-models -- llm-hf-mcp",
    ),
)
@click.argument("host", type=click.Choice(mcp_hosts.HOST_KEYS), default="json")
@click.argument("flags", nargs=-1, metavar="[-- SERVER OPTIONS]")
@click.option("--install", is_flag=True, help="Write to the host's file after showing a diff; a backup is kept.")
@click.option("uninstalls", "--uninstall", is_flag=True, help="Remove the entry from the host's file, in the same way.")
@click.option("--reset", is_flag=True, help="With --install: replace the whole entry instead of keeping edits in it.")
@click.option("--dry-run", is_flag=True, help="With --install or --uninstall: show the diff without writing anything.")
@click.option("-y", "--yes", is_flag=True, help="With --install or --uninstall: don't ask for confirmation.")
@quiet_option("Hide notes.")
@json_option
def mcp(
    host: str,
    flags: tuple[str, ...],
    install: bool,
    uninstalls: bool,
    reset: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Configure an MCP host to use this machine's models.

    Prints the configuration that starts llm-hf-mcp, the MCP server. It includes the environment variables that
    select the library, the cache and the network, but no token. --install keeps the rest of the host's file, and
    changes that were made to the entry by hand. The `agent_...` settings limit agents; see `llm hf settings`.
    Options for the server follow `--`.
    """
    if reset and not install:
        raise click.UsageError("--reset needs --install.")
    for name, is_given in (("--dry-run", dry_run), ("--yes", yes)):
        if is_given and not install and not uninstalls:
            raise click.UsageError(f"{name} needs --install or --uninstall.")
    if uninstalls:
        if install or flags:
            raise click.UsageError("--uninstall accepts neither --install nor options for the server.")
        change = mcp_hosts.plan_removal(mcp_hosts.find_host(host))
        _apply(change, host_views.REMOVAL, asks=not yes, dry_run=dry_run, as_json=as_json)
        return
    mcp_hosts.check_options(flags)
    chosen, notes = mcp_hosts.find_host(host), mcp_hosts.collect_carried_variables().notes
    for note in notes:
        output.note(note)
    if install:
        change = mcp_hosts.plan_change(chosen, flags, reset=reset)
        _apply(change, host_views.INSTALLATION, asks=not yes, dry_run=dry_run, as_json=as_json)
        return
    output.print_json(mcp_hosts.build_snippet(chosen, flags))
    if chosen.path is not None:
        command = shlex.join(["llm", "hf", "mcp", host, "--install", *(("--", *flags) if flags else ())])
        output.note(f"For {chosen.title}, add this to {chosen.path}, or run: {command}")


def _apply(
    change: mcp_hosts.ConfigChange, texts: host_views.Texts, *, asks: bool, dry_run: bool, as_json: bool
) -> None:
    """Show the change of a host's file, ask, and write it."""
    diff, kept, backup = host_views.render_diff(change), host_views.render_kept(change), None
    writes = change.is_needed and not dry_run
    if kept:
        output.note(kept)
    if not change.is_needed:
        output.note(f"{change.path} {texts.unneeded}.")
    elif not as_json or (asks and writes):
        output.alert(diff) if asks and writes else output.note(diff)
    if change.is_needed and dry_run:
        output.note("Nothing was written.")
    if writes:
        if asks:
            confirm(
                f"Write these changes to {change.path}?",
                refused="Nothing was written",
                hint="Pass -y to write without asking.",
            )
        backup = mcp_hosts.write_change(change)
        saved = f" The previous file is kept as {backup}." if backup else ""
        output.note(f"Written.{saved} Restart {change.host.title} to {texts.purpose}.")
    if as_json:
        entry = InstalledEntry(change.path, change.is_needed, writes, backup, change.kept, change.differing, diff)
        output.print_json(entry)
