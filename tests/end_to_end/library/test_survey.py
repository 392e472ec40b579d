"""Which local models have updates, and how much space removing them frees, with a real Hub and a real cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_hf_models.models.types import LocalModelView
from llm_hf_models.service import Library
from tests.support.commands import run, run_json
from tests.support.ggufs import tiny_chat, tiny_mmproj
from tests.support.hub_server import HubServer, Stall, Status

REPO = "owner/tiny-GGUF"
Q4, Q8 = "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with one repo. Its responses are not reused."""
    with HubServer() as hub:
        hub.add_repo(REPO, {Q4: tiny_chat(tmp_path / Q4), Q8: tiny_chat(tmp_path / Q8, seed=1), "README.md": "one"})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("LLM_HF_METADATA_LIFETIME_SECONDS", "0")
        yield hub


def find_model(name: str = f"hf/{REPO}:Q4_K_M") -> LocalModelView:
    return next(model for model in Library().survey().models if model.id == name)


def change_readme(hub: HubServer, folder: Path) -> None:
    hub.add_repo(REPO, {Q4: folder / Q4, "README.md": "two"})


def change_weights(hub: HubServer, folder: Path) -> None:
    hub.add_repo(REPO, {Q4: tiny_chat(folder / "new.gguf", seed=7)})


def move_weights(hub: HubServer, folder: Path) -> None:
    hub.add_repo(REPO, {f"Q4_K_M/{Q4}": folder / Q4})


def replace_weights(hub: HubServer, folder: Path) -> None:
    hub.add_repo(REPO, {"tiny-v2-Q4_K_M.gguf": tiny_chat(folder / "new.gguf", seed=7)})


def remove_repo(hub: HubServer, folder: Path) -> None:  # noqa: ARG001
    hub.remove_repo(REPO)


def break_hub(hub: HubServer, folder: Path) -> None:  # noqa: ARG001
    hub.fault(Status(503), on="/api/models", times=None)


