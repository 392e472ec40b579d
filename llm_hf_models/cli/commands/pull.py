"""Commands that download a model and test it: pull and test."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.commands.find import NAME_OR_FILE
from llm_hf_models.cli.framework import examples, open_library, stop_on_interrupt
from llm_hf_models.cli.keypress import call_on_key
from llm_hf_models.cli.params import (
    RATE,
    Folder,
    aliases_option,
    confirm,
    json_option,
    quiet_option,
)
from llm_hf_models.cli.views import downloads as downloads_views
from llm_hf_models.cli.views import gguf as gguf_views
from llm_hf_models.cli.views import hub as hub_views
from llm_hf_models.errors import HfModelsError, InterruptedByUserError

if TYPE_CHECKING:
    from llm_hf_models.downloads.types import PullPlan, PullResult
    from llm_hf_models.service import Library


@click.command(epilog=examples("llm hf test Qwen3-0.6B", "llm hf test ./model.gguf --json"))
@click.argument("name", metavar="NAME|FILE", type=NAME_OR_FILE)
@json_option
@click.pass_context
def test(ctx: click.Context, name: str, as_json: bool) -> None:
    """Load a model in a sandbox and have it say a few words.

    It runs in a confined child with a time limit, tensor checks on. The verdict and the layers that held are kept with
    the model. Ends with exit code 1 unless it loads, talks sense and is what was recorded.
    """
    report = open_library().test(name)
    output.print_json(report) if as_json else output.emit(gguf_views.render_load_test(report, output.get_width()))
    ctx.exit(0 if report.passed else 1)


BACKGROUND_KEY = "b"


@click.command(
    epilog=examples(
        "llm hf pull unsloth/Qwen3-0.6B-GGUF",
        "llm hf pull unsloth/Qwen3-0.6B-GGUF:Q8_0 -a small",
        "llm hf pull unsloth/Qwen3-0.6B-GGUF --dry-run",
        "llm hf pull unsloth/Qwen3-0.6B-GGUF:README.md --to docs",
    )
)
@click.argument("ref")
@click.option("--revision", metavar="REVISION", help="Branch, tag or commit to pin; the default branch otherwise.")
@aliases_option
@click.option("--no-mmproj", is_flag=True, help="Leave the vision projector, where there is one.")
@click.option(
    "--to",
    metavar="DIR",
    type=Folder(file_okay=False, path_type=Path),
    help="Put the files here, not in the cache.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be fetched, and fetch nothing.")
@click.option("--background", is_flag=True, help="Queue it for the worker; prints the id of the download.")
@click.option("--on-done", metavar="COMMAND", help="With --background: run this, here, when it is done.")
@click.option("--connections", type=click.IntRange(1, 64), metavar="N", help="Open at most so many connections.")
@click.option("--limit-rate", type=RATE, help="Bytes per second at most, such as 5M.")
@click.option("--allow-unsafe", is_flag=True, help="Pull even what the Hub's scanners report; noted in the record.")
@click.option("--allow-invalid", is_flag=True, help="Keep even a file that breaks the GGUF rules, unregistered.")
@click.option("-y", "--yes", is_flag=True, help="With --to: replace files of other content without asking.")
@click.option("--test", is_flag=True, help="Load it in a sandbox when it is here; exit code 1 unless that goes well.")
@quiet_option
@json_option
@click.pass_context
def pull(
    ctx: click.Context,
    /,
    ref: str,
    aliases: tuple[str, ...],
    no_mmproj: bool,
    dry_run: bool,
    background: bool,
    on_done: str | None,
    yes: bool,
    test: bool,
    quiet: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Fetch a model, check it, make it ready for `llm -m`.

    One variant is fetched: all shards of one quantization, and its vision projector where there is one.

    REF is owner/name, owner/name:QUANT, owner/name:FILE, owner/name@REVISION:QUANT or the address of a page on the
    Hub. Without a quantization it is the best one that fits this machine's memory.

    Prints the model's id, and with --background the download's. An interrupted pull continues when it is run again.
    """
    from llm_hf_models.downloads.types import PullOptions

    if on_done and not background:
        raise click.UsageError("--on-done goes with --background.")
    if test and background:
        raise click.UsageError("--test goes with a pull in the foreground.")
    library = open_library()
    plan = library.plan(ref, PullOptions(mmproj=not no_mmproj, aliases=aliases, **options))  # type: ignore[arg-type]
    if dry_run:
        output.print_json(plan) if as_json else output.emit(hub_views.render_plan(plan, output.get_width()))
        return
    if plan.replaces and not yes:
        confirm(
            f"Replace {', '.join(plan.replaces)}, of other content?",
            refused="Nothing was replaced",
            hint="-y replaces without asking.",
        )
    if not quiet:
        output.note(hub_views.render_choice(plan))
    result = None if background else _pull_in_foreground(library, plan, quiet=quiet)
    if result is None:  # asked for at once, or with a key
        _enqueue_pull(library, plan, on_done, quiet=quiet, as_json=as_json)
        if test and plan.model_id and not quiet:
            output.note(f"It is not tested then: llm hf test {plan.model_id}")
        return
    if not quiet:
        output.note(hub_views.render_pull_result(result))
        output.notify(f"{result.model_id or ref} is here", result.seconds)
    output.print_json(result) if as_json else output.emit(result.model_id or "\n".join(result.files))
    if test and result.model_id:
        report = library.test(result.model_id)
        output.note(gguf_views.render_load_test(report, output.get_width()))
        ctx.exit(0 if report.passed else 1)


def _enqueue_pull(library: Library, plan: PullPlan, on_done: str | None, *, quiet: bool, as_json: bool) -> None:
    row = library.enqueue(plan, on_done=on_done)
    if not quiet:
        output.note(downloads_views.render_queued(row))
    output.print_json(row) if as_json else output.emit(str(row.id))


def _pull_in_foreground(library: Library, plan: PullPlan, *, quiet: bool) -> PullResult | None:
    """Pulls in the foreground; None when the person sent it to the background."""
    from llm_hf_models.cli import progress

    moving = [file for file in plan.files if not file.local]
    sent = threading.Event()
    with stop_on_interrupt() as stop:

        def to_background() -> None:
            sent.set()
            try:
                # At once in the row, where it waits for a worker if the terminal goes now.
                with suppress(HfModelsError):
                    library.continue_in_background(plan)
            finally:
                stop.set()

        try:
            with (
                call_on_key(BACKGROUND_KEY, to_background) as heard,
                progress.show_progress(moving, quiet=quiet) as show,
            ):
                if heard and moving and not quiet:
                    output.note(f"Press {BACKGROUND_KEY} to let it go on in the background.")
                return library.pull(plan, progress=show, stop=stop)
        except InterruptedByUserError:
            if sent.is_set():
                return None
            raise
