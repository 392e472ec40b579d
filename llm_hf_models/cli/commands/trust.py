"""The commands of `llm hf trust`: add, list and remove."""

from __future__ import annotations

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import dry_run_option, json_option, quiet_option
from llm_hf_models.cli.views import signatures as views
from llm_hf_models.models.signature_types import TrustChange, TrustedSigners

NO_SIGNERS = "No trusted signers yet. Trust one: llm hf trust add OWNER --key FILE"


@click.group(
    invoke_without_command=True,
    epilog=format_examples(
        "llm hf trust add acme --key acme.pub",
        "llm hf trust add ibm-granite --identity Granite-sign@ibm.com --issuer https://sigstore.verify.ibm.com/oauth2",
        "llm hf trust list",
    ),
)
@json_option
@click.pass_context
def trust(ctx: click.Context, as_json: bool) -> None:
    """Choose who may sign the models of an owner.

    Nobody is trusted just because a repo has a signature. A signature states who signed a list of files, not that a
    model is harmless. Without a command, lists the trusted signers.
    """
    if ctx.invoked_subcommand is None:
        _print_list(None, as_json=as_json)


@trust.command(epilog=format_examples("llm hf trust add acme --key acme.pub", "llm hf trust add acme --cert root.pem"))
@click.argument("owner")
@click.option("--identity", metavar="NAME", help="The identity in a keyless signature, such as sign@acme.com.")
@click.option("--issuer", metavar="URL", help="The login service that confirmed the identity.")
@click.option("--key", type=click.Path(), metavar="FILE", help="The signer's public key, in PEM format.")
@click.option(
    "--cert", type=click.Path(), metavar="FILE", help="A root certificate, or that of the signer, in PEM format."
)
@dry_run_option
@quiet_option()
@json_option
def add(
    owner: str,
    identity: str | None,
    issuer: str | None,
    key: str | None,
    cert: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Trust a signer for the models of OWNER.

    Describe the signer by --identity and --issuer, by --key or by --cert. Get these from the owner by another way than
    the repo itself.
    """
    done = open_library().add_trusted_signer(
        owner, identity=identity, issuer=issuer, key=key, certificate=cert, dry_run=dry_run
    )
    _print_change(done, as_json=as_json)


@trust.command("list", epilog=format_examples("llm hf trust list", "llm hf trust list ibm-granite --json"))
@click.argument("owner", required=False)
@json_option
def list_(owner: str | None, as_json: bool) -> None:
    """List the trusted signers, of one owner or of all."""
    _print_list(owner, as_json=as_json)


@trust.command(epilog=format_examples("llm hf trust remove 1", "llm hf trust remove acme --dry-run"))
@click.argument("signer", metavar="NUMBER|OWNER")
@dry_run_option
@quiet_option()
@json_option
def remove(signer: str, dry_run: bool, as_json: bool) -> None:
    """Stop trusting a signer, or all signers of an owner.

    NUMBER is that of the signer in `llm hf trust list`.
    """
    _print_change(open_library().remove_trusted_signers(signer, dry_run=dry_run), as_json=as_json)


def _print_list(owner: str | None, *, as_json: bool) -> None:
    signers = open_library().list_trusted_signers(owner)
    if as_json:
        output.print_json(TrustedSigners(signers))
    elif signers:
        output.emit(views.render_signers(signers, output.get_width()))
    else:
        output.note(NO_SIGNERS if owner is None else f"No signer is trusted for {owner}. List all: llm hf trust list")


def _print_change(done: TrustChange, *, as_json: bool) -> None:
    output.print_json(done) if as_json else output.note(views.render_trust_change(done))
