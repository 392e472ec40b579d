"""Turns over a real engine on tiny models, over a real server that speaks badly, and over hostile bytes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from llm_hf_models import paths, settings
from llm_hf_models.errors import EngineLostError, EngineRequestError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference import engine, running_engines
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol import openai_protocol
from llm_hf_models.inference.protocol.tool_calls import ToolCall
from llm_hf_models.library.database import Database
from tests.support import ggufs
from tests.support.engines import leave_during_prompt_processing
from tests.support.openai_server import Item, join_text
from tests.support.waiting import wait_until

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Riga"}}\n</tool_call>'
HELLO = ({"role": "user", "content": "hi"},)


@pytest.fixture
def db() -> Iterator[Database]:
    with Database(paths.library_path()) as opened:
        yield opened
        for row in running_engines.list_running_engines(opened):
            running_engines.stop_engine(opened, row)


Start = Callable[..., engine.Endpoint]


@pytest.fixture
def start(db: Database) -> Start:
    def started(path: Path, *, kind: Any = "chat", context: int = 2048, own: int = 4096) -> engine.Endpoint:
        facts = ModelFacts(kind=kind, context_length=own, kv_bytes_per_token=512)
        spec = engine.EngineSpec(f"hf/tiny/{path.stem}:F16", path, facts=facts, context=context)
        return engine.ensure_engine(spec, db, settings.load(), keep_alive=60, notify=pytest.fail)

    return started


def get_finish(items: list[Item]) -> openai_protocol.Finish:
    assert isinstance(items[-1], openai_protocol.Finish)
    assert not [item for item in items[:-1] if isinstance(item, openai_protocol.Finish)]
    return items[-1]


@pytest.mark.parametrize("stream", [True, False])
def test_answer_consists_of_pieces_and_a_finish_with_usage(stream: bool, start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    items = list(inference_client.stream_completion(endpoint, openai_protocol.Turn(HELLO, stream=stream)))
    finish = get_finish(items)
    assert join_text(items) == ggufs.ANSWER
    assert finish.reason == "stop"
    assert finish.model == "hf/tiny/tiny:F16"
    assert finish.input_tokens
    assert finish.output_tokens
    assert finish.cached_tokens == 0
    assert finish.tokens_per_second
    assert finish.prompt_per_second


def test_repeated_prompt_is_read_from_the_cache(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    list(inference_client.stream_completion(endpoint, openai_protocol.Turn(HELLO)))
    assert get_finish(list(inference_client.stream_completion(endpoint, openai_protocol.Turn(HELLO)))).cached_tokens


def test_async_answers_are_equal_and_run_in_parallel(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))

    async def one() -> list[Item]:
        return [item async for item in inference_client.stream_completion_async(endpoint, openai_protocol.Turn(HELLO))]

    async def three() -> list[list[Item]]:
        return list(await asyncio.gather(one(), one(), one()))

    for items in asyncio.run(three()):
        assert join_text(items) == ggufs.ANSWER
        assert get_finish(items).reason == "stop"


@pytest.mark.parametrize("stream", [True, False])
def test_tool_call_has_a_name_and_arguments(stream: bool, start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tools.gguf", tool_call=CALL))
    items = list(
        inference_client.stream_completion(endpoint, openai_protocol.Turn(HELLO, tools=[WEATHER], stream=stream))
    )
    (call,) = (item for item in items if isinstance(item, ToolCall))
    assert (call.name, json.loads(call.arguments)) == ("weather", {"town": "Riga"})
    assert call.call_id
    assert get_finish(items).reason == "tool_calls"


def test_base_model_completes_raw_text(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_base(tmp_path / "base.gguf"), kind="base")
    items = list(inference_client.stream_completion(endpoint, openai_protocol.Turn((), raw=True, prompt="Once upon")))
    assert join_text(items).strip() == ggufs.ANSWER
    assert get_finish(items).output_tokens


def test_answer_follows_a_schema(start: Start, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    requested = {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    items = list(
        inference_client.stream_completion(
            endpoint, openai_protocol.Turn(HELLO, {"max_tokens": 200}, response_format=requested)
        )
    )
    if get_finish(items).reason == "stop":
        assert isinstance(json.loads(join_text(items))["n"], int)
    assert join_text(items).lstrip().startswith("{")


def test_prompt_larger_than_the_context_reports_both_sizes(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"), context=512)
    with pytest.raises(EngineRequestError, match=r"has [\d,]+ tokens; the context holds 512") as caught:
        list(
            inference_client.stream_completion(
                endpoint, openai_protocol.Turn([{"role": "user", "content": "word " * 5000}])
            )
        )
    assert "-o context" in str(caught.value.hint)


def test_wrong_option_is_named(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    with pytest.raises(EngineRequestError, match="temperature"):
        list(inference_client.stream_completion(endpoint, openai_protocol.Turn(HELLO, {"temperature": "hot"})))


def is_working(endpoint: engine.Endpoint) -> bool:
    transport = httpx2.HTTPTransport(uds=str(endpoint.socket))
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    with httpx2.Client(transport=transport, base_url="http://engine", headers=headers, timeout=60) as client:
        return any(slot["is_processing"] for slot in client.get("/slots").json())


def wait_until_idle(endpoint: engine.Endpoint) -> None:
    wait_until(lambda: not is_working(endpoint), 20, message="the engine continued without a client")


@pytest.fixture
def connect(start: Start, tmp_path: Path) -> Callable[[], engine.Endpoint]:
    path = ggufs.tiny_chat(tmp_path / "endless.gguf", endless=True, context=131072)
    return lambda: start(path, context=131072, own=131072)


@pytest.fixture
def endless(connect: Callable[[], engine.Endpoint]) -> engine.Endpoint:
    return connect()


def test_closing_an_answer_stops_the_work_and_keeps_the_engine(endless: engine.Endpoint) -> None:
    stream = inference_client.stream_completion(endless, openai_protocol.Turn(HELLO))
    assert isinstance(next(stream), openai_protocol.Piece)
    assert is_working(endless)
    stream.close()
    wait_until_idle(endless)
    assert join_text(list(inference_client.stream_completion(endless, openai_protocol.Turn(HELLO, {"max_tokens": 3}))))


def test_closing_an_async_answer_stops_the_work(endless: engine.Endpoint) -> None:
    async def first_piece() -> None:
        stream = inference_client.stream_completion_async(endless, openai_protocol.Turn(HELLO))
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(first_piece())
    wait_until_idle(endless)


def test_client_that_leaves_stops_prompt_processing(start: Start, tmp_path: Path) -> None:
    path = ggufs.tiny_chat(tmp_path / "slow.gguf", context=131072, blocks=24, weights_bytes=40_000_000)
    endpoint = start(path, context=65536, own=131072)
    leave_during_prompt_processing(endpoint, lambda: is_working(endpoint))
    began = time.monotonic()
    wait_until_idle(endpoint)
    stopped_after = time.monotonic() - began
    assert stopped_after < 10


def test_embeddings_have_the_order_of_their_texts(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_embedding(tmp_path / "embed.gguf"), kind="embedding", context=512, own=512)
    one, other, again = inference_client.embed(endpoint, ["the cat", "blue sky", "the cat"])
    assert len(one) == ggufs.WIDTH
    assert one == pytest.approx(again, abs=1e-4)
    assert one != pytest.approx(other, abs=1e-2)
    assert inference_client.embed(endpoint, []) == []


def test_text_too_long_to_embed_is_refused(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_embedding(tmp_path / "embed.gguf"), kind="embedding", context=512, own=512)
    with pytest.raises(EngineRequestError):
        inference_client.embed(endpoint, ["cat " * 2000])


def test_engine_that_crashes_repeatedly_is_restarted_once(
    start: Start, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_ensure, started = engine.ensure_engine, []

    def ensure_and_kill(*args: Any, **named: Any) -> engine.Endpoint:
        endpoint = really_ensure(*args, **named)
        (row,) = running_engines.list_running_engines(db)
        started.append(row.pid)
        process = psutil.Process(row.pid)
        process.kill()
        psutil.wait_procs([process], timeout=20)
        return endpoint

    monkeypatch.setattr(engine, "ensure_engine", ensure_and_kill)
    path = ggufs.tiny_chat(tmp_path / "tiny.gguf")
    turn = openai_protocol.Turn(HELLO)
    with pytest.raises(EngineLostError, match="was lost"):
        list(inference_client.stream_completion(start(path), turn, reconnect=lambda: start(path)))
    assert len(started) == 2


def test_hung_engine_is_ended_and_replaced(
    connect: Callable[[], engine.Endpoint], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = connect()
    monkeypatch.setattr(running_engines, "RESPONSE_TIMEOUT_SECONDS", 0.5)
    (hung,) = running_engines.list_running_engines(db)
    os.kill(hung.pid, signal.SIGSTOP)
    with pytest.raises(EngineLostError, match="was lost"):
        list(inference_client.stream_completion(endpoint, openai_protocol.Turn(HELLO), read_timeout_seconds=0.5))
    assert running_engines.list_running_engines(db) == []
    turn = openai_protocol.Turn(HELLO, {"max_tokens": 3})
    assert join_text(list(inference_client.stream_completion(endpoint, turn, reconnect=connect)))
    assert [row.pid for row in running_engines.list_running_engines(db)] != [hung.pid]


def test_queued_prompt_is_not_treated_as_a_hang(endless: engine.Endpoint) -> None:
    before = [
        inference_client.stream_completion(endless, openai_protocol.Turn(HELLO))
        for _ in range(engine.PARALLEL_REQUESTS)
    ]
    assert all(next(stream) for stream in before)
    answered: list[Item] = []

    def last_in_line() -> None:
        answered.extend(
            inference_client.stream_completion(
                endless, openai_protocol.Turn(HELLO, {"max_tokens": 3}), read_timeout_seconds=0.5
            )
        )

    thread = threading.Thread(target=last_in_line)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive()
    before[0].close()  # the others keep the engine busy: an idle engine would count as hung at the next timeout
    thread.join(60)
    for stream in before[1:]:
        stream.close()
    assert get_finish(answered).output_tokens == 3
