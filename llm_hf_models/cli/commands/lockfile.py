"""Commands about lockfiles: lock, sync and export."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.commands.signatures import NO_TERMINAL_HINT
from llm_hf_models.cli.framework import ask_hidden, format_examples, open_library, stop_on_interrupt
from llm_hf_models.cli.params import CollectionName, File, Folder, confirm, json_option, quiet_option
from llm_hf_models.cli.views import lockfile as views
from llm_hf_models.errors import HfModelsError

if TYPE_CHECKING:
    from llm_hf_models.lockfiles.types import Lockfile, LockResult, SyncPlan, SyncResult
    from llm_hf_models.service import Library

STDIN = "-"


@click.command(
    epilog=format_examples(
        "llm hf lock -o models.lock.toml",
        "llm hf lock coding -o coding.lock.toml",
        "llm hf lock -o models.lock.toml --sign signing.pem",
        "llm hf lock --diff old.lock.toml models.lock.toml",
    )
)
@click.argument("collection", required=False, type=CollectionName())
@click.option("target", "-o", "--output", type=File(path_type=Path), metavar="FILE", help="Write the lockfile here.")
@click.option(
    "key",
    "--sign",
    type=File(),
    metavar="KEY",
    help="Sign the lockfile with this private key (PEM). The signature is FILE.sig.",
)
@click.option(
    "compared",
    "--diff",
    nargs=2,
    type=File(),
    metavar="A B",
    help="Show the changes from lockfile A to B; exit 1 if there are any. - is standard input.",
)
@quiet_option()
@json_option
@click.pass_context
def lock(
    ctx: click.Context,
    collection: str | None,
    target: Path | None,
    key: str | None,
    compared: tuple[str, str] | None,
    as_json: bool,
) -> None:
    """Write a lockfile of the models on this machine.

    With COLLECTION, only of its models. The lockfile has the repo, commit, files, digests, names and options of each
    model, but no key and no token. `llm hf sync` makes another machine match it. Without -o, prints the lockfile. A
    file that is not a lockfile is never overwritten.
    """
    library = open_library()
    if key and not target:
        raise click.UsageError("--sign requires -o.")
    if compared:
        if target or collection:
            raise click.UsageError("--diff takes two lockfiles, and excludes COLLECTION and -o.")
        diff = library.diff_lockfiles(*(_read(library, name) for name in compared))
        if as_json:
            output.print_json(diff)
        elif diff.changes:
            output.emit(views.render_diff(diff))
        else:
            output.note("No difference.")
        ctx.exit(0 if diff.equal else 1)
    done = library.lock(collection=collection) if target is None else _save(library, target, collection, key)
    if as_json:
        output.print_json(done)
    elif not target:
        output.emit(done.text.removesuffix("\n"))
    output.note(views.render_lock_result(done))
    _warn(views.list_warnings(done))


def _warn(lines: Sequence[str]) -> None:
    """Print the reasons why a lockfile is incomplete, even if the command is quiet."""
    if lines:
        output.alert("\n".join(lines))


def _save(library: Library, target: Path, collection: str | None, key: str | None) -> LockResult:
    ask = lambda: ask_hidden(f"Passphrase of {key}", hint=NO_TERMINAL_HINT)  # noqa: E731
    return library.save_lockfile(target, collection=collection, key=key, ask_passphrase=ask)


def _read(library: Library, name: str) -> Lockfile:
    if name != STDIN:
        return library.read_lockfile(name)
    return library.parse_lockfile(sys.stdin.read())


@click.command(
    epilog=format_examples(
        "llm hf sync models.lock.toml",
        "llm hf sync models.lock.toml --check",
        "llm hf sync models.lock.toml --from /media/disk/models",
        "llm hf sync models.lock.toml --require-signature team.pub.pem",
        "llm hf sync models.lock.toml --prune --dry-run",
    )
)
@click.argument("file", type=File())
@click.option("--check", is_flag=True, help="Only compare; exit 1 if this machine does not match.")
@click.option("--dry-run", is_flag=True, help="Show the plan without changing anything.")
@click.option("--prune", is_flag=True, help="Remove the models that the lockfile does not list.")
@click.option(
    "source",
    "--from",
    metavar="URL|DIR",
    help="Take the files from this mirror or exported folder. A mirror receives no token.",
)
@click.option(
    "public_key",
    "--require-signature",
    type=File(),
    metavar="KEY",
    help="Refuse the lockfile unless FILE.sig is by this public key or certificate (PEM).",
)
@click.option("-y", "--yes", is_flag=True, help="Don't ask, for example before a removal.")
@quiet_option()
@json_option
@click.pass_context
def sync(
    ctx: click.Context,
    file: str,
    check: bool,
    dry_run: bool,
    prune: bool,
    source: str | None,
    public_key: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Make this machine match a lockfile.

    Downloads missing models at exactly the commit of the lockfile, verifies the present ones by their digests, and sets
    their aliases, options and chat templates. Every digest is compared with the lockfile, wherever the files are from.
    To continue an interrupted sync, run the same command again. FILE can be - for standard input.
    """
    from llm_hf_models.cli import progress

    library = open_library(uses_hub=True)
    if public_key and file == STDIN:
        raise click.UsageError("--require-signature needs the name of a file.")
    lockfile = library.read_lockfile(file, public_key=public_key) if public_key else _read(library, file)
    with progress.show_progress(quiet=output.is_quiet()) as show:  # Ctrl-C ends it at once, as nothing is changed
        plan = library.plan_sync(lockfile, source=source, prune=prune, progress=show)
    if check or dry_run:
        output.print_json(plan) if as_json else output.emit(views.render_sync_plan(plan, output.get_width()))
        ctx.exit(1 if check and not plan.in_sync else 0)
    if not plan.in_sync:
        output.note(views.render_sync_plan(plan, output.get_width(sys.stderr)))
    if not yes:
        _ask(plan)
    done = _carry_out(library, plan)
    if as_json:
        output.print_json(done)
    else:
        output.note(views.render_sync_result(done))
        for model in done.models:
            if model.problem:
                output.print_error(HfModelsError(f"{model.id}: {model.problem}", hint=model.hint))
    ctx.exit(0 if done.complete else 1)


