"""The question before a pull that is large or does not fit this machine's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import InterruptedByUserError
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, run_hub, stall_after

REPO, FILE = "owner/tiny-GGUF", "tiny-Q8_0.gguf"
MODEL_BYTES = 4_000_000
COMMAND = [sys.executable, "-c", "from llm_hf_models.cli.main import hf; hf()", "pull", REPO]
NO_MEMORY = {"LLM_HF_MEMORY_RESERVE": "1000000GB"}
DOES_NOT_FIT = "The model does not fit this machine's memory: needs at least "


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with run_hub(monkeypatch) as hub:
        model = tiny_chat(tmp_path / FILE, weights_bytes=MODEL_BYTES)
        hub.add_repo(REPO, {FILE: model, "README.md": "# Tiny\n", "data.bin": bytes(MODEL_BYTES)})
        yield hub


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> HubServer:
    for name, value in NO_MEMORY.items():
        monkeypatch.setenv(name, value)
    return hub


def test_model_that_does_not_fit_needs_yes_without_a_terminal(no_memory: HubServer) -> None:
    for words in ((), ("-q",), ("--background",)):
        done = run("pull", REPO, *words, stdin="y\n", code=2)
        assert DOES_NOT_FIT in done.stderr
        assert f"Error: {REPO} was not downloaded\n" in done.stderr
        assert done.stderr.endswith(f"add -y: llm hf pull {REPO} -y\n")
    error = run_json("pull", REPO, code=2)["error"]
    assert error["message"].startswith(f"{REPO} was not downloaded")
    assert run_json_one("pull", REPO, "--dry-run")["fit"]["fits"] is False
    assert no_memory.sent(FILE, side="storage") < MODEL_BYTES
    assert Library().downloads(include_finished=True) == ()
    assert "Warning: the model does not fit" in run("pull", REPO, "-y").stderr


def test_nothing_is_asked_if_little_is_missing_on_this_machine(no_memory: HubServer, tmp_path: Path) -> None:
    assert no_memory.endpoint
    library = Library()
    plan = library.plan(REPO)
    assert len(library.list_concerns(plan)) == 1
    assert library.list_concerns(replace(plan, fetch_bytes=plan.total_bytes // 10)) == ()
    library.pull(plan)
    assert "already on this machine" in run("pull", REPO).stderr
    assert "Copied from the cache" in run("pull", REPO, "--to", tmp_path / "there").stderr


def test_started_download_continues_without_a_question(no_memory: HubServer) -> None:
    library = Library()
    plan = library.plan(REPO)
    with stall_after(no_memory, FILE, MODEL_BYTES // 2) as stop, pytest.raises(InterruptedByUserError):
        library.pull(plan, stop=stop)
    assert len(library.downloads()) == 1
    assert run("pull", REPO).stdout == f"hf/{REPO}:Q8_0\n"


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("ref", "limit", "asks"),
    [(REPO, "1MB", True), (f"{REPO}:data.bin", "1MB", True), (f"{REPO}:README.md", "1MB", False), (REPO, "0", False)],
)
def test_large_download_needs_yes_without_a_terminal(
    ref: str, limit: str, asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_HF_ASK_ABOVE_BYTES", limit)
    words = ("pull", ref, "--to", tmp_path / "there")
    done = run(*words, code=2 if asks else 0)
    assert ("The download is larger than 1 MB (setting ask_above_bytes)." in done.stderr) == asks
    run(*words, "-y")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("", 1), ("y", 0)])
def test_terminal_asks_before_the_download(answer: str, code: int, no_memory: HubServer) -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen(
        COMMAND, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as pull:
        os.close(theirs)
        assert pull.stderr is not None
        asked = ""
        while not asked.endswith("[y/N]: "):
            char = pull.stderr.read(1)
            assert char, asked
            asked += char
        assert no_memory.sent(FILE, side="storage") < MODEL_BYTES
        os.write(ours, f"{answer}\n".encode())
        out, err = pull.communicate(timeout=60)
    os.close(ours)
    assert asked.count("does not fit") == 1
    assert "Download 4.1 MB? " in asked
    assert pull.returncode == code, err
    assert out == ("" if code else f"hf/{REPO}:Q8_0\n")
    assert ("Nothing was downloaded." in err) == bool(code)
