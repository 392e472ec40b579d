"""The main job from end to end through the commands, with and without network errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import NotFoundError
from llm_hf_models.paths import library_path
from tests.conftest import Home
from tests.support.commands import SCRIPTS, run, run_json, run_json_one, run_process
from tests.support.ggufs import ANSWER, tiny_base, tiny_chat, tiny_mmproj, tiny_split
from tests.support.hub_server import (
    Fault,
    FlipBit,
    HubServer,
    Page,
    Request,
    Reset,
    Side,
    Stall,
    Status,
    Truncate,
    run_hub,
)

REPO = "owner/tiny-GGUF"
Q8, Q4 = "tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf"
Q8_BYTES = 4_000_000  # far more than its header, so that a fault after this many bytes hits only the weights
HALF = Q8_BYTES // 2
AS_ROOT = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root can mount or change the user"
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Provide a Hub that the environment points to."""
    with run_hub(monkeypatch, retry_seconds="0.01") as hub:
        yield hub


@pytest.fixture
def repo(hub: HubServer, tmp_path: Path) -> HubServer:
    """Provide the Hub with a repo of two quantizations."""
    hub.add_repo(
        REPO,
        {Q8: tiny_chat(tmp_path / Q8, weights_bytes=Q8_BYTES), Q4: tiny_chat(tmp_path / Q4), "README.md": "# Tiny\n"},
        task="text-generation", license="mit", gguf={"total": 84_000},
    )  # fmt: skip
    return hub


def list_hub_requests(hub: HubServer) -> list[Request]:
    """Return the requests to the Hub, without those to the storage host."""
    return [request for request in hub.requests if request.side == "hub"]


def list_cached(home: Home) -> list[Path]:
    return [path for path in home.cache.rglob("*.gguf") if path.is_file()]


# Quality bars


def test_search_takes_one_request_and_a_repeat_takes_none(repo: HubServer) -> None:
    for number in range(3):
        repo.add_repo(f"owner/other{number}-GGUF", {"README.md": "# Other"})
    run("search", "--library", "any")
    assert len(list_hub_requests(repo)) == 1
    repo.forget_requests()
    run("search", "--library", "any", "--refresh")
    assert [request.status for request in list_hub_requests(repo)] == [304]
    repo.add_repo("owner/new-GGUF", {"README.md": "# New"})
    assert "owner/new-GGUF" in run("search", "--library", "any", "--refresh").stdout


def test_info_takes_one_request_and_one_header_read(repo: HubServer) -> None:
    run("info", REPO)
    assert [request.method for request in list_hub_requests(repo)] == ["GET", "HEAD"]
    repo.forget_requests()
    run("info", REPO, "--refresh")
    assert [(request.method, request.status) for request in list_hub_requests(repo)] == [("GET", 304)]


def test_pull_reads_the_header_once(repo: HubServer) -> None:
    run("pull", REPO, "--dry-run")
    assert repo.count(Q4, side="storage") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no CPU times of child processes")
def test_search_takes_one_request_and_little_more_cpu_than_llm(repo: HubServer) -> None:
    # On a machine where `llm --version` takes 1 s, that is 2 s with a Hub that answers in 300 ms.
    own = min(_measure_cpu("llm", "--version") for _ in range(3))
    searches = [_measure_cpu("llm", "hf", "search", f"tiny{number}") for number in range(3)]
    assert len(repo.requests) == len(searches)
    assert min(searches) < 1.7 * own


