"""Models of attached servers whose responses differ from OpenAI's protocol as those of real servers do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import llm
import pytest

from tests.support import tiny_library as tiny_library_support
from tests.support.commands import run_llm
from tests.support.openai_server import END, format_delta, format_event
from tests.support.relays import KEY, run_relay
from tests.support.remote_models import register_remote_model
from tests.support.tiny_library import FUNCTION, TinyLibrary, get_output, open_empty_library, read_last_log

RIGA, OSLO = '{"town": "Riga"}', '{"town": "Oslo"}'
_use_tiny_library = tiny_library_support.use_tiny_library


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLibrary]:
    with open_empty_library(tmp_path_factory) as library:
        yield library


def go_on(
    arguments: object = ..., *, name: str | None = None, call_id: object = ..., index: object = ...
) -> dict[str, Any]:
    """Return one item of `tool_calls`, without the fields that are not given."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value not in (..., None)}
    function |= {"arguments": None} if arguments is None else {}
    fields = {"id": call_id, "index": index, "function": function}
    return {"type": "function", **{key: value for key, value in fields.items() if value is not ...}}


def begin(arguments: object = ..., **fields: Any) -> dict[str, Any]:
    """Return an item that names the tool."""
    return go_on(arguments, name="weather", **fields)


def make_stream(*events: list[dict[str, Any]], reason: str = "tool_calls") -> bytes:
    """Return a stream with one event for each list of tool calls."""
    deltas = b"".join(format_delta(tool_calls=calls) for calls in events)
    return deltas + format_event(choices=[{"index": 0, "delta": {}, "finish_reason": reason}]) + b"data: [DONE]\n\n"


def read_calls(library: TinyLibrary, answer: bytes) -> list[tuple[str, Any]]:
    """Return the tool calls that llm receives from a server, which are also the parts of its message."""
    tool = llm.Tool("weather", input_schema={"type": "object"}, implementation=lambda **_: "sunny")
    with register_remote_model(library, answer):
        response = llm.get_model("far").prompt("weather?", tools=[tool])
        calls = response.tool_calls()
    assert len({call.tool_call_id for call in calls}) == len(calls)
    (message,) = response.messages()
    assert [(part.name, part.arguments) for part in message.parts] == [(call.name, call.arguments) for call in calls]
    return [(call.name, call.arguments) for call in calls]


def weather(town: str) -> tuple[str, Any]:
    return "weather", {"town": town}


