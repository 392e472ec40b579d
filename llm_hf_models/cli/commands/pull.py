"""Commands that download a model and test it: pull and test."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.commands.find import NAME_OR_FILE
from llm_hf_models.cli.framework import format_examples, open_library, stop_on_interrupt
from llm_hf_models.cli.keypress import call_on_key
from llm_hf_models.cli.params import (
    RATE,
    Folder,
    aliases_option,
    collection_option,
    confirm,
    json_option,
    kind_options,
    quiet_option,
    require_names,
)
from llm_hf_models.cli.several import emit_in_parts, list_local_members, use_each
from llm_hf_models.cli.views import downloads as downloads_views
from llm_hf_models.cli.views import gguf as gguf_views
from llm_hf_models.cli.views import hub as hub_views
from llm_hf_models.errors import BadInputError, HfModelsError, InterruptedByUserError, NetworkError
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PullOptions, PullPlan, PullResult
    from llm_hf_models.downloads.types import DownloadView
    from llm_hf_models.models.types import LoadTestReport
    from llm_hf_models.service import Library

BACKGROUND_KEY = "b"


@click.command(epilog=format_examples("llm hf test Qwen3-0.6B", "llm hf test ./model.gguf --json"))
@click.argument("names", metavar="[NAME|FILE]...", type=NAME_OR_FILE, nargs=-1)
@collection_option("Test the models of a collection that are on this machine.")
@quiet_option("Print only reports of models that fail.", is_passed=True)
@json_option
@click.pass_context
def test(ctx: click.Context, names: tuple[str, ...], collection: str | None, quiet: bool, as_json: bool) -> None:
    """Load a model in a sandbox and generate a few tokens.

    The model runs in a confined child process with a time limit and with tensor checks. The verdict and the sandbox
    layers are recorded with the model. Exits with code 1 unless the model loads, generates sensible text and matches
    its recorded digest.
    """
    emit = emit_in_parts(_render_load_test)

    def show(report: LoadTestReport) -> None:
        if not (quiet and report.passed):
            emit(report)

    require_names(names, collection, "NAME|FILE or --collection")
    library = open_library()
    if collection is not None:
        names = list_local_members(library, collection, with_files=True)
    reports = use_each(names, library.test, show, as_json=as_json)
    ctx.exit(0 if all(report.passed for report in reports) else 1)


def _render_load_test(report: LoadTestReport) -> str:
    return gguf_views.render_load_test(report, output.get_width())


@click.command(
    epilog=format_examples(
        "llm hf pull unsloth/Qwen3-0.6B-GGUF",
        "llm hf pull unsloth/Qwen3-0.6B-GGUF:Q8_0 -a small",
        "llm hf pull unsloth/Qwen3-0.6B-GGUF --dry-run",
        "llm hf pull --collection coding",
        "llm hf pull unsloth/Qwen3-0.6B-GGUF:README.md --to docs",
    )
)
@click.argument("refs", metavar="[REF]...", nargs=-1)
@collection_option("Pull the models of a collection that are not on this machine.")
@click.option("--revision", metavar="REVISION", help="Branch, tag or commit to pin instead of the default branch.")
@aliases_option
@click.option("--no-mmproj", is_flag=True, help="Skip the vision projector (mmproj).")
@kind_options
@click.option(
    "--to",
    metavar="DIR",
    type=Folder(file_okay=False, path_type=Path),
    help="Store the files in this folder instead of the cache. A model that is already registered keeps its own files.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan without downloading anything.")
@click.option("--background", is_flag=True, help="Download in the background and print the download's id.")
@click.option("--on-done", metavar="COMMAND", help="With --background: run this in the current folder afterwards.")
@click.option("--connections", type=click.IntRange(1, 64), metavar="N", help="Maximum number of connections.")
@click.option("--limit-rate", type=RATE, help="Maximum speed in bytes per second, such as 5M.")
@click.option(
    "--allow-unsafe", is_flag=True, help="Pull even if a Hub scanner reports a file as unsafe; this is recorded."
)
@click.option("--allow-invalid", is_flag=True, help="Keep a file that breaks the GGUF rules, without registering it.")
@click.option(
    "-y",
    "--yes",
    is_flag=True,
    help="Don't ask before a large download, a model that does not fit, or overwriting files (--to).",
)
@click.option("--test", is_flag=True, help="Load-test the model after downloading; exit 1 if that fails.")
@quiet_option()
@json_option
@click.pass_context
def pull(
    ctx: click.Context,
    /,
    refs: tuple[str, ...],
    collection: str | None,
    aliases: tuple[str, ...],
    no_mmproj: bool,
    dry_run: bool,
    background: bool,
    on_done: str | None,
    yes: bool,
    test: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Download models, verify them and register them with llm.

    Downloads one variant of each REF: all shards of one quantization and, if present, its vision projector (mmproj).

    REF is owner/name, owner/name:QUANT, owner/name:FILE, owner/name@REVISION:QUANT or the URL of a page on the Hub.
    Without QUANT, the best quantization that fits this machine's memory is chosen. The download starts after all REFs
    were found on the Hub. If one fails, the others are still downloaded. Of a collection, the models are downloaded
    that are not on this machine, even if some can't be found.

    Prints the model's id, or the download's id with --background. To continue an interrupted pull, run the same command
    again.
    """
    from llm_hf_models.downloads.plan_types import PullOptions

    if on_done and not background:
        raise click.UsageError("--on-done requires --background.")
    if test and background:
        raise click.UsageError("--test and --background exclude each other.")
    if aliases and len(refs) != 1:
        raise click.UsageError("--alias names one model. Give one REF.")
    require_names(refs, collection, "REF or --collection")
    library = open_library(uses_hub=True)
    if collection is not None:
        refs = _list_missing_members(library, collection)
    pull_options = PullOptions(mmproj=not no_mmproj, aliases=aliases, **options)  # type: ignore[arg-type]
    names = list(dict.fromkeys(refs))
    if dry_run:
        use_each(names, lambda ref: library.plan(ref, pull_options), emit_in_parts(_render_plan), as_json=as_json)
        return
    plans = _plan_all(library, names, pull_options, stops_at_error=collection is None)
    for ref, plan in plans.items():
        if isinstance(plan, HfModelsError):
            continue
        concerns = () if yes else library.list_concerns(plan)
        output.note(hub_views.render_choice(plan, warns_of_memory=not concerns))
        if not yes:
            _ask_before_pull(ref, plan, concerns)
    puller = _Puller(library, on_done, tests=test, is_in_background=background)

    def pull_one(ref: str) -> PullResult | DownloadView:
        return puller.pull(_get_plan(plans[ref]))

    use_each(names, pull_one, _print_id, as_json=as_json, finish=puller.test_pulled)
    ctx.exit(0 if puller.passed else 1)


