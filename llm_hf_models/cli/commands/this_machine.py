"""Commands about the models on this machine: list, show, path, alias, verify, rm, import and gc."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import (
    File,
    LocalName,
    aliases_option,
    confirm_removal,
    json_option,
    kind_options,
    quiet_option,
    require_one_of,
)
from llm_hf_models.cli.views import downloads as downloads_views
from llm_hf_models.cli.views import local as local_views

if TYPE_CHECKING:
    from llm_hf_models.models.types import Verification

NAME = LocalName()
NO_MODEL = "No models yet. Find one: llm hf search QUERY. Pull it: llm hf pull owner/name"
NO_ALIAS = "No model has an alias. Add one: llm hf alias NAME ALIAS"
NO_FILES = "Nothing to verify: no model has files on this machine."
NOTHING_TO_REMOVE = "Nothing to remove."


@click.command(epilog=format_examples("llm hf gc --dry-run", "llm hf gc -y"))
@click.option("--dry-run", is_flag=True, help="List the leftovers without removing them.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask for confirmation.")
@json_option
def gc(dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove leftover downloads and old records.

    Removes partial files that no open download or running process needs. Partial files of other tools are removed
    after a day. Also removes old records of downloads, old responses of the Hub and folders of stopped engines. Never
    removes a model or the files of a paused download.
    """
    library = open_library()
    found = library.plan_gc()
    has_leftovers = bool(found.files or found.download_records or found.cached_responses)
    if has_leftovers and not dry_run:
        if not yes:
            output.note(downloads_views.render_cleanup(found, output.get_width()))
            confirm_removal("Remove all of these?")
        found = library.gc()
    if as_json:
        output.print_json(found)
    elif has_leftovers:
        output.emit(downloads_views.render_cleanup(found, output.get_width()))
    else:
        output.note(NOTHING_TO_REMOVE)


@click.command("list", epilog=format_examples("llm hf list", "llm hf list --updates", "llm hf list --json"))
@click.option(
    "--updates", is_flag=True, help="Also show which models have an update, and the space that removing each frees."
)
@json_option
def list_(updates: bool, as_json: bool) -> None:
    """List the models on this machine and their state.

    Also checks whether remote endpoints respond, for up to two seconds. With --updates, asks the Hub instead, for up
    to three seconds.
    """
    from llm_hf_models.models.types import LocalModelList

    library = open_library()
    survey = library.survey() if updates else None
    models = survey.models if survey else library.list(health=True)
    if as_json:
        output.print_json(LocalModelList(**vars(survey)) if survey else LocalModelList(models))
    elif models:
        output.emit(local_views.render_local_models(models, output.get_width(), survey=survey is not None))
        if survey:
            output.emit(local_views.render_totals(survey))
        if repairs := local_views.render_repairs(models):
            output.note(repairs)
    else:
        output.note(NO_MODEL)


