"""The command that removes what is dead: gc."""

from __future__ import annotations

import click

from llm_hf_models import output, views_downloads
from llm_hf_models.cli_common import confirm_removal, examples, json_option, service

NOTHING = "Nothing is dead."


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
    library = service()
    found = library.plan_gc()
    something = bool(found.files or found.rows or found.answers)
    if something and not dry_run:
        if not yes:
            output.note(views_downloads.cleanup(found, output.width()))
            confirm_removal("Remove all this?")
        found = library.gc()
    if as_json:
        output.print_json(found)
    elif something:
        output.emit(views_downloads.cleanup(found, output.width()))
    else:
        output.note(NOTHING)
