"""Reading headers: their values, the facts that follow, and the limits on hostile ones."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import json
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import gguf as gguf_package
import pytest

from llm_hf_models.errors import InvalidGgufError, SlowHeaderError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.header import GgufHeader, read_header
from llm_hf_models.gguf.projectors import explain_mismatch
from llm_hf_models.gguf.types import FILE_TYPES, REMOVED_TENSOR_TYPES, TENSOR_TYPES, ArrayInfo, StringInfo
from tests.support import gguf_oracle, ggufs
from tests.support.raw_gguf import array, entry, gguf, tensor, text

MEGABYTE = 1024 * 1024


class Forward:
    """A source that can only be read forward, returns a few bytes at a time, and counts them."""

    def __init__(self, content: bytes, step: int = 1000) -> None:
        self._content = io.BytesIO(content)
        self._step = step
        self.given = 0

    def read(self, size: int, /) -> bytes:
        part = self._content.read(min(size, self._step))
        self.given += len(part)
        return part


def read(path: Path) -> GgufHeader:
    with path.open("rb") as file:
        return read_header(file, file_bytes=path.stat().st_size)


def read_bytes(content: bytes) -> GgufHeader:
    return read_header(io.BytesIO(content), file_bytes=len(content))


def read_facts(*metadata: bytes, tensors: tuple[bytes, ...] = ()) -> ModelFacts:
    return read_header(io.BytesIO(gguf(metadata, tensors))).facts


def make_architecture(name: str, **counts: int) -> list[bytes]:
    keys = [entry("general.architecture", "string", name)]
    return keys + [entry(f"{name}.{key.replace('__', '.')}", "uint32", value) for key, value in counts.items()]


def test_header_of_a_chat_model_is_read_completely(tmp_path: Path) -> None:
    header = read(ggufs.tiny_chat(tmp_path / "chat.gguf"))
    assert (header.version, header.byte_order, header.alignment) == (3, "little", 32)
    assert header.chat_template == ggufs.CHAT_TEMPLATE
    assert header.metadata["llama.attention.head_count_kv"] == 2
    assert header.tensors[0].name == "token_embd.weight"
    facts = header.facts
    assert (facts.kind, facts.architecture, facts.name, facts.license) == ("chat", "llama", "Tiny Chat", "apache-2.0")
    assert (facts.block_count, facts.context_length, facts.embedding_length) == (2, 4096, 64)
    assert (facts.quantization, facts.tokenizer, facts.chat_template, facts.tools) == ("F16", "llama", True, True)
    assert facts.kv_bytes_per_token == 2 * 2 * (16 + 16) * 2  # blocks, key heads, key and value lengths, f16


def test_header_bytes_match_the_gguf_package(tmp_path: Path) -> None:
    for path in (ggufs.tiny_chat(tmp_path / "a.gguf"), ggufs.tiny_embedding(tmp_path / "b.gguf")):
        header = read(path)
        theirs = gguf_package.GGUFReader(path)
        assert header.header_bytes == theirs.data_offset
        assert [(t.name, t.size, t.elements) for t in header.tensors] == [
            (t.name, t.n_bytes, t.n_elements) for t in theirs.tensors
        ]
        assert header.facts.weights_bytes == path.stat().st_size - header.header_bytes


@pytest.mark.parametrize(("suffix", "kind"), [("base", "base"), ("embedding", "embedding"), ("mmproj", "mmproj")])
def test_kind_of_a_model_is_read_from_its_header(tmp_path: Path, suffix: str, kind: str) -> None:
    assert read(getattr(ggufs, f"tiny_{suffix}")(tmp_path / "m.gguf")).facts.kind == kind


def test_mmproj_lists_its_modalities(tmp_path: Path) -> None:
    assert read(ggufs.tiny_mmproj(tmp_path / "v.gguf")).facts.modalities == ("image",)
    assert read(ggufs.tiny_mmproj(tmp_path / "a.gguf", audio=True)).facts.modalities == ("audio",)


def test_mmproj_lists_the_widths_of_models_that_it_fits(tmp_path: Path) -> None:
    model = read(ggufs.tiny_chat(tmp_path / "m.gguf")).facts
    assert model.projection_widths == ()
    own = read(ggufs.tiny_mmproj(tmp_path / "own.gguf")).facts
    strange = read(ggufs.tiny_mmproj(tmp_path / "strange.gguf", width=128)).facts
    legacy = read(ggufs.tiny_mmproj(tmp_path / "legacy.gguf", legacy_dimension=96)).facts
    strange_legacy = read(ggufs.tiny_mmproj(tmp_path / "old.gguf", width=128, legacy_dimension=96)).facts
    assert own.projection_widths == (64,)
    assert explain_mismatch(model, own) is None
    assert explain_mismatch(model, legacy) is None
    assert explain_mismatch(model, strange) == "made for a model of width 128, and this model has width 64"
    assert explain_mismatch(model, strange_legacy) == "made for a model of another width, and this model has width 64"
    assert explain_mismatch(model, model) == "not a projector, by its header"
    assert explain_mismatch(ModelFacts(), strange) is None


@pytest.mark.parametrize(
    ("pooling", "kind"), [(0, "chat"), (1, "embedding"), (2, "embedding"), (3, "embedding"), (4, "reranker")]
)
def test_pooling_type_decides_the_kind_of_a_decoder(pooling: int, kind: str) -> None:
    chat = (entry("tokenizer.ggml.model", "string", "gpt2"), entry("tokenizer.chat_template", "string", "{{ m }}"))
    assert read_facts(*make_architecture("qwen3", pooling_type=pooling), *chat).kind == kind


@pytest.mark.parametrize("name", ["bert", "nomic-bert", "jina-bert-v2", "gemma-embedding", "modern-bert"])
def test_encoder_without_a_pooling_type_embeds(name: str) -> None:
    assert read_facts(*make_architecture(name)).kind == "embedding"


def test_encoder_with_a_classifier_reranks() -> None:
    assert read_facts(*make_architecture("bert"), tensors=(tensor("cls.output.weight", [8]),)).kind == "reranker"


def test_adapter_is_not_a_model() -> None:
    assert read_facts(*make_architecture("llama"), entry("general.type", "string", "adapter")).kind == "other"


def test_kv_bytes_follow_key_and_value_lengths_and_heads() -> None:
    shape = make_architecture(
        "gemma3", block_count=3, embedding_length=64, attention__head_count=8, attention__key_length=32,
        attention__value_length=16,
    )  # fmt: skip
    per_layer = array("gemma3.attention.head_count_kv", "uint32", [4, 0, 2])
    assert read_facts(*shape, per_layer).kv_bytes_per_token == (4 + 0 + 2) * (32 + 16) * 2


def test_multi_head_latent_attention_stores_one_compressed_key() -> None:
    shape = make_architecture(
        "deepseek2", block_count=10, embedding_length=2048, attention__head_count=16, attention__head_count_kv=1,
        attention__key_length=576, attention__value_length=512, attention__key_length_mla=192,
    )  # fmt: skip
    assert read_facts(*shape).kv_bytes_per_token == 10 * 576 * 2


def test_only_layers_with_full_attention_store_keys() -> None:
    shape = make_architecture(
        "qwen3next", block_count=48, embedding_length=2048, attention__head_count=16, attention__head_count_kv=2,
        attention__key_length=256, attention__value_length=256, full_attention_interval=4,
    )  # fmt: skip
    assert read_facts(*shape).kv_bytes_per_token == 12 * 2 * 512 * 2


def test_layers_with_a_sliding_window_are_counted_separately() -> None:
    shape = {"block_count": 12, "embedding_length": 64, "attention__head_count": 4, "attention__head_count_kv": 1}
    by_family = read_facts(*make_architecture("gemma3", attention__sliding_window=512, **shape))
    assert (by_family.sliding_window, by_family.kv_bytes_per_token) == (512, 12 * 32 * 2)
    assert by_family.kv_windowed_bytes_per_token == 10 * 32 * 2
    by_period = read_facts(
        *make_architecture("x", attention__sliding_window=512, attention__sliding_window_pattern=3, **shape)
    )
    assert by_period.kv_windowed_bytes_per_token == 8 * 32 * 2
    flags = array("x.attention.sliding_window_pattern", "bool", [True] * 3 + [False] * 9)
    by_layer = read_facts(
        *make_architecture("x", attention__sliding_window=512, attention__key_length_swa=8, **shape), flags
    )
    assert by_layer.kv_windowed_bytes_per_token == 3 * (8 + 16) * 2
    assert read_facts(*make_architecture("llama", **shape)).kv_windowed_bytes_per_token == 0


def test_huge_block_count_costs_nothing_and_gives_no_facts() -> None:
    shape = make_architecture("llama", block_count=2**31, embedding_length=64, attention__head_count=4)
    assert read_facts(*shape).kv_bytes_per_token is None


def test_header_has_sampling_defaults_base_models_and_reasoning() -> None:
    facts = read_facts(
        *make_architecture("qwen3"),
        entry("general.sampling.temp", "float32", 0.5),
        entry("general.sampling.top_k", "int32", 20),
        entry("general.sampling.min_p", "float32", float("nan")),
        entry("general.base_model.count", "uint32", 2),
        entry("general.base_model.0.repo_url", "string", "https://huggingface.co/Qwen/Qwen3-0.6B"),
        entry("general.base_model.1.name", "string", "Another \x1b[31mone"),
        entry("tokenizer.chat_template", "string", "{% if enable_thinking %}<think>{% endif %}"),
        entry("general.license", "string", "other"),
        entry("general.license.name", "string", "gemma"),
    )
    assert facts.sampling == {"temp": 0.5, "top_k": 20}
    assert facts.base_models == ("Qwen/Qwen3-0.6B", "Another one")
    assert (facts.reasoning, facts.tools, facts.license) == (True, False, "gemma")


def test_facts_can_be_stored_as_json(tmp_path: Path) -> None:
    facts = read(ggufs.tiny_chat(tmp_path / "chat.gguf")).facts
    assert json.loads(json.dumps(dataclasses.asdict(facts)))["tensor_types"] == {"F16": 16, "F32": 5}


def test_shard_has_its_number(tmp_path: Path) -> None:
    shards = ggufs.tiny_split(tmp_path, 3)
    assert [(read(s).facts.split_index, read(s).facts.split_count) for s in shards] == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_and_byte_orders_give_the_same_header(order: str, version: int) -> None:
    metadata = [
        entry("n", "int32", -5, order),
        array("a", "float64", [0.5, 2], order),
        entry("s", "string", "é", order),
    ]
    content = gguf(metadata, [tensor("t", [8, 2], offset=0, order=order)], order=order, version=version)
    header = read_bytes(content)
    assert header.version == version
    assert header.byte_order == ("little" if order == "<" else "big")
    assert header.metadata == {"n": -5, "a": (0.5, 2.0), "s": "é"}
    assert header.tensors[0].shape == (8, 2)


def test_forward_only_source_reads_like_a_file(tmp_path: Path) -> None:
    path = ggufs.tiny_chat(tmp_path / "chat.gguf", vocabulary=3000)
    content = path.read_bytes()
    for step in (1, 7, 1000, 10**6):
        assert read_header(Forward(content, step)) == read(path)


def test_at_most_one_block_is_read_past_the_header(tmp_path: Path) -> None:
    content = ggufs.tiny_chat(tmp_path / "chat.gguf", weights_bytes=3 * MEGABYTE).read_bytes()
    source = Forward(content, 10**9)
    header = read_header(source)
    assert header.header_bytes <= source.given <= header.header_bytes + 256 * 1024


def test_long_arrays_are_skipped() -> None:
    tokens = [f"token {i}" for i in range(2000)]
    content = gguf([array("tokens", "string", tokens), array("scores", "float32", [0.5] * 2000)])
    header = read_bytes(content)
    assert header.metadata == {"tokens": ArrayInfo("string", 2000), "scores": ArrayInfo("float32", 2000)}
    assert header.value_types == {"tokens": "array of string", "scores": "array of float32"}


def test_long_string_is_stored_as_its_length() -> None:
    content = gguf([entry("long", "string", "x" * (MEGABYTE + 1)), entry("after", "uint8", 7)])
    assert read_bytes(content).metadata == {"long": StringInfo(MEGABYTE + 1), "after": 7}
    assert read_header(Forward(content)).metadata["after"] == 7


def test_invalid_utf8_is_read_with_replacement_characters() -> None:
    key = text("k") + (8).to_bytes(4, "little") + text(b"a\xffb")
    assert read_bytes(gguf([key])).metadata == {"k": "a\N{REPLACEMENT CHARACTER}b"}


def test_error_has_its_rule_and_place() -> None:
    with pytest.raises(InvalidGgufError) as caught:
        read_bytes(gguf([entry("same", "uint8", 1), entry("same", "uint8", 1)]))
    assert caught.value.code == "duplicate-key"
    assert caught.value.offset == 24 + len(entry("same", "uint8", 1))


def test_invalid_name_can_not_control_the_terminal() -> None:
    with pytest.raises(InvalidGgufError) as caught:
        read_bytes(gguf([entry("a\x1b[2Jb", "uint8", 1)]))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        gguf([text("k") + (8).to_bytes(4, "little") + (2**50).to_bytes(8, "little")]),
        gguf([array("k", "uint8", [], length=2**50)]),
        gguf([array("k", "string", [], length=2**22)]),
        gguf(tensor_count=65_536),
        gguf(metadata_count=65_536),
    ],
)
def test_huge_claim_in_a_source_of_unknown_size_costs_no_memory(content: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidGgufError):
        read_header(Forward(content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEGABYTE


def test_header_beyond_the_limit_is_refused_before_reading() -> None:
    source = Forward(gguf([array("k", "uint8", [], length=2**30)]) + bytes(MEGABYTE))
    with pytest.raises(InvalidGgufError) as caught:
        read_header(source)
    assert caught.value.code == "header-too-large"
    assert source.given < MEGABYTE


def test_more_strings_than_any_tokenizer_has_are_refused() -> None:
    half = array("k", "string", [""] * 10, length=10)
    with pytest.raises(InvalidGgufError) as caught:
        read_header(Forward(gguf([half, array("l", "string", [], length=4 * 1024 * 1024)])))
    assert caught.value.code == "count-too-large"


def test_tensor_types_match_the_gguf_package() -> None:
    differs = {"Q8_1"}  # two fewer parts in ggml, which the next test checks
    for kind, (block, size) in gguf_package.GGML_QUANT_SIZES.items():
        ours = TENSOR_TYPES[kind.value]
        assert ours.name == kind.name
        if kind.name not in differs:
            assert (ours.block, ours.size) == (block, size)


def test_tensor_types_match_the_engine() -> None:
    engine = gguf_oracle.engine()
    engine.ggml_type_size.restype = ctypes.c_size_t
    engine.ggml_blck_size.restype = ctypes.c_int64
    engine.ggml_type_name.restype = ctypes.c_char_p
    for kind in range(max(TENSOR_TYPES) + 1):
        ours = TENSOR_TYPES.get(kind)
        assert (engine.ggml_type_size(kind) == 0) == (ours is None), kind
        if ours is None:
            assert kind in REMOVED_TENSOR_TYPES
        else:
            assert (ours.block, ours.size) == (engine.ggml_blck_size(kind), engine.ggml_type_size(kind)), kind
            assert engine.ggml_type_name(kind).decode().upper() == ours.name.upper()


def test_file_types_match_the_gguf_package() -> None:
    theirs = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf_package.LlamaFileType}
    theirs.pop(gguf_package.LlamaFileType.GUESSED.value)
    assert theirs == FILE_TYPES


def test_reading_a_header_imports_nothing_heavy() -> None:
    code = (
        "import sys, llm_hf_models.gguf.header, llm_hf_models.gguf.validate;"
        "print([n for n in ('numpy', 'jinja2', 'gguf', 'huggingface_hub', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Endless:
    """A source of zeros that returns one byte per read, without end."""

    def __init__(self, start: bytes) -> None:
        self._start = io.BytesIO(start)

    def read(self, _size: int, /) -> bytes:
        return self._start.read(1) or b"\0"


CLAIMS_MUCH = {
    "a string": gguf([text("k") + struct.pack("<IQ", 8, 100 * MEGABYTE)], metadata_count=1),
    "an array of strings": gguf([text("k") + struct.pack("<IIQ", 9, 8, 4_000_000)], metadata_count=1),
    "a kept string": gguf([text("k") + struct.pack("<IQ", 8, MEGABYTE)], metadata_count=1),
}


@pytest.mark.parametrize("name", CLAIMS_MUCH)
def test_endlessly_slow_source_times_out(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(SlowHeaderError, match=r"longer than 0\.02 s") as caught:
        read_header(Endless(CLAIMS_MUCH[name]), seconds=0.02)  # a fast machine reads a megabyte this way in 0.2
    assert time.monotonic() - started < 5
    assert "header_seconds" in (caught.value.hint or "")


def test_header_read_in_time_meets_no_limit(tmp_path: Path) -> None:
    content = ggufs.tiny_chat(tmp_path / "m.gguf").read_bytes()
    assert read_header(Forward(content), file_bytes=len(content), seconds=60).tensors
