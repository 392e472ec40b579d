"""Commands about the versions of models: outdated, update, rollback and pin."""

from __future__ import annotations

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import format_examples, open_library, stop_on_interrupt
from llm_hf_models.cli.params import (
    LocalName,
    collection_option,
    confirm,
    dry_run_option,
    json_option,
    quiet_option,
    require_names,
    yes_option,
)
from llm_hf_models.cli.several import list_local_members, use_each
from llm_hf_models.cli.views import updates as updates_views
from llm_hf_models.system.units import format_size

NAME = LocalName()
NO_MODEL = "No models yet. Find one: llm hf search QUERY. Pull it: llm hf pull owner/name"
KEEP_OLD = click.option(
    "--keep-old/--no-keep-old",
    default=None,
    help="Keep the files of the replaced version (setting keep_old_versions).",
)


@click.command(epilog=format_examples("llm hf outdated", "llm hf outdated Qwen3-0.6B", "llm hf outdated --all --json"))
@click.argument("names", metavar="[NAME]...", type=NAME, nargs=-1)
@collection_option("Compare the models of a collection.")
@click.option("everything", "--all", is_flag=True, help="Compare pinned models as well.")
@quiet_option("Print only the ids of models with new files.", is_passed=True)
@json_option
def outdated(names: tuple[str, ...], collection: str | None, everything: bool, quiet: bool, as_json: bool) -> None:
    """Compare models with their repos on the Hub.

    Shows for each model whether the branch or tag that it was pulled from has new files for it. Sends one small request
    for each repo, and another one if the repo has changed. Changes nothing. Without NAME, compares all models.
    """
    from llm_hf_models.updates.types import OutdatedModels

    library = open_library(uses_hub=True)
    if names and collection is not None:
        raise click.UsageError("NAME and --collection exclude each other.")
    if collection is not None:
        names = list_local_members(library, collection)
    is_empty = collection is not None and not names
    found = OutdatedModels((), 0, 0) if is_empty else library.outdated(names, include_pinned=everything)
    if as_json:
        output.print_json(found)
        return
    if quiet:
        if ids := [row.id for row in found.models if row.status == "new files"]:
            output.emit("\n".join(ids))
        return
    if not found.models:
        if not is_empty:
            output.note(NO_MODEL)
        return
    output.emit(updates_views.render_outdated(found, output.get_width()))
    if summary := updates_views.render_outdated_summary(found):
        output.note(summary)


@click.command(
    epilog=format_examples("llm hf update Qwen3-0.6B", "llm hf update --all --dry-run", "llm hf update --all -y")
)
@click.argument("names", metavar="[NAME]...", type=NAME, nargs=-1)
@collection_option("Update the models of a collection that are on this machine.")
@click.option("everything", "--all", is_flag=True, help="Update all models, except for pinned ones.")
@KEEP_OLD
@dry_run_option
@yes_option
@quiet_option()
@json_option
@click.pass_context
def update(
    ctx: click.Context,
    names: tuple[str, ...],
    collection: str | None,
    everything: bool,
    keep_old: bool | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Update models to the newest commit of their branch.

    Downloads only files that have changed. Each model keeps its version until the new one is verified and has passed a
    load test. Its name, aliases, options and pin stay. An interrupted update continues when the command is run again.
    Return to the replaced version with `llm hf rollback`. Exits with code 1 if a model could not be updated.
    """
    from llm_hf_models.cli import progress
    from llm_hf_models.updates.types import UpdatePlan

    require_names(names, collection, "NAME, --collection or --all", everything=everything)
    library = open_library(uses_hub=True)
    if collection is not None:
        names = list_local_members(library, collection)
    plan = library.plan_update(names, keep_old=keep_old) if names or everything else UpdatePlan((), 0, 0, 0)
    if dry_run:
        output.print_json(plan) if as_json else output.emit(updates_views.render_update_plan(plan))
        return
    if everything and not plan.models:
        output.note(NO_MODEL)
    changed = [each for each in plan.models if each.action == "update"]
    if changed:
        text = updates_views.render_update_plan(plan)
        output.note(text) if yes else output.alert(text)
    if changed and not yes:
        _ask(f"Update {len(changed)} {'model' if len(changed) == 1 else 'models'}?", "Nothing was updated")
    moving = [file for each in changed if each.plan for file in each.plan.files if not file.local]
    with stop_on_interrupt() as stop, progress.show_progress(moving, quiet=output.is_quiet()) as show:
        done = library.update(plan, progress=show, stop=stop)
    if as_json:
        output.print_json(done)
    else:
        for each in done.models:
            report = output.alert if each.outcome == "failed" else output.note
            report(updates_views.render_updated(each))
    ctx.exit(1 if done.failed else 0)


def _ask(question: str, refused: str) -> None:
    confirm(question, refused=refused, hint="Pass -y to skip the question.")


@click.command(epilog=format_examples("llm hf rollback Qwen3-0.6B", "llm hf rollback Qwen3-0.6B --to 3f2a9c1b"))
@click.argument("name", metavar="NAME", type=NAME)
@click.option("--to", metavar="COMMIT", help="The version to return to, instead of the one that was replaced last.")
@KEEP_OLD
@dry_run_option
@click.option("-y", "--yes", is_flag=True, help="Don't ask before files are downloaded again.")
@quiet_option()
@json_option
def rollback(name: str, to: str | None, keep_old: bool | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Return a model to the version that an update replaced.

    The files of that version are downloaded again if they were not kept. It is verified and load-tested before it
    replaces the current one. To stay at it, pin the model: `llm hf pin NAME`.
    """
    from llm_hf_models.cli import progress

    library = open_library(uses_hub=True)
    plan = library.plan_rollback(name, to=to, keep_old=keep_old)
    if dry_run:
        output.print_json(plan) if as_json else output.emit(updates_views.render_rollback_plan(plan))
        return
    output.note(updates_views.render_rollback_plan(plan))
    if plan.fetch_bytes and not yes:
        _ask(f"Download {format_size(plan.fetch_bytes)}?", "The model was not changed")
    moving = [file for file in plan.files if not file.local]
    with stop_on_interrupt() as stop, progress.show_progress(moving, quiet=output.is_quiet()) as show:
        done = library.rollback(plan, progress=show, stop=stop)
    if as_json:
        output.print_json(done)
    else:
        output.note(updates_views.render_updated(done))


@click.command(epilog=format_examples("llm hf pin Qwen3-0.6B", "llm hf pin --unpin Qwen3-0.6B"))
@click.argument("names", metavar="NAME...", type=NAME, nargs=-1, required=True)
@click.option("--unpin", is_flag=True, help="Let updates change the models again.")
@quiet_option("Print nothing.")
@json_option
def pin(names: tuple[str, ...], unpin: bool, as_json: bool) -> None:
    """Keep models at their commit.

    `llm hf update` and `llm hf outdated` skip a pinned model and say so. `llm hf show` shows the pin.
    """
    library = open_library()
    use_each(
        names,
        lambda name: library.pin(name, pinned=not unpin),
        lambda model: output.note(f"{model.id} is {'pinned' if model.pinned else 'not pinned'}"),
        as_json=as_json,
    )
