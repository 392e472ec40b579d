"""`llm hf gc`: what is dead goes, what lives stays, and a kill leaves nothing that it does not find."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from llm_hf_models import Library, PullOptions
from llm_hf_models.hub.cache_layout import cache_work_folder, target_work_folder
from llm_hf_models.library.database import Database
from llm_hf_models.paths import library_path
from llm_hf_models.transfer.ownership import acquire_ownership
from tests.conftest import Home
from tests.support import interrupted_pulls
from tests.support.commands import run
from tests.support.hub_server import HubServer
from tests.support.interrupted_pulls import FILE, REPO, broken_off, cancelled, partials

hub = interrupted_pulls.hub

OTHER = "9" * 64
DAY = 86_400


def aged(path: Path, seconds: float = 2 * DAY, text: str = "x") -> Path:
    """A file that was last written so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def gone(path: Path) -> str:
    """What `gc` says of a file that it found dead and removed."""
    (why,) = [file.reason for file in Library().gc().files if file.path == str(path)]
    assert not path.exists()
    return why


def test_what_a_paused_download_has_stays_and_is_continued(hub: HubServer, home: Home) -> None:
    number = broken_off(hub)
    kept = partials(cache_work_folder(home.cache))
    assert kept
    assert Library().gc().files == ()
    assert partials(cache_work_folder(home.cache)) == kept
    hub.forget_requests()
    assert Library().pull(REPO).download_id == number
    assert hub.sent(FILE, side="storage") < 4_000_000


def wanted_elsewhere_too(hub: HubServer, folder: Path) -> int:
    """A pull into a folder that was broken off, and an open one of the same bytes into the cache."""
    number = broken_off(hub, PullOptions(to=folder))
    broken_off(hub)
    return number


