"""The commands about the person's account and this installation: login, logout, whoami, status, settings, mirror."""

from __future__ import annotations

import sys

import click

from llm_hf_models import output, views_local, wording
from llm_hf_models.cli_common import (
    LOOPBACK,
    SettingKey,
    ask_hidden,
    ask_new_passphrase,
    examples,
    json_option,
    service,
)

MAX_TOKEN_BYTES = 4096


@click.command(epilog=examples("llm hf login", "pass show hub-token | llm hf login --token-stdin"))
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input instead of asking.")
@json_option
def login(token_stdin: bool, as_json: bool) -> None:
    """Keep a Hub token.

    First the Hub is asked whose it is. Then it goes into the operating system's keychain, or where there is none into
    a file encrypted under a passphrase that is asked for and never stored; LLM_HF_PASSPHRASE in the environment gives
    it where nobody can type it. HF_TOKEN in the environment goes before it.
    """
    if token_stdin:
        given = sys.stdin.buffer.read(MAX_TOKEN_BYTES) if sys.stdin else b""
        token = given.decode("utf-8", "replace")
    else:
        token = ask_hidden("Hub token", otherwise="--token-stdin reads it from standard input.")
    status = service().login(token, ask_passphrase=ask_new_passphrase)
    output.print_json(status) if as_json else output.note(views_local.logged_in(status))


@click.command(epilog=examples("llm hf logout"))
@json_option
def logout(as_json: bool) -> None:
    """Forget the token that `login` kept.

    A token in the environment or of the hf command is not touched.
    """
    places = service().logout()
    output.print_json({"removed_from": places}) if as_json else output.note(views_local.logged_out(places))


@click.command(epilog=examples("llm hf whoami", "llm hf whoami --json"))
@json_option
@click.pass_context
def whoami(ctx: click.Context, as_json: bool) -> None:
    """Show whose token is in force, never the token.

    Says what it may do and where it came from.
    Ends with exit code 1 when there is none or the Hub doesn't accept it.
    """
    status = service().whoami()
    output.print_json(status) if as_json else output.emit(views_local.account(status, output.width()))
    ctx.exit(0 if status.account else 1)


@click.command(epilog=examples("llm hf status", "llm hf status --json"))
@json_option
def status(as_json: bool) -> None:
    """Show this machine at a glance.

    Memory, disk, cache, library, engines, endpoint, token and versions.
    """
    now = service().status()
    output.print_json(now) if as_json else output.emit(views_local.status(now, output.width()))


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
    library = service()
    if key is None:
        every = library.settings()
        output.print_json(every) if as_json else output.emit(views_local.settings(every, output.width()))
        return
    one = library.set_setting(key, value) if unset or value is not None else library.setting(key)
    output.print_json(one) if as_json else output.emit(views_local.setting(one, output.width()))


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
    with service().mirror(host, port, allow=allowed) as server:
        address = wording.address(server.server_address)
        output.emit(address)
        output.note(views_local.mirroring(address, open_to_others=host not in LOOPBACK))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            output.note("Stopped.")
