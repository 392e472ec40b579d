"""Commands about the models on this machine."""

from __future__ import annotations

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import examples, open_library
from llm_hf_models.cli.params import (
    File,
    LocalName,
    aliases_option,
    confirm_removal,
    json_option,
    quiet_option,
    require_one_of,
)
from llm_hf_models.cli.views import downloads as downloads_views
from llm_hf_models.cli.views import local as local_views

NOTHING_TO_REMOVE = "Nothing is dead."


@click.command(epilog=examples("llm hf gc --dry-run", "llm hf gc -y"))
@click.option("--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@json_option
def gc(dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove what is dead: leftovers of downloads, old rows.

    That is partial files that no open download and no living process needs (other tools' after a day), downloads that
    have long been over, old answers of the Hub, folders of engines that have left. Never a model, and nothing of a
    download that is paused.
    """
    library = open_library()
    found = library.plan_gc()
    something = bool(found.files or found.download_records or found.cached_responses)
    if something and not dry_run:
        if not yes:
            output.note(downloads_views.render_cleanup(found, output.get_width()))
            confirm_removal("Remove all this?")
        found = library.gc()
    if as_json:
        output.print_json(found)
    elif something:
        output.emit(downloads_views.render_cleanup(found, output.get_width()))
    else:
        output.note(NOTHING_TO_REMOVE)


NAME = LocalName()
NO_MODEL = "No model is here yet. Find one: llm hf search QUERY; fetch it: llm hf pull owner/name"
NO_ALIAS = "No model has an alias. Give one: llm hf alias NAME ALIAS"
NO_FILES = "There is nothing to verify: no model has files on this machine."


@click.command("list", epilog=examples("llm hf list", "llm hf list --json"))
@json_option
def list_(as_json: bool) -> None:
    """List the models on this machine and their state.

    Those that are served elsewhere are asked whether they answer, for two seconds at most.
    """
    models = open_library().list(health=True)
    if as_json:
        output.print_json(models)
    elif models:
        output.emit(local_views.render_local_models(models, output.get_width()))
        if repairs := local_views.render_repairs(models):
            output.note(repairs)
    else:
        output.note(NO_MODEL)


@click.command(epilog=examples("llm hf show Qwen3-0.6B", "llm hf show unsloth/Qwen3-0.6B-GGUF:Q4_K_M --json"))
@click.argument("name", type=NAME)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one model on this machine and what was checked.

    NAME is an id, an alias or a repo.
    """
    model = open_library().show(name)
    output.print_json(model) if as_json else output.emit(local_views.render_local_model(model, output.get_width()))


@click.command(epilog=examples("llm hf path Qwen3-0.6B", 'llama-cli -m "$(llm hf path Qwen3-0.6B)"'))
@click.argument("name", type=NAME)
@click.option("everything", "--all", is_flag=True, help="Every file, a line each: further shards, the mmproj.")
@json_option
def path(name: str, everything: bool, as_json: bool) -> None:
    """Print where a model's file is.

    Of a split model it is the first shard.
    """
    paths = open_library().path(name)
    shown = paths if everything else paths[:1]
    output.print_json(shown) if as_json else output.emit("\n".join(shown))


@click.command(
    epilog=examples(
        "llm hf alias Qwen3-0.6B small", "llm hf alias --remove small", "llm hf alias            # lists all aliases"
    )
)
@click.argument("name", type=NAME, required=False)
@click.argument("aliases", nargs=-1, metavar="[ALIAS]...")
@click.option("removed", "--remove", multiple=True, metavar="ALIAS", help="Take this name away; repeatable.")
@json_option
def alias(name: str | None, aliases: tuple[str, ...], removed: tuple[str, ...], as_json: bool) -> None:
    """Give a model further names, or take them away.

    Without arguments, lists all names.
    """
    library = open_library()
    if name is not None and not aliases:
        raise click.UsageError("Give the ALIAS too: llm hf alias NAME ALIAS")
    for old in removed:
        library.remove_alias(old)
    for new in aliases:
        library.add_alias(str(name), new)
    models = [library.show(name)] if name else [] if removed else library.list()
    if as_json:
        output.print_json({alias: model.model_id for model in models for alias in model.aliases})
    elif any(model.aliases for model in models):
        output.emit(local_views.render_aliases(models, output.get_width()))
    elif not removed:
        output.note(NO_ALIAS if models else NO_MODEL)


@click.command(epilog=examples("llm hf verify Qwen3-0.6B", "llm hf verify --all"))
@click.argument("name", type=NAME, required=False)
@click.option("everything", "--all", is_flag=True, help="Every model on this machine.")
@quiet_option
@json_option
@click.pass_context
def verify(ctx: click.Context, name: str | None, everything: bool, quiet: bool, as_json: bool) -> None:
    """Hash a model's files again and compare.

    What they must be is what the Hub recorded at the pinned commit.
    Ends with exit code 1 when anything is not proven to match.
    """
    from llm_hf_models.cli import progress

    require_one_of(name, everything)
    library = open_library()
    names = [model.model_id for model in library.list() if model.state != "remote"] if everything else [str(name)]
    done = []
    for each in names:
        with progress.show_progress(quiet=quiet) as show_progress:
            done.append(library.verify(each, progress=show_progress))
        if not as_json:
            output.emit(local_views.render_verification(done[-1]))
    if as_json:
        output.print_json(done if everything else done[0])
    elif not done and not quiet:
        output.note(NO_FILES)
    ctx.exit(0 if all(each.matches for each in done) else 1)


@click.command(epilog=examples("llm hf rm Qwen3-0.6B:Q8_0", "llm hf rm -y small"))
@click.argument("name", type=NAME)
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@json_option
def rm(name: str, yes: bool, as_json: bool) -> None:
    """Remove a model from this machine.

    Frees what nothing else uses and says how much. A file that something else uses,
    or that was imported in place, stays.
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
    epilog=examples(
        "llm hf import ~/models/mistral-7b.Q4_K_M.gguf",
        "llm hf import model.Q4_K_M.gguf --repo owner/name --copy",
        "llm hf import llava.Q4_K_M.gguf --mmproj mmproj-F16.gguf",
    ),
)
@click.argument("file", type=File())
@click.option("--repo", metavar="REF", help="The repo it came from; the digest is compared with it.")
@click.option("--copy", is_flag=True, help="Keep a copy, so that the file itself may go.")
@click.option("--mmproj", type=File(), help="Its projector, for images or sound.")
@click.option("--no-mmproj", is_flag=True, help="Leave a projector that lies beside it.")
@aliases_option
@quiet_option
@json_option
def import_(
    file: str,
    repo: str | None,
    copy: bool,
    mmproj: str | None,
    no_mmproj: bool,
    aliases: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Register a GGUF file that is on the disk already.

    Of a split model any shard will do; the others are looked for beside it. So is its
    projector (mmproj), taken where it can be no other model's: it has the model's
    name, or there is no other model. A generation_config.json beside it gives its
    sampling defaults.
    """
    from llm_hf_models.cli import progress

    if mmproj and no_mmproj:
        raise click.UsageError("--mmproj and --no-mmproj exclude each other.")
    with progress.show_progress(quiet=quiet) as show_progress:
        done = open_library().import_file(
            file,
            repo=repo,
            copy=copy,
            mmproj=mmproj,
            with_mmproj=not no_mmproj,
            aliases=aliases,
            progress=show_progress,
        )
    if not quiet:
        output.note(local_views.render_import(done, aliases))
    output.print_json(done) if as_json else output.emit(done.model.model_id)
