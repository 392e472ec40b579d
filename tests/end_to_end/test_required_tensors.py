"""The table of required tensors, compared with llama.cpp's loaders: exactly these, and each of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_hf_models.gguf import required_tensors
from llm_hf_models.gguf.validate import check_file
from tests.support import architectures, gguf_oracle

LAST = architectures.BLOCKS - 1


@dataclass(frozen=True)
class Variant:
    """A model family or one of its shapes. `instead` maps tensors to their replacements."""

    architecture: str
    keys: Mapping[str, object] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)

    def tensors(self) -> list[str]:
        """Return all required tensors and nothing else."""
        keys = {**architectures.KEYS.get(self.architecture, {}), **self.keys}
        metadata = {f"{self.architecture}.{name}": value for name, value in keys.items()}
        names: list[str] = []
        for name in required_tensors.find_missing_tensors(
            self.architecture, metadata, frozenset(), architectures.BLOCKS
        ):
            for old, new in self.instead.items():
                if name.endswith(f".{old}"):
                    name = name.removesuffix(old) + new  # noqa: PLW2901
            names.append(name)
        return list(dict.fromkeys(names))

    def write(self, path: Path, *, without: str = "") -> Path:
        return architectures.write_tiny(path, self.architecture, self.tensors(), without=without, keys=self.keys)


FUSED = {f"attn_{part}.weight": "attn_qkv.weight" for part in "qkv"}
RANKED = {"attn_q.weight": "attn_q_a.weight"}
VARIANTS = {name: Variant(name) for name in required_tensors.FAMILIES if name != "deepseek2"} | {
    "llama with experts": Variant("llama", architectures.MOE),
    "llama with fused attention": Variant("llama", instead=FUSED),
    "granite with experts": Variant("granite", {**architectures.MOE, "expert_shared_feed_forward_length": 64}),
    "deepseek2": Variant("deepseek2", instead=RANKED),
    "deepseek2 with compressed keys": Variant("deepseek2", architectures.COMPRESSED, RANKED),
    "deepseek2 with fused experts": Variant(
        "deepseek2",
        instead={**RANKED, **{f"ffn_{part}_exps.weight": "ffn_gate_up_exps.weight" for part in ("gate", "up")}},
    ),
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the oracle forks")


def list_missing(path: Path) -> list[str | None]:
    return [finding.where for finding in check_file(path).errors if finding.code == "tensor-missing"]


def test_model_with_exactly_the_required_tensors_passes_and_loads(tmp_path: Path) -> None:
    paths = [variant.write(tmp_path / f"{number}.gguf") for number, variant in enumerate(VARIANTS.values())]
    verdicts = dict(zip(VARIANTS, gguf_oracle.load_all(paths), strict=True))
    assert verdicts == dict.fromkeys(VARIANTS, "accepts")
    errors = {name: check_file(path).errors for name, path in zip(VARIANTS, paths, strict=True)}
    assert errors == dict.fromkeys(VARIANTS, ())


@pytest.mark.parametrize("name", VARIANTS)
def test_model_without_a_required_tensor_is_refused_by_both(tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    gone = [tensor for tensor in variant.tensors() if not tensor.startswith("blk.") or f"blk.{LAST}." in tensor]
    paths = [variant.write(tmp_path / f"{number}.gguf", without=tensor) for number, tensor in enumerate(gone)]
    verdicts = dict(zip(gone, gguf_oracle.load_all(paths), strict=True))
    assert verdicts == dict.fromkeys(gone, "refuses")
    for tensor, path in zip(gone, paths, strict=True):
        found = list_missing(path)
        assert found, tensor
        if tensor not in (f"blk.{LAST}.{new}" for new in variant.instead.values()):
            assert found == [tensor]


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("llama", "output.weight"),
        ("llama", f"blk.{LAST}.attn_q.bias"),
        ("qwen2", "output.bias"),
        ("bert", "token_types.weight"),
        ("gemma3", "output.weight"),
    ],
)
def test_tied_and_optional_tensors_may_be_present_or_missing(tmp_path: Path, family: str, tensor: str) -> None:
    path = tmp_path / "m.gguf"
    architectures.write_tiny(path, family, [*VARIANTS[family].tensors(), tensor])
    assert list_missing(path) == []
    assert gguf_oracle.load_all([path]) == ["accepts"]


def test_blocks_for_speculative_decoding_are_not_required(tmp_path: Path) -> None:
    metadata = {"qwen3.nextn_predict_layers": 1}
    first = [name for name in VARIANTS["qwen3"].tensors() if f"blk.{LAST}." not in name]
    assert list(required_tensors.find_missing_tensors("qwen3", metadata, first, architectures.BLOCKS)) == []
    assert list(required_tensors.find_missing_tensors("qwen3", metadata, frozenset(), architectures.BLOCKS)) == []
    path = architectures.write_tiny(tmp_path / "m.gguf", "qwen3", first, keys={"nextn_predict_layers": 1})
    assert gguf_oracle.load_all([path]) == ["accepts"]
