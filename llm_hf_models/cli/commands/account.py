"""Commands about the Hub account: login, logout and whoami."""

from __future__ import annotations

import sys

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import ask_hidden, examples, open_library
from llm_hf_models.cli.params import ask_new_passphrase, json_option
from llm_hf_models.cli.views import local as local_views

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
    status = open_library().login(token, ask_passphrase=ask_new_passphrase)
    output.print_json(status) if as_json else output.note(local_views.render_login(status))


@click.command(epilog=examples("llm hf logout"))
@json_option
def logout(as_json: bool) -> None:
    """Forget the token that `login` kept.

    A token in the environment or of the hf command is not touched.
    """
    places = open_library().logout()
    output.print_json({"removed_from": places}) if as_json else output.note(local_views.render_logout(places))


@click.command(epilog=examples("llm hf whoami", "llm hf whoami --json"))
@json_option
@click.pass_context
def whoami(ctx: click.Context, as_json: bool) -> None:
    """Show whose token is in force, never the token.

    Says what it may do and where it came from.
    Ends with exit code 1 when there is none or the Hub doesn't accept it.
    """
    status = open_library().whoami()
    output.print_json(status) if as_json else output.emit(local_views.render_account(status, output.get_width()))
    ctx.exit(0 if status.account else 1)
