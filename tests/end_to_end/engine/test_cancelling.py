"""A client that leaves stops the engine's work and keeps the engine, by the engine's own counters and not by time.

The model is heavy enough that a token, or a batch of a prompt, takes many times as long as reading the counters.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx2
import llm
import pytest

from llm_hf_models.inference import engine, running_engines
from llm_hf_models.inference.running_engines import count_busy_slots
from llm_hf_models.library.records import EngineRow
from tests.conftest import Home
from tests.support import ggufs
from tests.support.tiny_library import TinyLibrary, get_output, open_empty_library
from tests.support.waiting import wait_until

# One decode (a token, or a batch of a prompt) runs when the client leaves, and one more may begin before the thread
# that noticed the closed connection has notified the decoding thread.
AT_MOST = 2
CONTEXT = ("-o", "context", "32768")
LONG = "some words " * 1000  # about 11,000 tokens: 86 batches of 128
BATCHES = 11_000 // engine.BATCH_TOKENS
SECONDS = 60

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
Leave = Callable[["subprocess.Popen[bytes]"], None]
LEAVING: dict[str, Leave] = {
    "ctrl-c": lambda talking: talking.send_signal(signal.SIGINT),
    "killed": lambda talking: talking.kill(),
    "the reader of its pipe gone": lambda talking: talking.stdout.close() if talking.stdout else None,
}


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_empty_library(tmp_path_factory) as library:
        heavy = ggufs.tiny_chat(library.files / "heavy.gguf", endless=True, context=32768, weights_bytes=80_000_000)
        library.add("hf/tiny/heavy:F16", heavy, aliases=("heavy",))
        yield library
        heavy.unlink()


@pytest.fixture(autouse=True)
def _use_tiny_library(home: Home, tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - after it
    tiny_library.use_as_home(monkeypatch)


@pytest.fixture
def warm_engine(tiny_library: TinyLibrary) -> Iterator[EngineRow]:
    """Provide the idle engine. Check afterwards that it is the same one and answers."""
    generate_one_word()
    with tiny_library.open_db() as db:
        (row,) = running_engines.list_running_engines(db)
    yield row
    generate_one_word()
    assert tiny_library.find_pids() == {row.pid}


def generate_one_word() -> None:
    assert get_output("-m", "heavy", "go", "-o", "max_tokens", "1", *CONTEXT)


def count_decodes(row: EngineRow) -> int:
    """Return how often the engine has computed a batch, of a prompt or of one token: llama.cpp's own count."""
    transport = httpx2.HTTPTransport(uds=row.address)
    headers = {"Authorization": f"Bearer {row.key}"}
    with httpx2.Client(transport=transport, base_url="http://engine", headers=headers, timeout=SECONDS) as client:
        lines = client.get("/metrics").text.splitlines()
    (count,) = [line.split()[1] for line in lines if line.startswith("llamacpp:n_decode_total ")]
    return int(count)


def wait_and_count_decodes(row: EngineRow) -> int:
    """Wait until the engine is idle; return its number of decodes."""
    wait_until(
        lambda: not count_busy_slots(row), SECONDS, message="the engine continued without a client", poll_seconds=0
    )
    return count_decodes(row)


def start_prompt(prompt: str, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llm", "-m", "heavy", prompt, *CONTEXT, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("leaving", "how"),
    [*((leaving, ()) for leaving in LEAVING), ("ctrl-c", ("--async",)), ("ctrl-c", ("--no-stream",))],
)
def test_answer_ends_with_its_client(leaving: str, how: tuple[str, ...], warm_engine: EngineRow) -> None:
    before = count_decodes(warm_engine)
    with start_prompt("go", *how) as process:
        if "--no-stream" in how:
            wait_until(lambda: count_decodes(warm_engine) >= before + 5, SECONDS, poll_seconds=0)
        else:
            assert process.stdout
            assert process.stdout.read(5) == ggufs.ANSWER[:5].encode()
        LEAVING[leaving](process)
        assert process.wait(SECONDS) != 0
        gone = count_decodes(warm_engine)
        assert wait_and_count_decodes(warm_engine) - gone <= AT_MOST


@pytest.mark.parametrize(("leaving", "how"), [("ctrl-c", ()), ("killed", ("--no-stream",))])
def test_prompt_processing_ends_with_its_client(leaving: str, how: tuple[str, ...], warm_engine: EngineRow) -> None:
    before = count_decodes(warm_engine)
    with start_prompt(LONG, *how) as process:
        wait_until(lambda: count_decodes(warm_engine) >= before + 2, SECONDS, poll_seconds=0)
        LEAVING[leaving](process)
        assert process.wait(SECONDS) != 0
        gone = count_decodes(warm_engine)
        after = wait_and_count_decodes(warm_engine)
    assert after - gone <= AT_MOST
    assert after - before < BATCHES / 2  # it would have continued


def test_closing_the_generator_ends_the_answer(warm_engine: EngineRow) -> None:
    words = iter(llm.get_model("heavy").prompt("go", context=32768))
    assert next(words)
    words.close()
    gone = count_decodes(warm_engine)
    assert wait_and_count_decodes(warm_engine) - gone <= AT_MOST


def test_closing_the_async_generator_ends_the_answer(warm_engine: EngineRow) -> None:
    async def leave() -> int:
        events = llm.get_async_model("heavy").prompt("go", context=32768).astream_events()
        await anext(events)
        await events.aclose()
        return count_decodes(warm_engine)

    gone = asyncio.run(leave())
    assert wait_and_count_decodes(warm_engine) - gone <= AT_MOST


def test_cancelling_a_task_ends_prompt_processing(warm_engine: EngineRow) -> None:
    start = count_decodes(warm_engine)

    async def leave() -> int:
        async def ask() -> str:
            return str(await llm.get_async_model("heavy").prompt(LONG, context=32768).text())

        task = asyncio.create_task(ask())
        await asyncio.to_thread(wait_until, lambda: count_decodes(warm_engine) >= start + 2, SECONDS, poll_seconds=0)
        before = count_decodes(warm_engine)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return before

    before = asyncio.run(leave())
    after = wait_and_count_decodes(warm_engine)
    assert after - before <= AT_MOST + 1
    assert after - start < BATCHES / 2
