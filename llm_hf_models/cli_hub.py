"""The commands that ask the Hub: search, info, pull. Each parses, calls the service and renders; none decides."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm_hf_models import output, views_downloads, views_gguf, views_hub
from llm_hf_models.cli_common import (
    COUNT,
    MAX_ROWS,
    RATE,
    Folder,
    aliases_option,
    confirm,
    examples,
    json_option,
    quiet_option,
    refresh_option,
    service,
    stop_on_interrupt,
)
from llm_hf_models.errors import HfModelsError, InterruptedByUserError
from llm_hf_models.keys import on_key

if TYPE_CHECKING:
    from llm_hf_models.service import Library, PullPlan, PullResult

KEY = "b"


@click.command(
    epilog=examples(
        "llm hf search qwen3",
        "llm hf search --author unsloth --max-params 8B --fits",
        "llm hf search coder --sort downloads --limit 5 --json",
    )
)
@click.argument("query", nargs=-1)
@click.option("--author", metavar="OWNER", help="Only repos of this user or organisation.")
@click.option("--task", metavar="TASK", help="Only this task (pipeline tag), such as text-generation.")
@click.option(
    "--library", metavar="NAME", default="gguf", show_default=True, help="Only repos for this library; `any` for all."
)
@click.option("--license", metavar="LICENCE", help="Only this licence, such as apache-2.0.")
@click.option("--language", metavar="CODE", help="Only models for this language, such as en.")
@click.option("tags", "--tag", metavar="TAG", multiple=True, help="Only repos with this tag; repeatable.")
@click.option("--min-params", type=COUNT, help="At least this many parameters, such as 500M.")
@click.option("--max-params", type=COUNT, help="At most this many parameters, such as 8B.")
@click.option("--gated/--no-gated", default=None, help="Only repos that ask for access, or none of them.")
@click.option("--fits", is_flag=True, help="Only what fits this machine's memory.")
@click.option(
    "--sort",
    type=click.Choice(["trending", "downloads", "likes", "created", "updated"]),
    default="trending",
    show_default=True,
    help="What comes first.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_ROWS),
    metavar="N",
    default=20,
    show_default=True,
    help="At most so many rows.",
)
@refresh_option
@json_option
def search(query: tuple[str, ...], library: str, fits: bool, refresh: bool, as_json: bool, **filters: object) -> None:
    """Find models on the Hub.

    Words of QUERY are looked for in repo names. Without any, the list is what the options leave.
    """
    from llm_hf_models.service import SearchFilters

    narrowed = SearchFilters(library=None if library == "any" else library, **filters)  # type: ignore[arg-type]
    page = service().search(" ".join(query), narrowed, fits=fits, refresh=refresh)
    if as_json:
        output.print_json(page)
    elif page.results:
        output.emit(views_hub.search(page, output.width()))
        _note_freshness(views_hub.freshness(page.freshness))
    else:
        output.note(views_hub.nothing_found(page))


def _note_freshness(words: str | None) -> None:
    if words:
        output.note(click.style(words, dim=True))


@click.command(
    epilog=examples(
        "llm hf info unsloth/Qwen3-0.6B-GGUF",
        "llm hf info hf.co/unsloth/Qwen3-0.6B-GGUF --card",
        "llm hf info unsloth/Qwen3-0.6B-GGUF --files",
    )
)
@click.argument("ref")
@click.option("--revision", metavar="REVISION", help="Branch, tag or commit; the default branch otherwise.")
@click.option("--files", is_flag=True, help="List every file of the repo.")
@click.option("--card", is_flag=True, help="Show the model card.")
@refresh_option
@json_option
def info(ref: str, revision: str | None, files: bool, card: bool, refresh: bool, as_json: bool) -> None:
    """Show one model of the Hub, and which variants fit.

    The variant that a plain pull takes stands out. REF is owner/name, with @REVISION if you like, or
    the address of its page.
    """
    found = service().info(ref, revision=revision, card=card, refresh=refresh)
    if as_json:
        output.print_json(found)
        return
    output.emit(views_hub.info(found, output.width()))
    if files:
        output.emit("\n" + views_hub.repo_files(found, output.width()))
    if card and found.card is not None:  # else a note says why
        output.emit("\n" + (output.markdown(found.card, limit=output.width()) if found.card else "There is no card."))
    _note_freshness(views_hub.freshness(found.freshness))


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
    from llm_hf_models.service import PullOptions

    if on_done and not background:
        raise click.UsageError("--on-done goes with --background.")
    if test and background:
        raise click.UsageError("--test goes with a pull in the foreground.")
    library = service()
    plan = library.plan(ref, PullOptions(mmproj=not no_mmproj, aliases=aliases, **options))  # type: ignore[arg-type]
    if dry_run:
        output.print_json(plan) if as_json else output.emit(views_hub.plan(plan, output.width()))
        return
    if plan.replaces and not yes:
        confirm(
            f"Replace {', '.join(plan.replaces)}, of other content?",
            refused="Nothing was replaced",
            hint="-y replaces without asking.",
        )
    if not quiet:
        output.note(views_hub.choice(plan))
    result = None if background else _fetch(library, plan, quiet=quiet)
    if result is None:  # asked for at once, or with a key
        _queue(library, plan, on_done, quiet=quiet, as_json=as_json)
        if test and plan.model_id and not quiet:
            output.note(f"It is not tested then: llm hf test {plan.model_id}")
        return
    if not quiet:
        output.note(views_hub.pulled(result))
        output.notify(f"{result.model_id or ref} is here", result.seconds)
    output.print_json(result) if as_json else output.emit(result.model_id or "\n".join(result.files))
    if test and result.model_id:
        report = library.test(result.model_id)
        output.note(views_gguf.trial(report, output.width()))
        ctx.exit(0 if report.passed else 1)


def _queue(library: Library, plan: PullPlan, on_done: str | None, *, quiet: bool, as_json: bool) -> None:
    row = library.enqueue(plan, on_done=on_done)
    if not quiet:
        output.note(views_downloads.queued(row))
    output.print_json(row) if as_json else output.emit(str(row.id))


def _fetch(library: Library, plan: PullPlan, *, quiet: bool) -> PullResult | None:
    """Pulls in the foreground; None when the person sent it to the background."""
    from llm_hf_models import progress

    moving = [file for file in plan.files if not file.here]
    sent = threading.Event()
    with stop_on_interrupt() as stop:

        def to_background() -> None:
            sent.set()
            try:
                # At once in the row, where it waits for a worker if the terminal goes now.
                with suppress(HfModelsError):
                    library.keep_going(plan)
            finally:
                stop.set()

        try:
            with on_key(KEY, to_background) as heard, progress.shown(moving, quiet=quiet) as show:
                if heard and moving and not quiet:
                    output.note(f"Press {KEY} to let it go on in the background.")
                return library.pull(plan, progress=show, stop=stop)
        except InterruptedByUserError:
            if sent.is_set():
                return None
            raise
