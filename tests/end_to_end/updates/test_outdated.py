"""What changed on the Hub since local models were pulled, with few requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.updates.types import OutdatedModel
from tests.support import new_versions
from tests.support.commands import run, run_json
from tests.support.ggufs import tiny_chat, tiny_mmproj
from tests.support.hub_server import Headers, HubServer, Status
from tests.support.new_versions import CARD, MODEL, Q4, Q8, REPO, Change, Origin

origin = new_versions.origin


def compare_one(name: str = MODEL) -> OutdatedModel:
    (row,) = Library().outdated([name]).models
    return row


def change_weights(origin: Origin) -> None:
    origin.change(Q4, origin.make_weights())


def move_weights(origin: Origin) -> None:
    origin.files["Q4_K_M/renamed-Q4_K_M.gguf"] = origin.files[Q4]
    origin.commit(Q4)


def rename_quantization(origin: Origin) -> None:
    origin.files["tiny-UD-Q4_K_XL.gguf"] = origin.files[Q4]
    origin.commit(Q4)


def add_projector(origin: Origin) -> None:
    origin.change("mmproj-F16.gguf", tiny_mmproj(origin.folder / "mmproj-F16.gguf"))


def force_push(origin: Origin) -> None:
    (old,) = origin.hub.list_repos()
    origin.hub.remove_repo(REPO)
    origin.change(CARD, "another history")
    assert old.commit not in {repo.commit for repo in origin.hub.list_repos()}


CHANGES: dict[str, tuple[Change, str, tuple[str, ...], str]] = {
    "nothing": (lambda origin: origin, "up to date", (), ""),
    "card": (lambda origin: origin.change(CARD, "two"), "card", (CARD,), ""),
    "other quant": (lambda origin: origin.change(Q8, origin.make_weights()), "other files", (Q8,), ""),
    "weights": (change_weights, "new files", (Q4,), ""),
    "moved": (move_weights, "other files", ("Q4_K_M/renamed-Q4_K_M.gguf", Q4), ""),
    "same bytes under another name": (rename_quantization, "other files", (Q4, "tiny-UD-Q4_K_XL.gguf"), ""),
    "new projector": (add_projector, "new files", ("mmproj-F16.gguf",), ""),
    "removed quant": (lambda origin: origin.commit(Q4), "removed", (), "it has Q8_0"),
    "no model": (lambda origin: origin.commit(Q4, Q8), "removed", (), "it has no GGUF model"),
    "gated": (lambda origin: origin.commit(gated="manual"), "gated", (), "is gated and requires a token"),
    "deleted": (lambda origin: origin.hub.remove_repo(REPO), "unavailable", (), "no public repo owner/tiny-GGUF"),
    "private": (
        lambda origin: origin.hub.change_repo(origin.hub.list_repos()[0], private=True),
        "unavailable",
        (),
        "no public repo",
    ),
    "force-pushed": (force_push, "other files", (), ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_on_the_hub_has_its_own_status(origin: Origin, change: str) -> None:
    make, status, files, note = CHANGES[change]
    make(origin)
    row = compare_one()
    assert (row.status, row.files) == (status, files), row.note
    assert note in (row.note or "")
    missing = sum(len(Path(str(origin.files[path])).read_bytes()) for path in files) if status == "new files" else 0
    assert row.fetch_bytes == missing
    assert row.new_commit == (
        None if status in ("gated", "unavailable", "unknown") else origin.hub.list_repos()[0].commit
    )


def test_unchanged_repo_costs_one_request_however_many_variants(origin: Origin) -> None:
    Library().pull(f"{REPO}:Q8_0")
    origin.hub.forget_requests()
    assert {row.status for row in Library().outdated().models} == {"up to date"}
    assert [(request.method, request.path) for request in origin.hub.requests] == [
        ("HEAD", f"/{REPO}/resolve/main/{Q8}")
    ]
    change_weights(origin)
    origin.hub.forget_requests()
    assert {row.id: row.status for row in Library().outdated().models} == {
        MODEL: "new files", f"hf/{REPO}:Q8_0": "other files",
    }  # fmt: skip
    assert len(origin.hub.requests) == 3  # the commit, the list of files, and once the earlier list of files
    origin.hub.forget_requests()
    Library().outdated()
    assert len(origin.hub.requests) == 2


def test_renamed_repo_is_reported_with_its_new_name(origin: Origin) -> None:
    origin.hub.rename_repo(REPO, "owner/renamed-GGUF")
    assert (compare_one().status, compare_one().renamed_to) == ("up to date", "owner/renamed-GGUF")
    origin.files[CARD] = "two"
    origin.hub.add_repo("owner/renamed-GGUF", origin.files)
    assert (compare_one().status, compare_one().renamed_to) == ("card", "owner/renamed-GGUF")


def test_models_that_follow_no_branch_are_not_asked_about(origin: Origin) -> None:
    commit = origin.hub.list_repos()[0].commit
    Library().pull(f"{REPO}@{commit}:Q8_0")
    Library().import_file(tiny_chat(origin.folder / "own.gguf"))
    Library().pin(MODEL)
    change_weights(origin)
    origin.hub.forget_requests()
    assert {row.id: row.status for row in Library().outdated().models} == {
        MODEL: "pinned", f"hf/{REPO}@{commit}:Q8_0": "up to date", "hf/local/own:F16": "not tracked",
    }  # fmt: skip
    assert origin.hub.requests == []
    (row,) = Library().outdated([MODEL], include_pinned=True).models
    assert (row.status, row.pinned) == ("new files", True)


def test_tag_is_compared_with_the_tag(origin: Origin) -> None:
    (repo,) = origin.hub.list_repos()
    origin.hub.change_repo(repo, revisions=("main", "v1"))
    Library().pull(f"{REPO}@v1:Q4_K_M")
    change_weights(origin)
    states = {row.id: row.status for row in Library().outdated().models}
    assert states == {f"hf/{REPO}@v1:Q4_K_M": "up to date", MODEL: "new files"}


def test_offline_mode_is_reported_with_the_cached_answer(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    change_weights(origin)
    assert compare_one().status == "new files"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    origin.hub.forget_requests()
    done = run("outdated")
    assert "new files" in done.stdout
    assert "The Hub was not asked: Offline mode is on" in done.stderr
    assert origin.hub.requests == []


def test_hub_that_is_away_is_asked_only_a_few_times(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = Library().outdated()
    assert [row.status for row in found.models] == ["unknown"]
    assert origin.hub.requests == []


def test_rate_limit_is_waited_for_once_and_told(origin: Origin) -> None:
    origin.hub.fault(Status(429, headers={"Retry-After": "1"}), method="HEAD", times=1)
    notes: list[str] = []
    (row,) = Library(notify=notes.append).outdated().models
    assert row.status == "up to date"
    assert notes == ["Rate limited by " + origin.hub.endpoint.partition("://")[2] + ": continuing in 1 s"]
    origin.hub.fault(Status(429, headers={"Retry-After": "9000"}), method="HEAD", times=None)
    found = Library(notify=notes.append).outdated()
    assert [(row.status, row.stale) for row in found.models] == [("up to date", True)]
    assert "Rate limited" in str(found.problem)


def test_used_up_rate_limit_pauses_the_next_request(origin: Origin) -> None:
    headers = {"X-Repo-Commit": "f" * 40, "RateLimit": '"resolvers";r=0;t=1'}
    origin.hub.fault(Status(200, headers=headers), method="HEAD")
    notes: list[str] = []
    (row,) = Library(notify=notes.append).outdated().models
    assert row.status == "up to date"
    assert notes == ["Rate limited by the Hub: continuing in 1 s"]


def test_mirror_without_the_commit_is_asked_for_the_list_of_files(origin: Origin) -> None:
    change_weights(origin)
    origin.hub.fault(Headers({"X-Repo-Commit": ""}), method="HEAD", times=None)
    assert compare_one().status == "new files"


def test_broken_hub_is_told_with_the_cached_answer_and_prevents_updates(origin: Origin) -> None:
    change_weights(origin)
    origin.hub.fault(Status(500), times=None)
    found = Library().outdated()
    assert "HTTP 500" in str(found.problem)
    assert [(row.status, row.stale) for row in found.models] == [("up to date", True)]
    (planned,) = Library().plan_update().models
    assert planned.action == "refuse"
    assert "HTTP 500" in planned.reason


@pytest.mark.usefixtures("origin")
def test_outdated_prints_a_table_json_and_ids(origin: Origin) -> None:
    change_weights(origin)
    done = run("outdated")
    assert "new files" in done.stdout
    assert "1 model with new files. Update them: llm hf update --all" in done.stderr
    (row,) = run_json("outdated")["models"]
    assert (row["id"], row["status"], row["checked"][-1]) == (MODEL, "new files", "Z")
    assert run("outdated", "-q").stdout.strip() == MODEL
    assert "There is no local model" in run("outdated", "nothing", code=1).stderr
    run("pin", MODEL)
    pinned = run("outdated", "--all").stderr
    assert "pinned, which updates skip" in pinned
    assert "llm hf update" not in pinned


def test_projector_that_was_left_out_stays_left_out(origin: Origin) -> None:
    add_projector(origin)
    hub: HubServer = origin.hub
    run("pull", f"{REPO}:Q8_0", "--no-mmproj")
    origin.change(CARD, "three")
    hub.forget_requests()
    assert compare_one(f"hf/{REPO}:Q8_0").status == "card"
