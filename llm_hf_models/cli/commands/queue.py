"""The commands of the queue: downloads, pause, resume, cancel, retry, limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import examples, open_library
from llm_hf_models.cli.params import RATE, json_option, require_one_of
from llm_hf_models.cli.views import downloads as downloads_views
from llm_hf_models.errors import BadInputError, InterruptedByUserError, NotFoundError
from llm_hf_models.library.download_records import ACTIVE_STATES, RUNNING_STATES, RequestedAction
from llm_hf_models.system import units

if TYPE_CHECKING:
    from llm_hf_models.downloads.types import DownloadView
    from llm_hf_models.service import Library

ALL = "all"
WATCH_SECONDS = 0.5
NO_LIMIT = -1


@click.group(
    invoke_without_command=True,
    epilog=examples("llm hf downloads", "llm hf downloads --watch", "llm hf downloads log 3"),
)
@click.option("finished", "--all", is_flag=True, help="List those that are over too.")
@click.option("--limit", type=click.IntRange(1), metavar="N", default=100, show_default=True, help="At most so many.")
@click.option("--watch", is_flag=False, flag_value=ALL, metavar="[ID]", help="Show live bars until they are over.")
@json_option
@click.pass_context
def downloads(ctx: click.Context, finished: bool, limit: int, watch: str | None, as_json: bool) -> None:
    """List downloads, follow them, clear them away.

    Every pull has a row here, whoever asked for it, and it outlives the process that carries it out. With --watch,
    --json prints a line for each change of a row.
    """
    if ctx.invoked_subcommand is not None:
        return
    library = open_library()
    if watch is not None:
        numbers = _select_ids(library, watch)
        try:
            ended_well = _watch_as_json(library, numbers) if as_json else _watch(library, numbers)
        except KeyboardInterrupt:
            raise InterruptedByUserError("No longer watched: what was under way goes on") from None
        ctx.exit(0 if ended_well else 1)
    rows = library.downloads(include_finished=finished, limit=limit)
    if as_json:
        output.print_json(rows)
    elif rows:
        output.emit(downloads_views.render_downloads(rows, output.get_width()))
    else:
        output.note("No download is under way." + ("" if finished else " `llm hf downloads --all` lists those before."))


def _select_ids(library: Library, watch: str) -> list[int]:
    if watch == ALL:
        return [row.id for row in library.downloads() if row.state in ACTIVE_STATES]
    if not (watch.isascii() and watch.isdigit()):
        raise click.BadParameter(f"{watch!r} is not the id of a download.", param_hint="--watch")
    return [int(watch)]


def _watch(library: Library, numbers: list[int]) -> bool:
    """Shows downloads until they rest; whether none of them came to grief."""
    from llm_hf_models.cli import progress

    if not numbers:
        output.note("No download is under way.")
        return True
    began = time.monotonic()
    with progress.show_progress() as show:
        rows = _follow(library, numbers, lambda row: show(downloads_views.make_event(row)))
    for row in rows:
        output.note(downloads_views.render_outcome(row))
    output.notify("; ".join(f"{row.ref} is {row.state}" for row in rows), time.monotonic() - began)
    return not any(row.error for row in rows)


def _watch_as_json(library: Library, numbers: list[int]) -> bool:
    """The same as lines of JSON, for programs: a row whenever it has changed."""
    return not any(row.error for row in _follow(library, numbers, lambda row: output.print_json(row, indent=None)))


def _follow(library: Library, numbers: list[int], tell: Callable[[DownloadView], None]) -> list[DownloadView]:
    """Tells of downloads, whenever one has changed, until none of them moves, or could: returns how they stand then.

    One whose row is cleared away meanwhile no longer counts, unless it is the last.
    """
    pause = threading.Event()
    last: dict[int, DownloadView] = {}
    while True:
        told = dict(last)
        for number in numbers:
            try:
                last[number] = library.get_download(number)
            except NotFoundError:
                if last.pop(number, None) is None or not last:
                    raise
        numbers, rows = list(last), list(last.values())
        for row in rows:
            before = told.get(row.id)
            if before is None or replace(before, updated=row.updated) != row:
                tell(row)
        # One that waits has an error where no worker can start.
        if not any(row.state in RUNNING_STATES or (row.state == "queued" and not row.error) for row in rows):
            return rows
        pause.wait(WATCH_SECONDS)


@downloads.command("clear", epilog=examples("llm hf downloads clear"))
@json_option
def clear(as_json: bool) -> None:
    """Remove the rows of downloads that are over.

    What cancelled ones may have left goes with them, and what failed ones left in a folder (--to); no other file is
    touched. Where that can't be removed now, the row stays.
    """
    count = open_library().clear_downloads()
    output.print_json({"removed": count}) if as_json else output.note(f"Removed {count} {_name_rows(count)}.")


def _name_rows(count: int) -> str:
    return "row" if count == 1 else "rows"


@downloads.command("log", epilog=examples("llm hf downloads log 3"))
@click.argument("number", metavar="ID", type=int)
@json_option
def log(number: int, as_json: bool) -> None:
    """Show what happened to a download, oldest first."""
    notes = open_library().get_download_log(number)
    output.print_json(notes) if as_json else output.emit(downloads_views.render_log(notes, output.get_width()))


@dataclass(frozen=True)
class _Action:
    """One thing that can be asked of downloads, and which of them `--all` means."""

    name: str
    summary: str
    details: str
    states: tuple[str, ...]
    apply: Callable[[Library, int], DownloadView]
    reverts: RequestedAction | None = None  # `--all` means those too that have been asked to do this and did not yet


def _select_all(library: Library, verb: _Action) -> list[int]:
    rows = library.downloads(include_finished=True, limit=NO_LIMIT)
    return [
        row.id
        for row in rows
        if row.state in verb.states or (row.requested_action and row.requested_action == verb.reverts)
    ]


def _apply_action(library: Library, verb: _Action, number: int, *, passing_over: bool) -> DownloadView | None:
    """What asking did. Of all of them one may have ended, or have gone, since they were listed: it is passed over."""
    try:
        return verb.apply(library, number)
    except (BadInputError, NotFoundError):
        if passing_over:
            return None
        raise


def _make_command(verb: _Action) -> click.Command:
    @click.argument("given", metavar="[ID]...", type=int, nargs=-1)
    @click.option("everything", "--all", is_flag=True, help=f"Every download that is {' or '.join(verb.states)}.")
    @json_option
    def run(given: tuple[int, ...], everything: bool, as_json: bool) -> None:
        require_one_of(given or None, everything, "ID")
        library = open_library()
        numbers = _select_all(library, verb) if everything else list(dict.fromkeys(given))
        rows: list[DownloadView] = []
        try:
            for number in numbers:
                row = _apply_action(library, verb, number, passing_over=everything)
                if row is None:
                    continue
                rows.append(row)
                if not as_json:
                    output.note(downloads_views.render_request(row, verb.name))
        finally:  # what was done before one was refused is told all the same
            if as_json and (rows or everything):
                output.print_json(rows if everything or len(given) > 1 else rows[0])
        if not rows and not as_json:
            output.note(f"There is no download to {verb.name}.")

    run.__doc__ = f"{verb.summary}\n\n{verb.details}"
    epilog = examples(f"llm hf {verb.name} 3", f"llm hf {verb.name} 4 5", f"llm hf {verb.name} --all")
    return click.command(verb.name, epilog=epilog)(run)


pause = _make_command(
    _Action(
        "pause",
        "Pause a download and keep what arrived.",
        "Whoever carries it out, another terminal's pull or the worker, stops at its next sign of life.",
        ACTIVE_STATES,
        lambda library, number: library.pause(number),
    )
)

resume = _make_command(
    _Action(
        "resume",
        "Let a paused download go on in the background.",
        "Nothing that arrived is fetched again.",
        ("paused",),
        lambda library, number: library.resume(number),
        reverts="pause",
    )
)

cancel = _make_command(
    _Action(
        "cancel",
        "End a download for good.",
        "What arrived of it goes, but for what another download needs. A retry starts it again.",
        (*ACTIVE_STATES, "paused", "failed"),
        lambda library, number: library.cancel(number),
    )
)

retry = _make_command(
    _Action(
        "retry",
        "Try a failed or cancelled download again.",
        "It goes on in the background, from what arrived where it has failed.",
        ("failed",),
        lambda library, number: library.retry(number),
    )
)


@click.command(epilog=examples("llm hf limit 5M", "llm hf limit off", "llm hf limit"))
@click.argument("rate", type=RATE, required=False)
@json_option
def limit(rate: int | None, as_json: bool) -> None:
    """Limit the speed of all downloads together.

    RATE is in bytes per second, such as 5M; `off` lifts the limit. Running downloads follow at once. Without RATE,
    shows the limit.
    """
    library = open_library()
    now = library.get_setting("limit_rate") if rate is None else library.set_setting("limit_rate", str(rate))
    if as_json:
        output.print_json(now)
    else:
        output.emit(f"{units.format_size(now.value)}/s for all downloads together" if now.value else "no limit")
