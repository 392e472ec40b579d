"""`llm hf sync` makes a second machine match the lockfile of the first one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import InterruptedByUserError
from tests.support import lockfiles
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Stall, Truncate
from tests.support.lockfiles import REPO, SPLIT, SPLIT_ID, TINY, TINY_ID, read_content, use_machine
from tests.support.signatures import make_key, to_public_pem

SYNC = """
import signal, sys
from llm.cli import cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
cli(["hf", "sync", sys.argv[1]])
"""


hub = lockfiles.hub


@pytest.fixture
def lockfile(hub: HubServer, tmp_path: Path) -> Path:
    """Pull two models on the first machine, configure them, and lock them."""
    del hub
    run("pull", REPO, SPLIT, "-q")
    run("alias", TINY_ID, "walrus")
    run("set", "walrus", "temperature", "0.5", "system", "Be short.\nBe kind.")
    path = tmp_path / "models.lock.toml"
    run("lock", "-o", path)
    return path


def test_second_machine_gets_the_same_bytes_names_and_options(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_content(Path(os.environ["HF_HUB_CACHE"]))
    cache = use_machine(monkeypatch, tmp_path / "second")
    assert [step["action"] for step in run_json("sync", lockfile, "--check", code=1)["steps"]] == ["download"] * 2
    done = run_json("sync", lockfile)
    assert [(model["id"], model["done"]) for model in done["models"]] == [(SPLIT_ID, True), (TINY_ID, True)]
    assert read_content(cache) == first
    model = run_json_one("show", "walrus")
    assert (model["options"]["temperature"], model["options"]["system"]) == (0.5, "Be short.\nBe kind.")
    assert model["state"] == "ready"
    hub.forget_requests()
    run("sync", lockfile, "--check")
    assert hub.requests == [], "a machine that matches needs no request"
    run("lock", "-o", tmp_path / "second.lock.toml")
    run("lock", "--diff", lockfile, tmp_path / "second.lock.toml")


def test_sync_downloads_nothing_that_is_here(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_machine(monkeypatch, tmp_path / "second")
    copy = tiny_chat(tmp_path / "other-name.gguf", weights_bytes=400_000)
    run("import", copy, "-q")
    hub.forget_requests()
    steps = run_json("sync", lockfile, "--dry-run")["steps"]
    assert {step["id"]: step["action"] for step in steps} == {SPLIT_ID: "download", TINY_ID: "copy"}
    run("sync", lockfile)
    assert hub.sent(TINY) == 0
    assert run_json_one("show", TINY_ID)["state"] == "ready"


def test_lost_and_modified_files_are_restored(lockfile: Path, hub: HubServer) -> None:
    tiny, split = (Path(run("path", name).stdout.strip()) for name in (TINY_ID, SPLIT_ID))
    content = tiny.read_bytes()
    tiny.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    split.resolve().unlink()
    steps = run_json("sync", lockfile, "--check", code=1)["steps"]
    assert {step["id"]: step["action"] for step in steps} == {SPLIT_ID: "download", TINY_ID: "download"}
    run("sync", lockfile)
    assert (tiny.read_bytes(), split.is_file()) == (content, True)
    run("verify", "--all")
    hub.forget_requests()


def test_damaged_file_of_another_program_in_the_cache_is_replaced(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = use_machine(monkeypatch, tmp_path / "second")
    commit = next(repo.commit for repo in hub.list_repos() if repo.id == REPO)
    damaged = cache / "models--acme--tiny-GGUF/snapshots" / commit / TINY
    damaged.parent.mkdir(parents=True)
    content = (tmp_path / "repos" / TINY).read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    steps = run_json("sync", lockfile, "--check", code=1)["steps"]
    assert {step["id"]: step["action"] for step in steps} == {SPLIT_ID: "download", TINY_ID: "download"}
    run("sync", lockfile)
    assert damaged.read_bytes() == content
    run("sync", lockfile, "--check")


def test_required_signature_is_required_of_bytes_that_are_here(
    lockfile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("export", tmp_path / "disk")
    use_machine(monkeypatch, tmp_path / "second")
    run("import", tmp_path / "repos" / TINY, "-q")
    (tmp_path / "acme.pem").write_bytes(to_public_pem(make_key()))
    run("trust", "add", "acme", "--key", tmp_path / "acme.pem")
    monkeypatch.setenv("LLM_HF_REQUIRE_SIGNATURE", "owners")
    steps = {step["id"]: step for step in run_json("sync", lockfile, "-y", "--dry-run")["steps"]}
    assert "The repo has no signature, and you trust signers for acme" in steps[TINY_ID]["problem"]
    refused = run("sync", lockfile, "--from", tmp_path / "disk", "-y", code=1).stderr
    assert "The signature of acme's repo can't be checked without the Hub" in refused
    assert [model["id"] for model in run_json("list")["models"]] == ["hf/local/tiny:Q8_0"]
    monkeypatch.setenv("LLM_HF_REQUIRE_SIGNATURE", "if-present")
    done = {model["id"]: model for model in run_json("sync", lockfile, "-y")["models"]}
    assert (done[TINY_ID]["action"], done[TINY_ID]["done"], done[TINY_ID]["fetched_bytes"]) == ("copy", True, 0)


def test_touched_file_is_hashed_and_not_downloaded(lockfile: Path, hub: HubServer) -> None:
    hub.forget_requests()
    Path(run("path", TINY_ID).stdout.strip()).resolve().touch()
    steps = run_json("sync", lockfile, "--check", code=1)["steps"]
    assert [step["action"] for step in steps] == ["none", "hash"]
    run("sync", lockfile)
    run("sync", lockfile, "--check")
    assert hub.requests == []


def test_changed_names_and_options_are_set_back(lockfile: Path) -> None:
    run("alias", TINY_ID, "extra", "--remove", "walrus")
    run("set", TINY_ID, "temperature", "1", "seed", "3")
    (step,) = (step for step in run_json("sync", lockfile, "--check", code=1)["steps"] if step["action"] != "none")
    assert step["action"] == "set"
    assert {change["field"] for change in step["changes"]} == {
        "alias extra", "alias walrus", "options seed", "options temperature",
    }  # fmt: skip
    run("sync", lockfile)
    run("sync", lockfile, "--check")


def test_alias_of_another_model_moves_only_with_consent(lockfile: Path, tmp_path: Path) -> None:
    run("import", tiny_chat(tmp_path / "mine-Q8_0.gguf", seed=5), "-q")
    run("alias", "mine", "walrus", "--remove", "walrus")
    refused, planned = run("sync", lockfile, code=2, stdin=""), run("sync", lockfile, "--dry-run")
    for text in (refused.stderr, planned.stdout):
        assert "'walrus' names hf/local/mine:Q8_0 now" in text
    assert run_json_one("show", "walrus")["id"] == "hf/local/mine:Q8_0"
    run("sync", lockfile, "-y")
    assert run_json_one("show", "walrus")["id"] == TINY_ID


def test_endpoint_of_a_lockfile_is_attached_only_with_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("attach", "far", "--endpoint", "http://127.0.0.1:9/v1", "--model", "big", "--key-env", "HF_TOKEN")
    lockfile = tmp_path / "models.lock.toml"
    run("lock", "-o", lockfile)
    use_machine(monkeypatch, tmp_path / "second")
    question = "hf/remote/far will send prompts and the key HF_TOKEN to http://127.0.0.1:9/v1."
    assert question in run("sync", lockfile, "--dry-run").stdout
    for flags in ((), ("-q",)):
        refused = " ".join(run("sync", lockfile, *flags, code=2, stdin="").stderr.split())
        assert refused.count(question) == 1
    assert run_json("list")["models"] == []
    run("sync", lockfile, "-y")
    run("sync", lockfile, "--check")


def test_prune_removes_unlisted_models_after_a_question(lockfile: Path, tmp_path: Path) -> None:
    run("import", tiny_chat(tmp_path / "mine-Q8_0.gguf", seed=5), "-q")
    assert run_json("sync", lockfile, "--check")["unlisted"] == ["hf/local/mine:Q8_0"]
    run("sync", lockfile, "--prune", "--check", code=1)
    run("sync", lockfile, "--prune", code=1, stdin="n\n")
    assert len(run_json("list")["models"]) == 3
    run("sync", lockfile, "--prune", "-y")
    assert {model["id"] for model in run_json("list")["models"]} == {TINY_ID, SPLIT_ID}


def test_prune_removes_nothing_if_a_model_fails(lockfile: Path, hub: HubServer, tmp_path: Path) -> None:
    run("import", tiny_chat(tmp_path / "mine-Q8_0.gguf", seed=5), "-q")
    run("rm", TINY_ID, "-y")
    hub.remove_repo(REPO)
    done = run_json("sync", lockfile, "--prune", "-y", code=1)
    assert (done["removed"], done["not_removed"]) == ([], ["hf/local/mine:Q8_0"])
    assert "hf/local/mine:Q8_0: kept" in run("sync", lockfile, "--prune", "-y", code=1).stderr
    assert run_json_one("show", "hf/local/mine:Q8_0")["state"] == "unverified"


def test_older_commit_is_downloaded_and_the_branch_keeps_its_ref(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run_json_one("show", TINY_ID)["commit"]
    new = hub.add_repo(REPO, {TINY: tiny_chat(tmp_path / "new.gguf", seed=9)})
    cache = use_machine(monkeypatch, tmp_path / "second")
    run("pull", REPO, "-q")
    main = cache / "models--acme--tiny-GGUF/refs/main"
    assert main.read_text() == new.commit
    run("sync", lockfile)
    assert run_json_one("show", TINY_ID)["commit"] == old
    assert main.read_text() == new.commit


def test_hub_with_another_digest_is_refused_before_the_first_byte(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_machine(monkeypatch, tmp_path / "second")
    text = lockfile.read_text()
    digest = next(line for line in text.splitlines() if TINY in line).partition('sha256 = "')[2][:64]
    lockfile.write_text(text.replace(digest, "0" * 64))
    hub.forget_requests()
    failed = run("sync", lockfile, code=1)
    assert "is not the file of the lockfile" in failed.stderr
    assert hub.sent(TINY, side="storage") == 0
    assert [model["id"] for model in run_json("list")["models"]] == [SPLIT_ID], "the other model is synced"


def test_gone_repo_is_named_and_its_other_sources_are_used(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_machine(monkeypatch, tmp_path / "second")
    hub.remove_repo(REPO)
    monkeypatch.setenv("COLUMNS", "80")
    for flags, stream in (("--check", "stdout"), ("--dry-run", "stdout"), ("-q", "stderr")):
        failed = run("sync", lockfile, flags, code=0 if flags == "--dry-run" else 1)
        text = " ".join(getattr(failed, stream).split())
        assert f"has no public repo {REPO}." in text
        assert "llm hf sync FILE --from URL|DIR" in text
    run("import", tmp_path / "repos" / TINY, "-q")
    run("sync", lockfile, "-y")
    assert run_json_one("show", TINY_ID)["state"] == "ready"


def test_gone_commit_is_named_with_the_branch_that_has_the_same_bytes(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_machine(monkeypatch, tmp_path / "second")
    hub.remove_repo(REPO)
    hub.add_repo(REPO, {TINY: tmp_path / "repos" / TINY, "new.txt": "new"})
    failed = run("sync", lockfile, code=1)
    assert f"has the same bytes. Pull them, then sync again: llm hf pull {REPO}:Q8_0" in failed.stderr
    run("pull", f"{REPO}:Q8_0", "-q")
    hub.forget_requests()
    run("sync", lockfile)
    assert hub.sent(side="storage") == 0


def test_interrupted_sync_is_continued(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_machine(monkeypatch, tmp_path / "second")
    monkeypatch.setenv("LLM_HF_RETRY_SECONDS", "0.01")
    plan = Library().plan_sync(lockfile)
    assert plan.fetch_bytes > 400_000
    hub.fault(Truncate(200_000), on=TINY, side="storage", times=1)
    run("sync", lockfile)
    assert run_json_one("show", TINY_ID)["state"] == "ready"


def test_ctrl_c_ends_the_plan_of_a_sync_at_once(
    lockfile: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_machine(monkeypatch, tmp_path / "second")
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedByUserError, match="Stopped while comparing"):
        Library().plan_sync(lockfile, stop=stop)
    hub.forget_requests()
    hub.fault(Stall(), on=f"api/models/{REPO}", times=None)
    with subprocess.Popen([sys.executable, "-c", SYNC, str(lockfile)], stderr=subprocess.PIPE, text=True) as process:
        hub.wait_until(lambda: hub.count(f"api/models/{REPO}") > 0, 60)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=60)
    assert (process.returncode, "Interrupted" in shown) == (130, True)
    assert run_json("list")["models"] == []