TWO = [weather("Riga"), weather("Oslo")]
PARTS = ('{"tow', 'n": "R', 'iga"}')
STREAMS: dict[str, tuple[bytes, list[tuple[str, Any]]]] = {
    "openai": (
        make_stream(
            [begin("", call_id="a", index=0)],
            *([go_on(part, index=0)] for part in PARTS),
            [begin("", call_id="b", index=1)],
            [go_on(OSLO, index=1)],
        ),
        TWO,
    ),
    "name and arguments next to the id": (
        make_stream([{"id": "a", "name": "weather", "arguments": json.loads(RIGA)}], [{"name": "weather"}]),
        [weather("Riga")],
    ),
    "function_call, the earlier form": (
        format_delta(role="assistant", content=None, function_call={"name": "weather", "arguments": ""})
        + b"".join(format_delta(function_call={"arguments": part}) for part in PARTS)
        + format_event(choices=[{"index": 0, "delta": {}, "finish_reason": "function_call"}])
        + b"data: [DONE]\n\n",
        [weather("Riga")],
    ),
    "function_call, unstreamed": (
        json.dumps(
            {
                "choices": [
                    {
                        "message": {"content": None, "function_call": {"name": "weather", "arguments": RIGA}},
                        "finish_reason": "function_call",
                    }
                ]
            }
        ).encode(),
        [weather("Riga")],
    ),
    "interleaved": (
        make_stream(
            [
                begin(PARTS[0], call_id="a", index=0),
                begin("", call_id="b", index=1),
            ],
            [go_on(OSLO, index=1), go_on(PARTS[1] + PARTS[2], index=0)],
        ),
        TWO,
    ),
    "ollama: same index, several events": (
        make_stream(
            [begin(RIGA, call_id="a", index=0)],
            [begin(OSLO, call_id="b", index=0)],
        ),
        TWO,
    ),
    "ollama: same index, one event": (
        make_stream(
            [
                begin(RIGA, call_id="a", index=0),
                begin(OSLO, call_id="b", index=0),
            ]
        ),
        TWO,
    ),
    "same index, parts follow": (
        make_stream(
            [begin("", call_id="a", index=0)],
            *([go_on(part, index=0)] for part in PARTS),
            [begin("", call_id="b", index=0)],
            [go_on(OSLO, index=0)],
        ),
        TWO,
    ),
    "same index, no ids": (
        make_stream([begin(RIGA, index=0)], [begin(OSLO, index=0)]),
        TWO,
    ),
    "no index, ids": (
        make_stream([begin(RIGA, call_id="a")], [begin(OSLO, call_id="b")]),
        TWO,
    ),
    "no index, no ids": (make_stream([begin(RIGA)], [begin(OSLO)]), TWO),
    "no index, no ids, one event": (
        make_stream([begin(RIGA), begin(OSLO)]),
        TWO,
    ),
    "no index, parts follow": (
        make_stream(
            [begin(None, call_id="a")],
            *([go_on(part)] for part in PARTS),
            [begin(None, call_id="b")],
            [go_on(OSLO)],
        ),
        TWO,
    ),
    "null index, empty ids": (
        make_stream(
            [begin("", call_id="a", index=None)],
            *([go_on(part, call_id="", index=None)] for part in PARTS),
        ),
        TWO[:1],
    ),
    "index as text, numeric id": (
        make_stream([begin("", call_id=7, index="0")], [go_on(RIGA, call_id=7, index="0")]),
        TWO[:1],
    ),
    "id in each delta": (
        make_stream(*([begin(part, call_id="a", index=0)] for part in ("", *PARTS))),
        TWO[:1],
    ),
    "another id in each delta": (
        make_stream(
            *(
                [go_on(part, name=None if at else "weather", call_id=f"id{at}", index=0)]
                for at, part in enumerate(PARTS)
            )
        ),
        TWO[:1],
    ),
    "same id for all calls": (
        make_stream(
            [
                begin(RIGA, call_id="x", index=0),
                begin(OSLO, call_id="x", index=1),
            ]
        ),
        TWO,
    ),
    "name after the arguments": (
        make_stream([go_on(RIGA, call_id="a", index=0)], [begin("", call_id="a", index=0)]),
        TWO[:1],
    ),
    "id after the name": (
        make_stream([begin("", index=0)], [go_on(RIGA, call_id="a", index=0)]),
        TWO[:1],
    ),
    "repeated name": (make_stream(*([begin(part, index=0)] for part in PARTS)), TWO[:1]),
    "growing name": (
        make_stream([go_on("", name="wea", call_id="a", index=0)], [begin(RIGA, index=0)]),
        TWO[:1],
    ),
    "name null as text": (
        make_stream([begin(PARTS[0], index=0)], [go_on(PARTS[1] + PARTS[2], name="null", index=0)]),
        TWO[:1],
    ),
    "arguments as an object": (make_stream([begin({"town": "Riga"}, index=0)]), TWO[:1]),
    "arguments null": (make_stream([begin(None, index=0)]), [("weather", {})]),
    "arguments null as text": (make_stream([begin("null", index=0)]), [("weather", {})]),
    "arguments empty": (make_stream([begin("", index=0)]), [("weather", {})]),
    "arguments blank": (make_stream([begin(" \n", index=0)]), [("weather", {})]),
    "arguments {}": (make_stream([begin("{}", index=0)]), [("weather", {})]),
    "no arguments": (make_stream([begin(index=0)]), [("weather", {})]),
    "JSON in a JSON string": (make_stream([begin(json.dumps(RIGA), index=0)]), TWO[:1]),
    "JSON in a JSON string, in parts": (
        make_stream(*([begin(part, call_id="a", index=0)] for part in ('"{\\"town\\": ', '\\"Riga\\"}"'))),
        TWO[:1],
    ),
    "empty JSON string": (make_stream([begin('""', index=0)]), [("weather", {})]),
    "{} first": (
        make_stream([begin("{}", call_id="a", index=0)], *([go_on(p, index=0)] for p in PARTS)),
        TWO[:1],
    ),
    "null last": (
        make_stream([begin(RIGA, call_id="a", index=0)], [go_on("null", index=0)]),
        TWO[:1],
    ),
    "repeated at the end": (
        make_stream(
            [begin("", call_id="a", index=0)],
            *([go_on(part, index=0)] for part in PARTS),
            [begin('{"town":"Riga"}', call_id="a", index=0)],
        ),
        TWO[:1],
    ),
    "growing arguments": (
        make_stream(
            *([begin(RIGA[:end], call_id="a", index=0)] for end in (1, 6, 12, len(RIGA))),
        ),
        TWO[:1],
    ),
    "nested null and {}": (
        make_stream(*([begin(part, call_id="a", index=0)] for part in ('{"a": ', "null", ', "b": ', "{}", "}"))),
        [("weather", {"a": None, "b": {}})],
    ),
    "finish reason stop": (make_stream([begin(RIGA, index=0)], reason="stop"), TWO[:1]),
    "function null": (
        make_stream([begin(RIGA, index=0)], [{"index": 0, "function": None}, None]),  # type: ignore[list-item]
        TWO[:1],
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_tool_calls_of_real_servers_are_understood(name: str, tiny_library: TinyLibrary) -> None:
    answer, expected = STREAMS[name]
    assert read_calls(tiny_library, answer) == expected


@pytest.mark.parametrize("indexes", [(0, 1), (0, 0), (None, None)])
def test_unstreamed_calls_are_separate_calls(indexes: tuple[int | None, int | None], tiny_library: TinyLibrary) -> None:
    calls = [begin(RIGA, index=index) for index in indexes]
    choice = {"index": 0, "message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}
    assert read_calls(tiny_library, json.dumps({"choices": [choice]}).encode()) == [weather("Riga")] * 2


@pytest.mark.parametrize("arguments", ["[1]", '"town"', "{'town': 'Riga'}", [1], 7, RIGA + OSLO, "[" * 100_000])
def test_other_arguments_are_an_error_that_names_the_tool(arguments: object, tiny_library: TinyLibrary) -> None:
    for how in ((), ("--async",)):
        with register_remote_model(tiny_library, make_stream([begin(arguments, index=0)])):
            result = run_llm("-m", "far", "--functions", FUNCTION, "weather?", *how)
        assert result.exit_code == 1
        assert "The call of tool weather has invalid arguments" in result.stderr


def test_call_without_a_name_is_an_error(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, make_stream([go_on(RIGA, call_id="a", index=0)])):
        result = run_llm("-m", "far", "--functions", FUNCTION, "weather?")
    assert "calls a tool without a name" in result.stderr


def finish_with(reason: object) -> bytes:
    return format_event(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])


YES = format_delta(content="yes")
USAGE = format_event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1})
BODIES: dict[str, bytes] = {
    "no [DONE]": YES + finish_with("stop"),
    "no finish reason": YES + b"data: [DONE]\n\n",
    "empty finish reason": format_event(choices=[{"delta": {"content": "yes"}, "finish_reason": ""}]) + b"data: [DONE]",
    "no line break at the end": YES + finish_with("eos").rstrip(),
    "comments, event names and blank data": b": OPENROUTER PROCESSING\n\nevent: message\ndata:\n\nretry: 3\n"
    + YES
    + END,
    "CRLF": (YES + END).replace(b"\n", b"\r\n"),
    "no space after the colon": (YES + END).replace(b"data: ", b"data:"),
    "byte order mark": b"\xef\xbb\xbf" + YES + END,
    "usage in an extra event": YES + finish_with("stop") + USAGE + b"data: [DONE]\n\n",
    "usage without choices": YES + finish_with("stop") + USAGE.replace(b"[]", b"null") + b"data: [DONE]\n\n",
    "usage with other types": YES + format_event(choices=[], usage={"prompt_tokens": "3", "x": []}, timings=[]) + END,
    "usage null": format_event(choices=[{"delta": {"content": "yes"}}], usage=None, error=None, model=7) + END,
    "empty error": format_event(choices=[{"delta": {"content": "yes"}}], error={}) + END,
    "content in parts": format_delta(content=[{"type": "text", "text": "yes"}]) + END,
    "role and null content first": format_delta(role="assistant", content=None, tool_calls=None) + YES + END,
    "in one piece": json.dumps({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}).encode(),
}


