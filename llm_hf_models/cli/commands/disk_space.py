"""The commands about disk space: du, prune and dedupe."""

from __future__ import annotations

from typing import Literal, cast

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import format_examples, open_library, stop_on_interrupt
from llm_hf_models.cli.params import (
    AGE,
    SIZE,
    CollectionName,
    confirm_removal,
    dry_run_option,
    json_option,
    quiet_option,
    yes_option,
)
from llm_hf_models.cli.views import disk_space as views

NOTHING_TO_PRUNE = "Nothing to remove: no model meets the criteria."
NOTHING_TO_LINK = "No file is stored twice."


@click.command(epilog=format_examples("llm hf du", "llm hf du --by repo", "llm hf du --by collection --json"))
@click.option(
    "--by", type=click.Choice(["model", "repo", "collection"]), default="model", show_default=True, help="The rows."
)
@quiet_option("Hide notes.")
@json_option
def du(by: str, as_json: bool) -> None:
    """Show the disk space of models.

    Includes what else is in the Hugging Face cache: other repos and datasets, partial downloads, and blobs without a
    repo. Data that several rows have is marked as shared, and counts once in the sum. Copies that share blocks on the
    disk (reflinks) count as separate files.
    """
    usage = open_library().get_disk_usage(cast("Literal['model', 'repo', 'collection']", by))
    output.print_json(usage) if as_json else output.emit(views.render_usage(usage, output.get_width()))
    if usage.unreadable:
        output.note(views.render_unreadable(usage.unreadable))


@click.command(
    epilog=format_examples(
        "llm hf prune --unused 90d --dry-run",
        "llm hf prune --unused 30d --larger 5G --keep work",
        "llm hf prune --larger 20G -y",
    )
)
@click.option("--unused", type=AGE, metavar="TIME", help="Models that were not used for this time, such as 90d.")
@click.option("--larger", type=SIZE, metavar="SIZE", help="Models that are larger than this, such as 5G.")
@click.option("--keep", type=CollectionName(), multiple=True, help="Keep the models of this collection; repeatable.")
@dry_run_option
@yes_option
@quiet_option("Hide notes.")
@json_option
def prune(
    unused: float | None, larger: int | None, keep: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Remove models that are large or unused for long.

    With --unused and --larger, a model must meet both. A model that was never used counts from the time of its pull.
    llm's default model, pinned models and models with a running engine are kept; remove one with `llm hf rm`. Files
    that were imported in place are never removed.
    """
    if unused is None and larger is None:
        raise click.UsageError("Give --unused, --larger or both.")
    library = open_library()
    plan = library.plan_pruning(unused_seconds=unused, larger_bytes=larger, keep=keep)
    if plan.models and not dry_run:
        if not yes:
            output.alert(views.render_pruning(plan, output.get_width()))
            confirm_removal("Remove these models?" if len(plan.models) > 1 else f"Remove {plan.models[0].id}?")
        plan = library.prune(plan)
    if as_json:
        output.print_json(plan)
    elif plan.models or plan.kept:
        text = views.render_pruning(plan, output.get_width())
        output.emit(text) if dry_run else output.note(text)
    else:
        output.note(NOTHING_TO_PRUNE)


@click.command(epilog=format_examples("llm hf dedupe --dry-run", "llm hf dedupe"))
@dry_run_option
@quiet_option()
@json_option
def dedupe(dry_run: bool, as_json: bool) -> None:
    """Store identical files of several repos once.

    Replaces them in the Hugging Face cache by hard links to one file, after comparing their digests. Other tools see
    the same files as before, and removing one repo leaves the others intact. Files outside the cache are not changed.
    """
    from llm_hf_models.cli import progress

    library = open_library()
    if dry_run:
        found = library.plan_deduplication()
    else:
        with stop_on_interrupt() as stop, progress.show_progress(quiet=output.is_quiet()) as show_progress:
            found = library.deduplicate(progress=show_progress, stop=stop)
    if as_json:
        output.print_json(found)
    elif found.files or found.skipped:
        text = views.render_deduplication(found, output.get_width())
        output.emit(text) if dry_run else output.note(text)
    else:
        output.note(NOTHING_TO_LINK)