def _measure_cpu(*words: str) -> float:
    """Return the CPU seconds of a command, which do not depend on other work of this machine."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_process(*words, starts_python=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# Network errors during a request


@pytest.mark.parametrize(
    ("fault", "output"),
    [
        (Stall(), "did not respond within 0.5 s"),
        (Status(503), "returned a server error (HTTP 503)"),
        (Status(429, {"Retry-After": "3000"}), "Rate limited by"),
        (Page(), "returned an invalid response"),
        (Reset(), "was interrupted"),
    ],
    ids=["silence", "503", "429", "web page", "reset"],
)
def test_cached_results_are_shown_with_age_and_reason_if_the_hub_fails(
    repo: HubServer, monkeypatch: pytest.MonkeyPatch, fault: Any, output: str
) -> None:
    monkeypatch.setenv("LLM_HF_METADATA_SECONDS", "0.5")
    run("search", "tiny")
    run("info", REPO)
    repo.fault(fault, side="hub", times=None)
    for words in (("search", "tiny"), ("info", REPO)):
        done = run(*words, "--refresh")
        assert REPO in done.stdout
        assert output in done.stderr or "not the Hub's protocol" in done.stderr or "not" in done.stderr
        assert "Showing cached data from" in done.stderr
    for words in (("search", "something else"), ("info", "owner/other"), ("pull", "owner/other")):
        *_, error = re.split("^Error: ", run(*words, code=1).stderr, flags=re.MULTILINE)
        assert output in error


@pytest.mark.parametrize("side", ["hub", "storage"])
def test_reading_a_header_is_as_patient_as_the_transfer(
    repo: HubServer, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_RETRY_SECONDS", "0.05")
    repo.fault(Status(503), side=side, on=f"/{Q4}", times=6)
    done = run("pull", REPO)
    assert done.stderr.count("HTTP 503): retrying in" if side == "hub" else "HTTP 503: retrying in") == 6
    repo.fault(Status(503), side=side, on=f"/{Q8}", times=6)
    assert run("pull", f"{REPO}:Q8_0", "-q").stderr == ""


@pytest.mark.parametrize("fault", [Status(503), Status(500), Status(408), Reset()], ids=["503", "500", "408", "reset"])
def test_transient_error_at_the_start_of_a_pull_is_retried_and_reported(repo: HubServer, fault: Any) -> None:
    repo.fault(fault, side="hub", on="/api/models")
    assert "retrying in" in run("pull", f"{REPO}:Q4_K_M").stderr


def test_rate_limit_is_waited_out_and_reported(repo: HubServer) -> None:
    repo.fault(Status(429, {"Retry-After": "1"}), side="hub", on="/api/models")
    done = run("pull", f"{REPO}:Q4_K_M")
    assert re.search(r"Rate limited by \S+: retrying in 1 s", done.stderr)
    repo.clear()
    repo.fault(Status(429, {"Retry-After": "1"}), side="storage", on=Q8)
    done = run("pull", f"{REPO}:Q8_0")
    assert "retrying in 1 s" in done.stderr
    assert done.stdout == f"hf/{REPO}:Q8_0\n"


@pytest.mark.parametrize(
    ("fault", "output"),
    [(Status(503), "HTTP 503"), (Reset(), "was lost"), (Truncate(after=100), "retrying")],
)
def test_one_failed_header_request_does_not_end_a_pull(repo: HubServer, fault: Fault, output: str) -> None:
    repo.fault(fault, side="storage", on=Q4)
    done = run("pull", REPO)
    assert output in done.stderr
    assert done.stdout == f"hf/{REPO}:Q4_K_M\n"


def test_offline_info_shows_the_card_and_an_installed_pull_is_instant(
    repo: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", REPO, "-q")
    run("info", REPO, "--card")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    requested = len(repo.requests)
    assert "Tiny" in run("info", REPO, "--card").stdout
    done = run("pull", REPO)
    assert "is already on this machine. Offline mode is on" in done.stderr
    assert "Offline mode is on" in run("pull", f"{REPO}:Q8_0", code=1).stderr
    assert len(repo.requests) == requested


def test_unread_card_is_reported_and_the_rest_shown(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run("info", REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert repo.requests
    done = run("info", REPO, "--card")
    assert "The model card could not be read: Offline mode" in done.stdout
    assert "There is no card" not in done.stdout


def test_cached_results_of_one_token_are_hidden_from_another(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    private = repo.add_repo("owner/private-GGUF", {Q4: repo.list_repos()[0].files[1].location}, private=True)
    monkeypatch.setenv("HF_TOKEN", repo.add_token("hf_ann", access={private.id}))
    run("info", private.id)
    monkeypatch.setenv("HF_TOKEN", repo.add_token("hf_bob", name="bob"))
    assert "or the token has no access" in run("info", private.id, code=1).stderr


def test_cached_results_of_another_version_are_requested_again(repo: HubServer) -> None:
    import sqlite3

    run("info", REPO)
    db = sqlite3.connect(library_path())
    db.execute("""update metadata set body = '{"of": "another form"}'""")
    db.commit()
    db.close()
    assert repo.requests
    assert "Q4_K_M" in run("info", REPO).stdout


# Tokens


def test_each_token_error_has_its_own_message(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repo.list_repos()[0].files[1].location
    repo.add_repo("owner/gated-GGUF", {Q4: file}, gated="auto")
    repo.add_repo("owner/private-GGUF", {Q4: file}, private=True)
    for name in ("gated", "private"):
        assert "llm hf login" in run("pull", f"owner/{name}-GGUF", code=1).stderr
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "rejected the token" in run("pull", "owner/gated-GGUF", code=1).stderr
    monkeypatch.setenv("HF_TOKEN", repo.add_token("hf_stranger"))
    assert f"Request access on {repo.endpoint}/owner/gated-GGUF" in run("pull", "owner/gated-GGUF", code=1).stderr
    assert "or the token has no access" in run("pull", "owner/private-GGUF", code=1).stderr
    monkeypatch.setenv("HF_TOKEN", repo.add_token("hf_friend", access={"owner/gated-GGUF", "owner/private-GGUF"}))
    for name in ("gated", "private"):
        assert run("pull", f"owner/{name}-GGUF", "-q").stdout == f"hf/owner/{name}-GGUF:Q4_K_M\n"


def test_status_shows_the_source_of_an_unchecked_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    text = run("status").stdout
    assert "from the environment, could not be checked: 127.0.0.1:9 can't be reached" in text
    assert "hf_x" not in text


# Verification


def test_silently_changed_bytes_are_fetched_again_after_verify(repo: HubServer, home: Home) -> None:
    run("pull", f"{REPO}:Q8_0", "-q")
    (path,) = list_cached(home)
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    os.utime(path.resolve(), ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk does
    assert "differs" in run("verify", "tiny", code=1).stdout
    sent = repo.sent(Q8, side="storage")
    assert run_json_one("pull", f"{REPO}:Q8_0", "--dry-run")["fetch_bytes"] == before.st_size
    run("pull", f"{REPO}:Q8_0", "-q")
    assert repo.sent(Q8, side="storage") - sent >= before.st_size
    assert "matches" in run("verify", "tiny").stdout


def test_bytes_that_never_match_are_refused_and_removed(repo: HubServer, home: Home) -> None:
    run("pull", f"{REPO}:Q8_0", "--dry-run")
    repo.fault(FlipBit(at=Q8_BYTES - 1), on=Q8, side="storage", times=None)
    output = run("pull", f"{REPO}:Q8_0", code=1).stderr
    assert "has the wrong digest: expected" in output
    assert list_cached(home) == []
    assert run_json("list")["models"] == []


def test_offline_import_does_not_claim_to_match_its_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run("import", tiny_chat(tmp_path / "mine.Q8_0.gguf"), "--repo", "owner/mine-GGUF", "-q")
    assert "never compared with the Hub" in run("verify", "--all", code=1).stdout


def test_offline_import_keeps_its_variant_unless_the_filename_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run("import", tiny_chat(tmp_path / "mine.gguf"), "--repo", "owner/mine-GGUF:Q4_K_M", "-q")
    assert done.stdout == "hf/owner/mine-GGUF:Q4_K_M\n"
    path = tiny_chat(tmp_path / "other.Q8_0.gguf")
    assert "other.Q8_0.gguf is Q8_0." in run("import", path, "--repo", "owner/other-GGUF:Q4_K_M", code=1).stderr


def test_model_verified_later_keeps_its_facts_under_a_custom_template(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_base(tmp_path / "base.F16.gguf")
    hub.add_repo("owner/base-GGUF", {"base.F16.gguf": path})
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run("import", path, "--repo", "owner/base-GGUF", "--copy", "-a", "base", "-q")
    run("set", "base", "template", tmp_path / "own.jinja")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    run("import", path, "--repo", "owner/base-GGUF", "--copy", "-q")
    run("set", "base", "--unset", "template")
    shown = run_json_one("show", "base")
    assert shown["commit"]
    assert (shown["kind"], shown["facts"]["chat_template"]) == ("base", False)


def test_verify_does_not_vouch_for_an_import_of_unknown_origin(tmp_path: Path) -> None:
    path = tiny_chat(tmp_path / "mine.Q8_0.gguf")
    run("import", path, "-q")
    verified = run("verify", "mine", code=1)
    assert "mine.Q8_0.gguf: unchanged since it was imported; never compared with the Hub" in verified.stdout
    assert f"Verify it: llm hf import {path} --repo owner/name" in verified.stdout
    assert (found := run_json_one("verify", "mine", code=1))["matches"] is False
    assert found["unchanged"] is True
    assert (Library().verify("mine").matches, Library().verify("mine").unchanged) == (False, True)
    shown = run_json_one("show", "mine")
    assert shown["state"] == "unverified"
    assert shown["fix"] == f"llm hf import {path} --repo owner/name"


@pytest.mark.parametrize("content", [b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1\n", b"GGUF"])
def test_invalid_gguf_is_refused_before_the_download(hub: HubServer, home: Home, content: bytes) -> None:
    hub.add_repo("owner/odd-GGUF", {"odd-Q8_0.gguf": content * 10})
    assert "add --allow-invalid" in run("pull", "owner/odd-GGUF", code=1).stderr
    done = run("pull", "owner/odd-GGUF", "--allow-invalid")
    assert "not registered" in done.stderr
    assert len(list_cached(home)) == 1
    assert run_json("list")["models"] == []


def test_speed_counts_only_bytes_of_this_run(repo: HubServer) -> None:
    run("pull", f"{REPO}:Q8_0", "--dry-run")
    repo.fault(Stall(after=HALF), on=Q8, side="storage", times=None)
    with subprocess.Popen(
        [str(SCRIPTS / "llm"), "hf", "pull", f"{REPO}:Q8_0", "--connections", "1", "-q"], stderr=subprocess.PIPE
    ) as pull:
        repo.wait_until(lambda: repo.sent(Q8, side="storage") >= HALF)
        pull.send_signal(signal.SIGINT)
        _, output = pull.communicate(timeout=30)
    assert output.decode().startswith("Interrupted; the downloaded part is kept")
    assert "llm hf resume " in output.decode()
    repo.clear()
    found = run_json_one("pull", f"{REPO}:Q8_0", "-q")
    assert 0 < found["fetched_bytes"] == found["plan"]["fetch_bytes"] < found["plan"]["total_bytes"]


# The library


def test_damaged_library_stops_our_commands_but_not_llm(home: Home) -> None:
    library_path().parent.mkdir(parents=True, exist_ok=True)
    library_path().write_bytes(b"this is no database, and never was one" * 100)
    assert "is damaged" in run("list", code=1).stderr
    assert "is damaged" in run("status").stdout
    assert "gpt-4o" in run_process("llm", "models").stdout
    assert home.llm.is_dir()


def test_newer_library_error_names_the_update_and_llm_works() -> None:
    import sqlite3

    run("list")
    db = sqlite3.connect(library_path())
    db.execute("pragma user_version = 99")
    db.close()
    assert "llm install -U llm-hf-models" in run("list", code=1).stderr
    assert "gpt-4o" in run_process("llm", "models").stdout


def test_pruned_model_is_reported_and_the_named_command_restores_it(repo: HubServer, home: Home) -> None:
    run("pull", REPO, "-q")
    shutil.rmtree(home.cache)
    assert "missing" in run("list").stdout
    assert f"llm hf pull {REPO}:Q4_K_M" in run("list").stderr
    done = run_process("llm", "-m", "tiny", "hello", code=1)
    assert f"llm hf pull {REPO}:Q4_K_M" in done.stderr
    run("pull", f"{REPO}:Q4_K_M", "-q")
    assert run_json("list")["models"][0]["state"] == "ready"
    assert repo.requests


def test_models_are_shared_with_the_hf_command_both_ways(repo: HubServer, home: Home) -> None:
    run_process("hf", "download", REPO, Q8)
    sent = repo.sent(Q8, side="storage")
    done = run("pull", f"{REPO}:Q8_0")
    assert "Nothing to download." in done.stderr
    assert repo.sent(Q8, side="storage") - sent < Q8_BYTES  # the header alone
    run("pull", f"{REPO}:Q4_K_M", "-q")
    assert REPO in run_process("hf", "cache", "ls", "--no-truncate").stdout
    run_process("hf", "cache", "verify", REPO)
    run_process("hf", "cache", "prune", "-y")
    assert [model["state"] for model in run_json("list")["models"]] == ["ready", "ready"]
    freed = run_json_one("rm", f"{REPO}:Q4_K_M", "-y")
    assert freed["freed_bytes"] == next(file.size for file in repo.list_repos()[0].files if file.path == Q4)
    assert [path.name for path in list_cached(home)] == [Q8]
    run_process("hf", "cache", "verify", REPO)


def test_rm_frees_files_in_the_cache_of_the_pull(
    repo: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run("pull", REPO, "-q")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert repo.requests
    assert run_json_one("rm", "tiny", "-y")["freed_bytes"] > 0
    assert list_cached(home) == []


@AS_ROOT
def test_model_that_can_not_be_removed_stays_registered(repo: HubServer, tmp_path: Path) -> None:
    run("pull", REPO, "--to", tmp_path / "there", "-q")
    assert repo.requests
    subprocess.run(["chattr", "+i", str(tmp_path / "there")], check=False, capture_output=True)
    try:
        if os.access(tmp_path / "there", os.W_OK) and _can_make(tmp_path / "there" / "probe"):
            pytest.skip("this file system has no immutable folders")
        assert "Can't remove" in run("rm", "tiny", "-y", code=1).stderr
        assert run_json("list")["models"][0]["state"] == "ready"
    finally:
        subprocess.run(["chattr", "-i", str(tmp_path / "there")], check=False, capture_output=True)


def _can_make(path: Path) -> bool:
    try:
        path.touch()
    except OSError:
        return False
    path.unlink()
    return True


def test_new_commit_replaces_the_old_one_which_can_be_pruned(repo: HubServer, home: Home, tmp_path: Path) -> None:
    old = repo.list_repos()[0].commit
    run("pull", REPO, "-q")
    (tmp_path / "new").mkdir()
    other = tiny_chat(tmp_path / "new" / Q4, answer="Something new.")
    repo.add_repo(REPO, {Q4: other})
    done = run("pull", REPO)
    assert "the model's previous files" in done.stderr
    assert run_json("list")["models"][0]["commit"] != old
    run_process("hf", "cache", "prune", "-y")
    assert [path.parent.name for path in list_cached(home)] == [run_json("list")["models"][0]["commit"]]
    assert run_json("list")["models"][0]["state"] == "ready"


def test_revision_has_an_id_of_its_own(repo: HubServer) -> None:
    commit = repo.list_repos()[0].commit
    run("pull", REPO, "-q")
    for done in (run("pull", f"{REPO}@{commit}", "-q"), run("pull", REPO, "--revision", commit, "-q")):
        assert done.stdout == f"hf/{REPO}@{commit}:Q4_K_M\n"
    assert len(run_json("list")["models"]) == 2
    run_json_one("rm", f"hf/{REPO}@{commit}:Q4_K_M", "-y")
    assert run_json("list")["models"][0]["state"] == "ready"  # its file was the other one's too


# Outside the cache


def test_existing_file_of_a_user_is_replaced_only_with_consent(repo: HubServer, tmp_path: Path) -> None:
    mine = tmp_path / "README.md"
    mine.write_text("# Mine\n")  # as long as the one on the Hub: only the content differs
    wanted = ("pull", f"{REPO}:README.md", "--to", tmp_path)
    assert run_json(*wanted, "--dry-run")["results"][0]["replaces"] == [str(mine)]
    assert "Replaces" in run(*wanted, "--dry-run").stdout
    assert "Nothing was replaced: no answer was given" in run(*wanted, code=2).stderr
    assert "Pass -y to replace without asking" in run(*wanted, "--background", code=2).stderr
    assert "Nothing was replaced." in run(*wanted, code=1, stdin="n\n").stderr
    assert mine.read_text() == "# Mine\n"
    assert run_json("downloads", "--all")["downloads"] == []
    run(*wanted, stdin="y\n")
    assert mine.read_text() == "# Tiny\n"
    mine.write_text("# Mine, and longer\n")
    run(*wanted, "-y")
    assert mine.read_text() == "# Tiny\n"
    sent = repo.sent("README.md")
    (plan,) = run_json(*wanted, "--dry-run")["results"]
    assert (plan["replaces"], plan["files"][0]["local"]) == ([], True)
    run(*wanted)
    assert repo.sent("README.md") == sent


def test_cached_files_are_copied_into_a_folder(repo: HubServer, tmp_path: Path) -> None:
    run("pull", REPO, "-q")
    whole = Path(run("path", "tiny").stdout.strip()).read_bytes()
    sent = repo.sent(Q4, side="storage")
    assert "to copy from the cache" in run("pull", REPO, "--to", tmp_path / "there", "--dry-run").stdout
    done = run("pull", REPO, "--to", tmp_path / "there")
    assert "Copied from the cache; nothing to download." in done.stderr
    assert (tmp_path / "there" / Q4).read_bytes() == whole
    assert repo.sent(Q4, side="storage") == sent


def test_registered_model_keeps_its_files_when_a_folder_gets_a_copy(repo: HubServer, tmp_path: Path) -> None:
    run("pull", REPO, "-q")
    cached = run("path", "tiny").stdout
    done = run("pull", REPO, "--to", tmp_path / "there", "-a", "small")
    assert f"This is an additional copy: hf/{REPO}:Q4_K_M keeps its own files." in done.stderr
    assert run("path", "small").stdout == cached
    repo.add_repo(REPO, {Q4: tiny_chat(tmp_path / Q4, answer="Something new.")})
    assert run_json_one("pull", REPO, "--to", tmp_path / "newer")["is_copy"]
    assert run("path", "tiny").stdout == cached
    Path(cached.strip()).unlink()
    assert not run_json_one("pull", REPO, "--to", tmp_path / "there", "-y")["is_copy"]
    assert run("path", "tiny").stdout == f"{tmp_path / 'there' / Q4}\n"


def test_pull_to_a_folder_is_complete_and_removed_by_rm(repo: HubServer, home: Home, tmp_path: Path) -> None:
    there = tmp_path / "there"
    run("pull", REPO, "--to", there, "-q")
    assert run("path", "tiny").stdout == f"{there / Q4}\n"
    assert list_cached(home) == []
    sent = repo.sent(Q4, side="storage")
    assert run_json_one("pull", REPO, "--to", there, "--dry-run")["fetch_bytes"] == 0
    assert "Nothing to download." in run("pull", REPO, "--to", there).stderr
    assert repo.sent(Q4, side="storage") == sent
    (there / "mine.txt").write_text("mine")
    size = (there / Q4).stat().st_size
    assert run_json_one("rm", "tiny", "-y")["freed_bytes"] == size
    assert [path.name for path in there.iterdir()] == ["mine.txt"]


def test_projector_is_pulled_unless_declined(hub: HubServer, tmp_path: Path) -> None:
    files = {
        "see-Q8_0.gguf": tiny_chat(tmp_path / "see-Q8_0.gguf"),
        "mmproj-F16.gguf": tiny_mmproj(tmp_path / "m.gguf"),
    }
    hub.add_repo("owner/see-GGUF", files)
    run("pull", "owner/see-GGUF", "--no-mmproj", "-q")
    assert len(run("path", "see", "--all").stdout.splitlines()) == 1
    run("pull", "owner/see-GGUF", "-q")
    assert [Path(line).name for line in run("path", "see", "--all").stdout.splitlines()] == list(files)
    assert run_json_one("show", "see")["facts"]["modalities"]
    assert run_json_one("verify", "see")["matches"]


def test_broken_projector_is_refused_and_can_be_declined(hub: HubServer, tmp_path: Path) -> None:
    files = {"see-Q8_0.gguf": tiny_chat(tmp_path / "see-Q8_0.gguf"), "mmproj-F16.gguf": b"GGUF" + bytes(5000)}
    hub.add_repo("owner/see-GGUF", files)
    assert "To pull the model without it, add --no-mmproj" in run("pull", "owner/see-GGUF", code=1).stderr
    assert run_json("list")["models"] == []
    assert run("pull", "owner/see-GGUF", "--no-mmproj", "-q").stdout == "hf/owner/see-GGUF:Q8_0\n"


@pytest.mark.parametrize("others", [(), ("mmproj-F32.gguf",)])
def test_projector_of_another_model_is_left_out_and_reported(
    hub: HubServer, tmp_path: Path, others: tuple[str, ...]
) -> None:
    files = {
        "see-Q8_0.gguf": tiny_chat(tmp_path / "see-Q8_0.gguf"),
        "mmproj-F16.gguf": tiny_mmproj(tmp_path / "m.gguf", width=128),
        **{name: tiny_mmproj(tmp_path / name) for name in others},
    }
    hub.add_repo("owner/see-GGUF", files)
    left_out = ["mmproj-F16.gguf: made for a model of width 128, and this model has width 64"]
    plan = run_json_one("pull", "owner/see-GGUF", "--dry-run")
    assert (plan["left_out"], plan["mmproj"]) == (left_out, others[0] if others else None)
    assert left_out[0] in run("pull", "owner/see-GGUF", "--dry-run").stdout
    assert f"Left out {left_out[0]}." in run("pull", "owner/see-GGUF").stderr
    assert left_out[0] in run("show", "see").stdout
    assert run_json_one("show", "see")["left_out"] == left_out
    assert [Path(line).name for line in run("path", "see", "--all").stdout.splitlines()] == ["see-Q8_0.gguf", *others]
    assert run_json_one("pull", "owner/see-GGUF", "--dry-run")["already_complete"]


def test_split_model_is_imported_by_any_shard_if_complete(tmp_path: Path) -> None:
    shards = tiny_split(tmp_path, 3)
    assert len(run_json_one("import", shards[1], "-q")["model"]["files"]) == 3
    shards[0].unlink()
    assert "its folder lacks other shards" in run("import", shards[1], code=1).stderr


# Imports


def test_two_files_of_one_name_are_two_models_with_two_copies(tmp_path: Path) -> None:
    ids = []
    for folder, answer in (("one", "One."), ("two", "Two.")):
        (tmp_path / folder).mkdir()
        path = tiny_chat(tmp_path / folder / "model.Q8_0.gguf", answer=answer)
        ids.append(run("import", path, "--copy", "-q").stdout.strip())
    assert ids == ["hf/local/model:Q8_0", "hf/local/model-2:Q8_0"]
    assert all(done["unchanged"] for done in run_json("verify", "--all", code=1)["results"])


def test_second_import_of_the_same_bytes_keeps_the_existing_copy(tmp_path: Path, home: Home) -> None:
    path = tiny_chat(tmp_path / "model.Q8_0.gguf")
    for _ in range(2):
        run("import", path, "--copy", "-q")
    assert len(run_json("list")["models"]) == 1
    assert len(list(home.llm.rglob("*.gguf"))) == 1


def test_refused_copy_leaves_nothing(repo: HubServer, tmp_path: Path, home: Home) -> None:
    run("import", tiny_chat(tmp_path / "a.Q8_0.gguf", answer="A."), "-a", "walrus", "-q")
    other = tiny_chat(tmp_path / "other.gguf", answer="Not that one.")
    run("import", other, "--copy", "-a", "walrus", code=2)
    run("import", other, "--copy", "--repo", REPO, code=1)
    assert repo.requests
    assert list(home.llm.rglob("*.gguf")) == []
    assert len(run_json("list")["models"]) == 1


def test_import_with_the_name_of_a_repo_file_does_not_replace_a_pull(
    repo: HubServer, tmp_path: Path, home: Home
) -> None:
    run("pull", f"{REPO}:Q8_0", "-q")
    assert repo.requests
    run("import", tmp_path / Q8, "--repo", REPO, "-q")
    (model,) = run_json("list")["models"]
    assert Path(model["files"][0]["location"]).is_relative_to(home.cache)
    assert run_json_one("rm", model["id"], "-y")["freed_bytes"] >= Q8_BYTES


def test_imported_gated_repo_is_mirrored_only_when_named(repo: HubServer, tmp_path: Path) -> None:
    from llm_hf_models.context import Context
    from llm_hf_models.hub.refs import RepoId
    from llm_hf_models.servers.library_catalog import LibraryCatalog

    gated = next(one for one in repo.list_repos() if one.id == REPO)
    repo.change_repo(gated, gated="manual")
    run("import", tmp_path / Q8, "--repo", REPO, "-q")
    assert LibraryCatalog(Context()).list_repos() == []
    assert [one.id for one in LibraryCatalog(Context(), frozenset({RepoId.parse(REPO)})).list_repos()] == [REPO]


# The disk


@AS_ROOT
@pytest.mark.usefixtures("repo")
def test_full_disk_is_reported_before_and_during_a_pull_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=False).returncode:
        pytest.skip("mounting is not allowed")
    try:
        monkeypatch.setenv("HF_HUB_CACHE", str(small / "hub"))
        monkeypatch.setenv("LLM_HF_DISK_RESERVE", "0")
        output = run("pull", f"{REPO}:Q8_0", code=1).stderr
        assert "Not enough disk space" in output
        subprocess.run(["mount", "-o", "remount,size=5m", small], check=True)
        plan = Library().plan(f"{REPO}:Q8_0")
        (small / "ballast").write_bytes(b"x" * 3_000_000)  # another process was faster
        from llm_hf_models.errors import DiskFullError

        with pytest.raises(DiskFullError):
            Library().pull(plan)
        (small / "ballast").unlink()
        assert run("pull", f"{REPO}:Q8_0", "-q").stdout == f"hf/{REPO}:Q8_0\n"
        assert run_json_one("verify", "tiny")["matches"]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_missing_permissions_give_clear_errors(repo: HubServer, tmp_path: Path) -> None:
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may read and write everything")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    assert repo.requests == []
    output = run_process(
        "llm", "hf", "pull", REPO, code=1, unprivileged=True, environment={"HF_HUB_CACHE": str(closed / "hub")}
    ).stderr
    assert "Error: Can't write to" in output
    output = run_process(
        "llm", "hf", "list", code=1, unprivileged=True, environment={"LLM_USER_PATH": str(closed / "llm")}
    ).stderr
    assert "Error: Can't open the library" in output
    secret = tiny_chat(tmp_path / "secret.Q8_0.gguf")
    secret.chmod(0)
    assert "is not readable" in run_process("llm", "hf", "import", secret, code=2, unprivileged=True).stderr
    for verb in ("inspect", "check"):
        assert "Error: Can't read" in run_process("llm", "hf", verb, secret, code=1, unprivileged=True).stderr
    closed.chmod(0o755)


@AS_ROOT
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="root may read and write everything")
def test_folder_owned_by_root_after_sudo_is_named_with_the_fix(repo: HubServer, home: Home) -> None:
    run("status")
    ours = home.llm / "hf"
    ours.chmod(0o700)
    os.chown(ours, 65534, 65534)
    mended = f"sudo chown -R $(id -un) {ours}"
    for words in (("pull", REPO), ("search", "tiny"), ("info", REPO), ("whoami",), ("logout",)):
        output = run_process("llm", "hf", *words, code=1, unprivileged=True).stderr
        assert mended in output, words
    assert "Can't read" in run_process("llm", "hf", "status", unprivileged=True).stdout
    assert repo.requests == []


# The queue, used by others too


def test_row_of_another_version_does_not_block_a_pull(repo: HubServer) -> None:
    import sqlite3

    repo.fault(Status(403), on=Q8, side="storage", times=None)
    run("pull", f"{REPO}:Q8_0", "--dry-run", code=1)
    repo.clear()
    number = run("pull", f"{REPO}:Q8_0", "--background", "-q").stdout.strip()
    run("downloads", "--watch", number)
    db = sqlite3.connect(library_path())
    db.execute("update downloads set plan = '{}', state = 'failed'")
    db.commit()
    db.close()
    assert run("pull", f"{REPO}:Q8_0", "-q").stdout == f"hf/{REPO}:Q8_0\n"
    run("retry", number)
    assert "another version" in run("downloads", "--watch", number, code=1).output


# Ctrl-C


@pytest.mark.parametrize("words", [("search", "tiny"), ("info", REPO), ("pull", REPO)])
def test_ctrl_c_during_a_request_prints_one_line(repo: HubServer, words: tuple[str, ...]) -> None:
    repo.fault(Stall(), side="hub", times=None)
    with subprocess.Popen(
        [str(SCRIPTS / "llm"), "hf", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asking:
        repo.wait_until(lambda: len(repo.requests) == 1)
        asking.send_signal(signal.SIGINT)
        out, output = asking.communicate(timeout=30)
    assert (asking.returncode, out) == (130, "")
    assert output == "Interrupted; run the same command to continue.\n"


# Python


def test_single_file_is_pulled_alone_and_registers_nothing(hub: HubServer, tmp_path: Path) -> None:
    shards = tiny_split(tmp_path, 3, stem="tiny-Q8_0")
    hub.add_repo("owner/split-GGUF", {shard.name: shard for shard in shards})
    fetched = Library().download_file("owner/split-GGUF", shards[1].name, tmp_path / "there")
    assert fetched.read_bytes() == shards[1].read_bytes()
    assert [path.name for path in (tmp_path / "there").iterdir()] == [shards[1].name]
    assert Library().list() == ()
    with pytest.raises(NotFoundError):
        Library().download_file("owner/split-GGUF", "none.gguf")


def test_library_class_has_the_verbs_of_the_commands(repo: HubServer, tmp_path: Path) -> None:
    library = Library()
    assert [row.id for row in library.search("tiny").results] == [REPO]
    assert {variant.quant for variant in library.info(REPO).variants} == {"Q8_0", "Q4_K_M"}
    events = []
    result = library.pull(REPO, progress=events.append)
    assert result.id == f"hf/{REPO}:Q4_K_M"
    assert {"started", "done"} <= {event.kind for event in events}
    assert library.download_file(REPO, "README.md", tmp_path / "docs").read_text() == "# Tiny\n"
    assert [model.id for model in library.list()] == [result.id]
    assert library.verify("tiny").matches
    assert library.add_alias("tiny", "walrus").aliases
    assert library.remove("walrus").freed_bytes > 0
    with pytest.raises(NotFoundError):
        library.show("walrus")
    assert repo.requests


def test_pulled_model_answers_in_llm_and_its_tokens_are_logged(repo: HubServer) -> None:
    run_process("llm", "hf", "pull", REPO, "-q")
    assert repo.requests
    try:
        assert run_process("llm", "-m", "tiny", "hello").stdout.strip() == ANSWER
        logged = json.loads(run_process("llm", "logs", "--json", "-n", "1").stdout)[0]
        assert logged["model"] == f"hf/{REPO}:Q4_K_M"
        assert logged["output_tokens"] > 0
    finally:
        run_process("llm", "hf", "stop", "--all")
