"""The command that registers models that are already on this machine: files, the stores of other tools, Modelfiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import (
    File,
    aliases_option,
    json_option,
    kind_options,
    quiet_option,
)
from llm_hf_models.cli.several import use_each
from llm_hf_models.cli.views import local as local_views
from llm_hf_models.cli.views import other_tools as views

if TYPE_CHECKING:
    from llm_hf_models.models.types import ImportResult
    from llm_hf_models.service import Library

TOOLS = ("ollama", "lmstudio", "llamacpp", "jan", "gpt4all", "llm-gguf")
_FOR_FILES = ("repo", "copy", "mmproj", "no_mmproj", "kind", "pooling")


@dataclass(frozen=True)
class ImportableFiles:
    """A file of each model that an import would register."""

    files: tuple[str, ...]


@click.command(
    "import",
    epilog=format_examples(
        "llm hf import ~/models/mistral-7b.Q4_K_M.gguf",
        "llm hf import model.Q4_K_M.gguf --repo owner/name --copy",
        "llm hf import llava.Q4_K_M.gguf --mmproj mmproj-F16.gguf",
        "llm hf import ~/models",
        "llm hf import --from ollama --dry-run",
        "llm hf import --from ollama llama3.2:3b",
        "llm hf import ./Modelfile -a mario",
    ),
)
@click.argument("files", metavar="[FILE|FOLDER|NAME]...", type=File(), nargs=-1)
@click.option("--from", "tool", type=click.Choice(TOOLS), help="Register the models of this tool, in place.")
@click.option(
    "identical", "--all", is_flag=True, help="With --from: also those with the same files as another model here."
)
@click.option("--dry-run", is_flag=True, help="Show what would be registered, and register nothing.")
@click.option("--repo", metavar="REF", help="Repo of origin; the file's digest is compared with the Hub's.")
@click.option("--copy", is_flag=True, help="Store a copy, so that the original can be deleted.")
@click.option("--mmproj", type=File(), help="The model's projector, for images or audio.")
@click.option("--no-mmproj", is_flag=True, help="Ignore a projector in the same folder.")
@kind_options
@aliases_option
@quiet_option(is_passed=True)
@json_option
@click.pass_context
def import_(
    ctx: click.Context,
    files: tuple[str, ...],
    tool: str | None,
    identical: bool,
    dry_run: bool,
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
    """Register models that are already on this machine.

    Of a FOLDER, all models in it and in its subfolders are registered, except for those in hidden subfolders.

    For a split model, name any shard; the others must be in the same folder. A projector (mmproj) in that folder is
    used if it has the model's name or if the folder contains no other model. A generation_config.json in that folder
    supplies sampling defaults.

    With --from, registers the models that another tool has downloaded, or those named. Their files stay where they
    are, and are never modified or removed. The tool's parameters and system prompt become options of the model. The
    digest is compared with the Hub if the tool has recorded the repo.

    A Modelfile is registered as the model after its FROM with the Modelfile's parameters and system prompt.
    """
    if tool:
        _refuse_options(ctx, "--from")
        library = open_library(uses_hub=not dry_run)
        _import_from_tool(ctx, library, tool, files, aliases, identical=identical, dry_run=dry_run, as_json=as_json)
        return
    if identical:
        raise click.UsageError("--all is for --from.")
    if not files:
        raise click.UsageError("Give a FILE or FOLDER, or --from TOOL.")
    if mmproj and no_mmproj:
        raise click.UsageError("--mmproj and --no-mmproj exclude each other.")
    library = open_library(uses_hub=repo is not None)
    if len(files) == 1 and library.is_modelfile(files[0]):
        _refuse_options(ctx, "a Modelfile")
        _import_modelfile(library, files[0], aliases, dry_run=dry_run, quiet=quiet, as_json=as_json)
        return
    models = library.list_importable(*files)
    if len(models) > 1 and (aliases or mmproj):
        raise click.UsageError(
            f"{'--alias' if aliases else '--mmproj'} is for one model, and {len(models)} were found."
        )
    if dry_run:
        paths = [str(model) for model in models]
        output.print_json(ImportableFiles(tuple(paths))) if as_json else output.emit("\n".join(paths))
        return
    arguments = {
        "repo": repo,
        "copy": copy,
        "mmproj": mmproj,
        "with_mmproj": not no_mmproj,
        "aliases": aliases,
        "options": {key: value for key, value in (("kind", kind), ("pooling", pooling)) if value},
    }
    _import_files(library, models, arguments, quiet=quiet, as_json=as_json)


def _import_files(
    library: Library,
    models: Sequence[Path],
    arguments: Mapping[str, Any],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    from llm_hf_models.cli import progress

    def register(file: Path) -> ImportResult:
        with progress.show_progress(quiet=quiet) as show_progress:
            return library.import_file(file, **arguments, progress=show_progress)

    def show(done: ImportResult) -> None:
        output.note(local_views.render_import(done, arguments["aliases"]))
        output.emit(done.model.id)

    use_each(models, register, show, as_json=as_json)


def _refuse_options(ctx: click.Context, what: str) -> None:
    """Refuse the options for single files."""
    for name in _FOR_FILES:
        if ctx.params[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} is not for {what}.")


def _import_from_tool(
    ctx: click.Context,
    library: Library,
    tool: str,
    names: tuple[str, ...],
    aliases: tuple[str, ...],
    *,
    identical: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from llm_hf_models.cli import progress

    with progress.show_progress(quiet=output.is_quiet()) as show_progress:
        if dry_run:
            plan = library.plan_import_from(tool, names, identical=identical, progress=show_progress)
        else:
            done = library.import_from(tool, names, identical=identical, aliases=aliases, progress=show_progress)
    if dry_run:
        output.print_json(plan) if as_json else output.emit(views.render_plan(plan, output.get_width()))
        return
    if as_json:
        output.print_json(done)
    else:
        for one in done.imported:
            output.note(views.render_imported(one))
            output.emit(one.result.model.id)
        if text := views.render_left_out(done):
            output.note(text)
        if done.failed:
            output.alert(views.render_failed(done))
    has_unusable_name = any(names) and any(model.problem for model in done.left_out)
    ctx.exit(1 if done.failed or has_unusable_name else 0)


def _import_modelfile(
    library: Library, path: str, aliases: tuple[str, ...], *, dry_run: bool, quiet: bool, as_json: bool
) -> None:
    from llm_hf_models.cli import progress

    if dry_run:
        plan = library.plan_modelfile(path, aliases=aliases)
        output.print_json(plan) if as_json else output.emit(views.render_modelfile_plan(plan, output.get_width()))
        return
    with progress.show_progress(quiet=quiet) as show_progress:
        done = library.import_modelfile(path, aliases=aliases, progress=show_progress)
    if as_json:
        output.print_json(done)
        return
    output.note(views.render_imported(done))
    output.emit(done.result.model.id)