def test_what_a_cancelled_download_has_in_its_folder_goes_though_another_one_wants_the_same_bytes_elsewhere(
    hub: HubServer, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    first = wanted_elsewhere_too(hub, folder)
    cancelled = json.loads(run("cancel", str(first), "--json", code=None).stdout)
    assert (cancelled["state"], cancelled["done_bytes"]) == ("cancelled", 0)
    assert list(folder.iterdir()) == []
    assert partials(cache_work_folder(home.cache)), "the other one goes on with its own"
    (second,) = Library().downloads()
    Library().cancel(second.id)
    assert partials(cache_work_folder(home.cache)) == []


def test_gc_finds_in_its_folder_what_a_cancelled_download_has_though_another_one_wants_the_same_bytes_elsewhere(
    hub: HubServer, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    first = wanted_elsewhere_too(hub, folder)
    with Database(library_path()) as db:
        db.update_download(first, state="cancelled")  # by one who was killed before it removed anything
    (dead,) = Library().gc().files
    assert Path(dead.path).parent == target_work_folder(folder)
    assert list(folder.iterdir()) == []
    assert partials(cache_work_folder(home.cache))


@pytest.mark.skipif(sys.platform == "win32", reason="who may make links there is another matter")
def test_what_a_download_left_that_took_another_path_to_the_same_folder_stays_for_the_open_one(
    hub: HubServer, tmp_path: Path
) -> None:
    folder, link = tmp_path / "models", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    first = broken_off(hub, PullOptions(to=link))
    broken_off(hub, PullOptions(to=folder))
    kept = partials(target_work_folder(folder))
    Library().cancel(first)
    assert Library().gc().files == ()
    assert partials(target_work_folder(folder)) == kept


def test_what_could_not_be_removed_is_still_told_of_and_its_row_is_not_forgotten(
    hub: HubServer, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    number = broken_off(hub, PullOptions(to=folder))
    arrived = 500_000
    with Database(library_path()) as db:
        db.update_download(number, done_bytes=arrived)
    (partial,) = target_work_folder(folder).glob("*.part")
    with acquire_ownership(partial, threading.Event(), lambda: None):
        assert Library().cancel(number).done_bytes == arrived
        assert Library().clear_downloads() == 0
        assert [row.done_bytes for row in Library().downloads(include_finished=True)] == [arrived]
    assert Library().clear_downloads() == 1
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("hub")
def test_what_another_library_that_shares_the_cache_fetches_now_stays(home: Home) -> None:
    pulled = Library().pull(REPO).model_id
    assert pulled is not None
    Library().remove(pulled)
    (file,) = Library().plan(REPO).files
    began = time.time()
    partial = cache_work_folder(home.cache) / f"{file.etag}.part"
    aged(partial, seconds=-1)
    assert Library().gc().files == (), "its paused download is in the other library"
    aged(partial, seconds=time.time() - began + 60)
    assert gone(partial) == "its download has finished"


def test_what_a_cancelled_download_has_goes_and_its_room_is_told(hub: HubServer, home: Home) -> None:
    cancelled(hub)
    planned = Library().plan_gc()
    (dead,) = planned.files
    assert (dead.kind, dead.reason) == ("partial", "its download has finished")
    assert partials(cache_work_folder(home.cache)), "a plan removes nothing"
    done = Library().gc()
    assert done.files == planned.files
    assert done.freed_bytes >= 400_000
    assert list(cache_work_folder(home.cache).iterdir()) == []
    assert Library().plan_gc().files == ()


def test_what_a_cancelled_download_has_goes_from_the_cache_that_it_was_planned_for(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "big"))
    number = broken_off(hub)
    monkeypatch.setenv("HF_HUB_CACHE", str(home.cache))
    assert partials(cache_work_folder(tmp_path / "big"))
    with Database(library_path()) as db:
        db.update_download(number, state="cancelled")  # by one who was killed before it removed anything
    Library().gc()
    assert partials(cache_work_folder(tmp_path / "big")) == []


def test_a_cancelled_download_into_a_plain_folder_leaves_no_folder_of_ours(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    cancelled(hub, PullOptions(to=folder))
    assert partials(target_work_folder(folder))
    Library().gc()
    assert list(folder.iterdir()) == []


def test_who_cancels_a_download_into_a_plain_folder_leaves_no_folder_of_ours(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    number = broken_off(hub, PullOptions(to=folder))
    assert partials(target_work_folder(folder))
    Library().cancel(number)
    assert list(folder.iterdir()) == []


def test_a_partial_that_no_download_here_names_waits_a_day_since_another_library_may_share_the_cache(
    home: Home,
) -> None:
    old = aged(cache_work_folder(home.cache) / f"{OTHER}.part")
    young = aged(cache_work_folder(home.cache) / f"{'8' * 64}.part", seconds=DAY / 2)
    aged(old.with_name(f"{old.name}.journal"))
    assert gone(old) == "no download needs it"
    assert young.exists()
    assert partials(cache_work_folder(home.cache)) == [young.name]


@pytest.mark.usefixtures("hub")
def test_a_lock_that_was_left_without_a_partial_is_called_one_and_goes(home: Home) -> None:
    (file,) = Library().pull(REPO).plan.files
    lock = aged(cache_work_folder(home.cache) / f"{file.etag}.part.lock", seconds=0, text="")
    owner = aged(cache_work_folder(home.cache) / f"{OTHER}.part.owner")
    shown = run("gc", "--dry-run", code=None).stdout
    assert [line.split()[0] for line in shown.splitlines()[1:-1]] == ["lock", "lock"]
    assert {file.path for file in Library().plan_gc().files} == {str(lock), str(owner)}
    assert len(Library().gc().files) == 2
    assert [path.suffix for path in cache_work_folder(home.cache).iterdir()] == [".checked"]


def test_the_partial_of_huggingface_hub_goes_after_a_day_but_not_while_it_is_fetched(home: Home) -> None:
    blobs = home.cache / "models--a--b" / "blobs"
    dead, young, held = (blobs / f"{digit * 64}.0011aabb.incomplete" for digit in "123")
    aged(dead)
    aged(young, seconds=60)
    aged(held)
    lock = home.cache / ".locks/models--a--b" / f"{'3' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        assert gone(dead) == "huggingface_hub was interrupted"
        assert held.exists()
    assert young.exists()
    assert gone(held)


def test_the_partial_of_huggingface_hub_stays_where_its_lock_cant_be_asked(home: Home) -> None:
    dead = aged(home.cache / "models--a--b" / "blobs" / f"{'1' * 64}.0011aabb.incomplete")
    (home.cache / ".locks/models--a--b" / f"{'1' * 64}.lock").mkdir(parents=True)  # no file that could be locked
    shown = run("gc", "--dry-run", code=None)
    assert (shown.stdout, shown.stderr) == ("", "Nothing to remove.\n"), shown
    assert dead.exists()


@pytest.mark.usefixtures("hub")
def test_a_finished_model_keeps_its_ref_its_note_and_its_files(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("LLM_HF_ORPHAN_SECONDS", "0")
    Library().pull(REPO)
    before = sorted(path for path in home.cache.rglob("*") if path.is_file())
    assert Library().gc().files == ()
    assert sorted(path for path in home.cache.rglob("*") if path.is_file()) == before
    assert Library().pull(REPO).fetched_bytes == 0


@pytest.mark.usefixtures("hub")
def test_a_ref_of_ours_without_its_snapshot_and_the_note_of_a_blob_that_has_gone_go(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setenv("LLM_HF_ORPHAN_SECONDS", "0")
    Library().pull(REPO)
    (repo,) = home.cache.glob("models--*")
    for path in sorted([*repo.glob("snapshots/**/*"), *repo.glob("blobs/*")], reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
    assert sorted(file.kind for file in Library().gc().files) == ["note", "ref"]
    assert list(repo.glob("refs/llm-hf/*")) == []


@pytest.mark.usefixtures("hub")
def test_downloads_that_are_over_and_old_answers_go_once_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_folder_of_an_engine_that_has_left_goes_after_a_day(home: Home) -> None:
    folder = home.runtime / "llm-hf" / "abcd1234"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    aged(folder / "log")
    assert Library().plan_gc().files == (), "it was made just now"
    os.utime(folder, (time.time() - 2 * DAY,) * 2)
    assert gone(folder) == "its engine has ended"


def test_the_command_asks_shows_and_removes(home: Home) -> None:
    dead = aged(cache_work_folder(home.cache) / f"{OTHER}.part", text="x" * 5000)
    shown = run("gc", "--dry-run", code=None)
    assert "no download needs it" in shown.stdout
    assert run("gc", code=None, stdin="n\n").exit_code == 1
    assert dead.exists()
    nobody = run("gc", code=None, stdin="")
    assert "-y removes without asking" in nobody.stderr
    done = run("gc", "-y", "--json", code=None)
    found = json.loads(done.stdout)
    assert [file["path"] for file in found["files"]] == [str(dead)]
    assert found["done"] is True
    after = run("gc", code=None)
    assert (after.stdout, after.stderr) == ("", "Nothing to remove.\n")