@click.command(epilog=format_examples("llm hf show Qwen3-0.6B", "llm hf show unsloth/Qwen3-0.6B-GGUF:Q4_K_M --json"))
@click.argument("name", type=NAME)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a model on this machine, its files and checks.

    NAME is an id, an alias or a repo.
    """
    model = open_library().show(name)
    output.print_json(model) if as_json else output.emit(local_views.render_local_model(model, output.get_width()))


@click.command(epilog=format_examples("llm hf path Qwen3-0.6B", 'llama-cli -m "$(llm hf path Qwen3-0.6B)"'))
@click.argument("name", type=NAME)
@click.option(
    "everything", "--all", is_flag=True, help="Print all files, one per line, including shards and the mmproj."
)
@json_option
def path(name: str, everything: bool, as_json: bool) -> None:
    """Print the path of a model's file.

    For a split model, prints the path of the first shard.
    """
    paths = open_library().path(name)
    shown = paths if everything else paths[:1]
    output.print_json(shown) if as_json else output.emit("\n".join(shown))


@click.command(
    epilog=format_examples(
        "llm hf alias Qwen3-0.6B small", "llm hf alias --remove small", "llm hf alias            # lists all aliases"
    )
)
@click.argument("name", type=NAME, required=False)
@click.argument("aliases", nargs=-1, metavar="[ALIAS]...")
@click.option("removed", "--remove", multiple=True, metavar="ALIAS", help="Remove this alias; repeatable.")
@json_option
def alias(name: str | None, aliases: tuple[str, ...], removed: tuple[str, ...], as_json: bool) -> None:
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
    models = [library.show(name)] if name else [] if removed else library.list()
    if as_json:
        output.print_json({alias: model.model_id for model in models for alias in model.aliases})
    elif any(model.aliases for model in models):
        output.emit(local_views.render_aliases(models, output.get_width()))
    elif not removed:
        output.note(NO_ALIAS if models else NO_MODEL)


@click.command(epilog=format_examples("llm hf verify Qwen3-0.6B", "llm hf verify --all"))
@click.argument("name", type=NAME, required=False)
@click.option("everything", "--all", is_flag=True, help="Verify all models on this machine.")
@quiet_option
@json_option
@click.pass_context
def verify(ctx: click.Context, name: str | None, everything: bool, quiet: bool, as_json: bool) -> None:
    """Verify that a model's files match their digests.

    Hashes the files again and compares them with the Hub's digests at the pinned commit. Exits with code 1 unless
    every file matches.
    """
    from llm_hf_models.cli import progress

    require_one_of(name, everything)
    library = open_library()
    names = [model.model_id for model in library.list() if model.state != "remote"] if everything else [str(name)]
    done: list[Verification] = []
    for each in names:
        with output.keep_results(done, as_json=as_json), progress.show_progress(quiet=quiet) as show_progress:
            done.append(library.verify(each, progress=show_progress))
        if not as_json:
            output.emit(local_views.render_verification(done[-1]))
    if as_json:
        output.print_json(done if everything else done[0])
    elif not done and not quiet:
        output.note(NO_FILES)
    ctx.exit(0 if all(each.matches for each in done) else 1)


@click.command(epilog=format_examples("llm hf rm Qwen3-0.6B:Q8_0", "llm hf rm -y small"))
@click.argument("name", type=NAME)
@click.option("-y", "--yes", is_flag=True, help="Don't ask for confirmation.")
@json_option
def rm(name: str, yes: bool, as_json: bool) -> None:
    """Remove a model from this machine.

    Deletes the model's files and shows the freed space. Files that other models or programs use, or that were
    imported in place, are kept.
    """
    library = open_library()
    planned = library.plan_removal(name)
    if not yes:
        output.note(local_views.render_removal(planned))
        confirm_removal(f"Remove {planned.model_id}?")
    done = library.remove(planned.model_id)
    output.print_json(done) if as_json else output.note(local_views.render_removal(done))


@click.command(
    "import",
    epilog=format_examples(
        "llm hf import ~/models/mistral-7b.Q4_K_M.gguf",
        "llm hf import model.Q4_K_M.gguf --repo owner/name --copy",
        "llm hf import llava.Q4_K_M.gguf --mmproj mmproj-F16.gguf",
    ),
)
@click.argument("file", type=File())
@click.option("--repo", metavar="REF", help="Repo of origin; the file's digest is compared with the Hub's.")
@click.option("--copy", is_flag=True, help="Store a copy, so that the original can be deleted.")
@click.option("--mmproj", type=File(), help="The model's projector, for images or audio.")
@click.option("--no-mmproj", is_flag=True, help="Ignore a projector in the same folder.")
@kind_options
@aliases_option
@quiet_option
@json_option
def import_(
    file: str,
    repo: str | None,
    copy: bool,
    mmproj: str | None,
    no_mmproj: bool,
    kind: str | None,
    pooling: str | None,
    aliases: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Register a GGUF file that is already on disk.

    For a split model, name any shard; the others must be in the same folder. A projector (mmproj) in that folder is
    used if it has the model's name or if the folder contains no other model. A generation_config.json in that folder
    supplies sampling defaults.
    """
    from llm_hf_models.cli import progress

    if mmproj and no_mmproj:
        raise click.UsageError("--mmproj and --no-mmproj exclude each other.")
    with progress.show_progress(quiet=quiet) as show_progress:
        done = open_library(uses_hub=repo is not None).import_file(
            file,
            repo=repo,
            copy=copy,
            mmproj=mmproj,
            with_mmproj=not no_mmproj,
            aliases=aliases,
            options={key: value for key, value in (("kind", kind), ("pooling", pooling)) if value},
            progress=show_progress,
        )
    if not quiet:
        output.note(local_views.render_import(done, aliases))
    output.print_json(done) if as_json else output.emit(done.model.model_id)
