"""The commands that prove a GGUF file: inspect and check read it, here or still on the Hub; test loads it."""

from __future__ import annotations

import click

from llm_hf_models import output, views_gguf
from llm_hf_models.cli_common import LocalName, examples, json_option, service

WHAT = LocalName()


@click.command(
    epilog=examples(
        "llm hf inspect unsloth/Qwen3-0.6B-GGUF:Q8_0",
        "llm hf inspect ./model.gguf --metadata",
        "llm hf inspect Qwen3-0.6B --template",
    )
)
@click.argument("name", metavar="REF|FILE", type=WHAT)
@click.option("--metadata", is_flag=True, help="Show every key of the header.")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--template", is_flag=True, help="Show the chat template.")
@json_option
def inspect(name: str, metadata: bool, tensors: bool, template: bool, as_json: bool) -> None:
    """Show the header of a GGUF file.

    REF|FILE is a file, the name of a model on this machine, or a ref on the Hub, of which only the header is fetched.
    """
    found = service().inspect(name, metadata=metadata, tensors=tensors, template=template)
    if as_json:
        output.print_json(found)
        return
    output.emit(views_gguf.inspection(found, output.width()))
    if found.metadata is not None:
        output.emit("\n" + views_gguf.metadata(found.metadata, output.width()))
    if found.tensors is not None:
        output.emit("\n" + views_gguf.tensors(found.tensors, output.width()))
    if template:
        output.emit("\n" + (found.chat_template or "There is no chat template."))


@click.command(
    epilog=examples("llm hf check ./model.gguf", "llm hf check unsloth/Qwen3-0.6B-GGUF:Q8_0", "llm hf check Qwen3-0.6B")
)
@click.argument("name", metavar="REF|FILE", type=WHAT)
@json_option
@click.pass_context
def check(ctx: click.Context, name: str, as_json: bool) -> None:
    """Check a GGUF file against the rules of its format.

    Structure, meaning and chat template are read, nothing is run. Of a file that is still on the Hub only the header
    is seen. Ends with exit code 1 when there are errors.
    """
    report = service().check(name)
    output.print_json(report) if as_json else output.emit(views_gguf.check(report, output.width()))
    ctx.exit(1 if report.errors else 0)


@click.command(epilog=examples("llm hf test Qwen3-0.6B", "llm hf test ./model.gguf --json"))
@click.argument("name", metavar="NAME|FILE", type=WHAT)
@json_option
@click.pass_context
def test(ctx: click.Context, name: str, as_json: bool) -> None:
    """Load a model in a sandbox and have it say a few words.

    It runs in a confined child with a time limit, tensor checks on. The verdict and the layers that held are kept with
    the model. Ends with exit code 1 unless it loads, talks sense and is what was recorded.
    """
    report = service().test(name)
    output.print_json(report) if as_json else output.emit(views_gguf.trial(report, output.width()))
    ctx.exit(0 if report.passed else 1)
