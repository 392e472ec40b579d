"""Updates of local models: what is fetched, kept, tested and switched, and the way back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import InterruptedByUserError, NewVersionError, NotFoundError
from llm_hf_models.hub.cache_layout import cache_work_folder
from llm_hf_models.models.types import LocalModelView
from llm_hf_models.updates.types import UpdatedModel
from tests.conftest import Home
from tests.support import new_versions
from tests.support.commands import run, run_json, run_json_one, run_process
from tests.support.ggufs import tiny_chat, tiny_mmproj
from tests.support.hub_server import Reset, Stall
from tests.support.new_versions import CARD, MODEL, NEW_ANSWER, OLD_ANSWER, Q4, Q8, REPO, Origin

origin = new_versions.origin


@pytest.fixture(autouse=True)
def stop_engines(origin: Origin) -> Iterator[None]:  # noqa: ARG001
    yield
    Library().stop_engines()


def update_one(**options: bool) -> UpdatedModel:
    (done,) = Library().update([MODEL], **options).models
    return done


def show() -> LocalModelView:
    return Library().show(MODEL)


def answer() -> str:
    return Library().prompt(MODEL, "Hello").text


def list_blobs(home: Home) -> set[str]:
    return {path.name for path in home.cache.glob("models--*/blobs/*")}


def count_weights_sent(origin: Origin) -> int:
    return sum(request.sent for request in origin.hub.matching(".gguf", side="storage"))


def test_update_keeps_names_and_options_and_removes_old_files(origin: Origin, home: Home) -> None:
    library = Library()
    library.add_alias(MODEL, "walrus")
    library.set_options(MODEL, {"temperature": 0.5, "system": "Be brief", "template": "{{ messages[0].content }}"})
    library.set_options(MODEL, {}, unset=["template"])
    old, blobs = show(), list_blobs(home)
    assert answer() == OLD_ANSWER
    origin.change(Q4, origin.make_weights())
    done = update_one()
    assert (done.outcome, done.previous_commit) == ("updated", old.commit)
    new = show()
    assert (new.aliases, new.options, new.state) == (old.aliases, old.options, "ready")
    assert new.commit == done.commit == origin.hub.list_repos()[0].commit
    assert [check.result for check in new.checks if check.kind == "load_test"] == ["loads"]
    assert answer() == NEW_ANSWER
    assert list_blobs(home).isdisjoint(blobs)
    assert [(each.commit, each.state, each.on_disk) for each in new.other_versions] == [(old.commit, "replaced", False)]
    assert library.outdated().outdated == 0
    assert update_one().outcome == "up to date"


def test_only_changed_files_are_fetched(origin: Origin) -> None:
    shards = origin.folder / "m-Q5_K_M.gguf"
    tiny_chat(shards, seed=1, shards=3, weights_bytes=300_000)
    paths = sorted(origin.folder.glob("*-of-00003.gguf"))
    origin.files = {path.name: path for path in paths}
    origin.commit()
    library = Library()
    model = library.pull(f"{REPO}:Q5_K_M").id
    other = origin.folder / "other"
    other.mkdir()
    tiny_chat(other / "m-Q5_K_M.gguf", seed=9, shards=3, weights_bytes=300_000)
    changed = sorted(other.iterdir())[1]
    origin.files[changed.name] = changed
    origin.commit()
    plan = library.plan_update([str(model)])
    (planned,) = plan.models
    assert planned.fetch_bytes == changed.stat().st_size
    assert planned.reused_bytes == sum(path.stat().st_size for path in paths) - paths[1].stat().st_size
    origin.hub.forget_requests()
    (done,) = library.update(plan).models
    assert done.fetched_bytes == changed.stat().st_size
    assert library.verify(str(model)).matches


@pytest.mark.parametrize("change", ["card", "moved", "renamed quant"])
def test_same_bytes_are_never_fetched_again(origin: Origin, change: str) -> None:
    if change == "card":
        origin.change(CARD, "two")
    else:
        origin.files[f"new/{Q4}" if change == "moved" else "tiny-UD-Q4_K_XL.gguf"] = origin.files[Q4]
        origin.commit(Q4)
    done = update_one()
    assert (done.outcome, done.fetched_bytes) == ("updated", 0)
    after = show()
    assert (after.commit, after.state, after.quant) == (origin.hub.list_repos()[0].commit, "ready", "Q4_K_M")
    assert update_one().outcome == "up to date"
    assert answer() == OLD_ANSWER


def test_new_projector_is_added(origin: Origin) -> None:
    origin.change("mmproj-F16.gguf", tiny_mmproj(origin.folder / "mmproj-F16.gguf"))
    size = (origin.folder / "mmproj-F16.gguf").stat().st_size
    (planned,) = Library().plan_update().models
    assert (planned.fetch_bytes, planned.freed_bytes) == (size, 0)
    assert update_one().outcome == "updated"
    assert [file.role for file in show().files] == ["weights", "mmproj"]


def test_renamed_repo_updates_under_the_same_id(origin: Origin) -> None:
    origin.hub.rename_repo(REPO, "owner/renamed-GGUF")
    origin.files[Q4] = origin.make_weights()
    origin.hub.add_repo("owner/renamed-GGUF", origin.files)
    assert update_one().outcome == "updated"
    assert (show().id, show().repo, show().state) == (MODEL, "owner/renamed-GGUF", "ready")


def test_version_that_does_not_load_is_refused_and_the_old_one_answers(origin: Origin, home: Home) -> None:
    old = show()
    broken = origin.make_unloadable_weights()
    origin.change(Q4, broken)
    done = run("update", MODEL, "-y", code=1)
    assert "load test" in done.stderr
    assert f"llm hf pin {MODEL}" in " ".join(done.stderr.split())
    assert (show().commit, show().state) == (old.commit, "ready")
    assert answer() == OLD_ANSWER
    (refused,) = show().other_versions
    assert (refused.state, refused.on_disk) == ("refused", True)
    assert "its load test failed" in run("show", MODEL).stdout
    origin.hub.forget_requests()
    assert update_one().outcome == "failed"
    assert count_weights_sent(origin) == 0
    with pytest.raises(NotFoundError, match="no earlier version"):
        Library().rollback(MODEL)
    assert "version" in run("gc", "--dry-run").stdout
    assert [file.kind for file in Library().gc().files] == ["version"]
    assert len(list_blobs(home)) == 1
    origin.change(Q4, origin.make_weights())
    assert update_one().outcome == "updated"
    assert [each.state for each in show().other_versions] == ["replaced"]


def test_invalid_or_unsafe_version_is_refused_in_the_plan(origin: Origin) -> None:
    origin.hub.report(origin.change(Q4, origin.make_weights()), Q4, "unsafe", virusTotalScan="unsafe")
    (planned,) = Library().plan_update().models
    assert planned.action == "refuse"
    assert "unsafe" in planned.reason
    assert update_one().outcome == "failed"
    origin.change(Q4, b"GGUF\x03\0\0\0" + b"\xff" * 64)
    (planned,) = Library().plan_update().models
    assert planned.action == "refuse"
    assert answer() == OLD_ANSWER


def test_running_engine_of_the_old_version_ends_after_its_work(origin: Origin) -> None:
    library = Library()
    assert answer() == OLD_ANSWER
    (engine,) = library.list_engines()
    origin.change(Q4, origin.make_weights())
    update_one()
    assert [each.keep_alive_seconds for each in library.list_engines() if each.pid == engine.pid] in ([0], [])
    assert answer() == NEW_ANSWER
    assert engine.pid not in {each.pid for each in library.list_engines() if each.keep_alive_seconds}


def test_kept_version_survives_cleanups_and_comes_back_offline(
    origin: Origin, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, old = Library(), show()
    origin.change(Q4, origin.make_weights())
    assert update_one(keep_old=True).outcome == "updated"
    assert library.gc().files == ()
    assert any("another version" in item.description for item in library.list_stored_files())
    run_process("hf", "cache", "prune", "-y", "--cache-dir", home.cache)
    assert [(each.commit, each.state, each.on_disk) for each in show().other_versions] == [(old.commit, "kept", True)]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert library.rollback(MODEL, keep_old=True).fetched_bytes == 0
    assert (show().commit, show().state, show().checks[-1]) == (old.commit, "ready", show().checks[-1])
    assert answer() == OLD_ANSWER
    assert library.rollback(MODEL).commit == origin.hub.list_repos()[0].commit
    assert answer() == NEW_ANSWER


def test_rollback_fetches_removed_files_again_at_their_commit(origin: Origin) -> None:
    old = show()
    origin.change(Q4, origin.make_weights())
    update_one()
    plan = Library().plan_rollback(MODEL)
    assert plan.fetch_bytes == old.size_bytes
    assert "to download again" in run("rollback", MODEL, "--dry-run").stdout
    assert "no answer was given" in run("rollback", MODEL, code=2).stderr
    done = run_json("rollback", MODEL, "-y")
    assert (done["outcome"], done["commit"], done["fetched_bytes"]) == ("rolled back", old.commit, old.size_bytes)
    assert (show().state, answer()) == ("ready", OLD_ANSWER)
    assert "has no earlier version" in run("rollback", MODEL, "--to", "abcdef", code=1).stderr


def test_rollback_to_a_commit_that_is_gone_changes_nothing(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())
    update_one()
    new = show()
    current = origin.hub.list_repos()[0]
    origin.hub.remove_repo(REPO)
    origin.hub.add_repo(REPO, origin.files)
    with pytest.raises(NotFoundError) as caught:
        Library().rollback(MODEL)
    assert "keep-old" in str(caught.value.hint)
    assert show().commit == new.commit == current.commit


def test_removal_counts_and_removes_kept_versions(origin: Origin, home: Home) -> None:
    library, old = Library(), show()
    library.pull(f"{REPO}:Q8_0")
    origin.change(Q4, origin.make_weights())
    update_one(keep_old=True)
    both = show().size_bytes + old.size_bytes
    assert library.plan_removal(MODEL).freed_bytes == both
    (row,) = (row for row in library.survey().models if row.id == MODEL)
    assert row.freed_bytes == both
    assert library.remove(MODEL).freed_bytes == both
    assert len(list_blobs(home)) == 1
    assert library.show(f"hf/{REPO}:Q8_0").state == "ready"


def test_files_of_another_model_stay_after_an_update(origin: Origin) -> None:
    library = Library()
    commit = origin.hub.list_repos()[0].commit
    other = library.pull(f"{REPO}@{commit}:Q4_K_M").id
    origin.change(Q4, origin.make_weights())
    assert update_one().outcome == "updated"
    assert library.show(str(other)).state == "ready"
    assert library.gc().files == ()


def test_pinned_model_is_skipped_and_says_so(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())
    assert "is pinned" in run("pin", MODEL).stderr
    assert show().pinned
    assert "Pinned" in run("show", MODEL).stdout
    assert run_json("list")["models"][0]["pinned"]
    done = run("update", "--all", "-y")
    assert "skipped: pinned" in done.stderr
    assert run_json("outdated")["models"][0]["status"] == "pinned"
    assert not run_json_one("pin", MODEL, "--unpin")["pinned"]
    assert run_json("update", MODEL, "-y")["updated"] == 1


def test_pull_of_a_pinned_model_restores_its_commit(origin: Origin) -> None:
    old = show()
    run("pin", MODEL)
    origin.change(Q4, origin.make_weights())
    Path(old.files[0].location).unlink()
    assert show().state == "missing"
    done = run("pull", f"{REPO}:Q4_K_M")
    assert "is pinned" in done.stderr
    assert (show().commit, show().state, show().pinned) == (old.commit, "ready", True)
    assert answer() == OLD_ANSWER


def test_collection_is_compared_and_updated(origin: Origin) -> None:
    library = Library()
    library.pull(f"{REPO}:Q8_0")
    run("collection", "create", "small")
    run("collection", "create", "empty")
    run("collection", "add", "small", MODEL)
    origin.files[Q8] = origin.make_weights(seed=4)
    origin.change(Q4, origin.make_weights())
    assert [row["id"] for row in run_json("outdated", "--collection", "small")["models"]] == [MODEL]
    assert run_json("update", "--collection", "empty", "-y")["models"] == []
    assert [row["id"] for row in run_json("update", "--collection", "small", "-y")["models"]] == [MODEL]
    assert MODEL in {member.id for member in library.list_collection_members("small")}
    assert library.outdated([f"hf/{REPO}:Q8_0"]).outdated == 1


def test_update_shows_a_plan_and_asks(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())
    assert "Give either NAME, --collection or --all" in run("update", code=2).stderr
    dry = run("update", "--all", "--dry-run")
    assert "new files: " in dry.stdout
    assert run_json("update", "--all", "--dry-run")["models"][0]["action"] == "update"
    assert "no answer was given" in run("update", "--all", code=2).stderr
    assert show().commit != origin.hub.list_repos()[0].commit
    assert run("update", "--all", "-y", "-q").output == ""
    assert show().commit == origin.hub.list_repos()[0].commit


def test_version_whose_test_was_killed_leaves_with_the_next_one(origin: Origin, home: Home) -> None:
    """A kill during the load test can't be timed exactly, so its record is made here."""
    origin.change(Q4, origin.make_unloadable_weights())
    update_one()
    with Library()._context.open_database() as db:
        db.set_version_state(MODEL, show().other_versions[0].commit, "untested")
    assert Library().gc().files == ()
    assert "its load test has not ended" in run("show", MODEL).stdout
    with pytest.raises(NotFoundError):
        Library().rollback(MODEL)
    assert len(list_blobs(home)) == 2
    origin.change(Q4, origin.make_weights())
    assert update_one().outcome == "updated"
    assert [each.state for each in show().other_versions] == ["replaced"]
    assert len(list_blobs(home)) == 1