@pytest.mark.parametrize("how", [(), ("--async",)])
@pytest.mark.parametrize("name", BODIES)
def test_answers_of_real_servers_are_read(name: str, how: tuple[str, ...], tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, BODIES[name]):
        assert get_output("-m", "far", "hello", *how) == "yes"
    if "extra event" in name:
        assert (read_last_log()["input_tokens"], read_last_log()["output_tokens"]) == (3, 1)


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", "text/plain"])
@pytest.mark.parametrize("name", ["CRLF", "in one piece"])
def test_body_decides_whether_it_is_a_stream(name: str, kind: str, tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, BODIES[name]) as far:
        far.content_type = kind
        assert get_output("-m", "far", "hello") == "yes"


@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning_content": "Hmm."}],
        [{"reasoning": "Hmm."}],
        [{"reasoning": "Hmm.", "reasoning_content": "Hmm."}],
        [{"reasoning": None, "reasoning_content": "Hmm."}],
        [
            {
                "reasoning": {"text": "x"},
                "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hmm."}]}],
            }
        ],
    ],
)
def test_reasoning_is_read_under_all_of_its_names(deltas: list[dict[str, Any]], tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, b"".join(format_delta(**delta) for delta in deltas) + YES + END):
        assert get_output("-m", "far", "hello") == "yes"
    assert read_last_log()["reasoning"] == "Hmm."


