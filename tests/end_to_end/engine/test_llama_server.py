"""A real llama-server instead of the bindings: the one that LLAMA_SERVER_BINARY names, or the one on PATH."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llm
import psutil
import pytest

from llm_hf_models.errors import EngineLostError, EngineRequestError, EngineStartError
from llm_hf_models.inference import engine, running_engines
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol import openai_protocol
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import EngineRow
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import engines, ggufs
from tests.support.commands import run_llm
from tests.support.engines import (
    CHAT,
    ensure,
    get_engine_row,
    leave_during_prompt_processing,
    make_spec,
    open_clean_library,
    prompt_engine,
    wait_for_exit,
    write_broken_files,
)
from tests.support.images import RED, png
from tests.support.tiny_library import DOG, FUNCTION, TinyLibrary, get_output, open_tiny_library, read_last_log
from tests.support.waiting import wait_until

BINARY = os.environ.get("LLAMA_SERVER_BINARY") or shutil.which("llama-server")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="it can't be used on Windows yet"),
    pytest.mark.skipif(not BINARY, reason="no llama-server found; set LLAMA_SERVER_BINARY"),
]
SHOUTING = "{%- for message in messages %}{{ message.content | upper }}\n{%- endfor %}{{- '<|im_start|>assistant\n' }}"
SECONDS = 30


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_tiny_library(tmp_path_factory) as library:
        yield library


@pytest.fixture(autouse=True)
def _on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "llama-server").symlink_to(str(BINARY))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LLM_HF_ENGINE", "llama-server")


@pytest.fixture
def _use_tiny_library(home: Home, tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - after it
    tiny_library.use_as_home(monkeypatch)


@pytest.fixture
def db(home: Home) -> Iterator[Database]:
    with open_clean_library(home, list_processes) as opened:
        yield opened


def list_processes(row: EngineRow) -> list[psutil.Process]:
    """Return the watcher and its llama-server."""
    watcher = psutil.Process(row.pid)
    return [watcher, *watcher.children()]


def find_server(row: EngineRow) -> psutil.Process:
    (server,) = psutil.Process(row.pid).children()
    return server


spec = engines.spec
endless = engines.endless


# Prompts through llm


@pytest.mark.usefixtures("_use_tiny_library")
@pytest.mark.parametrize("how", [(), ("--no-stream",), ("--async",)])
def test_llama_server_answers_a_prompt_a_schema_and_a_tool(how: tuple[str, ...]) -> None:
    assert get_output("-m", "tiny", "hello", *how) == ggufs.ANSWER
    assert json.loads(get_output("-m", "dog", "--schema", "name,", "a dog", *how)) == {"name": "Rex"}
    assert get_output("-m", "tiny", "--functions", FUNCTION, "weather?", *how).endswith(ggufs.TOOL_ANSWER)
    assert read_last_log()["input_tokens"] > 0


@pytest.mark.usefixtures("_use_tiny_library")
def test_conversations_completions_and_embeddings_work() -> None:
    conversation = llm.get_model("tiny").conversation()
    assert conversation.prompt("hello").text().strip() == ggufs.ANSWER
    assert conversation.prompt("and again?").text().strip() == ggufs.ANSWER
    assert get_output("-m", "base", "Once upon") == ggufs.ANSWER
    texts = ["the cat", "the cat", "a blue sea"]
    vectors = list(llm.get_embedding_model("vectors").embed_multi(texts))  # type: ignore[no-untyped-call]
    assert [len(vector) for vector in vectors] == [ggufs.WIDTH] * 3
    assert vectors[0] == pytest.approx(vectors[1])


@pytest.mark.usefixtures("_use_tiny_library")
def test_options_reach_llama_server() -> None:
    get_output("-m", "tiny", "hello", "-o", "max_tokens", "2")
    assert read_last_log()["output_tokens"] == 2
    assert get_output("-m", "tiny", "hello", "-o", "stop", " tiny") == "Hello from a"
    assert get_output("-m", "tiny", "hello", "-o", "grammar", 'root ::= "ok"') == "ok"
    assert get_output("-m", "tiny", "hello", "-o", "context", "512", "-o", "threads", "1") == ggufs.ANSWER
    assert read_last_log()["response_json"]["context"] == 512
    for option in ("temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"):
        assert get_output("-m", "tiny", "hello", "-o", option, "0.5", "-o", "seed", "1") == ggufs.ANSWER


@pytest.mark.usefixtures("_use_tiny_library")
def test_llama_server_uses_a_custom_template(tmp_path: Path) -> None:
    get_output("-m", "dog", "hello")
    before = read_last_log()["input_tokens"]
    (tmp_path / "shout.jinja").write_text(SHOUTING)
    Library().set_options("dog", {"template": SHOUTING})
    assert get_output("-m", "dog", "hello") == DOG
    assert read_last_log()["input_tokens"] < before


@pytest.mark.usefixtures("_use_tiny_library")
def test_llama_server_reads_images(tiny_library: TinyLibrary, tmp_path: Path) -> None:
    model, projector = tiny_library.files / "see.F16.gguf", tiny_library.files / "mmproj.gguf"
    Library().import_file(
        ggufs.tiny_chat(model, sees=True), mmproj=ggufs.tiny_mmproj(projector), with_mmproj=True, aliases=["see"]
    )
    red = png(tmp_path / "red.png", RED)
    assert get_output("-m", "see", "what is this?", "-a", str(red)) == ggufs.RED_ANSWER


@pytest.mark.usefixtures("_use_tiny_library")
def test_prompt_larger_than_the_context_gives_a_clear_error() -> None:
    refused = run_llm("-m", "tiny", "word " * 2000, "-o", "context", "512")
    assert refused.exit_code != 0
    assert "the context holds 512" in refused.stderr


@pytest.mark.usefixtures("_use_tiny_library")
def test_ps_shows_the_layers_and_stop_ends_llama_server(tiny_library: TinyLibrary) -> None:
    run_llm("hf", "stop", "--all")
    get_output("-m", "tiny", "hello")
    (shown,) = json.loads(get_output("hf", "ps", "--json"))["engines"]
    assert shown["memory_bytes"] > 0
    if sys.platform == "linux":
        assert "rlimits" in shown["layers"]
    assert not set(shown["layers"]) & set(shown["missing"])
    with tiny_library.open_db() as db:
        parts = list_processes(get_engine_row(db))
    assert len(parts) == 2
    assert "Stopped 1 engine." in run_llm("hf", "stop", "tiny").stderr
    assert not psutil.wait_procs(parts, timeout=SECONDS)[1]


# Its process


def test_llama_server_is_confined_and_hides_its_key(spec: engine.EngineSpec, db: Database) -> None:
    endpoint = ensure(spec, db)
    row = get_engine_row(db)
    assert prompt_engine(endpoint) == ggufs.ANSWER
    assert row.key not in " ".join(find_server(row).cmdline())
    if sys.platform == "linux":
        assert {layer.partition(" ")[0] for layer in row.layers} | set(row.missing) == {
            "rlimits", "user-namespace", "network-namespace", "landlock", "seccomp"
        }  # fmt: skip
        status = Path(f"/proc/{find_server(row).pid}/status").read_text()
        assert ("Seccomp:\t2" in status) == ("seccomp except exec" in row.layers)
        network = Path(f"/proc/{find_server(row).pid}/ns/net").readlink()
        assert (network != Path("/proc/self/ns/net").readlink()) == ("network-namespace" in row.layers)
    with pytest.raises(EngineRequestError, match="did not accept the key"):
        prompt_engine(replace(endpoint, key="wrong"))


def test_next_prompt_finds_llama_server_running(spec: engine.EngineSpec, db: Database) -> None:
    assert ensure(spec, db).load_seconds is not None
    assert ensure(spec, db).load_seconds is None


@pytest.mark.parametrize("keep_alive", [0, 0.3])
def test_idle_llama_server_exits_and_removes_its_socket(
    spec: engine.EngineSpec, db: Database, keep_alive: float
) -> None:
    endpoint = ensure(spec, db, keep_alive=keep_alive)
    row = get_engine_row(db)
    server = find_server(row)
    assert prompt_engine(endpoint) == ggufs.ANSWER
    wait_for_exit(row.pid)
    wait_for_exit(server.pid)
    assert not Path(row.address).exists()


def test_slow_client_gets_its_whole_answer_from_an_exiting_server(endless: engine.EngineSpec, db: Database) -> None:
    stream = inference_client.stream_completion(
        ensure(endless, db, keep_alive=0),
        openai_protocol.Turn([{"role": "user", "content": "hi"}], {"max_tokens": 2000}),
    )
    row = get_engine_row(db)
    next(stream)
    while running_engines.count_busy_slots(row):
        assert psutil.pid_exists(row.pid)
    *_, finish = stream
    assert isinstance(finish, openai_protocol.Finish)
    assert finish.output_tokens == 2000
    wait_for_exit(row.pid)


@pytest.mark.parametrize("part", ["watcher", "server"])
def test_next_prompt_after_kill_9_of_either_part_starts_a_new_one(
    spec: engine.EngineSpec, db: Database, part: str
) -> None:
    ensure(spec, db)
    row = get_engine_row(db)
    server = find_server(row)
    os.kill(row.pid if part == "watcher" else server.pid, signal.SIGKILL)
    if part == "server" or sys.platform == "linux":
        wait_for_exit(row.pid)
        wait_for_exit(server.pid)
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER
    assert get_engine_row(db).pid != row.pid


def test_crash_during_an_answer_is_reported(endless: engine.EngineSpec, db: Database) -> None:
    stream = inference_client.stream_completion(
        ensure(endless, db), openai_protocol.Turn([{"role": "user", "content": "hi"}])
    )
    next(stream)
    find_server(get_engine_row(db)).kill()
    with pytest.raises(EngineLostError):
        list(stream)


def test_closing_the_stream_stops_generation(endless: engine.EngineSpec, db: Database) -> None:
    stream = inference_client.stream_completion(
        ensure(endless, db), openai_protocol.Turn([{"role": "user", "content": "hi"}])
    )
    next(stream)
    row = get_engine_row(db)
    assert running_engines.count_busy_slots(row) == 1
    stream.close()
    wait_until(lambda: running_engines.count_busy_slots(row) == 0)
    assert find_server(row).is_running()


def test_leaving_during_prompt_processing_stops_it(tmp_path: Path, db: Database) -> None:
    path = ggufs.tiny_chat(tmp_path / "slow.gguf", context=131072, blocks=24, weights_bytes=40_000_000)
    facts = replace(CHAT, context_length=131072)
    endpoint = ensure(replace(make_spec(path, context=65536), facts=facts), db)
    row = get_engine_row(db)
    leave_during_prompt_processing(endpoint, lambda: bool(running_engines.count_busy_slots(row)))
    began = time.monotonic()
    wait_until(lambda: running_engines.count_busy_slots(row) == 0)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["garbage", "empty", "truncated"])
def test_broken_file_error_quotes_llama_server(name: str, tmp_path: Path, db: Database) -> None:
    with pytest.raises(EngineStartError) as caught:
        ensure(make_spec(write_broken_files(tmp_path)[name]), db)
    # Some versions lose their last output when they exit, and that is reported too.
    assert re.search("failed to load model|llama_model_load|logged nothing; try: .*llama-server -m", str(caught.value))
    assert "Traceback" not in str(caught.value)


def test_auto_prefers_llama_server_only_if_it_alone_has_a_gpu(
    spec: engine.EngineSpec, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_hf_models.inference.llama_server import has_gpu

    monkeypatch.setenv("LLM_HF_ENGINE", "auto")
    if has_gpu(str(BINARY)):
        pytest.skip("this llama-server has a GPU")
    assert prompt_engine(ensure(spec, db)) == ggufs.ANSWER
    assert not psutil.Process(get_engine_row(db).pid).children()
