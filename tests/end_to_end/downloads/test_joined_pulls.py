"""Several processes that pull the same model: pause, cancel, and which of them continues."""

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

from llm_hf_models import Library
from llm_hf_models.cli.views import hub as hub_views
from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.downloads.worker import get_worker_path
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.library.database import Database
from llm_hf_models.paths import library_path
from llm_hf_models.system.ownership import acquire_ownership
from llm_hf_models.system.processes import find_running_process, get_start_time, has_ended
from tests.conftest import Home
from tests.support import downloads
from tests.support.downloads import FILE, MODEL, REPO, count_weights_sent, plan_download, wait_for_state
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


class PullProcess:
    """A pull in a process of its own that has started, or joined the one that had started."""

    def __init__(self, stack: ExitStack) -> None:
        self.process = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", PULL, REPO], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self.process.kill)
        assert self.process.stdout
        for line in self.process.stdout:
            if line.strip() in ("started", "progress"):  # events of the transfer: reading the header sends none
                break

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> str:
        """Wait for the process and return the last line that it printed."""
        reported, _ = self.process.communicate(timeout=60)
        return str(reported.strip().splitlines()[-1].removeprefix("ended: "))


@pytest.fixture
def two_pulls(hub: HubServer) -> Iterator[tuple[PullProcess, PullProcess]]:
    """Provide two pulls: one that is stalled after some bytes, and one that joined it."""
    plan_download(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        first = PullProcess(stack)
        hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
        yield first, PullProcess(stack)


def get_row() -> DownloadView:
    (row,) = Library().downloads(include_finished=True)
    return row


def is_taken_over() -> bool:
    row = get_row()
    return (row.state, row.attempts) == ("running", 2)


def test_pause_ends_every_process_that_pulls_the_same_model(two_pulls: tuple[PullProcess, PullProcess]) -> None:
    Library().pause(get_row().id)
    assert [pulling.end() for pulling in two_pulls] == ["Paused", "Paused"]
    assert (get_row().state, get_row().attempts) == ("paused", 1)


def test_cancel_ends_every_process_of_a_download_and_removes_its_files(
    two_pulls: tuple[PullProcess, PullProcess], home: Home
) -> None:
    Library().cancel(get_row().id)
    assert [pulling.end() for pulling in two_pulls] == ["Cancelled", "Cancelled"]
    assert get_row().state == "cancelled"
    assert list(cache_work_folder(home.cache).iterdir()) == []


def test_files_of_the_last_process_to_notice_a_cancel_are_removed(
    hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_download(Library(), hub)
    hub.fault(Throttle(100_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        first = PullProcess(stack)
        monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "2")
        second = PullProcess(stack)
        Library().cancel(get_row().id)
        assert [pulling.end() for pulling in (first, second)] == ["Cancelled", "Cancelled"]
    assert get_row().state == "cancelled"
    assert list(cache_work_folder(home.cache).iterdir()) == []


@ctrl_c
def test_other_process_takes_over_after_an_interrupt(
    two_pulls: tuple[PullProcess, PullProcess], hub: HubServer
) -> None:
    first, second = two_pulls
    first.press_ctrl_c()
    assert first.end() == "Interrupted; the downloaded part is kept"
    wait_until(is_taken_over)
    hub.clear()
    assert second.end() == "well"
    assert get_row().state == "done"
    assert Library().show(MODEL).state == "ready"


def test_other_process_takes_over_after_a_kill(two_pulls: tuple[PullProcess, PullProcess], hub: HubServer) -> None:
    first, second = two_pulls
    first.process.kill()
    wait_until(is_taken_over)
    Library().pause(get_row().id)
    assert second.end() == "Paused"
    hub.clear()


@ctrl_c
def test_joined_process_that_leaves_reports_that_the_other_continues(
    two_pulls: tuple[PullProcess, PullProcess], hub: HubServer
) -> None:
    first, second = two_pulls
    second.press_ctrl_c()
    assert second.end() == "Another process continues the download"
    hub.clear()
    assert first.end() == "well"
    assert (get_row().state, get_row().attempts) == ("done", 1)


@ctrl_c
def test_interrupted_pull_continues_in_the_background_if_enqueued(hub: HubServer) -> None:
    library = Library()
    plan = plan_download(library, hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        pulling = PullProcess(stack)
        hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
        row = library.enqueue(plan)
        pulling.press_ctrl_c()
        assert pulling.end() == "The download continues in the background"
    hub.clear()
    wait_for_state(library, row.id, "done")


def test_joined_process_reports_that_the_other_fetched_the_model(hub: HubServer) -> None:
    library = Library()
    plan = plan_download(library, hub)
    hub.fault(Throttle(400_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        first = PullProcess(stack)
        joined = library.pull(plan)
        assert first.end() == "well"
    assert joined.fetched_bytes == 0
    assert 0 < joined.other_process_bytes <= plan.total_bytes
    assert hub_views.render_pull_result(joined).startswith("Another process downloaded ")


@pytest.mark.skipif(sys.platform == "win32", reason="open files stay there until gc removes them")
def test_joined_processes_leave_no_lock_and_no_leftovers(
    two_pulls: tuple[PullProcess, PullProcess], hub: HubServer, home: Home
) -> None:
    with ExitStack() as stack:
        third = PullProcess(stack)
        hub.clear()
        assert [pulling.end() for pulling in (*two_pulls, third)] == ["well"] * 3
    assert list(cache_work_folder(home.cache).iterdir()) == []
    assert Library().plan_gc().files == ()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_key_sends_a_pull_to_the_background_without_an_interruption(hub: HubServer) -> None:
    import pty

    plan_download(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "llm", "hf", "pull", REPO, "--test"])
    hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
    os.write(terminal, b"b")
    output = b""
    with suppress(OSError):  # Linux reports the closed other side as this error
        while block := os.read(terminal, 1024):
            output += block
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"continues in the background" in output
    assert f"llm hf test {MODEL}".encode() in output
    hub.clear()
    row = get_row()
    wait_for_state(Library(), row.id, "done")
    notes = [(note.kind, note.message) for note in Library().get_download_log(row.id)]
    assert ("queued", "sent to the background") in notes
    assert not {"paused", "interrupted"} & {word for note in notes for word in note}


@ctrl_c
def test_interrupted_pull_of_a_queued_download_leaves_it_queued(hub: HubServer) -> None:
    library = Library()
    plan = plan_download(library, hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with acquire_ownership(get_worker_path()):  # no worker starts
        row = library.enqueue(plan)
        with ExitStack() as stack:
            pulling = PullProcess(stack)
            hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
            assert get_row().state == "running"
            pulling.press_ctrl_c()
            assert pulling.end() == "The download continues in the background"
        assert (get_row().state, get_row().background) == ("queued", True)
        hub.clear()
    library.enqueue(plan)
    wait_for_state(library, row.id, "done")


def test_pull_takes_over_from_a_killed_owner_after_the_clock_moved_back(hub: HubServer) -> None:
    plan_download(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        first = PullProcess(stack)
        first.process.kill()
    with Database(library_path()) as db:
        (row,) = db.list_downloads()
        db.update_download(row.id, heartbeat=row.heartbeat + 3600)
    assert get_row().state == "paused"
    hub.clear()
    Library().pull(REPO)
    assert get_row().state == "done"


@pytest.fixture
def killed_download(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> DownloadView:
    """Provide a download whose process was killed an hour before its heartbeat would be missed."""
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "900")
    plan_download(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack:
        killed = PullProcess(stack)
        hub.wait_until(lambda: count_weights_sent(hub) >= 50_000)
        killed.process.kill()
    return get_row()


def test_download_of_a_killed_process_is_free_at_once(killed_download: DownloadView, hub: HubServer) -> None:
    assert (killed_download.state, killed_download.error) == ("paused", "its process ended")
    hub.clear()
    Library().pull(REPO)
    assert (get_row().state, get_row().attempts) == ("done", 2)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux namespaces")
def test_process_of_another_container_counts_as_running_by_heartbeat(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "1")
    plan_download(Library(), hub)
    hub.fault(Stall(after=50_000), on=FILE, side="storage", times=None)
    with ExitStack() as stack, Database(library_path()) as db:
        there = PullProcess(stack)
        (row,) = db.list_downloads()
        process, started, host, boot, namespace, clock, attempt = str(row.owner).split("/")
        assert namespace.startswith("pid:")
        there.process.kill()
        there.process.wait()
        stranger = f"{process}/{started}/{host}/{boot}/pid:[1]/{clock}/{attempt}"
        db.update_download(row.id, owner=stranger, heartbeat=time.time())
        assert get_row().state == "running"
        wait_until(lambda: get_row().state == "paused")


def test_takeover_from_an_ended_process_is_logged(two_pulls: tuple[PullProcess, PullProcess], hub: HubServer) -> None:
    two_pulls[0].process.kill()
    wait_until(lambda: get_row().attempts == 2)
    hub.clear()
    assert two_pulls[1].end() == "well"
    reported = [(note.kind, note.message) for note in Library().get_download_log(get_row().id)]
    assert reported.count(("started", "after its process ended")) + reported.count(("paused", "its process ended")) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="there the start time of a process changes with the clock")
def test_running_process_survives_a_change_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = (
        "import sys; from llm_hf_models.system.processes import get_own_name; "
        "print(get_own_name(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", reported], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        name, started, booted = process.stdout.readline().strip(), get_start_time(process.pid), psutil.boot_time()
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted + 3600)  # the kernel's report then
        monkeypatch.setattr(psutil._pslinux, "BOOT_TIME", booted + 3600, raising=False)  # psutil before 7.1 caches it
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


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux namespaces")
def test_process_with_a_foreign_proc_folder_detects_ended_processes() -> None:
    within = subprocess.run(
        ["unshare", "-rpf", sys.executable, "-c", WITHOUT_ITS_OWN_PROC], capture_output=True, text=True, check=False
    )
    if within.returncode and "unshare" in within.stderr:
        pytest.skip(within.stderr)
    name, itself, nobody = within.stdout.split()
    assert name.startswith("1/0/")
    assert (itself, nobody) == ("False", "True")