def _ask(plan: SyncPlan) -> None:
    """Ask whether to carry out a plan, if there is a reason to ask."""
    if questions := views.list_questions(plan):
        if output.is_quiet():  # otherwise the plan was shown
            output.alert("\n".join(questions))
        confirm("Go on?", refused="Nothing was changed", hint="Pass -y to sync without asking.")


def _carry_out(library: Library, plan: SyncPlan) -> SyncResult:
    from llm_hf_models.cli import progress

    moving = [file for step in plan.steps if step.pull for file in step.pull.files if not file.local]
    with stop_on_interrupt() as stop, progress.show_progress(moving, quiet=output.is_quiet()) as show:
        return library.sync(plan, progress=show, stop=stop)


@click.command(
    epilog=format_examples(
        "llm hf export /media/disk/models",
        "llm hf export /media/disk/models coding",
        "llm hf sync /media/disk/models/models.lock.toml --from /media/disk/models",
        "llm hf mirror --from /media/disk/models",
    )
)
@click.argument("folder", metavar="DIR", type=Folder(file_okay=False, path_type=Path))
@click.argument("collection", required=False, type=CollectionName())
@click.option("--dry-run", is_flag=True, help="Show how much would be copied.")
@quiet_option()
@json_option
def export(folder: Path, collection: str | None, dry_run: bool, as_json: bool) -> None:
    """Copy models and their lockfile to a folder.

    The folder serves a machine without a network: `llm hf sync FILE --from DIR` takes the files from it, and
    `llm hf mirror --from DIR` serves them. Each copy is verified. A repeated or interrupted export copies only what is
    missing.
    """
    from llm_hf_models.cli import progress

    library = open_library()
    with stop_on_interrupt() as stop, progress.show_progress(quiet=output.is_quiet()) as show:
        done = library.export(folder, collection=collection, dry_run=dry_run, progress=show, stop=stop)
    if as_json:
        output.print_json(done)
    else:
        output.note(views.render_export(done, dry_run=dry_run))
        output.emit(done.lockfile)
    _warn(views.list_warnings(done))
