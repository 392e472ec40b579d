"""Several processes that pull the same thing: what a person asks of the download, and who goes on with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest
from filelock import FileLock

from llm_hf_models import Library
from llm_hf_models.cli.views import hub as hub_views
from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.downloads.worker import lock_path
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.library.database import Database
from llm_hf_models.paths import library_path
from llm_hf_models.system.processes import find_running_process, get_start_time, has_ended
from tests.conftest import Home
from tests.support import downloads
from tests.support.downloads import FILE, MODEL, REPO, planned, wait_for_state, weights_sent
from tests.support.hub_server import HubServer, Stall, Throttle
from tests.support.waiting import wait_until

hub = downloads.hub

PULL = """
import signal, sys
from llm_hf_models import Library
from llm_hf_models.errors import HfModelsError
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    Library().pull(sys.argv[1], progress=lambda event: print(event.kind, flush=True))
    print("ended: well")
except HfModelsError as error:
    print("ended:", error.message)
"""

ctrl_c = pytest.mark.skipif(sys.platform == "win32", reason="a signal for one process")


class Pulling:
    """A pull in a process of its own, which has begun, or joined the one that had begun."""

    def __init__(self, stack: ExitStack) -> None:
        self.process = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", PULL, REPO], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self.process.kill)
        assert self.process.stdout
        for line in self.process.stdout:
            if line.strip() in ("started", "progress"):  # of the transfer: the look at the header tells nothing
                break

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> str:
        """How it ended, in its own words."""
        told, _ = self.process.communicate(timeout=60)
        return str(told.strip().splitlines()[-1].removeprefix("ended: "))


@pytest.fixture
def two(hub: HubServer) -> Iterator[tuple[Pulling, Pulling]]:
    """One that has brought something and can't go on until the weather is cleared, and one that joined it."""
    planned(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        first = Pulling(stack)
        hub.wait_until(lambda: weights_sent(hub) >= 50_000)
        yield first, Pulling(stack)


def the_row() -> DownloadView:
    (row,) = Library().downloads(include_finished=True)
    return row


def taken_over() -> bool:
    row = the_row()
    return (row.state, row.attempts) == ("running", 2)


def test_a_pause_is_heard_by_all_who_pull_the_same_thing(two: tuple[Pulling, Pulling]) -> None:
    Library().pause(the_row().id)
    assert [pulling.end() for pulling in two] == ["Paused", "Paused"]
    assert (the_row().state, the_row().attempts) == ("paused", 1)


def test_a_cancelled_download_is_ended_by_all_who_pull_it_and_nothing_is_left(
    two: tuple[Pulling, Pulling], home: Home
) -> None:
    Library().cancel(the_row().id)
    assert [pulling.end() for pulling in two] == ["Cancelled", "Cancelled"]
    assert the_row().state == "cancelled"
    assert list(cache_work_folder(home.cache).iterdir()) == []


def test_what_one_brought_who_heard_last_that_a_download_is_cancelled_goes_too(
    hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(Library(), hub)
    hub.fault(Throttle(100_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        first = Pulling(stack)
        monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "2")
        second = Pulling(stack)
        Library().cancel(the_row().id)
        assert [pulling.end() for pulling in (first, second)] == ["Cancelled", "Cancelled"]
    assert the_row().state == "cancelled"
    assert list(cache_work_folder(home.cache).iterdir()) == []


@ctrl_c
def test_when_the_one_that_carries_it_out_is_interrupted_the_other_takes_over_its_row(
    two: tuple[Pulling, Pulling], hub: HubServer
) -> None:
    first, second = two
    first.press_ctrl_c()
    assert first.end() == "Interrupted; the downloaded part is kept"
    wait_until(taken_over)
    hub.clear()
    assert second.end() == "well"
    assert the_row().state == "done"
    assert Library().show(MODEL).state == "ready"


def test_when_the_one_that_carries_it_out_is_killed_the_other_takes_over_its_row(
    two: tuple[Pulling, Pulling], hub: HubServer
) -> None:
    first, second = two
    first.process.kill()
    wait_until(taken_over)
    Library().pause(the_row().id)
    assert second.end() == "Paused"
    hub.clear()


@ctrl_c
def test_who_joined_and_leaves_says_that_the_other_goes_on(two: tuple[Pulling, Pulling], hub: HubServer) -> None:
    first, second = two
    second.press_ctrl_c()
    assert second.end() == "Another process continues the download"
    hub.clear()
    assert first.end() == "well"
    assert (the_row().state, the_row().attempts) == ("done", 1)


@ctrl_c
def test_an_interrupted_pull_that_was_asked_for_in_the_background_meanwhile_goes_on_there(hub: HubServer) -> None:
    library = Library()
    plan = planned(library, hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        pulling = Pulling(stack)
        hub.wait_until(lambda: weights_sent(hub) >= 50_000)
        row = library.enqueue(plan)
        pulling.press_ctrl_c()
        assert pulling.end() == "The download continues in the background"
    hub.clear()
    wait_for_state(library, row.id, "done")


def test_who_joined_is_told_that_the_other_fetched_it(hub: HubServer) -> None:
    library = Library()
    plan = planned(library, hub)
    hub.fault(Throttle(400_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        first = Pulling(stack)
        joined = library.pull(plan)
        assert first.end() == "well"
    assert joined.fetched_bytes == 0
    assert 0 < joined.other_process_bytes <= plan.total_bytes
    assert hub_views.render_pull_result(joined).startswith("Another process downloaded ")


@pytest.mark.skipif(sys.platform == "win32", reason="what is open stays there: gc finds it")
def test_processes_that_pulled_the_same_thing_leave_no_lock_and_nothing_dead(
    two: tuple[Pulling, Pulling], hub: HubServer, home: Home
) -> None:
    with ExitStack() as stack:
        third = Pulling(stack)
        hub.clear()
        assert [pulling.end() for pulling in (*two, third)] == ["well"] * 3
    assert [path.suffix for path in cache_work_folder(home.cache).iterdir()] == [".checked"]
    assert Library().plan_gc().files == ()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_key_sends_a_pull_to_the_background_and_nothing_is_called_interrupted(hub: HubServer) -> None:
    import pty

    planned(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "llm", "hf", "pull", REPO, "--test"])
    hub.wait_until(lambda: weights_sent(hub) >= 50_000)
    os.write(terminal, b"b")
    said = b""
    with suppress(OSError):  # how Linux reports that the other side has closed
        while block := os.read(terminal, 1024):
            said += block
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"continues in the background" in said
    assert f"llm hf test {MODEL}".encode() in said
    hub.clear()
    row = the_row()
    wait_for_state(Library(), row.id, "done")
    notes = [(note.kind, note.message) for note in Library().get_download_log(row.id)]
    assert ("queued", "sent to the background") in notes
    assert not {"paused", "interrupted"} & {word for note in notes for word in note}


@ctrl_c
def test_a_pull_of_what_waits_in_the_background_leaves_it_waiting_there_when_it_is_interrupted(hub: HubServer) -> None:
    library = Library()
    plan = planned(library, hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with FileLock(lock_path()):  # no worker comes
        row = library.enqueue(plan)
        with ExitStack() as stack:
            pulling = Pulling(stack)
            hub.wait_until(lambda: weights_sent(hub) >= 50_000)
            assert the_row().state == "running"
            pulling.press_ctrl_c()
            assert pulling.end() == "The download continues in the background"
        assert (the_row().state, the_row().background) == ("queued", True)
        hub.clear()
    library.enqueue(plan)
    wait_for_state(library, row.id, "done")


def test_a_pull_takes_over_a_download_whose_owner_died_before_the_clock_was_set_back(hub: HubServer) -> None:
    planned(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        first = Pulling(stack)
        first.process.kill()
    with Database(library_path()) as db:
        (row,) = db.list_downloads()
        db.update_download(row.id, heartbeat=row.heartbeat + 3600)
    assert the_row().state == "paused"
    hub.clear()
    Library().pull(REPO)
    assert the_row().state == "done"


@pytest.fixture
def dead(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> DownloadView:
    """A download whose process was killed, an hour before its signs of life would be missed."""
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "900")
    planned(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        killed = Pulling(stack)
        hub.wait_until(lambda: weights_sent(hub) >= 50_000)
        killed.process.kill()
    return the_row()


def test_a_download_whose_process_was_killed_is_nobodys_at_once(dead: DownloadView, hub: HubServer) -> None:
    assert (dead.state, dead.error) == ("paused", "its process ended")
    hub.clear()
    Library().pull(REPO)
    assert (the_row().state, the_row().attempts) == ("done", 2)


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_a_process_that_another_container_may_have_counts_as_alive_while_it_shows_life(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "1")
    planned(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack, Database(library_path()) as db:
        there = Pulling(stack)
        (row,) = db.list_downloads()
        process, started, host, boot, namespace, clock, attempt = str(row.owner).split("/")
        assert namespace.startswith("pid:")
        there.process.kill()
        there.process.wait()
        stranger = f"{process}/{started}/{host}/{boot}/pid:[1]/{clock}/{attempt}"
        db.update_download(row.id, owner=stranger, heartbeat=time.time())
        assert the_row().state == "running"
        wait_until(lambda: the_row().state == "paused")


def test_who_takes_over_from_a_dead_process_says_so_in_the_log(two: tuple[Pulling, Pulling], hub: HubServer) -> None:
    two[0].process.kill()
    wait_until(lambda: the_row().attempts == 2)
    hub.clear()
    assert two[1].end() == "well"
    told = [(note.kind, note.message) for note in Library().get_download_log(the_row().id)]
    assert told.count(("started", "after its process ended")) + told.count(("paused", "its process ended")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="there the time of a process's start moves with the clock")
def test_who_lives_when_the_machines_clock_is_set_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        "import sys; from llm_hf_models.system.processes import get_own_name; "
        "print(get_own_name(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", told], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        name, started, booted = process.stdout.readline().strip(), get_start_time(process.pid), psutil.boot_time()
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted + 3600)  # what the kernel tells then
        monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", booted + 3600, raising=False)  # psutil before 7.1 keeps it
        assert psutil.Process(process.pid).create_time() - time.time() > 3000
        assert not has_ended(name)
        assert find_running_process(process.pid, started)
        process.kill()
        process.wait()
        assert has_ended(name)


WITHOUT_ITS_OWN_PROC = """
import os
from llm_hf_models.system.processes import has_ended, get_own_name
print(get_own_name(), has_ended(get_own_name()), has_ended(get_own_name().replace(f"{os.getpid()}/", "4000000/", 1)))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="namespaces are Linux's")
def test_a_process_whose_proc_tells_of_other_processes_knows_who_has_ended_all_the_same() -> None:
    within = subprocess.run(
        ["unshare", "-rpf", sys.executable, "-c", WITHOUT_ITS_OWN_PROC], capture_output=True, text=True, check=False
    )
    if within.returncode and "unshare" in within.stderr:
        pytest.skip(within.stderr)
    name, itself, nobody = within.stdout.split()
    assert name.startswith("1/0/")
    assert (itself, nobody) == ("False", "True")