def test_failed_update_of_one_model_does_not_stop_the_others(origin: Origin) -> None:
    library = Library()
    library.pull(f"{REPO}:Q8_0")
    origin.files[Q4] = origin.make_unloadable_weights()
    origin.change(Q8, origin.make_weights(seed=3))
    outcomes = {each.id: each.outcome for each in library.update().models}
    assert outcomes == {MODEL: "failed", f"hf/{REPO}:Q8_0": "updated"}


def test_interrupted_update_leaves_the_old_version_and_continues(origin: Origin, home: Home) -> None:
    old = show()
    new = origin.make_weights()
    new = tiny_chat(origin.folder / "large.gguf", answer=NEW_ANSWER, weights_bytes=3_000_000)
    origin.change(Q4, new)
    plan, stop = Library().plan_update(), threading.Event()
    origin.hub.fault(Stall(after=500_000), on=Q4, side="storage", times=None)
    origin.hub.forget_requests()
    stopper = threading.Thread(
        target=lambda: (origin.hub.wait_until(lambda: count_weights_sent(origin) >= 400_000), stop.set())
    )
    stopper.start()
    with pytest.raises(InterruptedByUserError):
        Library().update(plan, stop=stop)
    stopper.join()
    origin.hub.clear()
    assert (show().commit, show().state) == (old.commit, "ready")
    assert any(cache_work_folder(home.cache).glob("*.part"))
    assert update_one().fetched_bytes < new.stat().st_size
    assert answer() == NEW_ANSWER


