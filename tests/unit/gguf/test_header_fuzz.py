"""Random headers built by hypothesis: only our errors, in bounded time."""

from __future__ import annotations

import io

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_hf_models.errors import InvalidGgufError
from llm_hf_models.gguf.header import GgufHeader, read_header
from tests.support.malformed_ggufs import EDGES, judge_header
from tests.support.raw_gguf import array, entry, gguf, tensor

KEYS = st.sampled_from(["general.architecture", "general.alignment", "tokenizer.ggml.tokens", "llama.block_count", "a"])
NAMES = KEYS | st.text(max_size=8)
NUMBERS = st.sampled_from(["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])


@st.composite
def draw_entry(draw: st.DrawFn) -> bytes:
    """Draw a key with a value of any type, or an array that may claim another length."""
    key = draw(NAMES)
    match draw(st.integers(0, 3)):
        case 0:
            return entry(key, "string", draw(st.text(max_size=20) | st.just("llama")))
        case 1:
            return entry(key, draw(NUMBERS), draw(st.integers(0, 64)))
        case 2:
            claimed = draw(st.none() | st.sampled_from(EDGES))
            return array(key, draw(NUMBERS), draw(st.lists(st.integers(0, 9), max_size=9)), length=claimed)
        case _:
            return array(key, "string", draw(st.lists(st.text(max_size=5), max_size=9)))


@st.composite
def draw_file(draw: st.DrawFn) -> bytes:
    """Draw a file that is mostly well made, with tensors laid out mostly as they should be."""
    sizes = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=4))
    offset, tensors = 0, []
    for number, (rows, columns) in enumerate(sizes):
        name = draw(st.just(f"t{number}") | st.text(max_size=4))
        tensors.append(tensor(name, [columns * 8, rows], draw(st.sampled_from([0, 1, 2, 8, 24, 30, 99])), offset))
        offset += draw(st.sampled_from([-(-rows * columns * 32 // 32) * 32, 0, 32, 64]))
    counts = {"tensor_count": draw(st.none() | st.sampled_from(EDGES))} if draw(st.booleans()) else {}
    metadata = draw(st.lists(draw_entry(), max_size=5))
    return gguf(metadata, tensors, data=bytes(draw(st.integers(0, 600))), **counts)  # type: ignore[arg-type]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(draw_file())
def test_any_header_is_read_or_refused_by_a_documented_rule(content: bytes) -> None:
    judge_header(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"GGUF", b"GGUF\3\0\0\0", b"GGUF\0\0\0\3"]))
def test_any_bytes_are_read_or_refused_by_a_documented_rule(content: bytes, start: bytes) -> None:
    judge_header(start + content)


@settings(max_examples=200, deadline=None)
@given(draw_file())
def test_knowing_the_file_size_turns_no_valid_file_invalid(content: bytes) -> None:
    known = judge_header(content)
    try:
        unknown = read_header(io.BytesIO(content))
    except InvalidGgufError:
        assert isinstance(known, InvalidGgufError)
    else:
        if isinstance(known, GgufHeader):
            assert (unknown.metadata, unknown.tensors) == (known.metadata, known.tensors)