def _list_missing_members(library: Library, collection: str) -> tuple[str, ...]:
    """Return the refs of the models of a collection whose files are not on this machine. Notes name the others."""
    members = library.list_collection_members(collection)
    lost = {model.id for model in library.list(collection=collection) if model.state == "missing"}
    missing = [member for member in members if member.id is None or member.id in lost]
    if not members:
        output.note(f"The collection {collection} has no models.")
    elif len(missing) < len(members):
        output.note(f"{len(members) - len(missing)} of {len(members)} models of {collection} are here already.")
    for member in missing:
        if not member.is_on_hub:
            output.note(f"{member.ref} is not on the Hub. Import or attach it again.")
    return tuple(member.ref for member in missing if member.is_on_hub)


def _plan_all(
    library: Library, refs: Sequence[str], options: PullOptions, *, stops_at_error: bool
) -> dict[str, PullPlan | HfModelsError]:
    """Plan the pull of each ref. Without `stops_at_error`, an error that is only about one ref replaces its plan."""
    plans: dict[str, PullPlan | HfModelsError] = {}
    for ref in dict.fromkeys(refs):
        try:
            plans[ref] = library.plan(ref, options)
        except HfModelsError as error:
            if stops_at_error or isinstance(error, NetworkError | InterruptedByUserError):
                raise
            plans[ref] = error
    return plans