@pytest.mark.parametrize(
    "answer",
    [
        YES + format_event(error={"message": "out of memory"}),
        YES + format_event(error="out of memory"),
        b"event: error\n" + format_event(error={"message": "out of memory"}),
        YES + format_event(choices=[{"finish_reason": "error", "delta": {}, "error": {"message": "out of memory"}}]),
        YES + format_event(object="error", message="out of memory", code=500),
        b'{"error": {"message": "out of memory"}}',
    ],
)
def test_error_within_a_response_is_shown(answer: bytes, tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, answer):
        result = run_llm("-m", "far", "hello")
    assert (result.exit_code, "out of memory" in result.stderr) == (1, True)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_every_name_of_a_cut_response_is_known(reason: str, tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, YES + finish_with(reason)):
        get_output("-m", "far", "hello")
    assert read_last_log()["response_json"]["finish_reason"] == "length"


def test_content_filter_is_reported(tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, YES + finish_with("content_filter")):
        assert "content filter" in run_llm("-m", "far", "hello").stderr


@pytest.mark.parametrize("answer", [b"", b": ping\n\n", YES, YES + b'data: {"choi', format_event(choices=[])])
def test_response_without_an_end_is_an_error(answer: bytes, tiny_library: TinyLibrary) -> None:
    with register_remote_model(tiny_library, answer):
        result = run_llm("-m", "far", "hello")
    assert "before the response was complete" in result.stderr


def test_relay_assembles_the_calls_of_a_stream_that_was_not_requested(tiny_library: TinyLibrary) -> None:
    import httpx2

    answer = make_stream(
        [begin({"town": "Riga"}, call_id="a", index=None)],
        [begin(json.dumps({"town": "Oslo"}), call_id="b", index=None)],
    )
    with register_remote_model(tiny_library, answer), run_relay("far") as (_, url):
        response = httpx2.post(
            f"{url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {KEY}"},
            json={"messages": [{"role": "user", "content": "weather?"}]},
        )
    calls = response.json()["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], json.loads(call["function"]["arguments"])) for call in calls] == [
        ("a", {"town": "Riga"}),
        ("b", {"town": "Oslo"}),
    ]
