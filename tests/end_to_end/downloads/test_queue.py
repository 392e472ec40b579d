"""The queue: rows that outlive processes, the worker that carries them out, and the commands that change them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from llm_hf_models import Library, PullOptions
from llm_hf_models.cli.views import downloads as downloads_views
from llm_hf_models.context import Context
from llm_hf_models.downloads import running as downloads_running
from llm_hf_models.downloads.pull import ByteCounter
from llm_hf_models.downloads.records import open_row
from llm_hf_models.downloads.running import RunningDownload
from llm_hf_models.downloads.worker import get_worker_path, log_path
from llm_hf_models.errors import BadInputError, InterruptedByUserError, NotFoundError, StorageError
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.library import sqlite_file
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import Download
from llm_hf_models.paths import library_path
from llm_hf_models.transfer.types import Event
from tests.conftest import Home
from tests.support import downloads
from tests.support.downloads import (
    FILE,
    MODEL,
    REPO,
    STALL_AFTER,
    WAIT_SECONDS,
    count_weights_sent,
    find_workers,
    follow_to_end,
    is_stalled,
    plan_download,
    start_stalled_download,
    wait_for_state,
)
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Reset, Stall, Throttle
from tests.support.waiting import wait_until

hub = downloads.hub


@pytest.mark.usefixtures("hub")
def test_worker_carries_out_a_background_pull() -> None:
    library = Library()
    row = library.enqueue(REPO)
    assert row.state in ("queued", "running")
    kinds = [event.kind for event in follow_to_end(library, row.id)]
    assert kinds[0] == "queued"
    assert kinds[-1] == "done"
    assert "started" in kinds
    assert library.show(MODEL).state == "ready"
    done = library.get_download(row.id)
    assert (done.done_bytes, done.error) == (done.total_bytes, None)


def test_worker_resolves_relative_folders(hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.root)
    for name in ("LLM_USER_PATH", "HF_HOME", "HF_HUB_CACHE"):
        if name in os.environ:
            monkeypatch.setenv(name, os.path.relpath(os.environ[name]))
    assert not Path(os.environ["LLM_USER_PATH"]).is_absolute()
    library = Library()
    row = library.enqueue(plan_download(library, hub))
    assert follow_to_end(library, row.id)[-1].kind == "done"
    assert library.show(MODEL).state == "ready"


@pytest.mark.usefixtures("hub")
def test_unwritable_worker_log_error_names_the_folder(home: Home) -> None:
    log_path().mkdir(parents=True)
    with pytest.raises(StorageError) as caught:
        Library().enqueue(REPO)
    assert str(home.llm) in caught.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="there a folder in place of the lock counts as locked")
@pytest.mark.usefixtures("hub")
def test_worker_that_can_not_own_the_queue_is_reported(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "0.5")
    lock = get_worker_path().with_suffix(".lock")
    lock.mkdir(parents=True)
    row = Library().enqueue(REPO)
    wait_until(lambda: "no worker has started it" in str(Library().get_download(row.id).error))
    assert str(log_path()) in str(Library().get_download(row.id).error)
    assert f"Can't write a file in {home.llm}" in log_path().read_text()
    lock.rmdir()
    assert follow_to_end(Library(), row.id)[-1].kind == "done"


def test_library_locked_for_long_can_be_read(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    with Context().open_database() as db:
        row = open_row(Context(), db, plan_download(library, hub), background=False)
        db.update_download(row.id, state="running", owner="1:1", heartbeat=0.0)
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(library_path(), isolation_level=None)) as other:
        other.execute("begin immediate")
        assert [seen.id for seen in library.downloads()] == [row.id]
        assert library.get_download(row.id).id == row.id
        other.execute("rollback")


def test_same_background_pull_twice_is_one_row(hub: HubServer) -> None:
    library = Library()
    plan = plan_download(library, hub)
    hub.fault(Stall(after=0), on=FILE, side="storage", times=None)
    first = library.enqueue(plan)
    second = library.enqueue(plan)
    hub.clear()
    assert second.id == first.id
    assert follow_to_end(library, first.id)[-1].kind == "done"


def test_options_of_a_repeated_pull_apply_to_the_running_download(hub: HubServer, tmp_path: Path) -> None:
    library = Library()
    plans = [library.plan(REPO, PullOptions(aliases=(alias,))) for alias in ("walrus", "narwhal")]
    hub.forget_requests()
    row = start_stalled_download(library, hub, plans[0])
    assert library.enqueue(plans[1], on_done=f"touch {tmp_path / 'rang'}").id == row.id
    hub.clear()
    assert follow_to_end(library, row.id)[-1].kind == "done"
    assert {"walrus", "narwhal"} <= set(library.show(MODEL).aliases)
    wait_until((tmp_path / "rang").exists, message="the command did not run")


def test_row_shows_the_error_until_bytes_move_again(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_RETRY_SECONDS", "4")
    library = Library()
    plan = plan_download(library, hub)
    silence = Stall(after=50_000)
    for fault in (silence, Reset(after=60_000)):
        hub.fault(fault, on=FILE, side="storage", times=1)
    row = library.enqueue(plan)
    hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
    hub.fault(Reset(after=0), on=FILE, times=None)
    silence.release.set()
    wait_until(lambda: bool(library.get_download(row.id).error), message="the error was not recorded")
    tries = hub.count(FILE)
    for reported in iter(lambda: library.get_download(row.id), None):  # it stays there until the next retry
        assert reported.state == "running"
        assert reported.error or hub.count(FILE) > tries
        if hub.count(FILE) > tries:
            break
    wait_until(lambda: bool(library.get_download(row.id).error), message="the next error was not recorded")
    reported = library.get_download(row.id)
    assert "retrying in" in str(reported.error)
    assert "retrying in" in downloads_views.render_downloads([reported], None)
    assert downloads_views.make_event(reported).kind == "waiting"
    hub.clear()
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    wait_until(lambda: library.get_download(row.id).error is None, message="the download did not continue")
    hub.clear()
    assert follow_to_end(library, row.id)[-1].download.error is None


def test_download_of_a_killed_worker_waits_and_the_log_says_why(
    hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = Library()
    hub.add_repo("acme/small-GGUF", {"small-Q4_0.gguf": tiny_chat(tmp_path / "small-Q4_0.gguf", seed=2)})
    plan, short = plan_download(library, hub), library.plan("acme/small-GGUF")
    assert follow_to_end(library, library.enqueue(short, on_done=f"echo its own words; touch {tmp_path / 'said'}").id)
    wait_until((tmp_path / "said").exists, message="the command did not run")
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "900")
    row = start_stalled_download(library, hub, plan)
    os.kill(_find_worker_pid(), signal.SIGKILL)
    wait_until(lambda: library.get_download(row.id).state == "queued", message="the download was not queued again")
    hub.clear()
    assert follow_to_end(library, row.id)[-1].kind == "done"  # reading the queue starts a worker
    reported = [(note.kind, note.message) for note in library.get_download_log(row.id)]
    assert reported.count(("queued", "its process ended")) == 1
    assert reported[reported.index(("queued", "its process ended")) + 1] == ("started", "")
    assert "its own words" not in str(reported)
    assert (home.llm / "hf/on_done.log").read_text() == "its own words\n"


def test_joined_pull_that_leaves_does_not_stop_the_worker(hub: HubServer) -> None:
    library, stop = Library(), threading.Event()
    plan = plan_download(library, hub)
    row = start_stalled_download(library, hub, plan)
    stop.set()
    with pytest.raises(InterruptedByUserError):
        library.pull(plan, stop=stop)
    assert library.get_download(row.id).background
    hub.clear()
    assert follow_to_end(library, row.id)[-1].kind == "done"


def test_paused_download_keeps_its_bytes_and_resumes(hub: HubServer) -> None:
    library = Library()
    plan = plan_download(library, hub)
    hub.fault(Throttle(400_000), on=FILE, side="storage", times=None)
    row = library.enqueue(plan)
    size = row.total_bytes
    hub.wait_until(lambda: count_weights_sent(hub) > size // 2)
    library.pause(row.id)
    wait_for_state(library, row.id, "paused")
    hub.clear()
    library.resume(row.id)
    assert follow_to_end(library, row.id)[-1].kind == "done"
    assert library.show(MODEL).state == "ready"
    assert library.get_download(row.id).attempts == 2


def test_bytes_from_an_earlier_run_do_not_count_as_speed(hub: HubServer) -> None:
    library, rate = Library(), 400_000
    plan = library.plan(REPO, PullOptions(connections=1))
    hub.forget_requests()
    hub.fault(Throttle(rate), on=FILE, side="storage", times=None)
    row = library.enqueue(plan)
    hub.wait_until(lambda: count_weights_sent(hub) > row.total_bytes // 2)
    library.pause(row.id)
    wait_for_state(library, row.id, "paused")
    library.resume(row.id)
    events = follow_to_end(library, row.id)
    assert events[-1].kind == "done"
    assert max(event.download.bytes_per_second or 0 for event in events) < 2 * rate


def test_hashing_a_file_does_not_count_as_speed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads_running, "PROGRESS_SECONDS", 1e-9)
    library, context = Library(), Context()
    library.pull(plan_download(library, hub))
    plan = library.plan(REPO)
    with context.open_database() as db:
        row = open_row(context, db, replace(plan, already_complete=False), background=False)
    with RunningDownload(context, row, plan.files, threading.Event()) as running:
        report = running.wrap_progress(lambda _event: None)
        report(Event("verifying", FILE, 0, row.total_bytes))
        report(Event("done", FILE, row.total_bytes, row.total_bytes))
        assert library.get_download(row.id).bytes_per_second == 0
        running.finish(None)


@pytest.mark.parametrize(
    ("events", "ours", "others"),
    [
        ("started 0, progress 50, started 50, done 100", 100, 0),
        ("started 50, done 100", 50, 0),
        ("started 0, progress 60, progress 0, started 0, done 100", 160, 0),
        ("progress* 0, progress* 90, progress* 0, done* 100", 0, 100),
        ("progress* 40, progress* 55, started 60, done 100", 40, 15),
        ("started 0, waiting* 0, progress* 90, started 90, done 100", 10, 90),
        ("started 0, waiting* 0, progress* 90, done* 100", 0, 100),
        ("verifying 0, done 100", 0, 0),
        ("done* 100", 0, 0),
    ],
)
def test_bytes_of_this_process_are_counted_apart_from_others(events: str, ours: int, others: int) -> None:
    arrivals = ByteCounter(lambda _event: None)
    for kind, done in (event.split() for event in events.split(", ")):
        by_others = kind.endswith("*")
        arrivals(Event(cast("Any", kind.rstrip("*")), FILE, int(done), 100, by_others=by_others))
    assert (arrivals.own_bytes.get(FILE, 0), arrivals.other_bytes.get(FILE, 0)) == (ours, others)


def test_key_pressed_at_the_end_of_a_pull_starts_no_download(hub: HubServer) -> None:
    library = Library()
    plan = plan_download(library, hub)
    library.pull(plan)
    library.continue_in_background(plan)
    assert [row.state for row in library.downloads(include_finished=True)] == ["done"]


def test_running_download_can_be_resumed_repeatedly(hub: HubServer) -> None:
    library = Library()
    row = start_stalled_download(library, hub, plan_download(library, hub))
    assert library.resume(row.id).state == library.retry(row.id).state == "running"


def test_cancelled_download_leaves_nothing_and_can_be_retried(hub: HubServer, home: Home) -> None:
    library = Library()
    plan = plan_download(library, hub)
    row = start_stalled_download(library, hub, plan)
    library.cancel(row.id)
    wait_for_state(library, row.id, "cancelled")
    assert library.get_download(row.id).error is None
    with pytest.raises(BadInputError, match="nothing to pause"):
        library.pause(row.id)
    wait_until(
        lambda: list(cache_work_folder(home.cache).iterdir()) == [],
        message="the worker did not remove the partial files",
    )
    assert library.get_download(row.id).done_bytes == 0
    hub.clear()
    library.retry(row.id)
    assert follow_to_end(library, row.id)[-1].kind == "done"


def test_cancel_of_a_paused_download_keeps_files_of_other_downloads(hub: HubServer, home: Home) -> None:
    library = Library()
    hub.add_repo("tests/copy-GGUF", {FILE: hub.list_repos()[0].files[0].location})  # the same bytes
    plans = [plan_download(library, hub, ref) for ref in (REPO, "tests/copy-GGUF")]
    rows = []
    for plan in plans:
        rows.append(start_stalled_download(library, hub, plan).id)
        library.pause(rows[-1])
        wait_for_state(library, rows[-1], "paused")
        hub.clear()
    first, second = rows
    assert library.cancel(first).state == "cancelled"
    assert list(cache_work_folder(home.cache).glob("*.part")), "the other download still needs it"
    assert library.cancel(second).state == "cancelled"
    assert list(cache_work_folder(home.cache).iterdir()) == []


def test_clearing_cancelled_downloads_removes_their_leftovers(hub: HubServer, home: Home) -> None:
    library = Library()
    plan = plan_download(library, hub)
    row = start_stalled_download(library, hub, plan)
    library.pause(row.id)
    wait_for_state(library, row.id, "paused")
    with Database(library_path()) as db:  # a worker killed between the row and its files leaves this
        db.update_download(row.id, state="cancelled")
    assert list(cache_work_folder(home.cache).glob("*.part"))
    assert library.clear_downloads() == 1
    assert list(cache_work_folder(home.cache).iterdir()) == []


def test_pull_during_a_cancel_is_a_new_download(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "2")  # it notices its end only later
    library = Library()
    plan = plan_download(library, hub)
    first = start_stalled_download(library, hub, plan)
    library.cancel(first.id)
    second = library.enqueue(plan)
    hub.clear()
    assert second.id != first.id
    assert follow_to_end(library, second.id)[-1].kind == "done"


def test_pending_pause_can_be_undone(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "5")
    library = Library()
    plan = plan_download(library, hub)
    row = start_stalled_download(library, hub, plan)
    library.pause(row.id)
    library.resume(row.id)
    hub.clear()
    assert follow_to_end(library, row.id)[-1].kind == "done"
    assert library.get_download(row.id).attempts == 1


@contextmanager
def make_pull_stale(hub: HubServer) -> Iterator[tuple[Library, subprocess.Popen[bytes]]]:
    """Stop a foreground pull (as a suspended or busy machine does) and wait until its row is paused."""
    library = Library()
    hub.fault(Stall(after=STALL_AFTER), on=FILE, side="storage", times=None)
    with subprocess.Popen([sys.executable, "-c", FOREGROUND, REPO]) as process:
        hub.wait_until(lambda: is_stalled(hub))
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: library.downloads()[0].state == "paused", message="the pull was not marked as stale")
        yield library, process


def test_pull_continues_after_it_was_marked_as_stale(hub: HubServer) -> None:
    with make_pull_stale(hub) as (library, process):
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: library.downloads()[0].state == "running", message="the pull did not continue")
        hub.clear()
        assert process.wait(WAIT_SECONDS) == 0
    (row,) = library.downloads(include_finished=True)
    assert (row.state, row.attempts) == ("done", 1)
    reported = [(note.kind, note.message) for note in library.get_download_log(row.id)]
    seemed_dead = reported.index(("paused", "its process stopped responding"))
    assert ("started", "") in reported[seemed_dead:]


def test_stale_pull_ends_well_after_its_row_was_cleared(hub: HubServer) -> None:
    with make_pull_stale(hub) as (library, process):
        library.cancel(library.downloads()[0].id)
        with Database(library_path()) as db:  # as earlier versions did, which did not check the owner of the files
            assert db.delete_downloads(["cancelled"]) == 1
        process.send_signal(signal.SIGCONT)
        hub.clear()
        assert process.wait(WAIT_SECONDS) == 0
    assert library.downloads(include_finished=True) == ()
    assert library.show(MODEL).state == "ready"


def test_stale_pull_notices_a_cancel_after_its_row_was_cleared(hub: HubServer, home: Home) -> None:
    with make_pull_stale(hub) as (library, process):
        library.cancel(library.downloads()[0].id)
        assert library.clear_downloads() == 0, "its files are locked, and only its row lists them"
        process.send_signal(signal.SIGCONT)
        assert process.wait(WAIT_SECONDS) != 0
    assert list(cache_work_folder(home.cache).iterdir()) == []
    assert library.clear_downloads() == 1


def test_stale_pull_that_was_paused_stays_paused(hub: HubServer) -> None:
    with make_pull_stale(hub) as (library, process):
        library.pause(library.downloads()[0].id)
        process.send_signal(signal.SIGCONT)
        assert process.wait(WAIT_SECONDS) != 0
    assert [row.state for row in library.downloads(include_finished=True)] == ["paused"]


def test_stale_pull_joins_the_process_that_took_its_row(hub: HubServer) -> None:
    with make_pull_stale(hub) as (library, process):
        with subprocess.Popen([sys.executable, "-c", FOREGROUND, REPO]) as other:
            wait_until(lambda: library.downloads()[0].attempts == 2, message="no other pull took the row over")
            process.send_signal(signal.SIGCONT)
            hub.clear()
            assert other.wait(WAIT_SECONDS) == 0
        assert process.wait(WAIT_SECONDS) == 0
    assert [row.state for row in library.downloads(include_finished=True)] == ["done"]


def test_queued_downloads_continue_after_a_reboot(hub: HubServer) -> None:
    library, context = Library(), Context("cli")
    plan = plan_download(library, hub)
    with context.open_downloads() as db:  # queued, and no worker was ever started for it
        row = open_row(context, db, plan, background=True)
    wait_until(lambda: library.downloads(include_finished=True)[0].state == "done", message="no worker carried it out")
    assert library.get_download(row.id).attempts == 1


def test_killed_worker_is_replaced_and_its_download_continues(hub: HubServer) -> None:
    library = Library()
    plan = plan_download(library, hub)
    row = start_stalled_download(library, hub, plan)
    os.kill(_find_worker_pid(), signal.SIGKILL)
    hub.clear()
    assert follow_to_end(library, row.id)[-1].kind == "done"  # reading the queue starts a worker
    assert library.show(MODEL).state == "ready"


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_request_to_a_worker_that_was_killed_is_carried_out(
    hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "0.5")
    library = Library()
    plan = plan_download(library, hub)
    row = start_stalled_download(library, hub, plan)
    pid = _find_worker_pid()
    os.kill(pid, signal.SIGSTOP)
    assert getattr(library, verb)(row.id).state == "running"
    os.kill(pid, signal.SIGKILL)
    hub.clear()
    wait_for_state(library, row.id, {"pause": "paused", "cancel": "cancelled"}[verb], "done")
    assert library.get_download(row.id).state != "done"
    assert bool(list(cache_work_folder(home.cache).glob("*.part"))) == (verb == "pause")


def _find_worker_pid() -> int:
    (process,) = find_workers()
    return process.pid


FOREGROUND = """
import sys
from llm_hf_models import Library
Library().pull(sys.argv[1])
"""


def test_foreground_pull_whose_process_is_killed_is_paused(hub: HubServer) -> None:
    hub.fault(Stall(after=STALL_AFTER), on=FILE, side="storage", times=None)
    with subprocess.Popen([sys.executable, "-c", FOREGROUND, REPO]) as process:
        hub.wait_until(lambda: is_stalled(hub))
        process.kill()
    library = Library()
    (row,) = library.downloads()
    wait_for_state(library, row.id, "paused")
    assert library.get_download(row.id).error == "its process ended"
    hub.clear()
    result = library.pull(REPO)
    assert result.download_id == row.id
    assert library.show(MODEL).state == "ready"


def test_interrupted_pull_reports_it_and_its_row_is_paused(hub: HubServer) -> None:
    library, stop = Library(), threading.Event()
    plan = plan_download(library, hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    threading.Thread(target=lambda: (hub.wait_until(lambda: count_weights_sent(hub) >= 50_000), stop.set())).start()
    with pytest.raises(InterruptedByUserError):
        library.pull(plan, stop=stop)
    assert [row.state for row in library.downloads()] == ["paused"]


def test_setting_limits_the_number_of_running_downloads(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_CONCURRENT_DOWNLOADS", "1")
    for number in range(3):
        hub.add_repo(f"tests/model{number}", {FILE: tiny_chat(tmp_path / f"{number}.gguf", seed=number + 10)})
    library = Library()
    rows = [library.enqueue(f"tests/model{number}") for number in range(3)]
    for row in rows:
        assert follow_to_end(library, row.id)[-1].kind == "done"
    logs = [{note.kind: note.at for note in library.get_download_log(row.id)} for row in rows]
    for before, after in pairwise(sorted(logs, key=lambda log: log["started"])):
        assert after["started"] >= before["done"]


@pytest.mark.usefixtures("hub")
def test_when_done_command_runs_in_its_folder_with_the_model_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "it's here"
    here.mkdir()
    note = here / "note"
    os.mkfifo(note)
    monkeypatch.chdir(here)
    library = Library()
    row = library.enqueue(REPO, on_done='echo "$LLM_HF_MODEL" > note')
    assert follow_to_end(library, row.id)[-1].kind == "done", library.get_download(row.id)
    assert note.read_text().strip() == MODEL


def pull_and_read_last_note(command: str, ref: str) -> str:
    library = Library()
    with Context().open_downloads() as db:
        row = open_row(Context(), db, library.plan(ref), background=False, on_done=command)
    assert library.pull(ref).download_id == row.id
    return library.get_download_log(row.id)[-1].kind


@pytest.mark.usefixtures("hub")
def test_failing_when_done_command_is_logged_and_ends_no_pull() -> None:
    assert pull_and_read_last_note("x" * 10_000_000, REPO) == "command"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX named pipes")
@pytest.mark.usefixtures("hub")
def test_when_done_command_runs_without_a_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as in a program with windows
    note = tmp_path / "note"
    os.mkfifo(note)
    assert pull_and_read_last_note(f"echo done > {shlex.quote(str(note))}", REPO) == "done"
    assert note.read_text() == "done\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pseudo-terminals")
def test_end_of_a_watch_or_a_terminal_stops_no_worker(hub: HubServer) -> None:
    library = Library()
    plan = plan_download(library, hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    pull = f"from llm_hf_models import Library; Library().enqueue({REPO!r}); input()"
    with run_in_terminal([sys.executable, "-c", pull]):
        wait_until(
            lambda: count_weights_sent(hub) >= 50_000, message="the worker started from that terminal sent nothing"
        )
    (row,) = library.downloads()
    with run_in_terminal([sys.executable, "-m", "llm", "hf", "downloads", "--watch", str(row.id)]) as screen:
        output = b""
        while b"tiny" not in output:
            output += os.read(screen, 1000)
        os.write(screen, b"\x03")
        while b"Stopped watching" not in output:
            output += os.read(screen, 1000)
    hub.clear()
    assert follow_to_end(library, row.id)[-1].kind == "done"
    assert library.get_download(row.id).attempts == 1
    assert plan.total_bytes == library.show(MODEL).size_bytes


@contextmanager
def run_in_terminal(command: list[str]) -> Iterator[int]:
    """Run a command in a terminal of its own, which then closes and hangs up all its processes."""
    import pty

    child, screen = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    try:
        yield screen
    finally:
        os.close(screen)
        os.waitpid(child, 0)


def test_clearing_a_row_ends_no_watch_of_other_rows() -> None:
    with Database(library_path()) as db:
        first, second = (db.add_download(Download(0, "a/b", "queued", "a/b", "c" * 40, "Q4", 1)) for _ in range(2))
        watch = [sys.executable, "-m", "llm", "hf", "downloads", "--watch", "--json"]
        with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout
            assert {json.loads(watching.stdout.readline())["id"] for _ in range(2)} == {first.id, second.id}
            db.update_download(first.id, state="done")
            assert Library().clear_downloads() == 1
            assert Library().pause(second.id).state == "paused"
            assert json.loads(watching.stdout.read().splitlines()[-1])["state"] == "paused"
        assert watching.returncode == 0


def test_failed_download_has_its_reason_in_row_and_log(hub: HubServer) -> None:
    library = Library()
    plan = library.plan(REPO)
    hub.remove_repo(REPO)
    row = library.enqueue(plan)
    assert follow_to_end(library, row.id)[-1].kind == "failed"
    failed = library.get_download(row.id)
    assert failed.state == "failed"
    assert failed.error
    assert failed.error in library.get_download_log(row.id)[-1].message


@pytest.mark.usefixtures("hub")
def test_finished_rows_can_be_cleared_and_unknown_ones_are_not_found() -> None:
    library = Library()
    result = library.pull(REPO)
    assert library.downloads() == ()
    assert [row.id for row in library.downloads(include_finished=True)] == [result.download_id]
    assert library.clear_downloads() == 1
    assert library.downloads(include_finished=True) == ()
    with pytest.raises(NotFoundError, match="no download 99"):
        library.get_download(99)


def test_any_number_of_downloads_can_be_listed() -> None:
    with Database(library_path()) as db:
        row = db.add_download(Download(0, "a/b", "done", "a/b", "c" * 40, "Q4_K_M", 1))
    for limit in (10**30, -1, -(10**30)):
        assert [view.id for view in Library().downloads(include_finished=True, limit=limit)] == [row.id]


def test_parallel_pulls_of_one_model_fetch_each_file_once(hub: HubServer) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", FOREGROUND, REPO]) for _ in range(4)]
    assert [process.wait(WAIT_SECONDS) for process in processes] == [0] * 4
    library = Library()
    assert library.show(MODEL).state == "ready"
    looks = sum(request.sent for request in hub.matching(FILE, side="storage") if request.sent <= 262_144)
    assert count_weights_sent(hub) - looks == library.show(MODEL).size_bytes


def test_limit_for_all_downloads_holds_while_they_run(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_chat(tmp_path / "big.gguf", seed=3, weights_bytes=4_000_000)
    hub.add_repo("tests/big", {FILE: path})
    rate = path.stat().st_size // 2
    monkeypatch.setenv("LLM_HF_LIMIT_RATE", str(rate))
    result = Library().pull("tests/big", PullOptions())
    assert result.fetched_bytes / result.elapsed_seconds <= rate * 1.2
