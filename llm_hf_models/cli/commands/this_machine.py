"""Commands about the models on this machine: list, show, path, alias, verify, rm and gc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import (
    LocalName,
    collection_option,
    confirm_removal,
    dry_run_option,
    json_option,
    quiet_option,
    require_names,
    yes_option,
)
from llm_hf_models.cli.several import emit_in_parts, list_local_members, note_missing_members, use_each
from llm_hf_models.cli.views import local as local_views

if TYPE_CHECKING:
    from llm_hf_models.library.types import ModelSummary
    from llm_hf_models.models.types import LibrarySurvey, LocalModelView, Removal, Verification

NAME = LocalName()
SORT_KEYS: dict[str, Callable[[ModelSummary], str | float]] = {
    "name": lambda model: min([*model.aliases, model.id], key=len).casefold(),
    "size": lambda model: -(model.size_bytes or 0),
    "used": lambda model: -(model.last_used or 0),
}
NO_MODEL = "No models yet. Find one: llm hf search QUERY. Pull it: llm hf pull owner/name"
NO_ALIAS = "No model has an alias. Add one: llm hf alias NAME ALIAS"
NO_FILES = "Nothing to verify: no model has files on this machine."
NOTHING_TO_REMOVE = "Nothing to remove."


@dataclass(frozen=True)
class ModelPaths:
    """The files of a model: the first of its weights, or all of them (`path --all`)."""

    name: str  # as the user gave it
    paths: tuple[str, ...]


@dataclass(frozen=True)
class AliasList:
    """Each alias, with the id of its model."""

    aliases: Mapping[str, str]


@click.command(epilog=format_examples("llm hf gc --dry-run", "llm hf gc -y"))
@click.option("--dry-run", is_flag=True, help="List the leftovers without removing them.")
@yes_option
@quiet_option("Print nothing, except for the list of --dry-run.", is_passed=True)
@json_option
def gc(dry_run: bool, yes: bool, quiet: bool, as_json: bool) -> None:
    """Remove leftover downloads and old records.

    Removes partial files that no open download or running process needs. Partial files of other tools are removed
    after a day. Also removes old records of downloads, old responses of the Hub and folders of stopped engines. Never
    removes a model or the files of a paused download.
    """
    from llm_hf_models.cli.views import downloads as downloads_views

    library = open_library()
    found = library.plan_gc()
    has_leftovers = bool(found.files or found.download_records or found.cached_responses)
    if has_leftovers and not dry_run:
        if not yes:
            output.alert(downloads_views.render_cleanup(found, output.get_width()))
            confirm_removal("Remove all of these?")
        found = library.gc()
    if as_json:
        output.print_json(found)
    elif has_leftovers and (dry_run or not quiet):
        output.emit(downloads_views.render_cleanup(found, output.get_width()))
    else:
        output.note(NOTHING_TO_REMOVE)


@click.command(
    "list",
    epilog=format_examples("llm hf list", "llm hf list --sort size", "llm hf list -q", "llm hf list --updates --json"),
)
@click.option(
    "--updates", is_flag=True, help="Also show which models have an update, and the space that removing each frees."
)
@click.option(
    "--sort",
    type=click.Choice(list(SORT_KEYS)),
    help="Sort by name, by size (largest first) or by last use (latest first) instead of by the time of the pull.",
)
@collection_option("List only the models of a collection.")
@click.option("--collections", is_flag=True, help="Also show the collections of each model.")
@quiet_option("Print only the ids.", is_passed=True)
@json_option
def list_(
    updates: bool, sort: str | None, collection: str | None, collections: bool, quiet: bool, as_json: bool
) -> None:
    """List the models on this machine and their state.

    Also checks whether remote endpoints respond, for up to two seconds. With --updates, asks the Hub instead, for up
    to three seconds. Of a collection, lists the models that are on this machine.
    """
    library = open_library()
    survey = library.survey(collection=collection) if updates else None
    if as_json or survey or collection is not None or collections:
        views = survey.models if survey else library.list(
            health=as_json or not quiet, collection=collection, with_collections=as_json or collections
        )  # fmt: skip
        if as_json:
            _print_models(survey, views, sort)
            return
        models = tuple(map(local_views.summarize, views))
    else:
        models = library.list_summaries(health=not quiet)
    models = tuple(sorted(models, key=SORT_KEYS[sort])) if sort else models
    if models and quiet:
        output.emit("\n".join(model.id for model in models))
    elif models:
        output.emit(
            local_views.render_local_models(
                models, output.get_width(), survey=survey is not None, with_collections=collections
            )
        )
        if survey:
            output.emit(local_views.render_totals(survey, output.get_width()))
        if repairs := local_views.render_repairs(models):
            output.note(repairs)
    elif collection is None:
        output.note(NO_MODEL)
    if collection is not None:
        note_missing_members(library, collection)


def _print_models(survey: LibrarySurvey | None, models: Sequence[LocalModelView], sort: str | None) -> None:
    from llm_hf_models.models.types import LocalModelList

    if sort:
        models = sorted(models, key=lambda model: SORT_KEYS[sort](local_views.summarize(model)))
    output.print_json(LocalModelList(**{**(vars(survey) if survey else {}), "models": tuple(models)}))


@click.command(epilog=format_examples("llm hf show Qwen3-0.6B", "llm hf show unsloth/Qwen3-0.6B-GGUF:Q4_K_M --json"))
@click.argument("names", metavar="NAME...", type=NAME, nargs=-1, required=True)
@json_option
def show(names: tuple[str, ...], as_json: bool) -> None:
    """Show models on this machine, their files and checks.

    NAME is an id, an alias or a repo.
    """

    def render(model: LocalModelView) -> str:
        return local_views.render_local_model(model, output.get_width())

    use_each(names, open_library().show, emit_in_parts(render), as_json=as_json)


@click.command(epilog=format_examples("llm hf path Qwen3-0.6B", 'llama-cli -m "$(llm hf path Qwen3-0.6B)"'))
@click.argument("names", metavar="NAME...", type=NAME, nargs=-1, required=True)
@click.option(
    "everything", "--all", is_flag=True, help="Print all files, one per line, including shards and the mmproj."
)
@json_option
def path(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Print the path of a model's file.

    For a split model, prints the path of the first shard.
    """
    library = open_library()
    use_each(
        names,
        lambda name: ModelPaths(name, library.path(name)[: None if everything else 1]),
        lambda found: output.emit("\n".join(found.paths)),
        as_json=as_json,
    )


