"""The commands of `llm hf collection`: create, add, remove, list, show, rename and delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import (
    CollectionName,
    MemberName,
    confirm,
    dry_run_option,
    json_option,
    quiet_option,
    yes_option,
)
from llm_hf_models.cli.several import emit_in_parts, use_each
from llm_hf_models.cli.views import collections as views

if TYPE_CHECKING:
    from llm_hf_models.models.collections.types import CollectionView

NAME = CollectionName()
MEMBER = MemberName()
NO_COLLECTION = "No collections yet. Create one: llm hf collection create NAME"


@click.group(
    invoke_without_command=True,
    epilog=format_examples(
        "llm hf collection create coding --note 'for the editor'",
        "llm hf collection add coding Qwen3-0.6B --role best",
        "llm hf collection add coding unsloth/Qwen3-8B-GGUF:Q4_K_M",
        "llm hf pull --collection coding",
        "llm -m coding/best 'a regex for dates'",
    ),
)
@quiet_option("Print only the names.", is_passed=True)
@json_option
@click.pass_context
def collection(ctx: click.Context, quiet: bool, as_json: bool) -> None:
    """Group models under a name, and use them together.

    A collection has local models, models of the Hub and other collections. It is also in another one if its name says
    so: coding/small is in coding. Models are never changed or removed with a collection. Without a command, lists the
    collections.
    """
    if ctx.invoked_subcommand is None:
        _print_list(quiet=quiet, as_json=as_json)


@collection.command(epilog=format_examples("llm hf collection create coding/small --note 'under 2 GB'"))
@click.argument("name")
@click.option("--note", default="", metavar="TEXT", help="A note of at most 500 characters.")
@dry_run_option
@quiet_option()
@json_option
def create(name: str, note: str, dry_run: bool, as_json: bool) -> None:
    """Create a collection.

    NAME has letters, digits and any of ._- in parts that / separates. Capitals don't matter. Collections that the name
    is in are created too.
    """
    found = open_library().create_collection(name, note=note, dry_run=dry_run)
    _print_change(found, "Would create" if dry_run else "Created", as_json=as_json, dry_run=dry_run)


@collection.command(
    epilog=format_examples(
        "llm hf collection add coding Qwen3-0.6B unsloth/Qwen3-8B-GGUF:Q4_K_M",
        "llm hf collection add coding Qwen3-0.6B --role best",
        "llm hf collection add work coding",
    )
)
@click.argument("name", type=NAME)
@click.argument("members", metavar="MODEL|COLLECTION...", type=MEMBER, nargs=-1, required=True)
@click.option("--role", metavar="ROLE", help="The role of the model. NAME/ROLE then is a name of it: llm -m NAME/ROLE.")
@click.option("--no-role", is_flag=True, help="Remove the role of the model.")
@click.option("--note", metavar="TEXT", help="A note on each member, of at most 500 characters.")
@dry_run_option
@quiet_option()
@json_option
def add(
    name: str,
    members: tuple[str, ...],
    role: str | None,
    no_role: bool,
    note: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add models and other collections to a collection.

    MODEL is a local model or a ref such as owner/name:QUANT, which need not be on this machine. If a name is both a
    collection and a repo on the Hub, it is the collection; hf://owner/name always is the repo. For a member that the
    collection already has, changes the role or the note.
    """
    if role is not None and no_role:
        raise click.UsageError("--role and --no-role exclude each other.")
    if role is not None and not role:
        raise click.UsageError("The role is empty. Use --no-role to remove it.")
    found = open_library().add_to_collection(name, *members, role="" if no_role else role, note=note, dry_run=dry_run)
    _print_change(found, "Would change" if dry_run else "Changed", as_json=as_json, dry_run=dry_run)


