"""Disk usage, pruning and linking of identical files, with real caches and huggingface_hub's own command."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from llm_hf_models.disk_space.types import DiskUsage
from llm_hf_models.errors import BadInputError, UnknownCollectionError
from llm_hf_models.hub.cache_files import lock_download
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel
from llm_hf_models.library.versions import make_version
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support.cache_pulls import run_hf
from tests.support.commands import run, run_json, run_process
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer

ONE, TWO = "a/tiny-GGUF", "b/other-GGUF"
ONE_ID, TWO_ID = "hf/a/tiny-GGUF:Q4_K_M", "hf/b/other-GGUF:Q4_K_M"
DAY = 86400


@pytest.fixture
def size(tmp_path: Path) -> int:
    return tiny_chat(tmp_path / "tiny-Q4_K_M.gguf").stat().st_size


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> Iterator[HubServer]:  # noqa: ARG001
    """Provide a Hub with two repos that have the same file under different names."""
    with HubServer() as hub:
        hub.add_repo(ONE, {"tiny-Q4_K_M.gguf": tmp_path / "tiny-Q4_K_M.gguf", "README.md": "# One"})
        hub.add_repo(TWO, {"other-Q4_K_M.gguf": tmp_path / "tiny-Q4_K_M.gguf"})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def twice(hub: HubServer) -> Library:
    """Pull both repos; the file of the second is a second copy, which huggingface_hub downloaded."""
    library = Library()
    library.pull(ONE)
    run_hf("download", TWO, hub=hub)
    library.pull(TWO)
    return library


def get_blob(library: Library, name: str) -> Path:
    path = Path(library.path(name)[0])
    return path.parent / path.readlink() if path.is_symlink() else path


def list_rows(usage: DiskUsage) -> dict[tuple[str, str], tuple[int, int]]:
    return {(row.kind, row.name): (row.size_bytes, row.shared_bytes) for row in usage.rows}


def change_model(home: Home, model_id: str, **values: float) -> None:
    """Set columns of a model that only time or another command changes."""
    with Database(home.llm / "hf/library.db") as db:
        for name, value in values.items():
            db.write(f"update models set {name} = ? where model_id = ?", value, model_id)


# Usage


def test_usage_counts_hard_links_and_symlinks_once(twice: Library, size: int) -> None:
    assert list_rows(twice.get_disk_usage()) == {("model", ONE_ID): (size, 0), ("model", TWO_ID): (size, 0)}
    twice.deduplicate()
    usage = twice.get_disk_usage()
    assert list_rows(usage) == {("model", ONE_ID): (size, size), ("model", TWO_ID): (size, size)}
    assert (usage.size_bytes, usage.shared_bytes) == (size, size)
    assert list_rows(twice.get_disk_usage("repo")) == {("repo", ONE): (size, size), ("repo", TWO): (size, size)}


def test_usage_lists_what_is_in_the_cache_and_not_registered(hub: HubServer, home: Home, size: int) -> None:
    library = Library()
    library.pull(ONE)
    run_hf("download", ONE, "README.md", hub=hub)
    run_hf("download", TWO, hub=hub)
    for name, content in (
        ("datasets--o--rows/blobs/aa", b"r" * 3000),
        ("datasets--o--rows/blobs/bb.incomplete", b"p" * 2000),
        (f".locks/llm-hf/{'c' * 64}.part", b"q" * 1000),
        (f"blobs/dd/{'d' * 64}", b"s" * 4000),
        (f"blobs/dd/{'d' * 64}.refs", b"models--x--y/blobs/z\n"),
        (f"blobs/ee/{'e' * 64}", b"t" * 500),
    ):
        path = home.cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    linked = home.cache / "models--x--y/blobs/z"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(f"../../blobs/dd/{'d' * 64}")
    usage = library.get_disk_usage()
    assert list_rows(usage) == {
        ("model", ONE_ID): (size, 0),
        ("repo", ONE): (len("# One"), 0),
        ("repo", TWO): (size, 0),
        ("repo", "datasets/o/rows"): (3000, 0),
        ("repo", "x/y"): (4000, 0),
        ("partial downloads", ""): (3000, 0),
        ("shared blobs", ""): (500, 0),
    }
    assert {row.name for row in usage.rows if row.is_registered} == {ONE_ID}
    assert usage.size_bytes == 2 * size + len("# One") + 10_500
    text = run("du").stdout
    assert "repo, not registered  datasets/o/rows" in text
    assert run_json("du", "--by", "repo")["size_bytes"] == usage.size_bytes


def test_usage_by_collection_marks_models_of_several(twice: Library, size: int) -> None:
    twice.create_collection("coding/small")
    twice.add_to_collection("coding/small", ONE)
    twice.create_collection("work")
    twice.add_to_collection("work", ONE)
    assert list_rows(twice.get_disk_usage("collection")) == {
        ("collection", "coding"): (size, size),
        ("collection", "coding/small"): (size, size),
        ("collection", "work"): (size, size),
        ("model", TWO_ID): (size, 0),
    }
    assert twice.get_disk_usage("collection").size_bytes == 2 * size


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes")
def test_folders_of_others_are_named_and_left_alone(twice: Library, home: Home) -> None:
    blobs = home.cache / f"models--{TWO.replace('/', '--')}/blobs"
    blobs.chmod(0o555)
    found = json.loads(run_process("llm", "hf", "dedupe", "--json", unprivileged=True).stdout)
    assert (found["freed_bytes"], [each["reason"] for each in found["skipped"]]) == (0, ["its folder can't be written"])
    blobs.chmod(0)
    found = json.loads(run_process("llm", "hf", "du", "--json", unprivileged=True).stdout)
    blobs.chmod(0o755)
    assert found["unreadable"] == [str(blobs)]
    assert len(twice.get_disk_usage().rows) == 2


def test_usage_lists_the_old_versions_of_a_model(hub: HubServer, home: Home, tmp_path: Path, size: int) -> None:
    library = Library()
    library.pull(ONE)
    new = tiny_chat(tmp_path / "new.gguf", seed=5)
    with Database(home.llm / "hf/library.db") as db:
        old = db.get_model(ONE_ID)
    hub.add_repo(ONE, {"tiny-Q4_K_M.gguf": new})
    library.pull(ONE)
    with Database(home.llm / "hf/library.db") as db:
        db.save_version(ONE_ID, make_version(old, "kept"))
    rows = list_rows(library.get_disk_usage())
    assert rows == {("model", ONE_ID): (new.stat().st_size, 0), ("old versions", ONE_ID): (size, 0)}
    assert list_rows(library.get_disk_usage("repo")) == {("repo", ONE): (size + new.stat().st_size, 0)}
    assert library.prune(library.plan_pruning(larger_bytes=1)).freed_bytes == size + new.stat().st_size
    assert library.get_disk_usage().size_bytes == 0


def test_usage_without_a_cache_is_empty(home: Home) -> None:
    shutil.rmtree(home.cache)
    usage = Library().get_disk_usage()
    assert (usage.rows, usage.size_bytes) == ((), 0)


# Pruning


def test_prune_needs_a_criterion_and_units() -> None:
    with pytest.raises(BadInputError, match="No criterion"):
        Library().plan_pruning()
    with pytest.raises(UnknownCollectionError):
        Library().plan_pruning(larger_bytes=1, keep=["nowhere"])
    assert "Give --unused, --larger or both" in run("prune", code=2).stderr
    assert "'90' has no unit. Write 90d for days." in run("prune", "--unused", "90", code=2).stderr
    assert "'5' has no unit. Write 5G for gigabytes." in run("prune", "--larger", "5", code=2).stderr


def test_prune_takes_the_time_of_the_pull_of_a_model_never_used(twice: Library, home: Home) -> None:
    now = time.time()
    change_model(home, ONE_ID, added=now - 100 * DAY)
    change_model(home, TWO_ID, added=now - 100 * DAY, last_used=now - 10 * DAY)
    plan = twice.plan_pruning(unused_seconds=90 * DAY)
    assert [(each.id, each.reasons) for each in plan.models] == [(ONE_ID, ("never used in 100 d",))]
    assert len(twice.plan_pruning(unused_seconds=5 * DAY).models) == 2
    assert twice.plan_pruning(unused_seconds=5 * DAY, larger_bytes=10**9).models == ()


def test_prune_removes_after_a_question_and_frees_what_was_planned(twice: Library, size: int) -> None:
    done = run("prune", "--larger", "1kB", code=2)
    assert "Nothing was removed: no answer was given" in done.stderr
    assert len(twice.list()) == 2
    planned = run_json("prune", "--larger", "1kB", "--dry-run")
    assert (planned["done"], planned["freed_bytes"], len(planned["models"])) == (False, 2 * size, 2)
    twice.deduplicate()
    assert [each.freed_bytes for each in twice.plan_pruning(larger_bytes=1).models] == [0, 0]
    done = run_json("prune", "--larger", "1kB", "-y")
    assert (done["done"], done["freed_bytes"]) == (True, size)
    assert twice.list() == ()
    assert twice.get_disk_usage().size_bytes == 0


def test_protected_models_are_kept_with_the_reason(twice: Library, home: Home, tmp_path: Path) -> None:
    twice.import_file(tiny_chat(tmp_path / "own.gguf", seed=3))
    change_model(home, ONE_ID, pinned=1)
    (home.llm / "default_model.txt").write_text(TWO_ID)
    plan = twice.plan_pruning(larger_bytes=1)
    assert plan.models == ()
    assert {each.id: each.reason for each in plan.kept} == {
        ONE_ID: "it is pinned",
        TWO_ID: "it is llm's default model",
        "hf/local/own:F16": "its files were imported in place",
    }
    change_model(home, ONE_ID, pinned=0)
    twice.create_collection("work")
    twice.add_to_collection("work", ONE)
    shown = run("prune", "--larger", "1kB", "--keep", "work").stderr
    assert f"Kept {ONE_ID}: it is in the collection work." in shown
    assert shown.endswith("No model is removed.\n")


def test_model_that_was_used_after_the_plan_is_kept(twice: Library, home: Home) -> None:
    plan = twice.plan_pruning(larger_bytes=1)
    change_model(home, ONE_ID, last_used=time.time())
    done = twice.prune(plan)
    assert [each.id for each in done.models] == [TWO_ID]
    assert [(each.id, each.reason) for each in done.kept] == [(ONE_ID, "it was used after the plan was made")]
    assert [model.id for model in twice.list()] == [ONE_ID]


# Linking identical files


def test_identical_files_are_linked_and_stay_verified(twice: Library, size: int) -> None:
    one, two = get_blob(twice, ONE), get_blob(twice, TWO)
    planned = twice.plan_deduplication()
    assert (planned.freed_bytes, planned.done, one.samefile(two)) == (size, False, False)
    done = twice.deduplicate()
    assert ([each.replaced for each in done.files], done.freed_bytes) == ([planned.files[0].replaced], size)
    assert one.samefile(two)
    assert [model.state for model in twice.list()] == ["ready", "ready"]
    assert all(twice.verify(name).matches for name in (ONE, TWO))
    assert twice.deduplicate().files == ()
    assert "No file is stored twice." in run("dedupe").stderr


@pytest.mark.parametrize("removed", [ONE, TWO])
def test_hf_cache_commands_leave_the_other_repo_intact(twice: Library, hub: HubServer, removed: str) -> None:
    content = get_blob(twice, ONE).read_bytes()
    twice.deduplicate()
    kept = TWO if removed == ONE else ONE
    assert "Nothing to prune" in run_hf("cache", "prune", "-y").stdout
    assert removed in run_hf("cache", "ls").stdout
    assert run_hf("cache", "rm", f"model/{removed}", "-y").returncode == 0
    assert get_blob(twice, kept).read_bytes() == content
    assert run_hf("cache", "verify", kept, hub=hub).returncode == 0
    assert twice.verify(kept).matches


def test_removing_one_model_keeps_the_other_verified(twice: Library) -> None:
    twice.deduplicate()
    assert twice.remove(ONE).freed_bytes == 0
    (model,) = twice.list()
    assert (model.id, model.state) == (TWO_ID, "ready")


def test_kill_after_the_link_leaves_a_model_that_is_hashed_again(
    twice: Library, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_hf_models.disk_space.dedupe.sync_folder", stop)  # the step right after the rename
    with suppress(KeyboardInterrupt):
        twice.deduplicate()
    assert get_blob(twice, ONE).samefile(get_blob(twice, TWO))
    with Database(home.llm / "hf/library.db") as db:
        models: list[LocalModel] = db.list_models()
    assert {file.compare_with_disk() for model in models for file in model.files} <= {"other ctime", "as recorded"}
    assert list((home.cache / ".locks/llm-hf").glob("*.tmp")) == []


def test_file_with_other_content_than_its_name_is_not_linked(twice: Library) -> None:
    blob = get_blob(twice, TWO)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    done = twice.deduplicate()
    assert ([each.path for each in done.skipped], done.files) == ([str(done.skipped[0].path)], ())
    assert "does not match its name" in done.skipped[0].reason
    assert blob.read_bytes() == content


def test_file_that_is_being_downloaded_is_not_replaced(twice: Library, home: Home) -> None:
    (planned,) = twice.plan_deduplication().files
    replaced = Path(planned.replaced)
    lock = home.cache / ".locks" / replaced.parents[1].name / f"{replaced.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    with lock_download(replaced) as is_locked:
        assert is_locked
        assert [each.reason for each in twice.deduplicate().skipped] == ["it is being downloaded"]
    assert len(twice.deduplicate().files) == 1


def test_files_with_different_readers_are_not_linked(twice: Library, size: int) -> None:
    get_blob(twice, ONE).chmod(0o640)
    get_blob(twice, TWO).chmod(0o604)
    done = twice.deduplicate()
    assert (done.freed_bytes, done.skipped[0].reason) == (0, "the other file has another owner, group or mode")
    get_blob(twice, TWO).chmod(0o644)  # its readers include those of the other file
    assert twice.deduplicate().freed_bytes == size
    assert [model.state for model in twice.list()] == ["ready", "ready"]


def test_blob_in_the_shared_store_is_linked_and_not_replaced(twice: Library, home: Home, size: int) -> None:
    blob, payload = get_blob(twice, ONE), home.cache / f"blobs/ab/ab{'0' * 62}"
    payload.parent.mkdir(parents=True)
    (home.cache / "blobs/.huggingface-shared-blobs").write_text("1\n")
    blob.rename(payload)
    payload.with_name(f"{payload.name}.refs").write_text(f"{blob.relative_to(home.cache).as_posix()}\n")
    blob.symlink_to(os.path.relpath(payload, blob.parent))
    os.utime(payload, ns=(0, payload.stat().st_mtime_ns))
    done = twice.deduplicate()
    assert blob.is_symlink()
    assert (done.freed_bytes, get_blob(twice, TWO).samefile(payload)) == (size, True)
    assert run_hf("cache", "rm", f"model/{ONE}", "-y").returncode == 0
    assert not payload.exists()
    assert twice.verify(TWO).matches


def test_pull_uses_a_file_of_another_repo_without_downloading_it(hub: HubServer, size: int) -> None:
    library = Library()
    library.pull(ONE)
    hub.forget_requests()
    library.pull(TWO)
    assert not [request for request in hub.requests if "other-Q4_K_M.gguf" in str(request) and "GET" in str(request)]
    assert library.get_disk_usage().size_bytes == size
