"""Turns over a real engine on tiny models, over a real server that speaks badly, and over hostile bytes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models import chat, engine, engine_rows, settings
from llm_hf_models.chat_wire import Answer
from llm_hf_models.errors import EngineError, EngineLostError, EngineRefusedError
from llm_hf_models.gguf_facts import ModelFacts
from llm_hf_models.library import LibraryDB
from tests.support import ggufs
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
def db() -> Iterator[LibraryDB]:
    with LibraryDB(settings.library_path()) as opened:
        yield opened
        for row in engine.running(opened):
            engine.stop(opened, row)


Start = Callable[..., engine.Endpoint]


@pytest.fixture
def start(db: LibraryDB) -> Start:
    def started(path: Path, *, kind: Any = "chat", context: int = 2048, own: int = 4096) -> engine.Endpoint:
        facts = ModelFacts(kind=kind, context_length=own, kv_bytes_per_token=512)
        spec = engine.EngineSpec(f"hf/tiny/{path.stem}:F16", path, facts=facts, context=context)
        return engine.ensure(spec, db, settings.load(), keep_alive=60, notice=pytest.fail)

    return started


def text_of(items: list[chat.Piece | chat.Finish], kind: str = "text") -> str:
    return "".join(item.text for item in items if isinstance(item, chat.Piece) and item.kind == kind)


def finish_of(items: list[chat.Piece | chat.Finish]) -> chat.Finish:
    assert isinstance(items[-1], chat.Finish)
    assert not [item for item in items[:-1] if isinstance(item, chat.Finish)]
    return items[-1]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_its_pieces_and_a_finish_with_usage(stream: bool, start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    items = list(chat.answer(endpoint, chat.Turn(HELLO, stream=stream)))
    finish = finish_of(items)
    assert text_of(items) == ggufs.ANSWER
    assert finish.reason == "stop"
    assert finish.model == "hf/tiny/tiny:F16"
    assert finish.input_tokens
    assert finish.output_tokens
    assert finish.cached_tokens == 0
    assert finish.tokens_per_second
    assert finish.prompt_per_second


def test_a_repeated_prompt_is_read_from_the_cache(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    list(chat.answer(endpoint, chat.Turn(HELLO)))
    assert finish_of(list(chat.answer(endpoint, chat.Turn(HELLO)))).cached_tokens


def test_async_answers_are_the_same_and_run_side_by_side(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))

    async def one() -> list[chat.Piece | chat.Finish]:
        return [item async for item in chat.answer_async(endpoint, chat.Turn(HELLO))]

    async def three() -> list[list[chat.Piece | chat.Finish]]:
        return list(await asyncio.gather(one(), one(), one()))

    for items in asyncio.run(three()):
        assert text_of(items) == ggufs.ANSWER
        assert finish_of(items).reason == "stop"


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_call_arrives_as_name_and_arguments(stream: bool, start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tools.gguf", tool_call=CALL))
    items = list(chat.answer(endpoint, chat.Turn(HELLO, tools=[WEATHER], stream=stream)))
    assert text_of(items, "tool_name") == "weather"
    assert json.loads(text_of(items, "tool_args")) == {"town": "Riga"}
    assert next(item.call_id for item in items if isinstance(item, chat.Piece) and item.kind == "tool_name")
    assert finish_of(items).reason == "tool_calls"


def test_a_base_model_completes_text_raw(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_base(tmp_path / "base.gguf"), kind="base")
    items = list(chat.answer(endpoint, chat.Turn((), raw=True, prompt="Once upon")))
    assert text_of(items).strip() == ggufs.ANSWER
    assert finish_of(items).output_tokens


def test_an_answer_keeps_to_a_schema(start: Start, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    asked = {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    items = list(chat.answer(endpoint, chat.Turn(HELLO, {"max_tokens": 200}, response_format=asked)))
    if finish_of(items).reason == "stop":
        assert isinstance(json.loads(text_of(items))["n"], int)
    assert text_of(items).lstrip().startswith("{")


def test_a_prompt_larger_than_the_context_says_both_sizes(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"), context=512)
    with pytest.raises(EngineRefusedError, match=r"has \d+ tokens; the context holds 512") as caught:
        list(chat.answer(endpoint, chat.Turn([{"role": "user", "content": "word " * 5000}])))
    assert "-o context" in str(caught.value.hint)


def test_a_wrong_option_is_named(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    with pytest.raises(EngineRefusedError, match="temperature"):
        list(chat.answer(endpoint, chat.Turn(HELLO, {"temperature": "hot"})))


def is_working(endpoint: engine.Endpoint) -> bool:
    transport = httpx2.HTTPTransport(uds=str(endpoint.socket))
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    with httpx2.Client(transport=transport, base_url="http://engine", headers=headers, timeout=60) as client:
        return any(slot["is_processing"] for slot in client.get("/slots").json())


def wait_until_idle(endpoint: engine.Endpoint) -> None:
    wait_until(lambda: not is_working(endpoint), 20, message="the engine went on working for nobody")


@pytest.fixture
def endless(start: Start, tmp_path: Path) -> engine.Endpoint:
    path = ggufs.tiny_chat(tmp_path / "endless.gguf", endless=True, context=131072)
    return start(path, context=131072, own=131072)


def test_closing_an_answer_stops_the_work_and_leaves_the_engine_warm(endless: engine.Endpoint) -> None:
    stream = chat.answer(endless, chat.Turn(HELLO))
    assert isinstance(next(stream), chat.Piece)
    assert is_working(endless)
    stream.close()
    wait_until_idle(endless)
    assert text_of(list(chat.answer(endless, chat.Turn(HELLO, {"max_tokens": 3}))))


def test_closing_an_async_answer_stops_the_work(endless: engine.Endpoint) -> None:
    async def first_piece() -> None:
        stream = chat.answer_async(endless, chat.Turn(HELLO))
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(first_piece())
    wait_until_idle(endless)


def gone_while_it_reads(endpoint: engine.Endpoint, reads: Callable[[], bool]) -> None:
    """A client that sends a long prompt, and goes once `reads` says that the engine is at it."""
    turn = chat.Turn([{"role": "user", "content": "some words " * 4_000}], {"max_tokens": 1})

    async def give_up() -> None:
        async for _ in chat.answer_async(endpoint, turn):
            pytest.fail("the prompt was read sooner than this test can cancel")

    async def cancelled() -> None:
        task = asyncio.create_task(give_up())
        while not await asyncio.to_thread(reads):
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())


def test_a_client_that_goes_while_its_prompt_is_read_stops_the_reading(start: Start, tmp_path: Path) -> None:
    path = ggufs.tiny_chat(tmp_path / "slow.gguf", context=131072, blocks=24, weights_bytes=40_000_000)
    endpoint = start(path, context=65536, own=131072)
    gone_while_it_reads(endpoint, lambda: is_working(endpoint))
    began = time.monotonic()
    wait_until_idle(endpoint)
    stopped_after = time.monotonic() - began
    assert stopped_after < 10


def test_embeddings_come_one_for_each_text_in_order(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_embedding(tmp_path / "embed.gguf"), kind="embedding", context=512, own=512)
    one, other, again = chat.embed(endpoint, ["the cat", "blue sky", "the cat"])
    assert len(one) == ggufs.WIDTH
    assert one == pytest.approx(again, abs=1e-4)
    assert one != pytest.approx(other, abs=1e-2)
    assert chat.embed(endpoint, []) == []


def test_a_text_too_long_to_embed_is_refused(start: Start, tmp_path: Path) -> None:
    endpoint = start(ggufs.tiny_embedding(tmp_path / "embed.gguf"), kind="embedding", context=512, own=512)
    with pytest.raises(EngineRefusedError):
        chat.embed(endpoint, ["cat " * 2000])


def test_an_engine_that_keeps_dying_is_started_anew_once_and_not_for_ever(
    start: Start, db: LibraryDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_ensure, started = engine.ensure, []

    def ensure_and_kill(*args: Any, **named: Any) -> engine.Endpoint:
        endpoint = really_ensure(*args, **named)
        (row,) = engine.running(db)
        started.append(row.pid)
        process = psutil.Process(row.pid)
        process.kill()
        psutil.wait_procs([process], timeout=20)
        return endpoint

    monkeypatch.setattr(engine, "ensure", ensure_and_kill)
    endpoint = start(ggufs.tiny_chat(tmp_path / "tiny.gguf"))
    with pytest.raises(EngineLostError, match="was lost"):
        list(chat.answer(endpoint, chat.Turn(HELLO)))
    assert len(started) == 2


def test_an_engine_that_hangs_is_ended_and_the_next_prompt_finds_a_new_one(
    endless: engine.Endpoint, db: LibraryDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_rows, "ANSWER_SECONDS", 0.5)
    (hung,) = engine.running(db)
    os.kill(hung.pid, signal.SIGSTOP)
    with pytest.raises(EngineLostError, match="was lost"):
        list(chat.answer(endless, chat.Turn(HELLO), silence_seconds=0.5))
    assert engine.running(db) == []
    assert text_of(list(chat.answer(endless, chat.Turn(HELLO, {"max_tokens": 3}))))
    assert [row.pid for row in engine.running(db)] != [hung.pid]


def test_a_prompt_that_waits_in_line_is_not_taken_for_a_hang(endless: engine.Endpoint) -> None:
    before = [chat.answer(endless, chat.Turn(HELLO)) for _ in range(engine.PARALLEL)]
    assert all(next(stream) for stream in before)
    answered: list[chat.Piece | chat.Finish] = []

    def last_in_line() -> None:
        answered.extend(chat.answer(endless, chat.Turn(HELLO, {"max_tokens": 3}), silence_seconds=0.2))

    thread = threading.Thread(target=last_in_line)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive()
    for stream in before:
        stream.close()
    thread.join(30)
    assert finish_of(answered).output_tokens == 3


# A server elsewhere: real HTTP on loopback, saying what a test tells it to.


@contextmanager
def server(respond: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            respond(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def sends(body: bytes, *, kind: str = "text/event-stream", status: int = 200) -> Callable[..., None]:
    def respond(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def event(**chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


END = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]) + b"data: [DONE]\n\n"
ENDS_ODDLY = {
    "html": (sends(b"<html>hello</html>", kind="text/html"), EngineLostError, "not OpenAI"),
    "no end": (sends(delta(content="hal")), EngineLostError, "broke off"),
    "bad json": (sends(b"data: {nonsense\n\n"), EngineLostError, "not OpenAI"),
    "error event": (sends(delta(content="a") + event(error={"message": "out of slots"})), EngineRefusedError, "slots"),
    "500": (sends(b"oh no\x1b[31m", status=500, kind="text/plain"), EngineRefusedError, "oh no"),
    "404": (sends(b'{"detail":"Not Found"}', status=404, kind="application/json"), EngineRefusedError, "Not Found"),
    "401": (sends(b"{}", status=401, kind="application/json"), EngineRefusedError, "key"),
    "302": (sends(b"", status=302), EngineRefusedError, "302"),
}


@pytest.mark.parametrize("name", ENDS_ODDLY)
def test_an_endpoint_that_answers_oddly_is_a_clear_error_both_ways(name: str) -> None:
    respond, kind, words = ENDS_ODDLY[name]

    async def all_of(endpoint: engine.Endpoint) -> None:
        async for _ in chat.answer_async(endpoint, chat.Turn(HELLO)):
            pass

    with server(respond) as url:
        with pytest.raises(kind, match=words) as caught:
            list(chat.answer(engine.Endpoint(url), chat.Turn(HELLO)))
        with pytest.raises(kind, match=words):
            asyncio.run(all_of(engine.Endpoint(url)))
    assert "\x1b" not in str(caught.value)


def test_an_endpoint_elsewhere_gets_key_and_model_and_none_of_llama_cpps_own_fields() -> None:
    seen: dict[str, Any] = {}

    def respond(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        seen.update(body, path=handler.path, key=handler.headers["Authorization"])
        reasoning = delta(reasoning_content="hmm")
        sends(b": ping\r\n\r\n" + reasoning + delta(content="yes") + END)(handler, body)

    with server(respond) as url:
        endpoint = engine.Endpoint(f"{url}/", key="sk-1", model="big-model")
        items = list(chat.answer(endpoint, chat.Turn(HELLO, {"temperature": 0})))
    assert (text_of(items), text_of(items, "reasoning")) == ("yes", "hmm")
    assert (seen["path"], seen["key"], seen["model"]) == ("/v1/chat/completions", "Bearer sk-1", "big-model")
    assert "return_progress" not in seen


def test_a_proxy_is_never_told_of_this_machines_own_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with server(sends(delta(content="direct") + END)) as url:
        assert text_of(list(chat.answer(engine.Endpoint(url), chat.Turn(HELLO)))) == "direct"


def test_an_endpoint_that_is_down_is_named() -> None:
    with server(sends(b"")) as url:
        pass
    with pytest.raises(EngineLostError, match=url):
        list(chat.answer(engine.Endpoint(url), chat.Turn(HELLO)))


def test_a_redirect_is_not_followed_with_the_key() -> None:
    asked: list[str] = []

    def thief(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        asked.append(handler.path)
        sends(END)(handler, body)

    with server(thief) as target:

        def respond(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
            handler.send_response(307)
            handler.send_header("Location", target)
            handler.end_headers()

        with server(respond) as url, pytest.raises(EngineRefusedError):
            list(chat.answer(engine.Endpoint(url, key="sk-1"), chat.Turn(HELLO)))
    assert asked == []


STREAM = (
    b": ping\n\n"
    + delta(role="assistant", content=None)
    + delta(content="He")
    + delta(content="llo \u00e9")
    + delta(tool_calls=[{"index": 1, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}])
    + delta(tool_calls=[{"index": 1, "function": {"arguments": '{"a":'}}])
    + delta(tool_calls=[{"index": 1, "function": {"arguments": "1}"}}])
    + END
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_pieces_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = Answer(stream=True)
    items: list[chat.Piece | chat.Finish] = []
    for begin, end in pairwise(edges):
        items += reader.feed(STREAM[begin:end])
    items += reader.end()
    assert text_of(items) == "Hello é"
    assert text_of(items, "tool_args") == '{"a":1}'
    assert {item.index for item in items if isinstance(item, chat.Piece) and item.kind != "text"} == {1}


@given(st.binary(max_size=300), st.booleans())
def test_hostile_bytes_are_an_answer_or_an_error_of_ours(data: bytes, stream: bool) -> None:
    reader = Answer(stream=stream)
    try:
        items = [*reader.feed(b"data: " + data + b"\n" if stream else data), *reader.end()]
    except EngineError:
        return
    assert isinstance(items[-1], chat.Finish)