@click.command(
    epilog=format_examples(
        "llm hf alias Qwen3-0.6B small", "llm hf alias --remove small", "llm hf alias            # lists all aliases"
    )
)
@click.argument("name", type=NAME, required=False)
@click.argument("aliases", nargs=-1, metavar="[ALIAS]...")
@click.option("removed", "--remove", multiple=True, metavar="ALIAS", help="Remove this alias; repeatable.")
@quiet_option("Print nothing after a change.", is_passed=True)
@json_option
def alias(name: str | None, aliases: tuple[str, ...], removed: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Add, remove or list aliases.

    Without arguments, lists all aliases.
    """
    library = open_library()
    if name is not None and not aliases:
        raise click.UsageError("Give the ALIAS too: llm hf alias NAME ALIAS")
    if name is not None:
        library.change_aliases(name, add=aliases, remove=removed)
    else:
        library.remove_alias(*removed)
    every = library.list_summaries() if not removed or name else ()
    shown = library.show(name).id if name else None
    found = {alias: model.id for model in every for alias in model.aliases if shown in (None, model.id)}
    if as_json:
        output.print_json(AliasList(found))
    elif found and not (quiet and name):
        output.emit(local_views.render_aliases(found, output.get_width()))
    elif not removed:
        output.note(NO_ALIAS if every else NO_MODEL)


@click.command(epilog=format_examples("llm hf verify Qwen3-0.6B", "llm hf verify --all"))
@click.argument("names", metavar="[NAME]...", type=NAME, nargs=-1)
@click.option("everything", "--all", is_flag=True, help="Verify all models on this machine.")
@collection_option("Verify the models of a collection that are on this machine.")
@quiet_option("Print only models that do not match.", is_passed=True)
@json_option
@click.pass_context
def verify(
    ctx: click.Context, names: tuple[str, ...], everything: bool, collection: str | None, quiet: bool, as_json: bool
) -> None:
    """Verify that the files of models match their digests.

    Hashes the files again and compares them with the Hub's digests at the pinned commit. Exits with code 1 unless
    every file matches.
    """
    from llm_hf_models.cli import progress

    require_names(names, collection, "NAME, --collection or --all", everything=everything)
    library, is_list = open_library(), len(names) != 1
    if collection is not None:
        names = list_local_members(library, collection, with_files=True)
    elif everything:
        names = tuple(model.id for model in library.list_summaries() if model.state != "remote")

    def read(name: str) -> Verification:
        with progress.show_progress(quiet=quiet) as show_progress:
            return library.verify(name, progress=show_progress)

    def show(done: Verification) -> None:
        if not (quiet and done.matches):
            output.emit(local_views.render_verification(done, output.get_width()))

    done = use_each(names, read, show, as_json=as_json)
    if is_list and done and not as_json and not quiet:
        output.emit(local_views.render_verified_count(done))
    if not done and not as_json and collection is None:
        output.note(NO_FILES)
    ctx.exit(0 if all(each.matches for each in done) else 1)


@click.command(
    epilog=format_examples(
        "llm hf rm Qwen3-0.6B:Q8_0", "llm hf rm -y small walrus", "llm hf rm --collection old --dry-run"
    )
)
@click.argument("names", metavar="[NAME]...", type=NAME, nargs=-1)
@collection_option("Remove all models of a collection. It keeps their refs.")
@yes_option
@dry_run_option
@quiet_option("Hide notes.")
@json_option
def rm(names: tuple[str, ...], collection: str | None, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove models from this machine.

    Deletes the files of each model and shows the freed space. Files that other models or programs use, or that were
    imported in place, are kept. If a name is unknown, nothing is removed.
    """
    require_names(names, collection, "NAME or --collection")
    library = open_library()
    if collection is not None:
        names = list_local_members(library, collection)
    planned = {plan.id: plan for plan in map(library.plan_removal, names)}
    if dry_run:
        use_each(list(planned), lambda name: planned[name], _emit_removal, as_json=as_json)
        return
    if planned and not yes:
        output.alert("\n".join(map(local_views.render_removal, planned.values())))
        models = f"these {len(planned)} models" if len(planned) > 1 else next(iter(planned))
        confirm_removal(f"Remove {models}?")
    use_each(
        list(planned),
        library.remove,
        lambda done: output.note(local_views.render_removal(done)),
        as_json=as_json,
    )


def _emit_removal(plan: Removal) -> None:
    output.emit(local_views.render_removal(plan))
