"""The queue over several processes: shared limits, disk space, events, one transfer per file."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import Library, PullOptions, context
from llm_hf_models.downloads import fair_share, worker
from llm_hf_models.downloads import records as downloads_records
from llm_hf_models.downloads import running as downloads_running
from llm_hf_models.downloads.plan_types import PullPlan, VersionSwitch
from llm_hf_models.downloads.records import open_row
from llm_hf_models.errors import DiskFullError, InterruptedByUserError, LibraryBusyError, OfflineError, TimedOutError
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.library import sqlite_file
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import Download
from llm_hf_models.library.downloads import DownloadTables
from llm_hf_models.library.records import LocalModel
from llm_hf_models.paths import library_path
from llm_hf_models.settings import settings_path
from llm_hf_models.transfer.types import Event
from tests.conftest import Home
from tests.support import downloads
from tests.support.downloads import FILE, REPO
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Stall, Status, Throttle
from tests.support.waiting import wait_until

hub = downloads.hub
MB = 1_000_000
LOOK_BYTES = 262_144  # how many bytes reading a header takes at most
TOLERANCE = 0.05
WINDOW_SECONDS = 4.0
SETTLING_SECONDS = 2.5  # within which every process has noticed a new limit or a new download

# Pulls, and prints the time and the number of bytes of each event.
WATCHED = """
import sys, time
from llm_hf_models import Library, PullOptions
rate = int(sys.argv[2]) or None
Library().pull(sys.argv[1], PullOptions(limit_rate=rate),
               progress=lambda event: print(time.time(), event.done, event.kind, flush=True))
