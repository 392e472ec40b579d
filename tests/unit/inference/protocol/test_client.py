"""The client of an OpenAI-compatible endpoint, against a server with invalid responses."""

from __future__ import annotations

import asyncio
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from llm_hf_models.errors import EngineLostError, EngineRequestError
from llm_hf_models.inference import engine
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol import openai_protocol
from tests.support.openai_server import END, format_delta, format_event, join_text, respond_with, run_server

HELLO = ({"role": "user", "content": "hi"},)


ENDS_ODDLY = {
    "html": (respond_with(b"<html>hello</html>", kind="text/html"), EngineLostError, "not in OpenAI"),
    "no end": (respond_with(format_delta(content="hal")), EngineLostError, "before the response was complete"),
    "bad json": (respond_with(b"data: {nonsense\n\n"), EngineLostError, "not in OpenAI"),
    "error event": (
        respond_with(format_delta(content="a") + format_event(error={"message": "out of slots"})),
        EngineRequestError,
        "slots",
    ),
    "500": (respond_with(b"oh no\x1b[31m", status=500, kind="text/plain"), EngineRequestError, "oh no"),
    "schema": (
        respond_with(
            b'{"error": {"message": "Unable to generate parser for this template. Automatic parser generation failed: '
            b'JSON schema error at #/a: unrecognized type strin"}}',
            status=400,
            kind="application/json",
        ),
        EngineRequestError,
        "can't use the JSON schema.*\n?#/a: unrecognized type strin",
    ),
    "404": (
        respond_with(b'{"detail":"Not Found"}', status=404, kind="application/json"),
        EngineRequestError,
        "Not Found",
    ),
    "401": (respond_with(b"{}", status=401, kind="application/json"), EngineRequestError, "key"),
    "302": (respond_with(b"", status=302), EngineRequestError, "302"),
}


@pytest.mark.parametrize("name", ENDS_ODDLY)
def test_invalid_response_of_an_endpoint_gives_a_clear_error(name: str) -> None:
    respond, kind, words = ENDS_ODDLY[name]

    async def all_of(endpoint: engine.Endpoint) -> None:
        async for _ in inference_client.stream_completion_async(endpoint, openai_protocol.Turn(HELLO)):
            pass

    with run_server(respond) as url:
        with pytest.raises(kind, match=words) as caught:
            list(inference_client.stream_completion(engine.Endpoint(url), openai_protocol.Turn(HELLO)))
        with pytest.raises(kind, match=words):
            asyncio.run(all_of(engine.Endpoint(url)))
    assert "\x1b" not in str(caught.value)


def test_remote_endpoint_gets_key_and_model_and_only_standard_fields() -> None:
    seen: dict[str, Any] = {}

    def respond(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        seen.update(body, path=handler.path, key=handler.headers["Authorization"])
        reasoning = format_delta(reasoning_content="hmm")
        respond_with(b": ping\r\n\r\n" + reasoning + format_delta(content="yes") + END)(handler, body)

    with run_server(respond) as url:
        endpoint = engine.Endpoint(f"{url}/", key="sk-1", model="big-model")
        items = list(inference_client.stream_completion(endpoint, openai_protocol.Turn(HELLO, {"temperature": 0})))
    assert (join_text(items), join_text(items, "reasoning")) == ("yes", "hmm")
    assert (seen["path"], seen["key"], seen["model"]) == ("/v1/chat/completions", "Bearer sk-1", "big-model")
    assert "return_progress" not in seen


def test_proxy_is_not_used_for_local_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with run_server(respond_with(format_delta(content="direct") + END)) as url:
        assert (
            join_text(list(inference_client.stream_completion(engine.Endpoint(url), openai_protocol.Turn(HELLO))))
            == "direct"
        )


def test_endpoint_that_is_down_is_named() -> None:
    with run_server(respond_with(b"")) as url:
        pass
    with pytest.raises(EngineLostError, match=url):
        list(inference_client.stream_completion(engine.Endpoint(url), openai_protocol.Turn(HELLO)))


def test_redirect_is_not_followed_with_the_key() -> None:
    requested: list[str] = []

    def thief(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        requested.append(handler.path)
        respond_with(END)(handler, body)

    with run_server(thief) as target:

        def respond(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
            handler.send_response(307)
            handler.send_header("Location", target)
            handler.end_headers()

        with run_server(respond) as url, pytest.raises(EngineRequestError):
            list(inference_client.stream_completion(engine.Endpoint(url, key="sk-1"), openai_protocol.Turn(HELLO)))
    assert requested == []
