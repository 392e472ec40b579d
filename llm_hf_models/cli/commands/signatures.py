"""The commands about signatures: sign."""

from __future__ import annotations

import shlex

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import ask_hidden, format_examples, open_library
from llm_hf_models.cli.params import File, LocalName, confirm, dry_run_option, json_option, quiet_option, yes_option
from llm_hf_models.cli.views import signing as views

NO_TERMINAL_HINT = "Without a terminal, use a key without a passphrase: openssl pkey -in KEY -out PLAIN"


@click.command(
    epilog=format_examples(
        "llm hf sign Qwen3-0.6B --key signing.pem -o model.sig",
        "llm hf sign ./my-model --key signing.pem",
        "llm hf sign ./my-model --key signing.pem --cert chain.pem -y",
        "openssl ecparam -name prime256v1 -genkey -noout -out signing.pem",
    )
)
@click.argument("name", metavar="NAME|DIR", type=LocalName())
@click.option(
    "--key", type=File(), required=True, metavar="FILE", help="Private key in PEM format (ECDSA P-256, P-384 or P-521)."
)
@click.option(
    "--cert", type=File(), metavar="FILE", help="Certificate of the key, with those between it and its root, in PEM."
)
@click.option(
    "-o",
    "--output",
    "target",
    type=File(),
    metavar="FILE",
    help="Signature file to write. Default: model.sig in DIR, or in the current folder for a model.",
)
@dry_run_option
@yes_option
@quiet_option()
@json_option
def sign(name: str, key: str, cert: str | None, target: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Sign the files of a model with a private key.

    Writes a signature file in the format of OpenSSF Model Signing (OMS), which other programs read too. NAME is a local
    model. DIR is a folder, of which all files are signed except Git's and the signature file. Files of a model are not
    read again if nothing has changed since they were verified.
    """
    from llm_hf_models.cli import progress

    library = open_library()
    done = library.sign(name, key, certificates=cert, output=target, dry_run=True)
    if not dry_run:
        if done.replaces and not yes:
            confirm(f"Replace {done.file}?", refused="Nothing was signed", hint="Pass -y to replace it without asking.")
        with progress.show_progress(quiet=output.is_quiet()) as show_progress:
            done = library.sign(
                name,
                key,
                certificates=cert,
                output=target,
                ask_passphrase=lambda: ask_hidden(f"Passphrase of {key}", hint=NO_TERMINAL_HINT),
                overwrite=done.replaces,
                progress=show_progress,
            )
    if as_json:
        output.print_json(done)
        return
    output.emit(views.render_signing(done, output.get_width()))
    if done.done and done.method == "key":
        output.note(f"To check the signature, others need the public key: openssl pkey -in {shlex.quote(key)} -pubout")