"""


# Limits


class WatchedPull:
    """A pull in a process of its own, with the events it has printed so far."""

    def __init__(self, stack: ExitStack, ref: str, rate: int = 0) -> None:
        self._process = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", WATCHED, ref, str(rate)], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.kill)
        self._told: list[tuple[float, int]] = []

    def reach(self, moment: float) -> float:
        """Read events until the pull has reached that moment (Unix seconds)."""
        assert self._process.stdout
        while not self._told or self._told[-1][0] < moment:
            at, done, kind = self._process.stdout.readline().split()
            if kind == "progress":
                self._told.append((float(at), int(done)))
        return self._told[-1][0]

    def at(self, moment: float) -> float:
        """Return how many bytes it had at that moment."""
        after = next(index for index, (at, _) in enumerate(self._told) if at >= moment)
        (t1, n1), (t2, n2) = self._told[after - 1], self._told[after]
        return n1 + (n2 - n1) * (moment - t1) / (t2 - t1)


def measure_rate(pulls: list[WatchedPull], begin: float) -> float:
    """Return the bytes per second of all pulls together, over a window from `begin`."""
    end = begin + WINDOW_SECONDS
    for pull in pulls:
        pull.reach(end)
    return sum(pull.at(end) - pull.at(begin) for pull in pulls) / WINDOW_SECONDS


def test_changed_limit_applies_to_all_running_processes(hub: HubServer, tmp_path: Path) -> None:
    for number in range(3):
        path = tiny_chat(tmp_path / f"{number}.gguf", seed=number, weights_bytes=24 * MB)
        hub.add_repo(f"tests/big{number}", {FILE: path})
    library = Library()
    library.set_setting("limit_rate", "300K")  # none ends before the last one has started
    with ExitStack() as stack:
        pulls = [WatchedPull(stack, f"tests/big{number}") for number in range(3)]
        for pull in pulls:
            pull.reach(0)
        library.set_setting("limit_rate", "3M")
        begin = time.time() + SETTLING_SECONDS
        assert measure_rate(pulls, begin) == pytest.approx(3 * MB, rel=TOLERANCE)
        library.set_setting("limit_rate", "6M")
        begin += WINDOW_SECONDS + SETTLING_SECONDS
        assert measure_rate(pulls, begin) == pytest.approx(6 * MB, rel=TOLERANCE)


def test_download_keeps_its_own_limit(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("tests/big", {FILE: tiny_chat(tmp_path / "big.gguf", seed=2, weights_bytes=12 * MB)})
    with ExitStack() as stack:
        pull = WatchedPull(stack, "tests/big", rate=1 * MB)
        begin = pull.reach(0) + 1
        assert measure_rate([pull], begin) == pytest.approx(1 * MB, rel=TOLERANCE)


def begin_download(*, background: bool = False) -> Callable[[], tuple[int, int]]:
    """Start a download; return a function for its number of connections and its bytes per second."""
    with Database(library_path()) as db:
        row = db.add_download(Download(0, "a/b", "running", "a/b", "c" * 40, "Q4", 1, background=background))
    share = fair_share.FairShare(context.Context(), row.id, None, None)
    return lambda: (share.get_connection_limit(), share.get_rate_limit())


def test_running_downloads_share_connections_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_share, "REFRESH_SECONDS", 0.0)
    Library().set_setting("limit_rate", "1200")
    first = begin_download()
    assert first() == (8, 1200)
    second = begin_download()
    assert (first(), second()) == ((4, 600), (4, 600))
    third = begin_download()
    assert (first(), second(), third()) == ((3, 400), (3, 400), (2, 400))
    with Database(library_path()) as db:
        db.update_download(2, heartbeat=0.0)
        assert (first(), third()) == ((4, 600), (4, 600)), "after one was killed"
        db.update_download(2, heartbeat=time.time())
    Library().set_setting("connections", "2")
    assert (first(), second(), third()) == ((1, 600), (1, 600), (0, 1)), (
        "never more than exist, for any number of downloads"
    )
    assert fair_share.FairShare(context.Context(), 1, 16, None).get_connection_limit() == 16, (
        "an explicit number applies"
    )


def test_foreground_downloads_come_before_background_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_share, "REFRESH_SECONDS", 0.0)
    Library().set_setting("limit_rate", "900B")
    behind = begin_download(background=True)
    assert behind() == (8, 900)
    ahead = begin_download()
    assert (ahead(), behind()) == ((7, 800), (1, 100))
    Library().set_setting("connections", "1")
    assert (ahead(), behind()) == ((1, 900), (0, 1))


def test_background_download_yields_the_only_connection(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("tests/big", {"big-Q4_K_M.gguf": tiny_chat(tmp_path / "big.gguf", seed=2, weights_bytes=24 * MB)})
    library = Library()
    library.set_setting("connections", "1")
    hub.fault(Throttle(1 * MB), on="big-Q4_K_M.gguf", side="storage", times=None)
    behind = library.enqueue(library.plan("tests/big"))
    hub.wait_until(lambda: hub.sent("big-Q4_K_M.gguf", side="storage") > 1 * MB)
    hub.fault(Stall(after=500_000), on=FILE, side="storage", times=None)
    plan = library.plan(REPO)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(library.pull, plan)
        wait_until(lambda: any("all connections" in note.message for note in library.get_download_log(behind.id)))
        hub.clear()
        assert ahead.result(60).id
    reported = [event for event in library.follow(behind.id) if event.kind != "progress"]
    assert reported[-1].kind == "done"
    assert sum("all connections" in event.message for event in reported) == 1


def test_download_without_a_connection_waits_for_the_other_process(
    hub: HubServer,
) -> None:
    hub.add_repo("tests/same", {FILE: hub.list_repos()[0].files[0].location})
    library = Library()
    library.set_setting("connections", "1")
    plans = library.plan(REPO), library.plan("tests/same")
    hub.fault(Throttle(MB), on=FILE, side="storage", times=None)
    before = hub.sent(FILE, side="storage")
    behind = library.enqueue(plans[0])
    hub.wait_until(lambda: hub.sent(FILE, side="storage") > before + MB)
    stop = threading.Event()
    alarm = threading.Timer(60, stop.set)
    alarm.start()
    assert library.pull(plans[1], stop=stop).id
    alarm.cancel()
    assert [event.kind for event in library.follow(behind.id)][-1] == "done"


def test_broken_settings_end_no_running_transfer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_share, "REFRESH_SECONDS", 0.0)
    library = Library()
    plan = library.plan(REPO)
    hub.forget_requests()
    hub.fault(Throttle(MB // 2), on=FILE, side="storage", times=None)
    with ThreadPoolExecutor(1) as pool:
        pulling = pool.submit(library.pull, plan)
        hub.wait_until(lambda: hub.sent(FILE, side="storage") >= MB // 4)
        settings_path().write_text("connections = ", "utf-8")  # a user is editing the file
        hub.wait_until(lambda: hub.sent(FILE, side="storage") >= MB)
        settings_path().write_text("connections = 2", "utf-8")
        hub.clear()
        assert pulling.result(60).id


# Disk space


def test_plan_counts_bytes_that_other_downloads_will_write(hub: HubServer, home: Home) -> None:
    assert hub
    library = Library()
    with Database(library_path()) as db:
        plan = replace(library.plan(REPO), ref="a/b", repo="a/b", folder=str(home.cache / "models--a--b"))
        other = open_row(context.Context(), db, plan, background=False)
        db.update_download(other.id, total_bytes=10**18)
        with pytest.raises(DiskFullError) as caught:
            library.plan(REPO)
        assert "other downloads need" in str(caught.value.cause)
        assert caught.value.missing_bytes > 10**17
        db.update_download(other.id, state="paused")
        assert library.plan(REPO).fetch_bytes
        db.update_download(other.id, state="running", heartbeat=0.0)
        assert library.plan(REPO).fetch_bytes, "the row of a killed pull"
        elsewhere = json.dumps({**json.loads(other.plan), "folder": "/dev/another/disk"})
        db.update_download(other.id, heartbeat=time.time(), plan=elsewhere)
        assert library.plan(REPO).fetch_bytes
        db.update_download(other.id, plan="{}")
        with pytest.raises(DiskFullError):  # a plan of another version, perhaps for the same disk
            library.plan(REPO)


FULL_DISK = """
import sys
from pathlib import Path
from llm_hf_models import Library
from llm_hf_models.errors import DiskFullError
hog = Path(sys.argv[2], "hog")
def fill(event):
    if event.done > 1_000_000 and not hog.exists():
        try:
            with hog.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError:
            pass