@collection.command(epilog=format_examples("llm hf collection remove coding Qwen3-0.6B"))
@click.argument("name", type=NAME)
@click.argument("members", metavar="MODEL|COLLECTION...", type=MEMBER, nargs=-1, required=True)
@dry_run_option
@quiet_option()
@json_option
def remove(name: str, members: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Remove models and other collections from a collection.

    The models stay on this machine. If one of them is not in the collection, nothing is changed.
    """
    found = open_library().remove_from_collection(name, *members, dry_run=dry_run)
    _print_change(found, "Would change" if dry_run else "Changed", as_json=as_json, dry_run=dry_run)


def _print_change(found: CollectionView, verb: str, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        output.print_json(found)
        return
    for message in found.messages:
        output.note(message)
    output.note(views.render_change(found, verb))
    if dry_run:
        output.emit(_render(found))


@collection.command("list", epilog=format_examples("llm hf collection list", "llm hf collection list --json"))
@quiet_option("Print only the names.", is_passed=True)
@json_option
def list_(quiet: bool, as_json: bool) -> None:
    """List the collections.

    The numbers include the models of the collections in a collection.
    """
    _print_list(quiet=quiet, as_json=as_json)


def _print_list(*, quiet: bool, as_json: bool) -> None:
    from llm_hf_models.models.collections.types import CollectionList

    found = open_library().list_collections()
    if as_json:
        output.print_json(CollectionList(found))
    elif found and quiet:
        output.emit("\n".join(row.name for row in found))
    elif found:
        output.emit(views.render_collections(found, output.get_width()))
    else:
        output.note(NO_COLLECTION)


@collection.command(epilog=format_examples("llm hf collection show coding"))
@click.argument("names", metavar="NAME...", type=NAME, nargs=-1, required=True)
@quiet_option("Hide notes about missing models.")
@json_option
def show(names: tuple[str, ...], as_json: bool) -> None:
    """Show the models of collections.

    Tells which of them are on this machine, and the command that pulls each of the others. The models of the
    collections in a collection are included, each once.
    """
    emit = emit_in_parts(_render)

    def show_one(found: CollectionView) -> None:
        emit(found)
        if remedies := views.render_remedies(found):
            output.note(remedies)

    use_each(names, open_library().show_collection, show_one, as_json=as_json)


def _render(found: CollectionView) -> str:
    return views.render_collection(found, output.get_width())


@collection.command(epilog=format_examples("llm hf collection rename coding work/coding"))
@click.argument("name", type=NAME)
@click.argument("new_name", metavar="NEW")
@dry_run_option
@quiet_option()
@json_option
def rename(name: str, new_name: str, dry_run: bool, as_json: bool) -> None:
    """Rename a collection.

    Those whose names start with its name are renamed too.
    """
    found = open_library().rename_collection(name, new_name, dry_run=dry_run)
    _print_change(found, "Would rename it to" if dry_run else "Renamed it to", as_json=as_json, dry_run=dry_run)


@collection.command(
    "import",
    epilog=format_examples(
        "llm hf collection import https://huggingface.co/collections/owner/title-64f9a55bb3115b4f513ec026",
        "llm hf collection import owner/title-64f9a55bb3115b4f513ec026 --name coding --dry-run",
    ),
)
@click.argument("source", metavar="SLUG|URL")
@click.option("--name", metavar="NAME", help="Name of the collection on this machine instead of one from its title.")
@dry_run_option
@quiet_option()
@json_option
def import_(source: str, name: str | None, dry_run: bool, as_json: bool) -> None:
    """Copy a collection of the Hub.

    Stores the names of its models, and of the models in the collections that it contains. Downloads no model. Items
    that are not models are listed as skipped. After another import of the same collection, it has the models that are
    new on the Hub, and none is removed.
    """
    done = open_library(uses_hub=True).import_collection(source, name=name, dry_run=dry_run)
    if as_json:
        output.print_json(done)
        return
    output.note(views.render_import(done))
    if done.skipped:
        output.note(views.render_skipped(done.skipped))
    if not dry_run:
        output.emit(done.name)


@collection.command(epilog=format_examples("llm hf collection delete coding", "llm hf collection delete old -y"))
@click.argument("names", metavar="NAME...", type=NAME, nargs=-1, required=True)
@yes_option
@dry_run_option
@quiet_option()
@json_option
def delete(names: tuple[str, ...], yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete collections.

    Those whose names start with their names are deleted too. The models stay on this machine. Asks first, unless the
    collection is empty. If a name is unknown, nothing is deleted.
    """
    library = open_library()
    planned = {plan.name: plan for plan in map(library.plan_collection_deletion, names)}
    texts = [views.render_deletion(plan) for plan in planned.values()]
    if dry_run:
        use_each(
            list(planned.values()), lambda plan: plan, lambda plan: output.emit(views.render_deletion(plan)),
            as_json=as_json,
        )  # fmt: skip
        return
    if not yes and any(plan.models or len(plan.collections) > 1 for plan in planned.values()):
        output.alert("\n".join(texts))
        confirm("Delete?", refused="Nothing was deleted", hint="Pass -y to delete without asking.")
    inner = {name for plan in planned.values() for name in plan.collections if name != plan.name}
    use_each(
        [name for name in planned if name not in inner],
        library.delete_collection,
        lambda done: output.note(views.render_deletion(done)),
        as_json=as_json,
    )