CHANGES: dict[str, tuple[Callable[[HubServer, Path], None], bool | None, str]] = {
    "readme": (change_readme, False, ""),
    "weights": (change_weights, True, ""),
    "moved": (move_weights, False, ""),
    "renamed": (replace_weights, None, f"the repo no longer has {Q4}"),
    "gone": (remove_repo, None, REPO),
    "broken": (break_hub, None, "503"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_update_is_found_by_the_digests_of_the_files(hub: HubServer, tmp_path: Path, change: str) -> None:
    Library().pull(f"{REPO}:Q4_K_M")
    assert find_model().update_available is False
    make, available, note = CHANGES[change]
    make(hub, tmp_path)
    found = find_model()
    assert (found.update_available, note in (found.update_note or "")) == (available, True)
    assert (found.update_note is None) == (available is not None)


@pytest.mark.usefixtures("hub")
def test_models_that_follow_no_branch_have_a_reason(tmp_path: Path, hub: HubServer) -> None:
    commit = hub.list_repos()[0].commit
    Library().pull(f"{REPO}@{commit}:Q4_K_M")
    Library().import_file(tiny_chat(tmp_path / "own.gguf"), aliases=["own"])
    change_weights(hub, tmp_path)
    states = {model.id: (model.update_available, model.update_note) for model in Library().survey().models}
    assert states == {
        f"hf/{REPO}@{commit}:Q4_K_M": (False, None),
        "hf/local/own:F16": (None, "imported, without a repo"),
    }


def test_pull_of_an_update_ends_it(hub: HubServer, tmp_path: Path) -> None:
    library = Library()
    library.pull(f"{REPO}:Q4_K_M")
    change_weights(hub, tmp_path)
    survey = library.survey()
    assert (survey.outdated, survey.unknown) == (1, 0)
    (row,) = library.search("tiny").results
    assert row.update_available is True
    states = {variant.quant: variant.update_available for variant in library.info(REPO).variants}
    assert states == {"Q4_K_M": True}
    library.pull(f"{REPO}:Q4_K_M")
    assert find_model().update_available is False
    (row,) = library.search("tiny").results
    assert (row.update_available, library.info(REPO).variants[0].update_available) == (False, False)
    new, old = (repo.commit for repo in hub.list_repos())
    for commit, available, note in ((new, False, None), (old, None, "the local model is of another revision")):
        variant = next(each for each in library.info(REPO, revision=commit).variants if each.local_model)
        assert (variant.update_available, variant.update_note) == (available, note)


def test_offline_mode_leaves_updates_unknown(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    Library().pull(f"{REPO}:Q4_K_M")
    hub.forget_requests()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_model().update_note == "Offline mode is on (HF_HUB_OFFLINE)"
    assert not hub.requests


def test_silent_hub_is_asked_once_and_with_a_time_limit(hub: HubServer) -> None:
    Library().pull(f"{REPO}:Q4_K_M")
    hub.fault(Stall(), on="/api/models", times=None)
    start = time.monotonic()
    assert find_model().update_note == "no answer within 3 s"
    assert time.monotonic() - start < 6
    hub.forget_requests()
    start = time.monotonic()
    assert find_model().update_note == "the Hub did not answer a moment ago"
    assert time.monotonic() - start < 2
    assert not hub.requests


@pytest.mark.usefixtures("hub")
def test_fresh_responses_are_not_requested_again(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_METADATA_LIFETIME_SECONDS", "300")
    Library().pull(f"{REPO}:Q4_K_M")
    hub.forget_requests()
    assert find_model().update_available is False
    assert not hub.requests


def test_shared_files_are_freed_once_and_with_their_last_user(hub: HubServer, tmp_path: Path) -> None:
    weights, projector = tmp_path / Q4, tiny_mmproj(tmp_path / "mmproj-F16.gguf")
    files: dict[str, bytes | str | Path] = {Q4: weights, Q8: tmp_path / Q8, projector.name: projector}
    hub.add_repo("a/tiny-GGUF", files)
    hub.add_repo("b/tiny-GGUF", {Q4: weights})
    library = Library()
    for ref in ("a/tiny-GGUF:Q4_K_M", "a/tiny-GGUF:Q8_0", "b/tiny-GGUF:Q4_K_M"):
        library.pull(ref)
    own = tiny_chat(tmp_path / "own.gguf")
    library.import_file(own)
    survey = library.survey()
    sizes = {path: path.stat().st_size for path in (weights, tmp_path / Q8, projector, own)}
    freed = {model.id: model.freed_bytes for model in survey.models}
    # The two copies of Q4_K_M are one file with two names, and the projector belongs to two models.
    assert freed == {
        "hf/a/tiny-GGUF:Q4_K_M": 0,
        "hf/a/tiny-GGUF:Q8_0": sizes[tmp_path / Q8],
        "hf/b/tiny-GGUF:Q4_K_M": 0,
        "hf/local/own:F16": 0,
    }
    assert survey.size_bytes == sum(sizes.values())
    assert survey.freed_bytes == survey.size_bytes - sizes[own]
    assert library.survey("b/tiny").freed_bytes == 0
    for name, expected in (
        ("hf/b/tiny-GGUF:Q4_K_M", 0),
        ("hf/a/tiny-GGUF:Q8_0", sizes[tmp_path / Q8]),
        ("hf/a/tiny-GGUF:Q4_K_M", sizes[weights] + sizes[projector]),
    ):
        assert find_model(name).freed_bytes == library.plan_removal(name).freed_bytes == expected
        assert library.remove(name).freed_bytes == expected


def test_list_shows_updates_and_freed_space(hub: HubServer, tmp_path: Path) -> None:
    Library().pull(f"{REPO}:Q4_K_M")
    change_weights(hub, tmp_path)
    done = run("list", "--updates")
    assert "available" in done.stdout
    assert "1 with an update, 0 unknown." in done.stdout
    (model,) = run_json("list", "--updates")["models"]
    assert (model["update_available"], model["freed_bytes"]) == (True, model["size_bytes"])
    (model,) = run_json("list")["models"]
    assert (model["update_available"], model["freed_bytes"]) == (None, None)
