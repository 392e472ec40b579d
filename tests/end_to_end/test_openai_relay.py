"""The relay, used by OpenAI's own client and by raw sockets, over real engines; and `llm` through it (attach)."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx2
import openai
import psutil
import pytest
from filelock import FileLock
from openai import OpenAI

from llm_hf_models.errors import BadInputError, NotWritableError, UnknownModelError
from llm_hf_models.inference import running_engines
from llm_hf_models.inference.confinement import format_layers
from llm_hf_models.inference.engine_folder import make_base_folder
from llm_hf_models.inference.running_engines import count_busy_slots
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import ggufs
from tests.support.commands import run_llm
from tests.support.openai_server import run_server
from tests.support.relays import KEY, run_relay
from tests.support.tiny_library import CALL, TinyLibrary, get_output, open_empty_library
from tests.support.waiting import wait_until

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
HELLO: Any = [{"role": "user", "content": "hello"}]
CHAT, EMBED, ENDLESS = "hf/tiny/chat:F16", "hf/tiny/embed:F32", "hf/tiny/endless:F16"
SECONDS = 30


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_empty_library(tmp_path_factory) as library:
        library.add(CHAT, ggufs.tiny_chat(library.files / "chat.gguf", tool_call=CALL), aliases=("tiny",))
        library.add("hf/tiny/seal:F16", ggufs.tiny_chat(library.files / "seal.gguf", answer="Seal."), aliases=("seal",))
        library.add("hf/tiny/base:F16", ggufs.tiny_base(library.files / "base.gguf"), aliases=("base",))
        library.add(
            ENDLESS, ggufs.tiny_chat(library.files / "endless.gguf", endless=True, context=131072), aliases=("endless",)
        )
        library.add(EMBED, ggufs.tiny_embedding(library.files / "embed.gguf"), aliases=("vectors",))
        yield library


@pytest.fixture(autouse=True)
def _use_tiny_library(home: Home, tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - after it
    tiny_library.use_as_home(monkeypatch)


@pytest.fixture
def url() -> Iterator[str]:
    """Provide a relay to all models."""
    with run_relay("tiny", "seal", "base", "endless", "vectors") as (_, url):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=SECONDS) as client:
        yield client


def sum_busy_slots(library: TinyLibrary, model_id: str) -> int:
    with library.open_db() as db:
        return sum(
            count_busy_slots(row) or 0 for row in running_engines.list_running_engines(db) if row.model_id == model_id
        )


# Responses to OpenAI's client


def test_two_models_answer_by_name_and_are_listed(client: OpenAI) -> None:
    assert {CHAT, EMBED} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(CHAT).owned_by == "tiny"
    for name, answer in (("tiny", ggufs.ANSWER), ("seal", "Seal."), (CHAT, ggufs.ANSWER)):
        done = client.chat.completions.create(model=name, messages=HELLO)
        assert done.choices[0].message.content == answer
        assert done.usage is not None
        assert done.usage.completion_tokens


def test_answer_streams_in_pieces_of_the_protocol(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(texts) > 1
    assert "".join(texts) == ggufs.ANSWER
    assert not [chunk for chunk in chunks if "prompt_progress" in (chunk.model_extra or {})]
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [6]


@pytest.mark.parametrize("stream", [True, False])
def test_tool_is_called_and_its_result_is_used(client: OpenAI, stream: bool) -> None:
    messages = [{"role": "user", "content": "weather in Riga?"}]
    if stream:
        with client.chat.completions.stream(model="tiny", messages=messages, tools=[WEATHER]) as events:  # type: ignore[arg-type]
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(model="tiny", messages=messages, tools=[WEATHER]).choices[0].message  # type: ignore[arg-type]
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"town": "Riga"})
    history: Any = [*messages, {"role": "assistant", "tool_calls": [call.to_dict()]},
                    {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]  # fmt: skip
    after = client.chat.completions.create(model="tiny", messages=history, tools=[WEATHER])
    assert after.choices[0].message.content == ggufs.TOOL_ANSWER


def test_answer_follows_a_schema(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    done = client.chat.completions.create(model="tiny", messages=HELLO, response_format=wanted)
    assert json.loads(done.choices[0].message.content or "") == {"n": 7}


def test_texts_are_embedded_and_completed(client: OpenAI) -> None:
    found = client.embeddings.create(model="vectors", input=["one", "two"])
    assert [len(item.embedding) for item in found.data] == [ggufs.WIDTH, ggufs.WIDTH]
    assert client.completions.create(model="base", prompt="Once upon").choices[0].text == ggufs.ANSWER


def test_async_clients_are_served_in_parallel(url: str) -> None:
    async def six() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=SECONDS) as client:
            requested = [client.chat.completions.create(model=name, messages=HELLO) for name in ("tiny", "seal") * 3]
            return [done.choices[0].message.content for done in await asyncio.gather(*requested)]

    assert asyncio.run(six()) == [ggufs.ANSWER, "Seal."] * 3


def test_single_model_needs_no_name() -> None:
    with run_relay("seal") as (_, url):
        requested = httpx2.post(
            f"{url}/v1/chat/completions", json={"messages": HELLO}, headers=make_headers(), timeout=SECONDS
        )
    assert requested.json()["choices"][0]["message"]["content"] == "Seal."


def get_address(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


def make_headers(key: str = KEY) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# Authentication and refusals


@pytest.mark.parametrize("headers", [{}, make_headers("wrong"), {"Authorization": KEY}, make_headers("schlüssel")])
def test_requests_without_the_key_reveal_nothing(url: str, headers: dict[str, str]) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/nowhere")):
        answer = httpx2.request(method, url + path, headers=sent)  # type: ignore[arg-type]
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert "tiny" not in answer.text
    assert httpx2.get(f"{url}/health").json() == {"status": "ok"}


def test_key_is_generated_if_none_is_given() -> None:
    with run_relay("seal", key=None) as (one, url), run_relay("seal", key=None) as (other, _):
        assert len(one.key) >= 32
        assert one.key != other.key
        assert httpx2.get(f"{url}/v1/models", headers=make_headers(one.key)).status_code == 200
        assert httpx2.get(f"{url}/v1/models", headers=make_headers(other.key)).status_code == 401


def test_model_that_is_not_served_is_not_found(tiny_library: TinyLibrary) -> None:
    with run_relay("seal") as (_, url), OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["hf/tiny/seal:F16"]
        for name in ("tiny", CHAT, "no such"):
            with pytest.raises(openai.NotFoundError, match="is not served") as caught:
                client.chat.completions.create(model=name, messages=HELLO)
            assert caught.value.code == "model_not_found"
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve(name)
    assert tiny_library


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b"\xff", b"[" * 100_000, b'{"model": ["tiny"]}'])
def test_invalid_body_is_refused(url: str, body: bytes) -> None:
    answer = httpx2.post(f"{url}/v1/chat/completions", content=body, headers=make_headers())
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["type"] == "invalid_request_error"


NUMBER = "A number in the body is NaN, infinite or too long"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("NaN", NUMBER), ("-Infinity", NUMBER), ("1e400", NUMBER), ("9" * 5000, NUMBER),
        ('"\\ud800"', "A text in the body has half of a surrogate pair"),
        ("[" * 5000 + "]" * 5000, "The body has too many nested values"), ("1,", "The body is not valid JSON"),
    ],
)  # fmt: skip
def test_value_that_is_not_json_is_refused(url: str, value: str, message: str) -> None:
    answer = httpx2.post(
        f"{url}/v1/completions", content=f'{{"model": "base", "prompt": "x", "y": {value}}}', headers=make_headers()
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("model", ["null", '""'])
def test_request_without_a_model_says_so(url: str, model: str) -> None:
    answer = httpx2.post(
        f"{url}/v1/completions", content=f'{{"model": {model}, "prompt": "x"}}', headers=make_headers()
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert re.fullmatch(r"'model' is missing, and \d models are served", answer.json()["error"]["message"])


def test_body_too_large_is_refused_before_it_is_sent(url: str) -> None:
    with closing(http.client.HTTPConnection(*get_address(url), timeout=SECONDS)) as connection:
        connection.request("POST", "/v1/completions", headers={**make_headers(), "Content-Length": "99999999999"})
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["type"] == "invalid_request_error"


def test_body_in_chunks_is_accepted(url: str) -> None:
    data = json.dumps({"model": "seal", "messages": HELLO}).encode()
    answer = httpx2.post(
        f"{url}/v1/chat/completions", content=iter([data[:9], data[9:]]), headers=make_headers(), timeout=SECONDS
    )
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.json()["choices"][0]["message"]["content"] == "Seal."


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/completions", 405),
    ],
)
def test_unknown_path_or_method_is_an_error_in_json(url: str, method: str, path: str, status: int) -> None:
    answer = httpx2.request(method, url + path, headers=make_headers())
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_web_page_may_use_the_relay_with_its_key(url: str) -> None:
    origin = {"Origin": "https://page.example"}
    preflight = httpx2.options(
        f"{url}/v1/chat/completions",
        headers={**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"},
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    for headers, status in ((origin, 401), ({**origin, **make_headers()}, 200)):
        answer = httpx2.get(f"{url}/v1/models", headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, "*")
        assert "access-control-allow-credentials" not in answer.headers


def test_connection_reset_between_requests_leaves_no_traceback(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(get_address(url), SECONDS) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 200")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert httpx2.get(f"{url}/health").status_code == 200
    assert capfd.readouterr() == ("", "")


def test_client_that_leaves_within_its_request_leaves_no_traceback(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 10\r\n"
    for sent in (head, f"{head}\r\n{{", "nonsense\r\n\r\n"):
        with socket.create_connection(get_address(url), SECONDS) as raw:
            raw.sendall(sent.encode())
    assert httpx2.get(f"{url}/health").status_code == 200
    assert capfd.readouterr() == ("", "")


def test_refusal_of_the_engine_is_forwarded(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="the context holds") as too_long:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "word " * 20_000}])
    assert "Shorten the prompt" in too_long.value.message  # and no hint about `-o`: this client has no such option
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=HELLO, extra_body={"grammar": "root ::= nonsense ("})


@pytest.mark.parametrize(("name", "kind"), [("tiny", "chat"), ("base", "base")])
def test_embeddings_of_another_kind_of_model_are_refused(client: OpenAI, name: str, kind: str) -> None:
    with pytest.raises(openai.BadRequestError, match=f"is a {kind} model and can't embed text"):
        client.embeddings.create(model=name, input="one")


def test_prompts_to_an_embedding_model_are_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="is an embedding model and can't be prompted"):
        client.chat.completions.create(model="vectors", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="is an embedding model and can't be prompted"):
        client.completions.create(model="vectors", prompt="hello")


@pytest.mark.parametrize(
    ("answer", "seen"),
    [(400, 400), (422, 422), (413, 413), (429, 429), (500, 500), (503, 503), (401, 502), (403, 502), (302, 502)],
)
@pytest.mark.parametrize("stream", [True, False])
def test_refusal_keeps_its_status_unless_the_relay_itself_is_refused(
    tiny_library: TinyLibrary, answer: int, seen: int, stream: bool
) -> None:
    def refuse(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
        body = b'{"error": {"message": "not that"}}'
        handler.send_response(answer)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with run_server(refuse) as elsewhere:
        Library().attach("far", elsewhere, model="x")
        with run_relay("far") as (_, url):
            requested = httpx2.post(
                f"{url}/v1/chat/completions", json={"messages": HELLO, "stream": stream}, headers=make_headers()
            )
    assert requested.status_code == seen
    assert requested.json()["error"]["type"] == ("server_error" if seen >= 500 else "invalid_request_error")
    with tiny_library.open_db() as db:
        db.remove_model("hf/remote/far")


def test_models_that_can_not_be_served_are_named_before_listening() -> None:
    with pytest.raises(UnknownModelError):
        Library().serve(["walrus"])
    with pytest.raises(BadInputError, match="key is not valid"):
        Library().serve(["tiny"], key="with space")
    with run_relay("tiny") as (server, _), pytest.raises(NotWritableError, match=str(server.server_address[1])):
        Library().serve(["tiny"], port=server.server_address[1])


# Options, lifecycle, cancelling


def test_stored_options_apply_unless_the_client_sets_its_own(client: OpenAI) -> None:
    library = Library()
    library.set_options("endless", {"max_tokens": "3"})
    try:
        for requested, tokens in (({}, 3), ({"max_tokens": 5}, 5)):
            done = client.chat.completions.create(model="endless", messages=HELLO, **requested)  # type: ignore[call-overload]
            assert done.usage.completion_tokens == tokens
    finally:
        library.set_options("endless", {}, ["max_tokens"])


def test_stored_system_prompt_applies_unless_the_client_sets_its_own(client: OpenAI) -> None:
    def prompt_tokens(*head: Any) -> int:
        usage = client.chat.completions.create(model="tiny", messages=[*head, *HELLO]).usage
        assert usage is not None
        return usage.prompt_tokens

    without, own = prompt_tokens(), prompt_tokens({"role": "system", "content": "Be brief."})
    Library().set_options("tiny", {"system": "Be a walrus, and be it at length."})
    try:
        assert prompt_tokens() > own > without
        assert prompt_tokens({"role": "system", "content": "Be brief."}) == own
    finally:
        Library().set_options("tiny", {}, ["system"])


def test_engine_starts_on_demand_exits_when_idle_and_starts_again(tiny_library: TinyLibrary) -> None:
    tiny_library.add("hf/tiny/brief:F16", ggufs.tiny_chat(tiny_library.files / "brief.gguf"), aliases=("brief",))
    Library().set_options("brief", {"keep_alive": "0.2"})

    def engines() -> set[int]:
        with tiny_library.open_db() as db:
            return {row.pid for row in running_engines.list_running_engines(db) if row.model_id == "hf/tiny/brief:F16"}

    with run_relay("brief") as (_, url), OpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=SECONDS) as client:
        assert not engines()
        for _ in range(2):
            assert client.chat.completions.create(model="brief", messages=HELLO).choices[0].message.content
            wait_until(lambda: not engines())


def test_killed_engine_is_restarted_for_the_next_request(client: OpenAI, tiny_library: TinyLibrary) -> None:
    client.chat.completions.create(model="seal", messages=HELLO)
    with tiny_library.open_db() as db:
        (row,) = [row for row in running_engines.list_running_engines(db) if row.model_id == "hf/tiny/seal:F16"]
    os.kill(row.pid, signal.SIGKILL)
    assert client.chat.completions.create(model="seal", messages=HELLO).choices[0].message.content == "Seal."


def test_engine_crash_during_a_stream_is_an_error_and_not_an_end(client: OpenAI, tiny_library: TinyLibrary) -> None:
    stream = client.chat.completions.create(model="endless", messages=HELLO, stream=True)
    next(stream)
    with tiny_library.open_db() as db:
        (row,) = [row for row in running_engines.list_running_engines(db) if row.model_id == ENDLESS]
    os.kill(row.pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="lost"):
        list(stream)


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_during_an_answer_stops_the_work(url: str, tiny_library: TinyLibrary, stream: bool) -> None:
    Library().set_options("endless", {"context": 131072})
    try:
        with leave_request(url, {"model": "endless", "messages": HELLO, "stream": stream}):
            wait_until(lambda: sum_busy_slots(tiny_library, ENDLESS) == 1)
        wait_until(lambda: sum_busy_slots(tiny_library, ENDLESS) == 0)
    finally:
        Library().set_options("endless", {}, ["context"])


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_during_prompt_processing_stops_it(tiny_library: TinyLibrary, stream: bool) -> None:
    path = ggufs.tiny_chat(tiny_library.files / "slow.gguf", context=131072, blocks=24, weights_bytes=40_000_000)
    tiny_library.add("hf/tiny/slow:F16", path, aliases=("slow",))
    Library().set_options("slow", {"context": 65536})
    words = "some words " if stream else "more words "  # the second must not find the first one's in the cache
    with run_relay("slow") as (_, url):
        with leave_request(
            url, {"messages": [{"role": "user", "content": words * 4000}], "stream": stream, "max_tokens": 1}
        ):
            wait_until(lambda: sum_busy_slots(tiny_library, "hf/tiny/slow:F16") == 1)
        left = time.monotonic()
        wait_until(lambda: sum_busy_slots(tiny_library, "hf/tiny/slow:F16") == 0)
    assert time.monotonic() - left < 10


def test_client_that_leaves_during_a_load_is_noticed_and_the_engine_kept(
    tiny_library: TinyLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_library.add(
        "hf/tiny/late:F16", ggufs.tiny_chat(tiny_library.files / "late.gguf", answer="Late."), aliases=("late",)
    )
    caplog.set_level("INFO", "llm_hf_models.servers.openai_relay")
    with run_relay("late") as (_, url):
        with FileLock(make_base_folder() / "start.lock"):  # as if another model were being loaded
            with leave_request(url, {"messages": HELLO}):
                wait_until(lambda: any("carry_out" in thread.name for thread in threading.enumerate()))
            wait_until(lambda: "The client disconnected" in caplog.text)
        requested = httpx2.post(
            f"{url}/v1/chat/completions", json={"messages": HELLO}, headers=make_headers(), timeout=SECONDS
        )
        assert requested.json()["choices"][0]["message"]["content"] == "Late."


def test_requests_that_wait_for_a_load_do_not_delay_others(tiny_library: TinyLibrary) -> None:
    tiny_library.add("hf/tiny/tardy:F16", ggufs.tiny_chat(tiny_library.files / "tardy.gguf"), aliases=("tardy",))
    with run_relay("tardy", "seal") as (_, url), OpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=SECONDS) as client:
        client.chat.completions.create(model="seal", messages=HELLO)
        with FileLock(make_base_folder() / "start.lock"), ExitStack() as stack:  # as if a model were being loaded
            for _ in range(50):
                stack.enter_context(leave_request(url, {"model": "tardy", "messages": HELLO}))
            wait_until(lambda: sum("carry_out" in thread.name for thread in threading.enumerate()) == 50)
            assert client.chat.completions.create(model="seal", messages=HELLO).choices[0].message.content == "Seal."
            assert len(list(client.models.list())) == 2


# The command


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
@pytest.mark.parametrize("given", [None, "chosen-by-a-person"])
def test_command_prints_address_and_key_once_and_ends_with_ctrl_c(given: str | None) -> None:
    command = [sys.executable, "-m", "llm", "hf", "serve", "tiny", "vectors", "--port", "0", "--log"]
    environment = {**os.environ, **({"LLM_HF_SERVE_KEY": given} if given else {})}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        assert process.stderr
        url = process.stdout.readline().strip()
        assert process.stderr.readline() == f"Serving {CHAT}, {EMBED} through an OpenAI-compatible API.\n"
        assert process.stderr.readline() == f"export OPENAI_BASE_URL={url}/v1\n"
        key = given or process.stderr.readline().strip().removeprefix("export OPENAI_API_KEY=")
        with OpenAI(base_url=f"{url}/v1", api_key=key, timeout=SECONDS) as client:
            done = client.chat.completions.create(model="tiny", messages=HELLO)
            assert done.choices[0].message.content == ggufs.ANSWER
        assert process.stderr.readline() == "Press Ctrl-C to stop.\n"
        assert " 127.0.0.1 POST /v1/chat/completions tiny 200 " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(SECONDS) == 0
    assert rest == "Stopped.\n"


@contextmanager
def serve_in_a_process(name: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "llm", "hf", "serve", name, "--port", "0", "--key", KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert httpx2.get(f"{url}/health").status_code == 200
        yield process, url


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_signal_ends_streams_and_their_generation(number: int, code: int, tiny_library: TinyLibrary) -> None:
    with (
        serve_in_a_process("endless") as (process, url),
        OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=SECONDS) as client,
    ):
        stream = client.chat.completions.create(model="endless", messages=HELLO, stream=True)
        next(stream)
        assert sum_busy_slots(tiny_library, ENDLESS) == 1
        process.send_signal(number)
        with pytest.raises((openai.APIError, httpx2.HTTPError)):
            list(stream)
        _, output = process.communicate(timeout=SECONDS)
        wait_until(lambda: sum_busy_slots(tiny_library, ENDLESS) == 0)
    assert process.returncode == code
    assert output.endswith("Press Ctrl-C to stop.\n" + ("Stopped.\n" if number == signal.SIGINT else ""))


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
@pytest.mark.usefixtures("tiny_library")
def test_ctrl_c_during_a_load_does_not_wait_for_its_end() -> None:
    run_llm("hf", "stop", "--all")
    # The lock is held as if another model were being loaded.
    with FileLock(make_base_folder() / "start.lock"), serve_in_a_process("seal") as (process, url):
        threads = psutil.Process(process.pid).num_threads()
        with leave_request(url, {"messages": HELLO}):
            wait_until(lambda: psutil.Process(process.pid).num_threads() > threads)
            process.send_signal(signal.SIGINT)
            _, output = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert output.endswith("Press Ctrl-C to stop.\nStopped.\n")


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_ps_shows_the_layers_of_each_engine_and_stop_ends_it(
    sandbox: str, monkeypatch: pytest.MonkeyPatch, tiny_library: TinyLibrary
) -> None:
    monkeypatch.setenv("LLM_HF_SANDBOX", sandbox)
    run_llm("hf", "stop", "--all")
    get_output("-m", "tiny", "hello")
    (shown,) = json.loads(get_output("hf", "ps", "--json"))["engines"]
    assert shown["id"] == CHAT
    assert shown["memory_bytes"] > 0
    assert shown["tokens_per_second"] > 0
    assert bool(shown["layers"]) == (sandbox == "on")
    shown_text = run_llm("hf", "ps")
    assert ("nothing" in shown_text.stdout) == (sandbox == "off")
    assert set(shown["layers"]).isdisjoint(shown["missing"])
    for layer, why in shown["missing"].items():
        assert f"without {layer}: {why}" in shown_text.stderr
    assert ("any layer" in shown["missing"]) == (sandbox == "off")
    assert "key" not in shown
    assert "Stopped 1 engine." in run_llm("hf", "stop", "tiny").stderr
    assert json.loads(get_output("hf", "ps", "--json"))["engines"] == []
    assert list(tiny_library.runtime.rglob("*.sock")) == []


def test_ps_shows_the_actual_context_if_llama_cpp_enlarges_it() -> None:
    run_llm("hf", "stop", "--all")
    too_long = run_llm("-m", "tiny", "word " * 5000, "-o", "context", "10")
    (shown,) = json.loads(get_output("hf", "ps", "--json"))["engines"]
    assert f"the context holds {shown['context']}\n" in too_long.stderr


def test_layer_that_leaves_a_gpu_open_says_so() -> None:
    assert format_layers(["rlimits", "landlock"], gpu=True) == ["rlimits", "landlock except GPU devices"]
    assert format_layers(["rlimits", "landlock"], gpu=False) == ["rlimits", "landlock"]


@contextmanager
def leave_request(url: str, body: dict[str, Any]) -> Iterator[None]:
    """Send a request and leave without reading the response."""
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection(get_address(url), SECONDS) as raw:
        raw.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        yield
