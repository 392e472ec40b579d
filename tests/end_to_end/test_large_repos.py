"""Repos with many files: the work for them grows linearly with the number of files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_hf_models.downloads.plan_types import PullOptions
from llm_hf_models.service import Library
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, ServedFile, run_hub

REPO, MODEL = "acme/many-GGUF", "many-Q4_K_M.gguf"
FEW, MANY = 150, 300

KINDS: dict[str, Callable[[int, int], str]] = {
    "models of one type": lambda at, count: f"many-{at:05}-of{count}-Q8_0.gguf",
    "models of many types": lambda at, count: f"m{at}-{count}-Q{at % 6 + 3}_K_M.gguf",
    "projectors": lambda at, count: f"{'mmproj-' * (at % 2)}m{at // 2 * count}-F16.gguf",
    "folders": lambda at, count: f"d{at}/{count}/model.gguf",
    "shards of one model": lambda at, count: f"big-Q8_0-{at + 1:05}-of-{count:05}.gguf",
    "incomplete splits": lambda at, count: f"big{at}-{count}-Q8_0-00001-of-00002.gguf",
    "files cut by bytes": lambda at, count: f"big-{count}.gguf.part{at}",
    "texts": lambda at, count: f"data/{count}/{at}.txt",
}


def add_files(hub: HubServer, model: Path, name: Callable[[int, int], str], count: int) -> None:
    repo = hub.add_repo(REPO, {MODEL: model})
    first = repo.files[0]
    digests = [hashlib.sha256(str(at).encode()).hexdigest() for at in range(count)]
    more = [ServedFile(name(at, count), model, first.size, digest, None) for at, digest in enumerate(digests)]
    hub.change_repo(repo, files=(*repo.files, *more))


def count_calls(run: Callable[[], object]) -> int:
    """Return the number of calls of functions, in Python and in C, in this thread."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_twice_the_files_take_twice_the_work(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, model = Library(), tiny_chat(tmp_path / MODEL)
    options = PullOptions(to=tmp_path / "out")
    counts: dict[str, list[int]] = {"info": [], "plan": []}
    with run_hub(monkeypatch) as hub:
        for number in (FEW, MANY):
            add_files(hub, model, KINDS[kind], number)
            library.plan(f"{REPO}:{MODEL}", options)  # imports, and the header of the chosen file
            counts["info"].append(count_calls(lambda: library.info(REPO, card=True, refresh=True)))
            counts["plan"].append(count_calls(lambda: library.plan(f"{REPO}:{MODEL}", options)))
    for few, many in counts.values():
        assert many <= 2.1 * few, counts
