"""`llm hf gc` removes leftovers of ended downloads and keeps everything in use."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from llm_hf_models import Library, PullOptions
from llm_hf_models.hub.cache_layout import cache_work_folder, target_work_folder
from llm_hf_models.library.database import Database
from llm_hf_models.paths import library_path
from llm_hf_models.system.ownership import acquire_ownership
from tests.conftest import Home
from tests.support import interrupted_pulls
from tests.support.commands import run, run_json_one
from tests.support.hub_server import HubServer
from tests.support.interrupted_pulls import FILE, REPO, cancel_pull, interrupt_pull, list_partials

hub = interrupted_pulls.hub

OTHER = "9" * 64
DAY = 86_400


def write_old_file(path: Path, seconds: float = 2 * DAY, text: str = "x") -> Path:
    """Write a file that was last modified that many seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def run_gc_for(path: Path) -> str:
    """Run `gc`; return its reason for the removal of a file."""
    (why,) = [file.reason for file in Library().gc().files if file.path == str(path)]
    assert not path.exists()
    return why


def test_gc_keeps_a_paused_download_which_then_continues(hub: HubServer, home: Home) -> None:
    number = interrupt_pull(hub)
    kept = list_partials(cache_work_folder(home.cache))
    assert kept
    assert Library().gc().files == ()
    assert list_partials(cache_work_folder(home.cache)) == kept
    hub.forget_requests()
    assert Library().pull(REPO).download_id == number
    assert hub.sent(FILE, side="storage") < 4_000_000


def test_gc_keeps_partials_while_a_plan_of_another_version_may_need_them(hub: HubServer, home: Home) -> None:
    number = interrupt_pull(hub)
    with Database(library_path()) as db:
        (row,) = db.list_downloads()
        plan = json.loads(row.plan)
        db.update_download(number, plan=json.dumps({"files": plan["files"]}))
        assert Library().gc().files == (), "a paused download"
        db.update_download(number, state="cancelled")
        assert Library().gc().files == (), "it is not known to have left the partial, which is younger than a day"
    (partial,) = cache_work_folder(home.cache).glob("*.part")
    for path in partial.parent.glob("*.part*"):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    assert run_gc_for(partial) == "no download needs it"


def interrupt_two_pulls(hub: HubServer, folder: Path) -> int:
    """Interrupt a pull into a folder and one of the same bytes into the cache; return the first one's number."""
    number = interrupt_pull(hub, PullOptions(to=folder))
    interrupt_pull(hub)
    return number


