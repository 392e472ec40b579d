"""A digest counts as verified only if this user's own process hashed the file and it has not changed since."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models import Library, PullOptions
from llm_hf_models.agent_library import AgentLibrary
from llm_hf_models.errors import FileChangedError
from llm_hf_models.hub.cache_layout import cache_work_folder, repo_folder
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.library.database import Database
from llm_hf_models.paths import data_dir, library_path
from llm_hf_models.system.hashing import read_stamp
from llm_hf_models.transfer.types import Event
from tests.conftest import Home
from tests.support.cache_pulls import run_hf
from tests.support.commands import run, run_json, run_json_one, run_llm
from tests.support.ggufs import ANSWER, tiny_chat
from tests.support.hub_server import HubServer, run_hub

REPO, FILE = "owner/tiny-GGUF", "tiny-Q8_0.gguf"
MODEL = f"hf/{REPO}:Q8_0"
WEIGHTS_BYTES = 1_000_000
NEEDS_CTIME = pytest.mark.skipif(sys.platform == "win32", reason="Windows records no time of the last change")


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return tiny_chat(tmp_path / FILE, weights_bytes=WEIGHTS_BYTES).read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, content: bytes) -> Iterator[HubServer]:
    with run_hub(monkeypatch, retry_seconds="0.01") as hub:
        hub.add_repo(REPO, {FILE: content})
        yield hub
        run("stop", "--all", code=None)


def get_digest(hub: HubServer) -> str:
    return str(hub.list_repos()[0].files[0].sha256)


def find_blob(home: Home, hub: HubServer) -> Path:
    return repo_folder(home.cache, RepoId.parse(REPO)) / "blobs" / get_digest(hub)


def alter(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def rewrite(path: Path, content: bytes) -> None:
    """Write other content and restore the modification time."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def forge_old_note(home: Home, digest: str, file: Path) -> Path:
    """Write a note of an earlier version, which the cache contained."""
    note = cache_work_folder(home.cache) / f"{digest}.checked"
    note.parent.mkdir(parents=True, exist_ok=True)
    status = file.stat()
    note.write_text(f"{status.st_size} {status.st_mtime_ns}")
    return note


def forge_note(digest: str, file: Path) -> None:
    """Write a note in the present format into an open folder."""
    folder = data_dir() / "verified"
    folder.mkdir(parents=True, exist_ok=True)
    Library().pull(REPO, options=PullOptions(to=file.parent / "elsewhere"))  # its note shows the format
    with Database(library_path()) as db:
        db.remove_model(MODEL)
    (note,) = folder.glob("*.json")
    found = json.loads(note.read_text())
    found |= {"path": os.path.realpath(file), "digest": digest, "stamp": list(read_stamp(file))}
    name = hashlib.sha256(os.fsencode(found["path"])).hexdigest()[: len(note.stem)]
    (folder / f"{name}.json").write_text(json.dumps(found))
    folder.chmod(0o777)


def pull_and_list_hashed() -> list[str]:
    """Pull, and return the file of each hashing."""
    events: list[Event] = []
    Library().pull(REPO, progress=events.append)
    return [event.file for event in events if event.kind == "verifying" and event.done == 0]


def get_state() -> str:
    (model,) = run_json("list")["models"]
    return str(model["state"])


# Forged files and notes


def test_forged_blob_with_a_forged_note_is_replaced(hub: HubServer, home: Home, content: bytes) -> None:
    blob = find_blob(home, hub)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(alter(content))
    forge_old_note(home, get_digest(hub), blob)
    run("pull", REPO, "-q")
    assert blob.read_bytes() == content
    assert get_state() == "ready"


def test_forged_complete_file_in_the_work_folder_is_replaced(hub: HubServer, home: Home, content: bytes) -> None:
    whole = cache_work_folder(home.cache) / f"{get_digest(hub)}.whole"
    whole.parent.mkdir(parents=True)
    whole.write_bytes(alter(content))
    forge_old_note(home, get_digest(hub), whole)
    run("pull", REPO, "-q")
    assert find_blob(home, hub).read_bytes() == content


def test_forged_complete_file_replaces_no_verified_blob(hub: HubServer, home: Home, content: bytes) -> None:
    run("pull", REPO, "-q")
    with Database(library_path()) as db:
        db.remove_model(MODEL)
    whole = cache_work_folder(home.cache) / f"{get_digest(hub)}.whole"
    whole.write_bytes(alter(content))
    run("pull", REPO, "-q")
    assert find_blob(home, hub).read_bytes() == content
    assert not whole.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_note_in_a_folder_that_others_can_write_to_is_ignored(hub: HubServer, home: Home, content: bytes) -> None:
    blob = find_blob(home, hub)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(alter(content))
    forge_note(get_digest(hub), blob)
    run("pull", REPO, "-q")
    assert blob.read_bytes() == content
    assert (data_dir() / "verified").stat().st_mode & 0o777 == 0o700


# Files that change later