def test_broken_connection_is_resumed_during_an_update(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())
    plan = Library().plan_update()
    origin.hub.fault(Reset(after=50_000), on=Q4, side="storage", times=2)
    assert [each.outcome for each in Library().update(plan).models] == ["updated"]


def test_model_that_was_removed_meanwhile_is_not_restored(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())
    plan = Library().plan_update()
    Library().remove(MODEL)
    assert [each.outcome for each in Library().update(plan).models] == ["failed"]
    assert Library().list() == ()


def test_worker_updates_in_the_background(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())
    (planned,) = Library().plan_update().models
    assert planned.plan is not None
    row = Library().enqueue(planned.plan)
    events = list(Library().follow(row.id))
    assert events[-1].download.state == "done", events[-1]
    assert (show().commit, [each.state for each in show().other_versions]) == (planned.new_commit, ["replaced"])


def test_model_in_another_folder_is_compared_and_not_replaced(origin: Origin, tmp_path: Path) -> None:
    own = tmp_path / Q8
    own.write_bytes(Path(str(origin.files[Q8])).read_bytes())
    library = Library()
    model = library.import_file(own, repo=REPO).model.id
    origin.change(Q8, origin.make_weights(seed=6))
    assert [row.status for row in library.outdated([model]).models] == ["new files"]
    (planned,) = library.plan_update([model]).models
    assert planned.action == "skip"
    assert [each.outcome for each in library.update([model]).models] == ["skipped"]
    assert "only models in the cache are replaced" in planned.reason
    assert f"llm hf pull {REPO}:Q8_0" in str(planned.hint)