def test_cancel_in_a_folder_removes_bytes_that_another_download_wants(
    hub: HubServer, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    first = interrupt_two_pulls(hub, folder)
    cancelled = run_json_one("cancel", str(first), code=None)
    assert (cancelled["state"], cancelled["done_bytes"]) == ("cancelled", 0)
    assert list(folder.iterdir()) == []
    assert list_partials(cache_work_folder(home.cache)), "the other download keeps its own"
    (second,) = Library().downloads()
    Library().cancel(second.id)
    assert list_partials(cache_work_folder(home.cache)) == []


def test_gc_in_a_folder_removes_bytes_that_another_download_wants(hub: HubServer, home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    first = interrupt_two_pulls(hub, folder)
    with Database(library_path()) as db:
        db.update_download(first, state="cancelled")  # as a process that was killed before it removed anything
    (ended,) = Library().gc().files
    assert Path(ended.path).parent == target_work_folder(folder)
    assert list(folder.iterdir()) == []
    assert list_partials(cache_work_folder(home.cache))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
def test_gc_keeps_files_of_an_open_download_under_another_path(hub: HubServer, tmp_path: Path) -> None:
    folder, link = tmp_path / "models", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    first = interrupt_pull(hub, PullOptions(to=link))
    interrupt_pull(hub, PullOptions(to=folder))
    kept = list_partials(target_work_folder(folder))
    Library().cancel(first)
    assert Library().gc().files == ()
    assert list_partials(target_work_folder(folder)) == kept


def test_leftover_that_can_not_be_removed_stays_listed(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    number = interrupt_pull(hub, PullOptions(to=folder))
    arrived = 500_000
    with Database(library_path()) as db:
        db.update_download(number, done_bytes=arrived)
    (partial,) = target_work_folder(folder).glob("*.part")
    with acquire_ownership(partial):
        assert Library().cancel(number).done_bytes == arrived
        assert Library().clear_downloads() == 0
        assert [row.done_bytes for row in Library().downloads(include_finished=True)] == [arrived]
    assert Library().clear_downloads() == 1
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("hub")
def test_gc_keeps_files_that_another_library_is_fetching(home: Home) -> None:
    pulled = Library().pull(REPO).id
    assert pulled is not None
    Library().remove(pulled)
    (file,) = Library().plan(REPO).files
    began = time.time()
    partial = cache_work_folder(home.cache) / f"{file.etag}.part"
    write_old_file(partial, seconds=-1)
    assert Library().gc().files == (), "its paused download is in the other library"
    write_old_file(partial, seconds=time.time() - began + 60)
    assert run_gc_for(partial) == "its download has finished"


def test_gc_removes_a_cancelled_download_and_reports_its_size(hub: HubServer, home: Home) -> None:
    cancel_pull(hub)
    planned = Library().plan_gc()
    (ended,) = planned.files
    assert (ended.kind, ended.reason) == ("partial", "its download has finished")
    assert list_partials(cache_work_folder(home.cache)), "a plan removes nothing"
    done = Library().gc()
    assert done.files == planned.files
    assert done.freed_bytes >= 400_000
    assert list(cache_work_folder(home.cache).iterdir()) == []
    assert Library().plan_gc().files == ()


def test_gc_removes_a_cancelled_download_from_its_planned_cache(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "big"))
    number = interrupt_pull(hub)
    monkeypatch.setenv("HF_HUB_CACHE", str(home.cache))
    assert list_partials(cache_work_folder(tmp_path / "big"))
    with Database(library_path()) as db:
        db.update_download(number, state="cancelled")  # as a process that was killed before it removed anything
    Library().gc()
    assert list_partials(cache_work_folder(tmp_path / "big")) == []


def test_gc_leaves_no_work_folder_after_a_cancelled_download(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    cancel_pull(hub, PullOptions(to=folder))
    assert list_partials(target_work_folder(folder))
    Library().gc()
    assert list(folder.iterdir()) == []


def test_cancel_leaves_no_work_folder(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    number = interrupt_pull(hub, PullOptions(to=folder))
    assert list_partials(target_work_folder(folder))
    Library().cancel(number)
    assert list(folder.iterdir()) == []


def test_gc_keeps_an_unknown_partial_for_a_day(
    home: Home,
) -> None:
    old = write_old_file(cache_work_folder(home.cache) / f"{OTHER}.part")
    young = write_old_file(cache_work_folder(home.cache) / f"{'8' * 64}.part", seconds=DAY / 2)
    write_old_file(old.with_name(f"{old.name}.journal"))
    assert run_gc_for(old) == "no download needs it"
    assert young.exists()
    assert list_partials(cache_work_folder(home.cache)) == [young.name]


@pytest.mark.usefixtures("hub")
def test_gc_removes_and_names_a_lock_without_a_partial(home: Home) -> None:
    (file,) = Library().pull(REPO).plan.files
    lock = write_old_file(cache_work_folder(home.cache) / f"{file.etag}.part.lock", seconds=0, text="")
    owner = write_old_file(cache_work_folder(home.cache) / f"{OTHER}.part.owner")
    shown = run("gc", "--dry-run", code=None).stdout
    assert [line.split()[0] for line in shown.splitlines()[1:-1]] == ["lock", "lock"]
    assert {file.path for file in Library().plan_gc().files} == {str(lock), str(owner)}
    assert len(Library().gc().files) == 2
    assert list(cache_work_folder(home.cache).iterdir()) == []


def test_gc_removes_an_old_partial_of_huggingface_hub(home: Home) -> None:
    blobs = home.cache / "models--a--b" / "blobs"
    ended, young, held = (blobs / f"{digit * 64}.0011aabb.incomplete" for digit in "123")
    write_old_file(ended)
    write_old_file(young, seconds=60)
    write_old_file(held)
    lock = home.cache / ".locks/models--a--b" / f"{'3' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        assert run_gc_for(ended) == "huggingface_hub was interrupted"
        assert held.exists()
    assert young.exists()
    assert run_gc_for(held)


def test_gc_keeps_a_partial_of_huggingface_hub_with_a_busy_lock(home: Home) -> None:
    ended = write_old_file(home.cache / "models--a--b" / "blobs" / f"{'1' * 64}.0011aabb.incomplete")
    (home.cache / ".locks/models--a--b" / f"{'1' * 64}.lock").mkdir(parents=True)  # not a file that could be locked
    shown = run("gc", "--dry-run", code=None)
    assert (shown.stdout, shown.stderr) == ("", "Nothing to remove.\n"), shown
    assert ended.exists()


@pytest.mark.usefixtures("hub")
def test_gc_keeps_ref_note_and_files_of_a_finished_model(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("LLM_HF_ORPHAN_SECONDS", "0")
    Library().pull(REPO)
    before = sorted(path for path in home.cache.rglob("*") if path.is_file())
    assert Library().gc().files == ()
    assert sorted(path for path in home.cache.rglob("*") if path.is_file()) == before
    assert Library().pull(REPO).fetched_bytes == 0


@pytest.mark.usefixtures("hub")
def test_gc_removes_refs_without_snapshots_and_notes_without_blobs(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("LLM_HF_ORPHAN_SECONDS", "0")
    Library().pull(REPO)
    (repo,) = home.cache.glob("models--*")
    for path in sorted([*repo.glob("snapshots/**/*"), *repo.glob("blobs/*")], reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
    assert sorted(file.kind for file in Library().gc().files) == ["note", "ref"]
    assert list(repo.glob("refs/llm-hf/*")) == []


@pytest.mark.usefixtures("hub")
def test_gc_removes_old_finished_downloads_and_old_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    library.pull(REPO)
    assert (library.gc().download_records, len(library.downloads(include_finished=True))) == (0, 1)
    monkeypatch.setenv("LLM_HF_HISTORY_SECONDS", "0")
    planned = library.plan_gc()
    assert planned.download_records == 1
    assert planned.cached_responses >= 1
    done = library.gc()
    assert (done.download_records, done.cached_responses, done.done) == (
        planned.download_records,
        planned.cached_responses,
        True,
    )
    assert library.downloads(include_finished=True) == ()
    assert library.plan_gc().download_records == 0


def test_gc_removes_the_folder_of_an_ended_engine_after_a_day(home: Home) -> None:
    folder = home.runtime / "llm-hf" / "abcd1234"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    write_old_file(folder / "log")
    assert Library().plan_gc().files == (), "the file is new"
    os.utime(folder, (time.time() - 2 * DAY,) * 2)
    assert run_gc_for(folder) == "its engine has ended"


def test_gc_command_shows_asks_and_removes(home: Home) -> None:
    ended = write_old_file(cache_work_folder(home.cache) / f"{OTHER}.part", text="x" * 5000)
    shown = run("gc", "--dry-run", code=None)
    assert "no download needs it" in shown.stdout
    assert run("gc", code=None, stdin="n\n").exit_code == 1
    assert ended.exists()
    nobody = run("gc", code=None, stdin="")
    assert "Pass -y to remove without asking" in nobody.stderr
    done = run("gc", "-y", "--json", code=None)
    found = json.loads(done.stdout)
    assert [file["path"] for file in found["files"]] == [str(ended)]
    assert found["done"] is True
    after = run("gc", code=None)
    assert (after.stdout, after.stderr) == ("", "Nothing to remove.\n")
