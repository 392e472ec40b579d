"""Parsing the stream of an OpenAI-compatible server."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.errors import EngineError
from llm_hf_models.inference.protocol.openai_protocol import Finish
from llm_hf_models.inference.protocol.response_parser import ResponseParser
from llm_hf_models.inference.protocol.tool_calls import ToolCall
from tests.support.openai_server import END, Item, format_delta, join_text

STREAM = (
    b": ping\n\n"
    + format_delta(role="assistant", content=None)
    + format_delta(content="He")
    + format_delta(content="llo \u00e9")
    + format_delta(
        tool_calls=[{"index": 1, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]
    )
    + format_delta(tool_calls=[{"index": 1, "function": {"arguments": '{"a":'}}])
    + format_delta(tool_calls=[{"index": 1, "function": {"arguments": "1}"}}])
    + END
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_stream_is_parsed_equally_however_it_is_split(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = ResponseParser()
    items: list[Item] = []
    for begin, end in pairwise(edges):
        items += reader.feed(STREAM[begin:end])
    items += reader.end()
    assert join_text(items) == "Hello é"
    assert items[-2] == ToolCall("f", '{"a":1}', "c1")


@given(st.binary(max_size=300), st.booleans())
def test_hostile_bytes_give_an_answer_or_one_of_our_errors(data: bytes, stream: bool) -> None:
    reader = ResponseParser()
    try:
        items = [*reader.feed(b"data: " + data + b"\n" if stream else data), *reader.end()]
    except EngineError:
        return
    assert isinstance(items[-1], Finish)
