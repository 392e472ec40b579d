"""List the tensors that each model family needs to load. The module semantics.py checks files against this list.

A tensor is listed if llama.cpp's loader creates it without TENSOR_NOT_REQUIRED (`src/models/*.cpp`,
load_arch_tensors). Names are those of `src/llama-arch.cpp`. Tests load a tiny model of each family, then the same model
without each of these tensors. Tensors that are optional, tied or recomputed (biases, output.weight, rope factors) are
not listed, and families that are not listed are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from llm_hf_models.gguf.facts import get_count

KeyReader = Callable[[str], int]  # reads a count from one of the architecture's keys; 0 if the key is missing


def _is_always_required(_keys: KeyReader, _block: int) -> bool:
    return True


@dataclass(frozen=True)
class RequiredTensors:
    """Tensors that are required together."""

    names: tuple[str, ...]
    when: Callable[[KeyReader, int], bool] = _is_always_required  # whether a block of a model requires them
    unless: str = ""  # a tensor that replaces all of them


@dataclass(frozen=True)
class ModelFamily:
    """The tensors of every model of a family: once per model, and in each block."""

    model_tensors: tuple[str, ...]
    block_tensors: tuple[RequiredTensors, ...]


def _make_names(stems: str, suffix: str = ".weight") -> tuple[str, ...]:
    return tuple(stem + suffix for stem in stems.split())


def _make_weight_and_bias_names(stems: str) -> tuple[str, ...]:
    return _make_names(stems) + _make_names(stems, ".bias")


def _require_weights(stems: str) -> RequiredTensors:
    return RequiredTensors(_make_names(stems))


def _has_experts(keys: KeyReader, _block: int) -> bool:
    return keys("expert_count") > 0


def _is_dense(keys: KeyReader, _block: int) -> bool:
    return keys("expert_count") == 0


def _has_shared_expert(keys: KeyReader, _block: int) -> bool:
    return keys("expert_count") > 0 and keys("expert_shared_feed_forward_length") > 0


def _is_leading_dense_block(keys: KeyReader, block: int) -> bool:
    return block < keys("leading_dense_block_count")


def _is_after_dense_blocks(keys: KeyReader, block: int) -> bool:
    return not _is_leading_dense_block(keys, block)


def _has_compressed_keys(keys: KeyReader, _block: int) -> bool:
    return keys("attention.key_length_mla") > 0 and keys("attention.value_length_mla") > 0


def _has_plain_keys(keys: KeyReader, block: int) -> bool:
    return not _has_compressed_keys(keys, block)


def _is_expert_block(keys: KeyReader, block: int) -> bool:
    every = keys("moe_every_n_layers")
    return every > 0 and block % every == 1


def _is_plain_block(keys: KeyReader, block: int) -> bool:
    return not _is_expert_block(keys, block)


_EMBEDDED = _make_names("token_embd output_norm")
_TEXT_ENCODER = (*_make_names("token_embd"), *_make_weight_and_bias_names("token_embd_norm"))
_QKV = RequiredTensors(_make_names("attn_q attn_k attn_v"), unless="attn_qkv.weight")
_QK_NORM = _require_weights("attn_q_norm attn_k_norm")
_ATTENTION = (_require_weights("attn_norm attn_output"), _QKV)
_GATED = _require_weights("ffn_gate ffn_down ffn_up")
_POST_NORMS = _require_weights("post_attention_norm post_ffw_norm")
_EXPERTS = _require_weights("ffn_gate_inp ffn_gate_exps ffn_down_exps ffn_up_exps")
_PLAIN = ModelFamily(_EMBEDDED, (*_ATTENTION, _require_weights("ffn_norm"), _GATED))
_QWEN3 = replace(_PLAIN, block_tensors=(*_PLAIN.block_tensors, _QK_NORM))
_QWEN3_EXPERTS = ModelFamily(_EMBEDDED, (*_ATTENTION, _require_weights("ffn_norm"), _QK_NORM, _EXPERTS))

_LLAMA = ModelFamily(
    _EMBEDDED,
    (
        *_ATTENTION,
        _require_weights("ffn_norm"),
        replace(_GATED, when=_is_dense),
        replace(_require_weights("ffn_gate_inp ffn_down_exps ffn_up_exps"), when=_has_experts),
    ),
)
_SHARED = replace(_require_weights("ffn_gate_shexp ffn_down_shexp ffn_up_shexp"), when=_has_shared_expert)
_GRANITE = replace(_LLAMA, block_tensors=(*_LLAMA.block_tensors, _SHARED))
_GEMMA3 = replace(_PLAIN, block_tensors=(*_PLAIN.block_tensors, _POST_NORMS, _QK_NORM))
_BERT_BLOCK = (
    _QKV,
    _require_weights("attn_output"),
    RequiredTensors(_make_weight_and_bias_names("attn_output_norm layer_output_norm")),
)
_BERT_FEED_FORWARD = _require_weights("ffn_up ffn_down")
_MAMBA_BLOCK = (
    _require_weights("attn_norm ssm_in ssm_out"),
    RequiredTensors((*_make_weight_and_bias_names("ssm_conv1d"), "ssm_dt.bias", "ssm_a", "ssm_d")),
)

_DEEPSEEK2 = ModelFamily(
    _EMBEDDED,
    (
        _require_weights("attn_norm attn_kv_a_norm attn_kv_a_mqa attn_output ffn_norm"),
        # The header also has a key for compressed queries, but llama.cpp uses it for some sizes only.
        RequiredTensors(_make_names("attn_q"), unless="attn_q_a.weight"),
        RequiredTensors(_make_names("attn_q_a_norm attn_q_b"), unless="attn_q.weight"),
        RequiredTensors(_make_names("attn_k_b attn_v_b"), when=_has_compressed_keys),
        RequiredTensors(_make_names("attn_kv_b"), when=_has_plain_keys),
        replace(_GATED, when=_is_leading_dense_block),
        RequiredTensors(
            _make_names("ffn_gate_inp ffn_down_exps ffn_gate_shexp ffn_down_shexp ffn_up_shexp"),
            when=_is_after_dense_blocks,
        ),
        RequiredTensors(
            _make_names("ffn_gate_exps ffn_up_exps"), when=_is_after_dense_blocks, unless="ffn_gate_up_exps.weight"
        ),
    ),
)

FAMILIES: Mapping[str, ModelFamily] = {
    "bert": ModelFamily((*_TEXT_ENCODER, "position_embd.weight"), (*_BERT_BLOCK, _BERT_FEED_FORWARD)),
    "cohere2": ModelFamily(_EMBEDDED, (*_ATTENTION, _GATED)),
    "deepseek2": _DEEPSEEK2,
    "falcon": ModelFamily(
        (*_EMBEDDED, "output_norm.bias"),
        (
            RequiredTensors(_make_weight_and_bias_names("attn_norm")),
            _require_weights("attn_qkv attn_output ffn_down ffn_up"),
        ),
    ),
    "gemma": _PLAIN,
    "gemma-embedding": _GEMMA3,
    "gemma2": replace(_PLAIN, block_tensors=(*_PLAIN.block_tensors, _POST_NORMS)),
    "gemma3": _GEMMA3,
    "gpt-oss": ModelFamily(
        (*_EMBEDDED, "output.weight"),
        (
            *_ATTENTION,
            _require_weights("post_attention_norm attn_sinks"),
            _EXPERTS,
            RequiredTensors(_make_names("attn_output ffn_gate_inp ffn_gate_exps ffn_down_exps ffn_up_exps", ".bias")),
        ),
    ),
    "gpt2": ModelFamily(
        (*_EMBEDDED, "output_norm.bias", "position_embd.weight"),
        (RequiredTensors(_make_weight_and_bias_names("attn_norm attn_qkv attn_output ffn_norm ffn_down ffn_up")),),
    ),
    "granite": _GRANITE,
    "granitemoe": _GRANITE,
    "internlm2": ModelFamily((*_EMBEDDED, "output.weight"), _PLAIN.block_tensors),
    "llama": _LLAMA,
    "mamba": ModelFamily(_EMBEDDED, (*_MAMBA_BLOCK, _require_weights("ssm_x ssm_dt"))),
    "mamba2": ModelFamily(_EMBEDDED, (*_MAMBA_BLOCK, _require_weights("ssm_norm"))),
    "mistral3": _LLAMA,
    "nomic-bert": ModelFamily(_TEXT_ENCODER, (*_BERT_BLOCK, _BERT_FEED_FORWARD, _require_weights("ffn_gate"))),
    "nomic-bert-moe": ModelFamily(
        _TEXT_ENCODER,
        (
            *_BERT_BLOCK,
            replace(_BERT_FEED_FORWARD, when=_is_plain_block),
            replace(_require_weights("ffn_gate_inp ffn_up_exps ffn_down_exps"), when=_is_expert_block),
        ),
    ),
    "olmo2": ModelFamily(
        (*_EMBEDDED, "output.weight"), (_QKV, _require_weights("attn_output"), _QK_NORM, _GATED, _POST_NORMS)
    ),
    "phi2": ModelFamily(
        (*_EMBEDDED, "output_norm.bias", *_make_weight_and_bias_names("output")),
        (_QKV, RequiredTensors(_make_weight_and_bias_names("attn_norm attn_output ffn_down ffn_up"))),
    ),
    "phi3": ModelFamily(_EMBEDDED, (_require_weights("attn_norm attn_output ffn_norm ffn_down ffn_up"),)),
    "qwen2": _PLAIN,
    "qwen2moe": ModelFamily(
        (*_EMBEDDED, "output.weight"),
        (
            *_ATTENTION,
            _require_weights("ffn_norm"),
            _EXPERTS,
            _require_weights("ffn_gate_inp_shexp ffn_gate_shexp ffn_down_shexp ffn_up_shexp"),
        ),
    ),
    "qwen2vl": _PLAIN,
    "qwen3": _QWEN3,
    "qwen3moe": _QWEN3_EXPERTS,
    "qwen3vl": _QWEN3,
    "qwen3vlmoe": _QWEN3_EXPERTS,
    "seed_oss": ModelFamily(_EMBEDDED, (*_ATTENTION, _require_weights("post_attention_norm"), _GATED)),
    "smollm3": _PLAIN,
    "stablelm": ModelFamily(
        (*_EMBEDDED, "output_norm.bias", "output.weight"), (*_ATTENTION, RequiredTensors(("attn_norm.bias",)), _GATED)
    ),
    "starcoder2": ModelFamily(
        (*_EMBEDDED, "output_norm.bias"),
        (_QKV, RequiredTensors(_make_weight_and_bias_names("attn_norm attn_output ffn_norm ffn_down ffn_up"))),
    ),
}


def find_missing_tensors(
    architecture: str, metadata: Mapping[str, object], names: Collection[str], blocks: int
) -> Iterator[str]:
    """Yield the names of missing tensors without which llama.cpp refuses the model.

    Args:
        architecture: the model's family; nothing is yielded for a family that is not in FAMILIES.
        metadata: the header's metadata.
        names: the names of all tensors in the model.
        blocks: the number of blocks that the header claims.
    """
    family = FAMILIES.get(architecture)
    if family is None:
        return

    def read_count(name: str) -> int:
        return get_count(metadata, f"{architecture}.{name}") or 0

    # Blocks for multi-token prediction come last. A file may also hold these blocks alone.
    prediction_blocks = read_count("nextn_predict_layers")
    if prediction_blocks and "blk.0.attn_norm.weight" not in names:
        return
    yield from (name for name in family.model_tensors if name not in names)
    for block in range(max(0, blocks - prediction_blocks)):
        for required in family.block_tensors:
            if required.when(read_count, block) and f"blk.{block}.{required.unless}" not in names:
                yield from (full for name in required.names if (full := f"blk.{block}.{name}") not in names)