library = Library()
try:
    library.pull(sys.argv[1], progress=fill)
except DiskFullError as error:
    row, = library.downloads()
    print(row.state, error.missing_bytes, row.error)
hog.write_bytes(b"")
print(library.pull(sys.argv[1]).id)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a small file system of its own")
def test_full_disk_pauses_the_download_which_then_resumes(hub: HubServer, home: Home) -> None:
    inside = 'mount -t tmpfs -o size=12m none "$1" && shift && exec "$@"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(home.cache)]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed")
    plan_bytes = hub.sent(FILE)
    Library().set_setting("limit_rate", "4M")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", FULL_DISK, REPO, str(home.cache)],
        check=False, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done
    paused, model = done.stdout.splitlines()
    state, missing, words = paused.split(maxsplit=2)
    assert state == "paused"
    assert int(missing) > 0
    assert "Not enough disk space" in words
    assert model == f"hf/{REPO}:Q4_K_M"
    assert hub.sent(FILE, side="storage") - plan_bytes < 2 * 4 * MB, "received bytes were not fetched again"


# A network that is lost for longer than a download waits


def test_silent_host_pauses_the_download_which_then_resumes(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_STALL_SECONDS", "0.2")
    monkeypatch.setenv("LLM_HF_NETWORK_WAIT_SECONDS", "0.5")
    library = Library()
    plan = library.plan(REPO)
    hub.fault(Stall(after=0), on=FILE, side="storage", times=None)
    with pytest.raises(TimedOutError, match="run the pull again to continue it, or: llm hf resume 1"):
        library.pull(plan)
    (row,) = library.downloads()
    assert (row.state, row.error) == ("paused", "127.0.0.1 stopped sending data: timed out")
    hub.clear()
    library.resume(row.id)
    assert [event.kind for event in library.follow(row.id)][-1] == "done"


def test_failing_host_pauses_the_download_which_then_resumes(
    hub: HubServer,
) -> None:
    library = Library()
    plan = library.plan(REPO)
    hub.fault(Status(500), on=FILE, side="storage", times=None)
    row = library.enqueue(plan)
    assert [event.kind for event in library.follow(row.id)][-1] == "paused"
    assert "500" in str(library.get_download(row.id).error)
    hub.clear()
    library.resume(row.id)
    assert [event.kind for event in library.follow(row.id)][-1] == "done"


def test_unreachable_hub_pauses_the_download(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_NETWORK_WAIT_SECONDS", "0.2")
    library = Library()
    with HubServer() as gone:
        gone.add_repo(REPO, {FILE: hub.list_repos()[0].files[0].location})
        monkeypatch.setenv("HF_ENDPOINT", gone.endpoint)
        plan = library.plan(REPO)
    with pytest.raises(OfflineError):
        library.pull(plan)
    (row,) = library.downloads()
    assert row.state == "paused"
    assert "can't be reached" in str(row.error)


# Events


def test_followed_download_of_another_process_reports_network_errors(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_STALL_SECONDS", "0.5")
    monkeypatch.setenv("LLM_HF_LIMIT_RATE", "4M")
    library = Library()
    plan = library.plan(REPO)
    hub.fault(Stall(after=1 * MB), on=FILE, side="storage", times=1)
    row = library.enqueue(plan)
    events = library.follow(row.id)
    seen = []
    for event in events:
        seen.append(event.kind)
        if event.kind == "stalled":
            hub.fault(Status(503), on=FILE, side="storage", times=2)
    assert seen[0] == "queued"
    assert seen[-1] == "done"
    order = [seen.index(kind) for kind in ("queued", "started", "progress", "stalled", "done")]
    assert order == sorted(order)
    assert "retrying" in seen
    kinds = {event.kind: event for event in library.follow(row.id)}
    assert kinds["stalled"].message
    assert kinds["retrying"].download.id == row.id


def test_two_followers_in_different_threads_see_the_same_end(hub: HubServer) -> None:
    assert hub
    library = Library()
    row = library.enqueue(REPO)
    ends: list[str] = []

    def follow() -> None:
        ends.append([event.kind for event in Library().follow(row.id)][-1])

    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ends == ["done", "done"]


def test_busy_library_ends_no_transfer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(downloads_running, "PROGRESS_SECONDS", 0)
    monkeypatch.setenv("LLM_HF_LIMIT_RATE", "100M")
    library, ends = Library(), []
    plan = library.plan(REPO)
    hub.forget_requests()
    hub.fault(Throttle(MB // 2), on=FILE, side="storage", times=None)
    thread = threading.Thread(target=lambda: ends.append(library.pull(plan)))
    thread.start()
    hub.wait_until(lambda: hub.sent(FILE, side="storage") >= MB // 4)
    with closing(sqlite3.connect(library_path(), isolation_level=None)) as other:
        other.execute("begin immediate")
        hub.wait_until(lambda: hub.sent(FILE, side="storage") >= 2 * MB)
        other.execute("rollback")
    hub.clear()
    thread.join(60)
    assert [result.id for result in ends] == [f"hf/{REPO}:Q4_K_M"]


def test_finished_pull_waits_for_a_busy_library(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)
    finish, tries = downloads_running.RunningDownload._finish, []

    def finish_beside_another(
        running: downloads_running.RunningDownload, model: LocalModel | None, switch: VersionSwitch | None
    ) -> LocalModel | None:
        tries.append(model)
        with closing(sqlite3.connect(library_path(), isolation_level=None)) as other:
            if len(tries) < 3:
                other.execute("begin immediate")
            return finish(running, model, switch)

    monkeypatch.setattr(downloads_running.RunningDownload, "_finish", finish_beside_another)
    library = Library()
    result = library.pull(REPO)
    assert len(tries) == 3
    assert library.show(str(result.id)).state == "ready"
    assert [row.state for row in library.downloads(include_finished=True)] == ["done"]


def test_finished_pull_that_waits_for_the_library_can_be_interrupted(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)
    library, stop = Library(), threading.Event()
    plan = library.plan(REPO)
    with closing(sqlite3.connect(library_path(), isolation_level=None, check_same_thread=False)) as other:

        def keep_to_itself(event: Event) -> None:
            if event.kind == "done":
                other.execute("begin immediate")
                stop.set()

        with pytest.raises(InterruptedByUserError):
            library.pull(plan, progress=keep_to_itself, stop=stop)
    assert library.pull(REPO).fetched_bytes == 0


def test_pull_killed_before_it_claims_its_row_is_paused(hub: HubServer) -> None:
    assert hub
    library, here = Library(), worker.WorkerContext("worker")
    with here.open_downloads() as db:
        row = open_row(here, db, library.plan(REPO), background=False)
    worker.Worker(here).run()
    assert [event.kind for event in library.follow(row.id)] == ["paused"]
    library.resume(row.id)
    assert [event.kind for event in library.follow(row.id)][-1] == "done"


def test_interrupted_pull_does_not_wait_for_a_busy_library(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    library, stop = Library(), threading.Event()
    plan = library.plan(REPO)
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 3600)
    for wait in ("PROGRESS_WAIT_SECONDS", "EXIT_WAIT_SECONDS"):
        monkeypatch.setattr(downloads_running, wait, 0.05)
    hub.fault(Stall(after=MB), on=FILE, side="storage", times=None)
    with ThreadPoolExecutor() as pool, closing(sqlite3.connect(library_path(), isolation_level=None)) as other:
        pulling = pool.submit(library.pull, plan, stop=stop)
        wait_until(lambda: any(row.state == "running" for row in library.downloads()))
        other.execute("begin immediate")
        stop.set()
        with pytest.raises(InterruptedByUserError, match="the downloaded part is kept"):
            pulling.result(60)
        other.execute("rollback")


def test_delayed_heartbeat_is_sent_and_requests_are_noticed(
    hub: HubServer,
) -> None:
    library, stop = Library(), threading.Event()
    plan = library.plan(REPO)
    hub.fault(Stall(after=MB), on=FILE, side="storage", times=None)
    with ThreadPoolExecutor() as pool, Database(library_path()) as db:
        pulling = pool.submit(library.pull, plan, stop=stop)
        wait_until(lambda: db.list_downloads(states=("running",)) != [])
        (row,) = db.list_downloads()
        db.execute("create trigger no before update of heartbeat on downloads begin select raise(abort, 'no'); end")
        wait_until(lambda: time.time() - db.list_downloads()[0].heartbeat > 1)  # ten times the heartbeat interval
        last = db.list_downloads()[0].heartbeat
        db.execute("drop trigger no")
        wait_until(lambda: db.list_downloads()[0].heartbeat > last)
        library.pause(row.id)
        with pytest.raises(InterruptedByUserError):
            pulling.result(60)
    assert library.get_download(row.id).state == "paused"


def test_failed_write_of_the_checking_state_does_not_end_a_pull(hub: HubServer) -> None:
    assert hub
    with Database(library_path()) as db:
        says = "create trigger no before update of state on downloads when new.state = 'verifying'"
        db.execute(f"{says} begin select raise(abort, 'no'); end")
    assert Library().pull(REPO).id == f"hf/{REPO}:Q4_K_M"


def test_failed_write_of_progress_does_not_end_a_transfer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub
    monkeypatch.setattr(downloads_running, "PROGRESS_SECONDS", 0)
    with Database(library_path()) as db:
        says = "create trigger no before update of done_bytes on downloads when new.state = 'running'"
        db.execute(f"{says} begin select raise(abort, 'no'); end")
    assert Library().pull(REPO).id == f"hf/{REPO}:Q4_K_M"


def test_pull_cancelled_while_it_is_being_paused_is_cancelled(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "0.5")
    library, stop, goes_on = Library(), threading.Event(), threading.Event()
    plan = library.plan(REPO)
    hub.fault(Throttle(MB), on=FILE, side="storage", times=None)
    with ThreadPoolExecutor() as pool:
        pulling = pool.submit(library.pull, plan, stop=stop, progress=lambda event: event.done and goes_on.wait(60))
        wait_until(lambda: library.downloads() != () and hub.sent(FILE, side="storage") > MB // 2)
        (row,) = library.downloads()
        library.pause(row.id)
        assert stop.wait(60)
        assert library.cancel(row.id).state == "running"
        goes_on.set()
        with pytest.raises(InterruptedByUserError, match="Cancelled"):
            pulling.result(60)
    assert library.get_download(row.id).state == "cancelled"
    assert list(cache_work_folder(home.cache).iterdir()) == []


def make_library_busy(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> list[int]:
    """Make the library busy at one call of a method; return the list that counts the calls."""
    calls, ask = [0], getattr(DownloadTables, name)

    def asked(db: DownloadTables, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise LibraryBusyError("The library is in use by another process")
        return ask(db, *args, **kwargs)

    monkeypatch.setattr(DownloadTables, name, asked)
    return calls


def test_worker_retries_a_claim_on_a_busy_library(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub
    library, here = Library(), worker.WorkerContext("worker")
    with here.open_downloads() as db:
        row = open_row(here, db, library.plan(REPO), background=True)
    calls = make_library_busy(monkeypatch, "claim_download", 1)
    worker.Worker(here).run()
    assert (library.get_download(row.id).state, calls) == ("done", [2])


def test_worker_with_a_locked_library_retries_at_intervals(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.2)
    library, here = Library(), worker.WorkerContext("worker")
    with here.open_downloads() as db:
        row = open_row(here, db, library.plan(REPO), background=True)
        db.execute("create trigger no before update on downloads begin select raise(abort, 'no'); end")
    tried, claim = [], DownloadTables.claim_download

    def claimed(db: DownloadTables, *args: Any, **kwargs: Any) -> bool:
        tried.append(time.monotonic())
        if len(tried) == 3:
            db.execute("drop trigger no")
        return claim(db, *args, **kwargs)

    monkeypatch.setattr(DownloadTables, "claim_download", claimed)
    worker.Worker(here).run()
    assert library.get_download(row.id).state == "done"
    assert len(tried) == 3
    assert tried[-1] - tried[0] >= 2 * 0.2


@pytest.mark.parametrize("state", ["queued", "running", "verifying"])
def test_plan_of_another_version_fails_once(monkeypatch: pytest.MonkeyPatch, state: Any) -> None:
    """This also covers a worker of that version that crashed on it."""
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "0.05")
    here = worker.WorkerContext("worker")
    with here.open_downloads() as db:
        row = db.add_download(Download(0, "a/b", state, "a/b", "c" * 40, "Q4", 1, background=True, owner="1-2-3"))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(worker.Worker(here).run).result(60)
    after = Library().get_download(row.id)
    assert after.state == "failed"
    assert "was planned by another version" in str(after.error)
    kinds = [note.kind for note in Library().get_download_log(row.id)]
    assert kinds == (["failed"] if state == "queued" else ["queued", "failed"])


def test_no_worker_takes_a_pull_while_it_is_being_enqueued(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub
    claims = []

    def opened_and_claimed(*args: Any, **kwargs: Any) -> Download:
        row = open_row(*args, **kwargs)
        with suppress(LibraryBusyError), DownloadTables(library_path()) as db:
            claims.append(db.claim_download(row.id, "1-a-worker", stale_seconds=math.inf))
        return row

    plan = Library().plan(REPO)
    monkeypatch.setattr(downloads_records, "open_row", opened_and_claimed)
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)
    row = Library().enqueue(plan)
    assert (row.state, claims) in (("queued", []), ("running", [True]))
    assert [event.kind for event in Library().follow(row.id)][-1] == "done"


def test_worker_with_a_busy_library_at_its_last_look_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    Library().downloads()
    monkeypatch.setattr(sys, "argv", ["worker"])
    calls = make_library_busy(monkeypatch, "list_next_downloads", 2)
    worker.main()
    assert calls == [4], "a round and a look, and both again"


# Takeovers

PULL = "import sys; from llm_hf_models import Library; Library().pull(sys.argv[1])"


def kill_halfway(hub: HubServer) -> None:
    """Kill a foreground pull after it has received some bytes."""
    hub.fault(Stall(after=1 * MB), on=FILE, side="storage", times=None)
    before = hub.sent(FILE, side="storage")
    with subprocess.Popen([sys.executable, "-c", PULL, REPO]) as process:
        hub.wait_until(lambda: hub.sent(FILE, side="storage") >= before + 1 * MB)
        process.kill()
    hub.clear()


def test_pull_that_finishes_for_a_killed_one_closes_its_row(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "60")  # its last heartbeat stays fresh for long
    kill_halfway(hub)
    result = Library().pull(REPO)
    (row,) = Library().downloads(include_finished=True)
    assert (row.id, row.state) == (result.download_id, "done")


def test_process_with_a_reused_pid_is_not_the_killed_one(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "60")
    kill_halfway(hub)
    with Database(library_path()) as db:
        (row,) = db.list_downloads()
        rest = str(row.owner).partition("/")[2]
        db.update_download(row.id, owner=f"1/{rest}")  # the system's first process started long before any test
    Library().pull(REPO)
    assert Library().get_download(row.id).state == "done"


def test_worker_continues_a_killed_foreground_pull_that_was_enqueued(
    hub: HubServer,
) -> None:
    library = Library()
    plan = library.plan(REPO)
    kill_halfway(hub)
    row = library.enqueue(plan)
    assert [event.kind for event in library.follow(row.id)][-1] == "done"


# One transfer per file


def test_ten_processes_with_several_variants_fetch_each_file_once(hub: HubServer, tmp_path: Path) -> None:
    shared = tiny_chat(tmp_path / "q8.gguf", seed=8, weights_bytes=3 * MB)
    files = {"m-Q4_K_M.gguf": tiny_chat(tmp_path / "q4.gguf", seed=4, weights_bytes=2 * MB), "m-Q8_0.gguf": shared}
    hub.add_repo("tests/many", files)
    hub.add_repo("tests/copy", {"other-Q8_0.gguf": shared})  # the same bytes under another name
    refs = [*["tests/many:Q4_K_M"] * 4, *["tests/many:Q8_0"] * 4, *["tests/copy:Q8_0"] * 2]
    processes = [subprocess.Popen([sys.executable, "-c", PULL, ref]) for ref in refs]
    assert [process.wait(110) for process in processes] == [0] * 10
    moved = sum(request.sent for request in hub.matching(side="storage") if request.sent > LOOK_BYTES)
    sizes = sum(path.stat().st_size for path in files.values())
    assert moved == sizes
    assert {model.state for model in Library().list()} == {"ready"}
    assert Library().gc().freed_bytes == 0, "at most locks of waiting processes remain"
    assert Library().plan_gc().files == ()


# Environments


def pause_halfway(hub: HubServer, plan: PullPlan) -> int:
    """Interrupt a pull of this plan after some bytes; return its id."""
    stop = threading.Event()
    hub.fault(Throttle(MB), on=FILE, side="storage", times=None)
    with pytest.raises(InterruptedByUserError):
        Library().pull(plan, stop=stop, progress=lambda event: stop.set() if event.done > MB // 4 else None)
    hub.clear()
    return Library().downloads()[0].id


def test_download_keeps_its_planned_cache_and_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "big"))
    library = Library()
    number = pause_halfway(hub, library.plan(REPO))
    monkeypatch.setenv("HF_HUB_CACHE", str(home.cache))
    with HubServer() as other:
        monkeypatch.setenv("HF_ENDPOINT", other.endpoint)
        library.resume(number)
        assert [event.kind for event in library.follow(number)][-1] == "done", library.get_download(number)
        assert other.requests == []
    assert all(path.startswith(str(tmp_path / "big")) for path in library.path(f"hf/{REPO}:Q4_K_M"))


def test_cancelled_download_leaves_nothing_in_its_planned_cache(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "big"))
    number = pause_halfway(hub, Library().plan(REPO))
    assert list(cache_work_folder(tmp_path / "big").glob("*.part"))
    monkeypatch.setenv("HF_HUB_CACHE", str(home.cache))
    assert Library().cancel(number).state == "cancelled"
    assert list(cache_work_folder(tmp_path / "big").iterdir()) == []


def test_clearing_failed_downloads_empties_their_other_cache(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "big"))
    number = pause_halfway(hub, Library().plan(REPO))
    monkeypatch.setenv("HF_HUB_CACHE", str(home.cache))
    with Database(library_path()) as db:
        db.update_download(number, state="failed")
    assert Library().clear_downloads() == 1
    assert not list(cache_work_folder(tmp_path / "big").glob("*.part"))


def test_clearing_failed_downloads_empties_their_own_folder(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    number = pause_halfway(hub, Library().plan(REPO, PullOptions(to=folder)))
    with Database(library_path()) as db:
        db.update_download(number, state="failed")
    assert [path for path in folder.rglob("*.part") if path.is_file()]
    assert Library().clear_downloads() == 1
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_pulls_into_two_caches_are_two_downloads(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library()
    first = pause_halfway(hub, library.plan(REPO))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "big"))
    assert library.pull(REPO).download_id != first
    assert library.get_download(first).state == "paused"


def test_worker_sends_no_token_to_a_hub_that_only_the_row_names(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gated = "tests/gated-GGUF"
    hub.add_repo(gated, {FILE: tmp_path / FILE}, gated="manual")
    monkeypatch.setenv("HF_TOKEN", hub.add_token(access=[gated]))
    library = Library()
    number = pause_halfway(hub, library.plan(gated))
    hub.expire_links()
    hub.forget_requests()
    with HubServer() as other:
        monkeypatch.setenv("HF_ENDPOINT", other.endpoint)
        library.resume(number)
        assert [event.kind for event in library.follow(number)][-1] == "failed"
    assert hub.requests
    assert not any("authorization" in request.headers for request in hub.requests)
    assert f"HF_ENDPOINT={hub.endpoint} llm hf pull {gated}" in str(library.get_download(number).error)
