"""A second machine takes the bytes from a mirror or from an exported folder, and proves them against the lockfile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import lockfiles
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.support.lockfiles import REPO, SPLIT, SPLIT_ID, TINY_ID, read_content, run_mirror, use_machine

MINE_ID = "hf/local/mine:Q8_0"


hub = lockfiles.hub


@pytest.fixture
def lockfile(hub: HubServer, tmp_path: Path) -> Path:
    """Pull two models and import one on the first machine, and lock them."""
    del hub
    run("pull", REPO, SPLIT, "-q")
    run("import", tiny_chat(tmp_path / "mine-Q8_0.gguf", seed=5), "-q")
    run("set", "mine", "temperature", "0.5")
    path = tmp_path / "models.lock.toml"
    run("lock", "-o", path)
    return path


def check_second_machine(lockfile: Path, first: dict[str, bytes], cache: Path) -> None:
    """Check that a machine has the bytes of the first one, and makes the same lockfile."""
    found = read_content(cache)
    assert {path: found.get(path) for path in first} == first
    run("sync", lockfile, "--check")
    again = lockfile.with_name("second.lock.toml")
    run("lock", "-o", again)
    run("lock", "--diff", lockfile, again)
    states = {model["id"]: model["state"] for model in run_json("list")["models"]}
    assert states == {TINY_ID: "ready", SPLIT_ID: "ready", MINE_ID: "unverified"}, "nobody compared an import"


def test_mirror_reproduces_the_first_machine_byte_for_byte(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_content(Path(os.environ["HF_HUB_CACHE"]))
    with run_mirror("--allow", "local/mine") as address:
        cache = use_machine(monkeypatch, tmp_path / "second")
        hub.forget_requests()
        run("sync", lockfile, "--from", address)
        assert hub.requests == [], "the Hub is not asked"
        check_second_machine(lockfile, first, cache)


def test_folder_reproduces_the_first_machine_without_a_network(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, disk = read_content(Path(os.environ["HF_HUB_CACHE"])), tmp_path / "disk"
    done = run_json("export", disk)
    assert (done["models"], done["files"], done["copied_bytes"] > 0, done["left_out"]) == (3, 5, True, [])
    assert run_json("export", disk)["copied_bytes"] == 0, "a repeated export copies nothing"
    assert (disk / "models.lock.toml").read_text() == lockfile.read_text()
    cache = use_machine(monkeypatch, tmp_path / "second")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.forget_requests()
    run("sync", disk / "models.lock.toml", "--from", disk)
    assert hub.requests == []
    check_second_machine(lockfile, first, cache)


def test_exported_folder_is_served_by_the_mirror(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, disk = read_content(Path(os.environ["HF_HUB_CACHE"])), tmp_path / "disk"
    run("export", disk)
    cache = use_machine(monkeypatch, tmp_path / "second")
    hub.forget_requests()
    with run_mirror("--from", disk, "--allow", "local/mine") as address:
        run("sync", lockfile, "--from", address)
        check_second_machine(lockfile, first, cache)
    assert hub.requests == []


def test_damaged_folder_registers_nothing_of_the_model(
    lockfile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    run("export", disk)
    weights = next(disk.rglob("tiny-Q8_0.gguf"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    next(disk.rglob("*-00002-of-00003.gguf")).unlink()
    use_machine(monkeypatch, tmp_path / "second")
    failed = run("sync", lockfile, "--from", disk, code=1)
    assert f"{weights} is not tiny-Q8_0.gguf of {REPO}" in failed.stderr
    assert "-00002-of-00003.gguf of" in failed.stderr
    assert [model["id"] for model in run_json("list")["models"]] == [MINE_ID]
    assert "is not an exported folder" in run("sync", lockfile, "--from", tmp_path / "repos", code=1).stderr
    assert "can't be read" in run("mirror", "--from", tmp_path / "repos", code=1).stderr


def test_mirror_receives_no_token_of_the_hub(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.add_token())
    with HubServer() as mirror:
        for repo in hub.list_repos():
            mirror.add_repo(repo.id, {file.path: file.location for file in repo.files})
        monkeypatch.setattr(mirror, "_repos", hub.list_repos())
        use_machine(monkeypatch, tmp_path / "second")
        run("sync", lockfile, "--from", mirror.endpoint, code=1)  # the import is not on this mirror
        assert {model["id"] for model in run_json("list")["models"]} == {TINY_ID, SPLIT_ID}
        assert mirror.requests
        assert not any("authorization" in map(str.lower, request.headers) for request in mirror.requests)


def test_import_without_a_source_is_named(lockfile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_machine(monkeypatch, tmp_path / "second")
    failed = run("sync", lockfile, code=1)
    assert f"{MINE_ID} was imported from a file that is not on this machine" in failed.stderr
    run("import", tmp_path / "mine-Q8_0.gguf", "-q")
    run("sync", lockfile)
    assert run_json_one("show", "mine")["options"]["temperature"] == 0.5
