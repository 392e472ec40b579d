"""Commands of the download queue: downloads, pause, resume, cancel, retry and limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.format import format_more
from llm_hf_models.cli.framework import format_examples, open_library
from llm_hf_models.cli.params import RATE, DownloadId, WatchedDownloadId, json_option, quiet_option, require_one_of
from llm_hf_models.cli.several import use_each
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


@dataclass(frozen=True)
class ClearedDownloads:
    """The number of downloads that `downloads clear` removed from the list."""

    removed: int


@click.group(
    invoke_without_command=True,
    epilog=format_examples("llm hf downloads", "llm hf downloads --watch", "llm hf downloads log 3"),
)
@click.option("finished", "--all", is_flag=True, help="Include downloads that have ended.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", default=100, show_default=True, help="Maximum number of results."
)
@click.option(
    "--watch",
    type=WatchedDownloadId(),
    is_flag=False,
    flag_value=ALL,
    metavar="[ID]",
    help="Watch all active downloads, or only ID, until they end.",
)
@quiet_option("Print only the ids; with --watch, print nothing.", is_passed=True)
@json_option
@click.pass_context
def downloads(ctx: click.Context, finished: bool, limit: int, watch: str | None, quiet: bool, as_json: bool) -> None:
    """List, watch and clear downloads.

    The list includes pulls by agents and scripts, and pulls whose process has ended. With --watch and --json, prints
    one line of JSON for each change.
    """
    from llm_hf_models.downloads.types import DownloadList

    if ctx.invoked_subcommand is not None:
        return
    library = open_library()
    if watch is not None:
        numbers = _select_ids(library, watch)
        try:
            succeeded = _watch_as_json(library, numbers) if as_json else _watch(library, numbers)
        except KeyboardInterrupt:
            raise InterruptedByUserError("Stopped watching. The downloads continue") from None
        ctx.exit(0 if succeeded else 1)
    found = library.downloads(include_finished=finished, limit=limit + 1)
    rows = found[:limit]
    if as_json:
        output.print_json(DownloadList(rows, len(found) > limit))
    elif rows and quiet:
        output.emit("\n".join(str(row.id) for row in rows))
    elif rows:
        output.emit(downloads_views.render_downloads(rows, output.get_width()))
        if len(found) > limit:
            output.note(format_more(limit))
    else:
        output.note("No download is active." + ("" if finished else " List ended ones: llm hf downloads --all"))


def _select_ids(library: Library, watch: str) -> list[int]:
    if watch == ALL:
        return [row.id for row in library.downloads() if row.state in ACTIVE_STATES]
    if not (watch.isascii() and watch.isdigit()):
        raise click.BadParameter(f"{watch!r} is not the id of a download.", param_hint="--watch")
    return [int(watch)]


def _watch(library: Library, numbers: list[int]) -> bool:
    """Show the progress of downloads until they end or pause. Return whether all are free of errors."""
    from llm_hf_models.cli import progress

    if not numbers:
        output.note("No download is active.")
        return True
    started = time.monotonic()
    watched = [downloads_views.make_watched(library.get_download(number)) for number in numbers]
    with progress.show_progress(watched, name=str, quiet=output.is_quiet()) as show:
        rows = _follow(library, numbers, lambda row: show(downloads_views.make_event(row)))
    for row in rows:
        output.note(downloads_views.render_outcome(row))
    if not output.is_quiet():
        output.notify("; ".join(f"{row.ref} is {row.state}" for row in rows), time.monotonic() - started)
    return not any(row.error for row in rows)


def _watch_as_json(library: Library, numbers: list[int]) -> bool:
    """Print a line of JSON for each change of a download. Return whether all are free of errors."""
    return not any(row.error for row in _follow(library, numbers, lambda row: output.print_json(row, indent=None)))


def _follow(library: Library, numbers: list[int], report: Callable[[DownloadView], None]) -> list[DownloadView]:
    """Report each change of these downloads until none of them is running or can start. Return their final state.

    A download that another process removes meanwhile is skipped, unless it is the last one.
    """
    pause = threading.Event()
    last: dict[int, DownloadView] = {}
    while True:
        previous = dict(last)
        for number in numbers:
            try:
                last[number] = library.get_download(number)
            except NotFoundError:
                if last.pop(number, None) is None or not last:
                    raise
        numbers, rows = list(last), list(last.values())
        for row in rows:
            before = previous.get(row.id)
            if before is None or replace(before, updated=row.updated) != row:
                report(row)
        # A queued download has an error if no worker can start.
        if not any(row.state in RUNNING_STATES or (row.state == "queued" and not row.error) for row in rows):
            return rows
        pause.wait(WATCH_SECONDS)


@downloads.command("clear", epilog=format_examples("llm hf downloads clear"))
@quiet_option("Hide notes.")
@json_option
def clear(as_json: bool) -> None:
    """Remove downloads that have ended from the list.

    Also deletes partial files of cancelled downloads, and those that failed downloads left in a folder (--to). No other
    file is touched. If a partial file can't be deleted, its download stays in the list.
    """
    count = open_library().clear_downloads()
    output.print_json(ClearedDownloads(count)) if as_json else output.note(
        f"Removed {count} {'download' if count == 1 else 'downloads'} from the list."
    )


@downloads.command("log", epilog=format_examples("llm hf downloads log 3"))
@click.argument("number", metavar="ID", type=DownloadId())
@json_option
def log(number: int, as_json: bool) -> None:
    """Show the log of a download, oldest entry first."""
    from llm_hf_models.downloads.types import DownloadLog

    notes = open_library().get_download_log(number)
    output.print_json(DownloadLog(notes)) if as_json else output.emit(
        downloads_views.render_log(notes, output.get_width())
    )


@dataclass(frozen=True)
class _Action:
    """A command that changes downloads, and the states in which `--all` applies it."""

    name: str
    summary: str
    details: str
    states: tuple[str, ...]
    apply: Callable[[Library, int], DownloadView]
    reverts: RequestedAction | None = None  # `--all` includes downloads with this pending request


def _select_all(library: Library, action: _Action) -> list[int]:
    rows = library.downloads(include_finished=True, limit=NO_LIMIT)
    return [
        row.id
        for row in rows
        if row.state in action.states or (row.requested_action and row.requested_action == action.reverts)
    ]


def _apply_action(library: Library, action: _Action, number: int, *, skip_missing: bool) -> DownloadView | None:
    """Apply the action to one download. Return None if it has ended or was removed since `--all` listed it."""
    try:
        return action.apply(library, number)
    except (BadInputError, NotFoundError):
        if skip_missing:
            return None
        raise


def _join_with_or(words: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _make_command(action: _Action) -> click.Command:
    @click.argument("given", metavar="[ID]...", type=DownloadId(), nargs=-1)
    @click.option("everything", "--all", is_flag=True, help=f"All {_join_with_or(action.states)} downloads.")
    @quiet_option("Hide notes.")
    @json_option
    def run(given: tuple[int, ...], everything: bool, as_json: bool) -> None:
        require_one_of(given or None, everything, "ID")
        library = open_library()
        numbers = _select_all(library, action) if everything else list(dict.fromkeys(given))
        rows = use_each(
            numbers,
            lambda number: _apply_action(library, action, number, skip_missing=everything),
            lambda row: output.note(downloads_views.render_request(row, action.name)) if row else None,
            as_json=as_json,
        )
        if not rows and not as_json:
            output.note(f"No download to {action.name}.")

    run.__doc__ = f"{action.summary}\n\n{action.details}"
    epilog = format_examples(f"llm hf {action.name} 3", f"llm hf {action.name} 4 5", f"llm hf {action.name} --all")
    return click.command(action.name, epilog=epilog)(run)


pause = _make_command(
    _Action(
        "pause",
        "Pause a download and keep its partial files.",
        "The process that runs it, such as the worker or a pull in another terminal, stops at its next heartbeat.",
        ACTIVE_STATES,
        lambda library, number: library.pause(number),
    )
)

resume = _make_command(
    _Action(
        "resume",
        "Resume a paused download in the background.",
        "Data that is already on disk is not downloaded again.",
        ("paused",),
        lambda library, number: library.resume(number),
        reverts="pause",
    )
)

cancel = _make_command(
    _Action(
        "cancel",
        "Cancel a download and delete its partial files.",
        "Files that another download needs are kept. `llm hf retry` starts a cancelled download again.",
        (*ACTIVE_STATES, "paused", "failed"),
        lambda library, number: library.cancel(number),
    )
)

retry = _make_command(
    _Action(
        "retry",
        "Retry a failed or cancelled download.",
        "It runs in the background. A failed download continues from its partial files.",
        ("failed",),
        lambda library, number: library.retry(number),
    )
)


@click.command(epilog=format_examples("llm hf limit 5M", "llm hf limit off", "llm hf limit"))
@click.argument("rate", type=RATE, required=False)
@quiet_option("Print nothing after a change.", is_passed=True)
@json_option
def limit(rate: int | None, quiet: bool, as_json: bool) -> None:
    """Limit the total speed of all downloads.

    RATE is in bytes per second, such as 5M; `off` removes the limit. Running downloads apply it at once. Without RATE,
    shows the current limit.
    """
    library = open_library()
    now = library.get_setting("limit_rate") if rate is None else library.set_setting("limit_rate", f"{rate}B")
    if as_json:
        output.print_json(now)
    elif rate is None or not quiet:
        output.emit(f"{units.format_size(now.value)}/s for all downloads together" if now.value else "no limit")