@NEEDS_CTIME
def test_rewritten_file_with_its_old_time_is_not_ready(hub: HubServer, home: Home, content: bytes) -> None:
    run("pull", REPO, "-q")
    assert get_state() == "ready"
    rewrite(find_blob(home, hub), alter(content))
    assert get_state() == "unverified"
    assert run_json_one("show", MODEL)["fix"] == f"llm hf verify {MODEL}"
    refused = run_llm("-m", "tiny", "hello")
    assert refused.exit_code == 1
    assert "is quarantined" in refused.stderr
    assert get_state() == "changed"
    run("pull", REPO, "-q")
    assert find_blob(home, hub).read_bytes() == content
    assert get_state() == "ready"


@NEEDS_CTIME
def test_rewritten_file_is_not_adopted_by_a_pull(hub: HubServer, home: Home, content: bytes) -> None:
    run("pull", REPO, "-q")
    rewrite(find_blob(home, hub), alter(content))
    assert pull_and_list_hashed() == [FILE]
    assert find_blob(home, hub).read_bytes() == content


@NEEDS_CTIME
@pytest.mark.parametrize("change", ["mode", "hard link", "copied cache"])
def test_unchanged_content_is_hashed_once_and_then_runs(hub: HubServer, home: Home, change: str) -> None:
    run("pull", REPO, "-q")
    blob = find_blob(home, hub)
    if change == "mode":
        blob.chmod(0o600)
    elif change == "hard link":
        (home.root / "second").hardlink_to(blob)
    else:
        moved = home.root / "moved"
        shutil.move(home.cache, moved)
        shutil.copytree(moved, home.cache, symlinks=True)  # with its times
    assert get_state() == "unverified"
    first, second = (Library().prompt("tiny", "hello") for _ in range(2))
    assert first.text.strip() == second.text.strip() == ANSWER
    assert [f"Verifying {FILE} again" in note for note in first.notes] == [True]
    assert second.notes == ()
    assert get_state() == "ready"


@NEEDS_CTIME
def test_agent_needs_no_consent_for_a_file_that_is_hashed_again(hub: HubServer, home: Home) -> None:
    run("pull", REPO, "-q")
    find_blob(home, hub).chmod(0o600)
    assert AgentLibrary("walrus").prompt("tiny", "hello").text.strip() == ANSWER
    rewrite(find_blob(home, hub), alter(find_blob(home, hub).read_bytes()))
    with pytest.raises(FileChangedError, match="quarantined"):
        AgentLibrary("walrus").prompt("tiny", "hello")


@NEEDS_CTIME
def test_verify_makes_a_model_ready_again(hub: HubServer, home: Home) -> None:
    run("pull", REPO, "-q")
    find_blob(home, hub).chmod(0o600)
    assert "matches" in run("verify", MODEL).stdout
    assert get_state() == "ready"
    assert pull_and_list_hashed() == []


@NEEDS_CTIME
def test_model_of_an_earlier_version_is_hashed_once(hub: HubServer) -> None:  # noqa: ARG001
    run("pull", REPO, "-q")
    with Database(library_path()) as db:
        db.write("update files set ctime_ns = null")
    shutil.rmtree(data_dir() / "verified")
    assert get_state() == "unverified"
    assert run_llm("-m", "tiny", "hello").stdout.strip() == ANSWER
    assert get_state() == "ready"


def test_shared_blob_leaves_the_other_model_ready(hub: HubServer, content: bytes) -> None:
    hub.add_repo("other/tiny-GGUF", {FILE: content})
    run("pull", REPO, "-q")
    run("pull", "other/tiny-GGUF", "-q")
    assert [model["state"] for model in run_json("list")["models"]] == ["ready", "ready"]


# Cost


def test_file_of_another_tool_is_hashed_once(hub: HubServer, home: Home) -> None:
    assert run_hf("download", REPO, hub=hub).returncode == 0
    assert pull_and_list_hashed() == [FILE]
    with Database(library_path()) as db:
        db.remove_model(MODEL)
    assert pull_and_list_hashed() == []
    assert run_hf("cache", "verify", REPO, hub=hub).returncode == 0
    assert run_hf("cache", "prune", "-y").returncode == 0
    assert find_blob(home, hub).exists()


_opened: list[str] = []
_watched: list[str] = []


def _record_open(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watched and str(arguments[0]) in _watched:
        _opened.append(str(arguments[0]))


def test_list_reads_no_model_file(hub: HubServer, home: Home) -> None:
    run("pull", REPO, "-q")
    (location,) = Library().show(MODEL).files
    sys.addaudithook(_record_open)
    _watched.extend([location.location, str(find_blob(home, hub))])
    Path(location.location).read_bytes()
    assert len(_opened) == 1, "the hook sees it"
    find_blob(home, hub).chmod(0o600)
    Library().list()
    _watched.clear()
    assert len(_opened) == 1


# Cleaning up


def test_gc_removes_notes_that_nothing_needs(hub: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", REPO, "-q")
    old = forge_old_note(home, get_digest(hub), find_blob(home, hub))
    assert {file.path: file.reason for file in Library().gc().files} == {str(old): "an earlier version wrote it"}
    monkeypatch.setenv("LLM_HF_ORPHAN_SECONDS", "0")
    (note,) = (data_dir() / "verified").iterdir()
    run("rm", MODEL, "-y")
    assert [(file.path, file.reason) for file in Library().gc().files] == [
        (str(note), "its file was removed or modified")
    ]
    assert not note.exists()
