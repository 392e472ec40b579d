"""Requests to the relay that clients get wrong, options that compete, schemas, and streams that start late."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx2
import pytest

from llm_hf_models.errors import BadInputError
from llm_hf_models.servers import openai_relay
from llm_hf_models.service import Library
from tests.conftest import Home
from tests.support import ggufs
from tests.support import tiny_library as tiny_library_support
from tests.support.openai_server import END, format_delta, run_server
from tests.support.relays import KEY, run_relay
from tests.support.tiny_library import CALL, DOG, TinyLibrary, open_empty_library

HEADERS = {"Authorization": f"Bearer {KEY}"}
HELLO: Any = {"role": "user", "content": "hello"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
DIGITS = {"type": "object", "properties": {"name": {"type": "string", "pattern": r"^\d+$"}}}
NO_TOOLS = ggufs.THINKING_TEMPLATE + (
    "{%- if messages[0].role == 'wizard' %}{{- raise_exception('no wizards') }}{%- endif %}"
)
SECONDS = 30


_use_tiny_library = tiny_library_support.use_tiny_library


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_empty_library(tmp_path_factory) as library:
        library.add("hf/tiny/chat:F16", ggufs.tiny_chat(library.files / "chat.gguf", tool_call=CALL), aliases=("tiny",))
        library.add("hf/tiny/dog:F16", ggufs.tiny_chat(library.files / "dog.gguf", answer=DOG), aliases=("dog",))
        plain = ggufs.tiny_chat(library.files / "plain.gguf", template=NO_TOOLS, seed=1)
        library.add("hf/tiny/plain:F16", plain, aliases=("plain",))
        yield library


@pytest.fixture
def url() -> Iterator[str]:
    with run_relay("tiny", "dog", "plain") as (_, url):
        yield url


def post(url: str, route: str = "chat/completions", **fields: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/{route}", json={"model": "tiny", **fields}, headers=HEADERS, timeout=SECONDS)


def make_history(arguments: object) -> list[Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    return [HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, answer]


INVALID: list[tuple[dict[str, Any], str]] = [
    (
        {"messages": make_history('{"town":')},
        'messages[1].tool_calls[0].function.arguments is not a JSON object: {"town":',
    ),
    ({"messages": make_history("[1]")}, "messages[1].tool_calls[0].function.arguments is not a JSON object: [1]"),
    ({"messages": make_history(7)}, "messages[1].tool_calls[0].function.arguments must be a string"),
    ({"messages": make_history('{"n": NaN}')}, "Out of range float values are not JSON"),
    ({"messages": [HELLO, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[1].tool_calls[0] must be"),
    ({"messages": [HELLO, {"role": "assistant", "tool_calls": "x"}]}, "messages[1].tool_calls must be a list"),
    ({"messages": []}, "'messages' must be a list with at least one message"),
    ({}, "'messages' must be a list"),
    ({"messages": ["hello"]}, "messages[0] must be an object"),
    ({"messages": [{"content": "x"}]}, "messages[0].role must be a string"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text must be"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "this model accepts text only"),
    ({"messages": [HELLO], "tools": "x"}, "'tools' must be a list"),
    ({"messages": [HELLO], "tools": [{"type": "function"}]}, "tools[0] must have the type"),
    ({"messages": [HELLO], "tools": [WEATHER], "model": "plain"}, "hf/tiny/plain:F16 can't use tools"),
    ({"messages": [HELLO], "response_format": "json"}, "response_format.type must be"),
    (
        {"messages": [HELLO], "response_format": {"type": "json_schema"}},
        "response_format.json_schema.schema is missing",
    ),
    ({"messages": [HELLO], "json_schema": {"pattern": "["}}, "The schema's pattern [ can't be enforced"),
    ({"messages": [HELLO], "stream": "yes"}, "'stream' must be true or false"),
    ({"messages": [HELLO], "temperature": "hot"}, "temperature"),
    ({"messages": [{"role": "wizard", "content": "x"}], "model": "plain"}, "no wizards"),
]


@pytest.mark.parametrize(("fields", "message"), INVALID)
def test_error_of_the_client_is_400_and_names_its_place(url: str, fields: dict[str, Any], message: str) -> None:
    answer = post(url, **fields)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), answer.text
    assert message in answer.json()["error"]["message"]
    assert "hint: if this is unexpected" not in answer.text  # about options of llama-server


@pytest.mark.parametrize("arguments", ["", "  ", None, '{"town": "Riga"}', {"town": "Riga"}, '"{\\"town\\": 1}"'])
def test_arguments_of_earlier_calls_may_be_empty_or_an_object(url: str, arguments: object) -> None:
    answer = post(url, messages=make_history(arguments), tools=[WEATHER])
    assert answer.json()["choices"][0]["message"]["content"] == ggufs.TOOL_ANSWER


def test_options_of_the_client_replace_stored_ones_with_the_same_effect(url: str) -> None:
    Library().set_options("tiny", {"grammar": 'root ::= "stored answer"', "max_tokens": 2})
    content = post(url, messages=[HELLO]).json()["choices"][0]
    assert content["finish_reason"] == "length"
    for limit in ("max_tokens", "max_completion_tokens", "n_predict"):
        whole = post(url, messages=[HELLO], **{limit: 100}).json()["choices"][0]
        assert (whole["message"]["content"], whole["finish_reason"]) == ("stored answer", "stop")
    free = post(url, messages=[HELLO], max_tokens=100, response_format={"type": "text"}).json()["choices"][0]
    assert free["message"]["content"] == ggufs.ANSWER
    enum = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [7]}}}
    fixed = post(url, messages=[HELLO], max_tokens=100, response_format=enum).json()["choices"][0]
    assert fixed["message"]["content"].strip() == "7"
    called = post(url, messages=[HELLO], max_tokens=100, tools=[WEATHER]).json()["choices"][0]
    assert called["finish_reason"] == "tool_calls"


def test_stored_json_object_applies_to_clients_without_a_format(url: str) -> None:
    Library().set_options("tiny", {"json_object": "on", "max_tokens": 30})
    assert post(url, messages=[HELLO]).json()["choices"][0]["message"]["content"].lstrip().startswith("{")
    free = post(url, messages=[HELLO], response_format={"type": "text"}).json()["choices"][0]
    assert free["message"]["content"] == ggufs.ANSWER


def test_response_that_does_not_match_the_schema_is_an_error(url: str) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": DIGITS}}
    message = r"$.name: 'Rex' does not match the pattern ^\d+$ (#/properties/name/pattern in the schema)"
    answer = post(url, model="dog", messages=[HELLO], response_format=wanted)
    assert answer.status_code == 502
    assert message in answer.json()["error"]["message"]
    streamed = post(url, model="dog", messages=[HELLO], response_format=wanted, stream=True)
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert message in json.loads(events[-1])["error"]["message"]
    cut = post(url, model="dog", messages=[HELLO], response_format=wanted, max_tokens=1)
    assert cut.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("status", [200, 400])
def test_stream_that_starts_late_has_comments(
    tiny_library: TinyLibrary, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(openai_relay, "COMMENT_SECONDS", 0.05)
    waiting = threading.Event()

    def respond(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> None:
        waiting.wait(SECONDS)
        handler.send_response(status)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(format_delta(content="late") + END if status == 200 else b'{"error": {"message": "no"}}')

    with run_server(respond) as elsewhere:
        Library().attach("far", elsewhere, model="x")
        body = {"model": "far", "messages": [HELLO], "stream": True}
        with (
            run_relay("far") as (_, url),
            httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, headers=HEADERS, timeout=SECONDS) as answer,
        ):
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(4)] == [": waiting for the model", ""] * 2
            waiting.set()
            rest = [line for line in lines if line.startswith("data")]
    assert answer.status_code == 200
    assert ("late" if status == 200 else '"message": "no"') in rest[0]
    assert tiny_library


def test_all_models_are_served_if_none_is_named(tiny_library: TinyLibrary) -> None:
    with run_relay() as (server, url):
        assert set(server.names) == {"hf/tiny/chat:F16", "hf/tiny/dog:F16", "hf/tiny/plain:F16"}
        path = tiny_library.files / "later.gguf"
        tiny_library.add("hf/tiny/later:F16", ggufs.tiny_chat(path, answer="Later.", seed=7), aliases=("late",))
        listed = {one["id"]: one for one in httpx2.get(f"{url}/v1/models", headers=HEADERS).json()["data"]}
        assert listed["hf/tiny/later:F16"]["aliases"] == ["late"]
        for name in ("late", "later", "tiny/later", "hf/tiny/later:F16"):
            answer = post(url, model=name, messages=[HELLO])
            assert answer.json()["choices"][0]["message"]["content"] == "Later."
        assert post(url, model="walrus", messages=[HELLO]).status_code == 404
        assert post(url, model=None, messages=[HELLO]).status_code == 404  # several models
    with tiny_library.open_db() as db:
        db.remove_model("hf/tiny/later:F16")


def test_serving_an_empty_library_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(home.llm))
    with pytest.raises(BadInputError, match="There is no model to serve"):
        Library().serve()


def test_log_has_a_line_for_each_request_without_its_content() -> None:
    lines: list[str] = []
    with run_relay("tiny", log=lines.append) as (_, url):
        post(url, messages=[{"role": "user", "content": "a secret"}])
        post(url, model="a b\n2026", messages=[HELLO])
        httpx2.get(f"{url}/v1/models?key=secret", headers={"Authorization": "Bearer secret"})
        with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=SECONDS)) as connection:
            connection.request("POST", "/v1/completions", headers={"Content-Length": "99999999999"})
            assert connection.getresponse().status == 413
        post(url, messages=[HELLO], stream=True)
    shown = [re.sub(r"\d+ bytes [0-9.]+ s$", "N", line.partition("Z 127.0.0.1 ")[2]) for line in lines]
    assert shown == [
        "POST /v1/chat/completions tiny 200 N",
        "POST /v1/chat/completions a_b_2026 404 N",
        "GET /v1/models 401 N",
        "POST /v1/completions 413 N",
        "POST /v1/chat/completions tiny 200 N",
    ]
    assert "secret" not in "".join(lines)


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_wrong_key_is_reported_also_for_a_large_body(url: str, size: int) -> None:
    for content in (b"x" * size, (b"x" * 50_000 for _ in range(size // 50_000 + 1))):
        answer = httpx2.post(
            f"{url}/v1/chat/completions", content=content, headers={"Authorization": "Bearer no"}, timeout=SECONDS
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
