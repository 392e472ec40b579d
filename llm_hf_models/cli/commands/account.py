"""Commands about the Hub account: login, logout and whoami."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import ask_hidden, format_examples, open_library
from llm_hf_models.cli.params import ask_new_passphrase, json_option, quiet_option
from llm_hf_models.cli.views import installation as installation_views

MAX_TOKEN_BYTES = 4096


@dataclass(frozen=True)
class LoggedOut:
    """The places from which `logout` removed the token."""

    removed_from: tuple[str, ...]


@click.command(
    epilog=format_examples("llm hf login", "llm hf login --plain", "pass show hub-token | llm hf login --token-stdin")
)
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
@click.option(
    "--plain", is_flag=True, help="Store it as plain text, in a file that only you can read, as `hf auth login` does."
)
@quiet_option("Hide notes.")
@json_option
def login(token_stdin: bool, plain: bool, as_json: bool) -> None:
    """Store a Hub token.

    Checks the token with the Hub, then stores it in the operating system's keychain. Without a keychain, stores it in
    a file that is encrypted with a passphrase. The passphrase is never stored; LLM_HF_PASSPHRASE supplies it to
    scripts. Commands ask for it only if the Hub refuses a request without a token, and not again for 8 hours
    (`llm hf settings unlock_seconds`). HF_TOKEN in the environment takes precedence over a stored token.
    """
    if token_stdin:
        data = sys.stdin.buffer.read(MAX_TOKEN_BYTES) if sys.stdin else b""
        token = data.decode("utf-8", "replace")
    else:
        token = ask_hidden("Hub token", hint="Use --token-stdin to read it from standard input.")
    status = open_library(uses_hub=True).login(token, ask_passphrase=ask_new_passphrase, plain=plain)
    output.print_json(status) if as_json else output.note(installation_views.render_login(status))


@click.command(epilog=format_examples("llm hf logout"))
@quiet_option("Hide notes.")
@json_option
def logout(as_json: bool) -> None:
    """Remove the token that `login` stored.

    Tokens in the environment and the hf command's token are kept.
    """
    places = open_library().logout()
    output.print_json(LoggedOut(places)) if as_json else output.note(installation_views.render_logout(places))


@click.command(epilog=format_examples("llm hf whoami", "llm hf whoami --json", "llm hf whoami -q"))
@quiet_option("Print nothing; only set the exit code.", is_passed=True)
@json_option
@click.pass_context
def whoami(ctx: click.Context, quiet: bool, as_json: bool) -> None:
    """Show the account of the active token.

    Also shows the token's scopes and source, but never the token itself. Exits with code 1 without a token or if the
    Hub rejects it.
    """
    status = open_library(uses_hub=True).whoami()
    if as_json:
        output.print_json(status)
    elif not quiet:
        output.emit(installation_views.render_account(status, output.get_width()))
    ctx.exit(0 if status.account else 1)
