"""Validating whole files: valid ones pass, and a fault in one place is named with its rule."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import gguf as gguf_package
import pytest

from llm_hf_models.gguf import header as header_module
from llm_hf_models.gguf import semantics, template_audit, validate
from llm_hf_models.gguf.header import read_header
from llm_hf_models.gguf.rules import DOCUMENTED_RULES
from llm_hf_models.gguf.validate import ValidationReport, check_file, check_header, check_shards
from tests.support import ggufs
from tests.support.raw_gguf import array, entry, gguf, tensor

PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up")
BLOCK = tuple(f"{part}.weight" for part in PARTS)


def check_model(
    *extra: bytes,
    without: str = "",
    tensors: tuple[bytes, ...] | None = None,
    tokens: bytes | None = None,
    **counts: tuple[str, int],
) -> ValidationReport:
    """Check a small llama that is valid except for one change. `counts` overrides llama.* keys as (type, value)."""
    values = {"block_count": ("uint32", 1), "context_length": ("uint32", 64), "embedding_length": ("uint32", 8)}
    values |= {"attention.head_count": ("uint32", 4), "attention.head_count_kv": ("uint32", 2)}
    values |= {key.replace("__", "."): value for key, value in counts.items()}
    metadata = [entry("general.architecture", "string", "llama"), entry("tokenizer.ggml.model", "string", "llama")]
    metadata += [entry(f"llama.{key}", kind, value) for key, (kind, value) in values.items() if key != without]
    metadata.append(array("tokenizer.ggml.tokens", "string", ["a", "b", "c"]) if tokens is None else tokens)
    if tensors is None:
        names = ["token_embd.weight", "output_norm.weight", *(f"blk.0.{name}" for name in BLOCK)]
        shapes = [(8, 3) if name.startswith("token") else (8,) for name in names]
        offsets = [0, *(96 + 32 * i for i in range(len(names)))]
        tensors = tuple(tensor(n, s, offset=o) for n, s, o in zip(names, shapes, offsets, strict=False))
    content = gguf([*metadata, *extra], tensors)
    return check_header(read_header(io.BytesIO(content)), file_bytes=None)


def list_codes(report: ValidationReport) -> dict[str, str]:
    return {finding.code: finding.severity for finding in report.findings}


def test_small_llama_of_the_tests_is_valid() -> None:
    assert list_codes(check_model()) == {}


MAKERS: dict[str, Callable[[Path], Path]] = {
    "chat": ggufs.tiny_chat,
    "base": ggufs.tiny_base,
    "embedding": ggufs.tiny_embedding,
    "mmproj": ggufs.tiny_mmproj,
    "large": lambda path: ggufs.tiny_chat(path, vocabulary=5000, weights_bytes=1_000_000, blocks=3),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_model_of_the_tests_is_valid(tmp_path: Path, kind: str) -> None:
    assert check_file(MAKERS[kind](tmp_path / "m.gguf")).findings == ()


def test_shards_of_one_model_pass_together_and_alone_as_parts(tmp_path: Path) -> None:
    shards = ggufs.tiny_split(tmp_path, 3)
    whole = check_shards(shards)
    assert whole.findings == ()
    assert whole.header is not None
    assert whole.header.facts.parameters == check_file(ggufs.tiny_chat(tmp_path / "one.gguf")).header.facts.parameters
    assert [list_codes(check_file(shard)) for shard in shards] == [{"split-part": "note"}] * 3


def test_reordered_or_missing_shards_are_refused(tmp_path: Path) -> None:
    first, second, third = ggufs.tiny_split(tmp_path, 3)
    assert "shards-disagree" in list_codes(check_shards([first, third, second]))
    assert "shards-disagree" in list_codes(check_shards([first, second]))


def test_duplicate_shard_is_refused_for_its_tensors(tmp_path: Path) -> None:
    first, second, _ = ggufs.tiny_split(tmp_path, 3)
    assert list_codes(check_shards([first, second, second]))["duplicate-tensor"] == "error"


def test_broken_shard_is_named(tmp_path: Path) -> None:
    shards = ggufs.tiny_split(tmp_path, 3)
    shards[1].write_bytes(b"GGUX")
    report = check_shards(shards)
    assert [finding.code for finding in report.errors] == ["not-gguf"]
    assert (report.errors[0].where or "").startswith(shards[1].name)


def test_truncated_file_is_an_error_at_any_length(tmp_path: Path) -> None:
    path = ggufs.tiny_chat(tmp_path / "m.gguf")
    whole = path.read_bytes()
    for keep in (0, 3, 24, 100, 5000, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:keep])
        assert check_file(path).errors, keep


def test_missing_file_raises_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("block-count", {"block_count": ("uint32", 0)}),
        ("block-count", {"block_count": ("uint32", 2**31)}),
        ("context-length", {"context_length": ("uint32", 0)}),
        ("context-length", {"context_length": ("uint32", 2**32 - 1)}),
        ("embedding-length", {"embedding_length": ("uint32", 0)}),
        ("head-count", {"attention__head_count_kv": ("uint32", 3)}),
        ("head-count", {"attention__head_count_kv": ("uint32", 8)}),
        ("experts", {"expert_count": ("uint32", 2), "expert_used_count": ("uint32", 3)}),
        ("experts", {"expert_count": ("uint32", 10**6), "expert_used_count": ("uint32", 2)}),
    ],
)
def test_number_out_of_range_is_an_error(code: str, count: dict[str, tuple[str, int]]) -> None:
    assert list_codes(check_model(**count))[code] == "error"


@pytest.mark.parametrize(
    ("code", "severity", "extra"),
    [
        ("layer-array-length", "warning", array("llama.feed_forward_length", "uint32", [1, 2])),
        ("rope-sections", "warning", array("llama.rope.dimension_sections", "int32", [8, 4, 4])),
        ("token-arrays-differ", "error", array("tokenizer.ggml.scores", "float32", [0.0, 0.0])),
        ("token-arrays-differ", "error", array("tokenizer.ggml.token_type", "int32", [1] * 4)),
        ("token-array-type", "error", array("tokenizer.ggml.scores", "float64", [0.0] * 3)),
        ("token-id-range", "warning", entry("tokenizer.ggml.eos_token_id", "uint32", 3)),
        ("token-id-range", "warning", entry("tokenizer.ggml.padding_token_id", "int32", -1)),
        ("number-not-finite", "warning", entry("llama.rope.freq_base", "float32", float("inf"))),
        ("split-keys", "error", entry("split.count", "uint16", 2)),
        ("string-not-utf8", "warning", entry("general.name", "string", b"\xff\xfe")),
        ("string-too-long", "warning", entry("general.description", "string", "x" * (2**20 + 1))),
        ("template-type", "error", array("tokenizer.chat_template", "string", ["{{ a }}"])),
        ("template-too-large", "error", entry("tokenizer.chat_template", "string", "x" * (2**20 + 1))),
        ("template-include", "error", entry("tokenizer.chat_template.tool_use", "string", "{% include 'a' %}")),
    ],
)
def test_each_wrong_key_is_found_by_its_rule(code: str, severity: str, extra: bytes) -> None:
    assert list_codes(check_model(extra)) == {code: severity}


@pytest.mark.parametrize("key", ["block_count", "context_length", "embedding_length"])
def test_missing_number_is_a_warning(key: str) -> None:
    assert list_codes(check_model(without=key)) == {key.replace("_", "-"): "warning"}


@pytest.mark.parametrize(
    "change",
    [
        {"context_length": ("uint64", 64)},
        {"block_count": ("int32", 1)},
        {"expert_count": ("uint32", 4096)},
        {"block_count": ("uint32", 1000)},
    ],
)
def test_value_that_a_later_llama_cpp_may_accept_is_no_error(change: dict[str, tuple[str, int]]) -> None:
    assert check_model(**change).errors == ()


def test_number_of_used_experts_may_differ_between_layers() -> None:
    experts = [entry("llama.expert_count", "uint32", 8), array("llama.expert_used_count", "uint32", [2])]
    assert list_codes(check_model(*experts)) == {}


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("vocabulary-shape", {"embedding_length": ("uint32", 16)}),
        ("block-out-of-range", {"block_count": ("uint32", 1)}),
    ],
)
def test_tensor_that_the_header_does_not_describe_is_a_warning(code: str, count: dict[str, tuple[str, int]]) -> None:
    tensors = (tensor("token_embd.weight", [8, 3]), tensor("blk.1.attn_norm.weight", [8], offset=96))
    values = {"block_count": ("uint32", 2), **count}
    assert list_codes(check_model(tensors=tensors, **values)) == {code: "warning"}


def test_model_of_any_architecture_may_lack_any_tensor() -> None:
    assert list_codes(check_model(tensors=(tensor("blk.0.attn_norm.weight", [8]),))) == {}


def test_model_without_tokens_tensors_or_architecture_is_reported() -> None:
    assert list_codes(check_model(tokens=array("tokenizer.ggml.tokens", "string", [])))["tokenizer"] == "warning"
    assert list_codes(check_model(tensors=())) == {"no-tensors": "warning"}
    empty = check_header(read_header(io.BytesIO(gguf())), file_bytes=None)
    assert list_codes(empty) == {"architecture": "error"}


def test_gpt2_tokenizer_without_merges_is_a_warning() -> None:
    extra = [entry("general.architecture", "string", "gpt2"), entry("tokenizer.ggml.model", "string", "gpt2")]
    extra.append(array("tokenizer.ggml.tokens", "string", ["a"]))
    report = check_header(read_header(io.BytesIO(gguf(extra))), file_bytes=None)
    assert "tokenizer.ggml.merges" in [finding.where for finding in report.warnings]
    assert report.errors == ()


def test_list_of_findings_is_limited() -> None:
    tensors = tuple(tensor(f"blk.{i}.x", [8], offset=1) for i in range(1000, 3000))
    report = check_model(tensors=tensors)
    assert len(report.findings) == validate.MAX_FINDINGS + 1
    assert list_codes(report)["more-findings"] == "note"


def test_quoted_text_in_a_finding_can_not_control_the_terminal() -> None:
    report = check_model(entry("tokenizer.chat_template", "string", "{{ '__class__\x1b[2J\u202e' }}"))
    assert report.errors
    assert not any("\x1b" in f.message or "\u202e" in f.message for f in report.findings)


# Codes that the reader composes: a key and a tensor's name are read alike.
BUILT = {f"{what}-{rule}" for what in ("key", "tensor-name") for rule in ("length", "text")}


def test_every_rule_is_documented_with_a_reason_and_used() -> None:
    modules = (header_module, semantics, template_audit, validate)
    source = "".join(Path(module.__file__ or "").read_text() for module in modules)
    raised = set(re.findall(r'(?:finding|_refuse|_add)\(\s*"([a-z0-9-]+)"', source)) | BUILT
    assert raised <= set(DOCUMENTED_RULES)
    assert [code for code in DOCUMENTED_RULES if f'"{code}"' not in source and code not in BUILT] == []
    assert all(why.endswith(".") for why in DOCUMENTED_RULES.values())


def test_model_of_the_gguf_package_with_all_tensor_types_passes(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "types.gguf"
    writer = gguf_package.GGUFWriter(path, "test")
    writer.add_type("adapter")
    for kind, (block, size) in gguf_package.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # the package has a wrong size for it
            writer.add_tensor(kind.name, np.zeros((2, 3 * size), dtype=np.uint8), raw_dtype=kind)
            assert block
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert check_file(path).findings == ()
