"""Which tensors each family of models can't be loaded without. Judges no file (gguf/semantics.py does).

What llama.cpp's loaders create without TENSOR_NOT_REQUIRED (`src/models/*.cpp`, load_arch_tensors); names are those of
`src/llama-arch.cpp`. Tests load a tiny model of each family, and the same without each of these tensors. A family that
is not listed is not judged, nor are tensors that are optional, tied or recomputed: biases, output.weight, rope factors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from llm_hf_models.gguf.facts import count_of

Keys = Callable[[str], int]  # a number among the architecture's own keys, 0 where there is none


def _always(_keys: Keys, _block: int) -> bool:
    return True


@dataclass(frozen=True)
class Needed:
    """Tensors that are needed together."""

    names: tuple[str, ...]
    when: Callable[[Keys, int], bool] = _always  # of which models, and of which of their blocks
    unless: str = ""  # the tensor that holds all of them in one


@dataclass(frozen=True)
class Family:
    """What every model of a family has: once, and in each block."""

    once: tuple[str, ...]
    block: tuple[Needed, ...]


def _named(stems: str, ending: str = ".weight") -> tuple[str, ...]:
    return tuple(stem + ending for stem in stems.split())


def _both(stems: str) -> tuple[str, ...]:
    return _named(stems) + _named(stems, ".bias")


def _weights(stems: str) -> Needed:
    return Needed(_named(stems))


def _has_experts(keys: Keys, _block: int) -> bool:
    return keys("expert_count") > 0


def _is_dense(keys: Keys, _block: int) -> bool:
    return keys("expert_count") == 0


def _shares_an_expert(keys: Keys, _block: int) -> bool:
    return keys("expert_count") > 0 and keys("expert_shared_feed_forward_length") > 0


def _leads_dense(keys: Keys, block: int) -> bool:
    return block < keys("leading_dense_block_count")


def _follows_dense(keys: Keys, block: int) -> bool:
    return not _leads_dense(keys, block)


def _compresses_keys(keys: Keys, _block: int) -> bool:
    return keys("attention.key_length_mla") > 0 and keys("attention.value_length_mla") > 0


def _keeps_keys(keys: Keys, block: int) -> bool:
    return not _compresses_keys(keys, block)


def _is_expert_block(keys: Keys, block: int) -> bool:
    every = keys("moe_every_n_layers")
    return every > 0 and block % every == 1


def _is_plain_block(keys: Keys, block: int) -> bool:
    return not _is_expert_block(keys, block)


_EMBEDDED = _named("token_embd output_norm")
_TEXT_ENCODER = (*_named("token_embd"), *_both("token_embd_norm"))
_QKV = Needed(_named("attn_q attn_k attn_v"), unless="attn_qkv.weight")
_QK_NORM = _weights("attn_q_norm attn_k_norm")
_ATTENTION = (_weights("attn_norm attn_output"), _QKV)
_GATED = _weights("ffn_gate ffn_down ffn_up")
_POST_NORMS = _weights("post_attention_norm post_ffw_norm")
_EXPERTS = _weights("ffn_gate_inp ffn_gate_exps ffn_down_exps ffn_up_exps")
_PLAIN = Family(_EMBEDDED, (*_ATTENTION, _weights("ffn_norm"), _GATED))
_QWEN3 = replace(_PLAIN, block=(*_PLAIN.block, _QK_NORM))
_QWEN3_EXPERTS = Family(_EMBEDDED, (*_ATTENTION, _weights("ffn_norm"), _QK_NORM, _EXPERTS))

_LLAMA = Family(
    _EMBEDDED,
    (
        *_ATTENTION,
        _weights("ffn_norm"),
        replace(_GATED, when=_is_dense),
        replace(_weights("ffn_gate_inp ffn_down_exps ffn_up_exps"), when=_has_experts),
    ),
)
_SHARED = replace(_weights("ffn_gate_shexp ffn_down_shexp ffn_up_shexp"), when=_shares_an_expert)
_GRANITE = replace(_LLAMA, block=(*_LLAMA.block, _SHARED))
_GEMMA3 = replace(_PLAIN, block=(*_PLAIN.block, _POST_NORMS, _QK_NORM))
_BERT_BLOCK = (_QKV, _weights("attn_output"), Needed(_both("attn_output_norm layer_output_norm")))
_BERT_FEED_FORWARD = _weights("ffn_up ffn_down")
_MAMBA_BLOCK = (_weights("attn_norm ssm_in ssm_out"), Needed((*_both("ssm_conv1d"), "ssm_dt.bias", "ssm_a", "ssm_d")))

_DEEPSEEK2 = Family(
    _EMBEDDED,
    (
        _weights("attn_norm attn_kv_a_norm attn_kv_a_mqa attn_output ffn_norm"),
        # Whether queries are compressed the header says too, but llama.cpp listens for some sizes only.
        Needed(_named("attn_q"), unless="attn_q_a.weight"),
        Needed(_named("attn_q_a_norm attn_q_b"), unless="attn_q.weight"),
        Needed(_named("attn_k_b attn_v_b"), when=_compresses_keys),
        Needed(_named("attn_kv_b"), when=_keeps_keys),
        replace(_GATED, when=_leads_dense),
        Needed(_named("ffn_gate_inp ffn_down_exps ffn_gate_shexp ffn_down_shexp ffn_up_shexp"), when=_follows_dense),
        Needed(_named("ffn_gate_exps ffn_up_exps"), when=_follows_dense, unless="ffn_gate_up_exps.weight"),
    ),
)

FAMILIES: Mapping[str, Family] = {
    "bert": Family((*_TEXT_ENCODER, "position_embd.weight"), (*_BERT_BLOCK, _BERT_FEED_FORWARD)),
    "cohere2": Family(_EMBEDDED, (*_ATTENTION, _GATED)),
    "deepseek2": _DEEPSEEK2,
    "falcon": Family(
        (*_EMBEDDED, "output_norm.bias"),
        (Needed(_both("attn_norm")), _weights("attn_qkv attn_output ffn_down ffn_up")),
    ),
    "gemma": _PLAIN,
    "gemma-embedding": _GEMMA3,
    "gemma2": replace(_PLAIN, block=(*_PLAIN.block, _POST_NORMS)),
    "gemma3": _GEMMA3,
    "gpt-oss": Family(
        (*_EMBEDDED, "output.weight"),
        (
            *_ATTENTION,
            _weights("post_attention_norm attn_sinks"),
            _EXPERTS,
            Needed(_named("attn_output ffn_gate_inp ffn_gate_exps ffn_down_exps ffn_up_exps", ".bias")),
        ),
    ),
    "gpt2": Family(
        (*_EMBEDDED, "output_norm.bias", "position_embd.weight"),
        (Needed(_both("attn_norm attn_qkv attn_output ffn_norm ffn_down ffn_up")),),
    ),
    "granite": _GRANITE,
    "granitemoe": _GRANITE,
    "internlm2": Family((*_EMBEDDED, "output.weight"), _PLAIN.block),
    "llama": _LLAMA,
    "mamba": Family(_EMBEDDED, (*_MAMBA_BLOCK, _weights("ssm_x ssm_dt"))),
    "mamba2": Family(_EMBEDDED, (*_MAMBA_BLOCK, _weights("ssm_norm"))),
    "mistral3": _LLAMA,
    "nomic-bert": Family(_TEXT_ENCODER, (*_BERT_BLOCK, _BERT_FEED_FORWARD, _weights("ffn_gate"))),
    "nomic-bert-moe": Family(
        _TEXT_ENCODER,
        (
            *_BERT_BLOCK,
            replace(_BERT_FEED_FORWARD, when=_is_plain_block),
            replace(_weights("ffn_gate_inp ffn_up_exps ffn_down_exps"), when=_is_expert_block),
        ),
    ),
    "olmo2": Family((*_EMBEDDED, "output.weight"), (_QKV, _weights("attn_output"), _QK_NORM, _GATED, _POST_NORMS)),
    "phi2": Family(
        (*_EMBEDDED, "output_norm.bias", *_both("output")),
        (_QKV, Needed(_both("attn_norm attn_output ffn_down ffn_up"))),
    ),
    "phi3": Family(_EMBEDDED, (_weights("attn_norm attn_output ffn_norm ffn_down ffn_up"),)),
    "qwen2": _PLAIN,
    "qwen2moe": Family(
        (*_EMBEDDED, "output.weight"),
        (
            *_ATTENTION,
            _weights("ffn_norm"),
            _EXPERTS,
            _weights("ffn_gate_inp_shexp ffn_gate_shexp ffn_down_shexp ffn_up_shexp"),
        ),
    ),
    "qwen2vl": _PLAIN,
    "qwen3": _QWEN3,
    "qwen3moe": _QWEN3_EXPERTS,
    "qwen3vl": _QWEN3,
    "qwen3vlmoe": _QWEN3_EXPERTS,
    "seed_oss": Family(_EMBEDDED, (*_ATTENTION, _weights("post_attention_norm"), _GATED)),
    "smollm3": _PLAIN,
    "stablelm": Family(
        (*_EMBEDDED, "output_norm.bias", "output.weight"), (*_ATTENTION, Needed(("attn_norm.bias",)), _GATED)
    ),
    "starcoder2": Family(
        (*_EMBEDDED, "output_norm.bias"),
        (_QKV, Needed(_both("attn_norm attn_output ffn_norm ffn_down ffn_up"))),
    ),
}


def missing(architecture: str, metadata: Mapping[str, object], names: Collection[str], blocks: int) -> Iterator[str]:
    """The tensors without which llama.cpp refuses the model, and that are not there.

    Args:
        architecture: a family that is not listed lacks nothing.
        metadata: the header's.
        names: of all tensors there are.
        blocks: how many the header claims.
    """
    family = FAMILIES.get(architecture)
    if family is None:
        return

    def key(name: str) -> int:
        return count_of(metadata, f"{architecture}.{name}") or 0

    ahead = key("nextn_predict_layers")  # blocks that only guess ahead come last, and may stand in another file
    if ahead and "blk.0.attn_norm.weight" not in names:
        return
    yield from (name for name in family.once if name not in names)
    for block in range(max(0, blocks - ahead)):
        for needed in family.block:
            if needed.when(key, block) and f"blk.{block}.{needed.unless}" not in names:
                yield from (full for name in needed.names if (full := f"blk.{block}.{name}") not in names)