def test_error_of_the_load_test_names_both_commits(origin: Origin) -> None:
    old = show()
    origin.change(Q4, origin.make_unloadable_weights())
    (planned,) = Library().plan_update().models
    with pytest.raises(NewVersionError) as caught:
        Library().pull(replace(planned.plan))  # type: ignore[type-var]
    assert str(old.commit)[:12] in caught.value.message


def test_version_that_a_pull_returned_to_is_no_other_version(origin: Origin) -> None:
    old = show()
    new = origin.change(Q4, origin.make_weights()).commit
    update_one(keep_old=True)
    Library().rollback(MODEL, keep_old=True)
    assert [each.commit for each in show().other_versions] == [new]
    run("pull", f"{REPO}:Q4_K_M")
    assert (show().commit, show().other_versions) == (new, ())
    assert old.commit != new
    assert "has no earlier version" in run("rollback", MODEL, code=1).stderr


@pytest.mark.parametrize("reason", ["was pinned", "has another version"])
def test_update_that_was_planned_before_a_change_is_refused(origin: Origin, reason: str) -> None:
    origin.change(Q4, origin.make_weights())
    (planned,) = Library().plan_update().models
    assert planned.plan is not None
    if reason == "was pinned":
        Library().pin(MODEL)
    else:
        origin.change(Q4, origin.make_weights(seed=8))
        Library().pull(f"{REPO}:Q4_K_M")
    now = show().commit
    row = Library().enqueue(planned.plan)
    assert list(Library().follow(row.id))[-1].download.state == "failed"
    (failed,) = [each for each in Library().downloads() if each.id == row.id]
    assert reason in str(failed.error)
    with pytest.raises(NewVersionError, match=reason):
        Library().pull(planned.plan)
    assert (show().commit, show().state) == (now, "ready")


def test_update_that_is_stopped_after_its_last_byte_changes_nothing(origin: Origin, home: Home) -> None:
    old, stop = show(), threading.Event()
    origin.change(Q4, origin.make_weights())
    plan = Library().plan_update()
    with pytest.raises(InterruptedByUserError):
        Library().update(plan, progress=lambda event: stop.set() if event.kind == "done" else None, stop=stop)
    assert (show().commit, show().state) == (old.commit, "ready")
    assert answer() == OLD_ANSWER
    assert Library().gc().files == (), "the update may continue"
    run("cancel", "--all")
    assert "its update was cancelled" in run("show", MODEL).stdout
    Library().gc()
    assert len(list_blobs(home)) == 1
    assert update_one().outcome == "updated"


def test_update_of_no_models_says_so(origin: Origin) -> None:  # noqa: ARG001
    run("rm", MODEL, "-y")
    assert "No models yet" in run("update", "--all", "-y").stderr
