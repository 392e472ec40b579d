"""Fifty parallel prompts from eight processes on two models, while engines and clients are killed.

`make storm` runs a minute of it, STORM_SHARE=0.1 a tenth.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llm_hf_models.inference import running_engines
from llm_hf_models.inference.engine_child import GRACE_SECONDS
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import ggufs
from tests.support.tiny_library import TinyLibrary
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.storm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a signal"),
]

SECONDS = max(5.0, 60 * float(os.environ.get("STORM_SHARE") or 1))
PROCESSES, PROMPTS = 8, 50
KEEP_ALIVE = 3.0
LAST_ANSWERS_SECONDS = 180
SEED = 4
CLIENT = """
import json, sys, threading, time
import llm
llm.get_models()  # llm loads its plugins in whichever thread comes first, and the others don't wait for it
until, threads, path = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
expected = json.loads(sys.argv[4])
lock, out = threading.Lock(), open(path, "a")
def ask(number):
    turn = number
    while time.time() < until:
        name = sorted(expected)[turn % 2]
        turn += 1
        began = time.time()
        try:
            text = llm.get_model(name).prompt(f"hello {number} {turn}", stream=bool(turn % 3)).text()
            end = "whole" if text == expected[name] else f"wrong: {text!r}"
        except llm.ModelError as error:
            end = f"error: {error}"
        except BaseException as error:
            end = f"crash: {error!r}"
        with lock:
            print(json.dumps([end, round(time.time() - began, 3)]), file=out, flush=True)
workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
"""


@pytest.fixture
def tiny_library(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyLibrary]:
    library = TinyLibrary(home.llm, Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp")), tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(library.runtime))
    monkeypatch.setenv("LLM_HF_KEEP_ALIVE", str(KEEP_ALIVE))
    library.add("hf/tiny/chat:F16", ggufs.tiny_chat(tmp_path / "chat.gguf"), aliases=("tiny",))
    library.add("hf/tiny/seal:F16", ggufs.tiny_chat(tmp_path / "seal.gguf", answer="Seal."), aliases=("seal",))
    yield library
    for process in find_engines(library.runtime):
        process.kill()
    shutil.rmtree(library.runtime, ignore_errors=True)


def find_engines(folder: Path) -> list[psutil.Process]:
    """Return every engine in that folder, recorded or not."""
    found = []
    for process in psutil.process_iter():
        try:
            if "llm_hf_models.inference.engine_child" in process.cmdline() and process.cwd().startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def start_client(until: float, threads: int, path: Path) -> subprocess.Popen[bytes]:
    expected = json.dumps({"tiny": ggufs.ANSWER, "seal": "Seal."})
    return subprocess.Popen([sys.executable, "-c", CLIENT, str(until), str(threads), str(path), expected])


def test_surviving_clients_get_a_whole_answer_or_a_clear_error(tiny_library: TinyLibrary, tmp_path: Path) -> None:
    rng, out = random.Random(SEED), tmp_path / "answers"
    until = time.time() + SECONDS
    threads = [PROMPTS // PROCESSES + (number < PROMPTS % PROCESSES) for number in range(PROCESSES)]
    clients = [start_client(until, count, out) for count in threads]
    killed: Counter[str] = Counter()
    while (left := until - time.time()) > 0:
        time.sleep(min(left, rng.uniform(0.5, 2.5)))  # the rhythm of the kills; no synchronisation
        running = find_engines(tiny_library.runtime)
        if running and rng.random() < 0.6:
            rng.choice(running).kill()
            killed["engines"] += 1
        elif time.time() < until:
            victim = rng.randrange(PROCESSES)
            clients[victim].kill()
            clients[victim].wait()
            killed["clients"] += 1
            clients[victim] = start_client(until, threads[victim], out)
    for client in clients:
        assert client.wait(LAST_ANSWERS_SECONDS) == 0
    ended = [json.loads(line) for line in out.read_text().splitlines() if line.endswith("]")]
    ends = Counter(end.partition(":")[0] for end, _ in ended)
    errors = Counter(end.partition("\n")[0] for end, _ in ended if end.startswith("error"))
    waits = sorted(seconds for _, seconds in ended)
    print(f"prompt storm: {SECONDS:g} s, {dict(killed)} killed, {dict(ends)}, errors {dict(errors)},")  # noqa: T201
    print(f"  half answered within {waits[len(waits) // 2]:.2f} s, all within {waits[-1]:.2f} s")  # noqa: T201
    assert set(ends) <= {"whole", "error"}, [end for end, _ in ended if end.startswith(("wrong", "crash"))][:5]
    assert ends["whole"] > len(ended) / 2
    assert all(error.startswith(("error: The engine", "error: The answer broke off")) for error in errors), errors
    assert_nothing_stays(tiny_library)


def assert_nothing_stays(library: TinyLibrary) -> None:
    """Check that no process remains after keep_alive, and after the wait for requests of killed clients."""
    wait_until(
        lambda: not find_engines(library.runtime),
        KEEP_ALIVE + GRACE_SECONDS + 10,
        message=lambda: find_engines(library.runtime),
        poll_seconds=0.2,
    )
    assert Library().list_engines() == ()
    assert list(library.runtime.rglob("*.sock")) == []
    with library.open_db() as db:
        assert running_engines.list_running_engines(db) == []