def _get_plan(plan: PullPlan | HfModelsError) -> PullPlan:
    if isinstance(plan, HfModelsError):
        raise plan
    return plan


def _render_plan(plan: PullPlan) -> str:
    return hub_views.render_plan(plan, output.get_width())


@dataclass
class _Puller:
    """Pulls one plan after the other. If the user moves one to the background, the rest follow."""

    library: Library
    on_done: str | None
    tests: bool  # load-test the models that were pulled in the foreground
    is_in_background: bool
    passed: bool = True  # no model failed its test

    def pull(self, plan: PullPlan) -> PullResult | DownloadView:
        """Pull in the foreground, or queue a background download."""
        result = None if self.is_in_background else _pull_in_foreground(self.library, plan)
        if result is None:  # by --background or by pressing the key
            self.is_in_background = True
            row = self.library.enqueue(plan, on_done=self.on_done)
            queued = downloads_views.render_queued(row, is_complete=plan.already_complete)
            output.note("\n".join([*hub_views.list_missing_aliases(plan), queued]))
            if self.tests and plan.model_id:
                output.note(f"The model won't be tested. Test it later: llm hf test {plan.model_id}")
            return row
        output.note(hub_views.render_pull_result(result))
        if not output.is_quiet():
            output.notify(f"{result.id or plan.ref} is ready", result.elapsed_seconds)
        return result

    def test_pulled(self, results: Sequence[PullResult | DownloadView]) -> None:
        """Load-test the models, and print the reports."""
        from llm_hf_models.downloads.plan_types import PullResult

        pulled = [one.id for one in results if isinstance(one, PullResult) and one.id] if self.tests else []
        for model_id in pulled:
            report = self.library.test(model_id)
            output.alert(_render_load_test(report))
            self.passed = self.passed and report.passed


def _ask_before_pull(ref: str, plan: PullPlan, concerns: Sequence[str]) -> None:
    """Ask whether to replace files, and to download a large model or one that does not fit. End the command on a no.

    Raises:
        BadInputError: there is no answer, or no terminal for the question about the download.
    """
    if plan.replaces:
        confirm(
            f"Files with other content exist: {', '.join(plan.replaces)}. Replace them?",
            refused="Nothing was replaced",
            hint="Pass -y to replace without asking.",
        )
    if not concerns:
        return
    hint = f"To download it without a question, add -y: llm hf pull {shlex.quote(ref)} -y"
    if not output.is_terminal(sys.stdin):
        raise BadInputError(f"{plan.ref} was not downloaded", cause="\n".join(concerns), hint=hint)
    question = f"{' '.join(concerns)} Download {format_size(plan.fetch_bytes)}?"
    confirm(question, refused="Nothing was downloaded", hint=hint)


def _print_id(result: PullResult | DownloadView) -> None:
    from llm_hf_models.downloads.plan_types import PullResult

    if isinstance(result, PullResult):
        output.emit(result.id or "\n".join(result.files))
    else:
        output.emit(str(result.id))


def _pull_in_foreground(library: Library, plan: PullPlan) -> PullResult | None:
    """Pull in the foreground. Return None if the user moves the download to the background."""
    from llm_hf_models.cli import progress
    from llm_hf_models.cli.progress_bars import name_file

    parts = downloads_views.name_parts(plan)
    moving = [file for file in plan.files if not file.local]
    moved_to_background = threading.Event()
    with stop_on_interrupt() as stop:

        def move_to_background() -> None:
            moved_to_background.set()
            try:
                # Record it now: if the terminal closes next, the download waits for a worker.
                with suppress(HfModelsError):
                    library.continue_in_background(plan)
            finally:
                stop.set()

        try:
            name = lambda path: parts.get(path) or name_file(path)  # noqa: E731
            with (
                call_on_key(BACKGROUND_KEY, move_to_background) as can_press_key,
                progress.show_progress(moving, name=name, quiet=output.is_quiet()) as show,
            ):
                if can_press_key and moving:
                    output.note(f"Press {BACKGROUND_KEY} to continue in the background.")
                return library.pull(plan, progress=show, stop=stop)
        except InterruptedByUserError:
            if moved_to_background.is_set():
                return None
            raise
