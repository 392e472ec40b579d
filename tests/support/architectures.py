"""Write tiny models of many families that llama.cpp loads, complete or without one tensor. Their text is meaningless.

The shapes are those that llama.cpp's loaders require (`src/models/*.cpp`, load_arch_tensors), as small as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import gguf
import numpy as np

WIDTH, HEADS, KV_HEADS, HEAD, FORWARD, EXPERTS, CONTEXT, BLOCKS = 64, 4, 2, 16, 64, 2, 64, 2
KV = KV_HEADS * HEAD
INNER, STATE, RANK, KERNEL = 2 * WIDTH, 8, 4, 4  # of state space models
CONVOLVED = INNER + 2 * STATE
LOW, ROTATED = 16, 8  # of compressed keys
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581walrus"]
VOCABULARY = len(TOKENS)

RMS, NORM = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
MOE = {"expert_count": EXPERTS, "expert_used_count": 1, "expert_feed_forward_length": FORWARD}
SECTIONS = {"rope.dimension_sections": [4, 2, 2, 0]}
STATES = {"ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER, "ssm.state_size": STATE, "ssm.time_step_rank": RANK}
WINDOW = {"attention.sliding_window": 32}
TEXT_PAIRS = {"tokenizer.ggml.token_type_count": 2}
DEEPSEEK = {
    **MOE, "leading_dense_block_count": 1, "expert_shared_count": 1, "attention.kv_lora_rank": LOW,
    "attention.key_length": LOW + ROTATED, "attention.value_length": LOW, "rope.dimension_count": ROTATED,
    "attention.q_lora_rank": LOW,
}  # fmt: skip
COMPRESSED = {
    **DEEPSEEK, "attention.head_count_kv": 1, "attention.key_length_mla": LOW + ROTATED,
    "attention.value_length_mla": LOW,
}  # fmt: skip

# Every tensor by its stem, in ggml's order: the row's length first. Some families differ (below).
SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd": (WIDTH, VOCABULARY), "output": (WIDTH, VOCABULARY), "position_embd": (WIDTH, CONTEXT),
    "token_types": (WIDTH, 2),
    "attn_qkv": (WIDTH, WIDTH + 2 * KV), "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, KV), "attn_v": (WIDTH, KV),
    "attn_output": (WIDTH, WIDTH), "attn_q_norm": (HEAD,), "attn_k_norm": (HEAD,), "attn_sinks": (HEADS,),
    "ffn_gate": (WIDTH, FORWARD), "ffn_up": (WIDTH, FORWARD), "ffn_down": (FORWARD, WIDTH),
    "ffn_gate_inp": (WIDTH, EXPERTS), "ffn_gate_exps": (WIDTH, FORWARD, EXPERTS),
    "ffn_up_exps": (WIDTH, FORWARD, EXPERTS), "ffn_down_exps": (FORWARD, WIDTH, EXPERTS),
    "ffn_gate_up_exps": (WIDTH, 2 * FORWARD, EXPERTS), "ffn_gate_inp_shexp": (WIDTH,),
    "ffn_gate_shexp": (WIDTH, FORWARD), "ffn_up_shexp": (WIDTH, FORWARD), "ffn_down_shexp": (FORWARD, WIDTH),
    "ssm_in": (WIDTH, 2 * INNER), "ssm_conv1d": (KERNEL, INNER), "ssm_x": (INNER, RANK + 2 * STATE),
    "ssm_dt": (RANK, INNER), "ssm_a": (STATE, INNER), "ssm_d": (INNER,), "ssm_out": (INNER, WIDTH),
    "ssm_norm": (INNER, 1), "attn_kv_a_mqa": (WIDTH, LOW + ROTATED), "attn_kv_a_norm": (LOW,),
    "attn_kv_b": (LOW, HEADS * 2 * LOW), "attn_k_b": (LOW, LOW, HEADS), "attn_v_b": (LOW, LOW, HEADS),
    "attn_q_a": (WIDTH, LOW), "attn_q_a_norm": (LOW,), "attn_q_b": (LOW, HEADS * (LOW + ROTATED)),
}  # fmt: skip
OTHER_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "phi3": {"ffn_up": (WIDTH, 2 * FORWARD)},
    "olmo2": {"attn_q_norm": (WIDTH,), "attn_k_norm": (KV,)},
    "mamba2": {
        "ssm_in": (WIDTH, INNER + CONVOLVED + RANK), "ssm_conv1d": (KERNEL, CONVOLVED), "ssm_a": (1, RANK),
        "ssm_d": (1, RANK), "ssm_dt": (RANK, RANK),
    },
    "deepseek2": {"attn_output": (HEADS * LOW, WIDTH)},
}  # fmt: skip
# The keys that a family needs in addition to those of all families.
KEYS: dict[str, dict[str, object]] = {
    "bert": TEXT_PAIRS, "nomic-bert": TEXT_PAIRS, "nomic-bert-moe": {**TEXT_PAIRS, **MOE, "moe_every_n_layers": 2},
    "cohere2": {**WINDOW, "logit_scale": 1.0}, "deepseek2": DEEPSEEK, "gemma-embedding": WINDOW,
    "gpt-oss": {**MOE, **WINDOW}, "granite": {"logit_scale": 1.0},
    "granitemoe": {**MOE, "logit_scale": 1.0, "expert_shared_feed_forward_length": FORWARD},
    "mamba": STATES, "mamba2": {**STATES, "ssm.group_count": 1}, "qwen2moe": MOE, "qwen2vl": SECTIONS, "qwen3moe": MOE,
    "qwen3vl": SECTIONS, "qwen3vlmoe": {**MOE, **SECTIONS},
}  # fmt: skip


def write_tiny(
    path: Path,
    architecture: str,
    tensors: Iterable[str],
    *,
    without: str = "",
    keys: Mapping[str, object] | None = None,
) -> Path:
    """Write a model of a family.

    Args:
        path: The file to write.
        architecture: The family.
        tensors: Full names of the tensors; repeats are written once.
        without: The tensor to leave out.
        keys: More keys of the architecture, or other values of them.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("model")
    _add_keys(writer, architecture, {**KEYS.get(architecture, {}), **(keys or {})})
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256, 1])
    for name in dict.fromkeys(tensors):
        if name != without:
            writer.add_tensor(name, np.ones(get_shape(architecture, name)[::-1], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_keys(writer: gguf.GGUFWriter, architecture: str, more: Mapping[str, object]) -> None:
    keys: dict[str, object] = {
        "context_length": CONTEXT, "embedding_length": WIDTH, "block_count": BLOCKS, "feed_forward_length": FORWARD,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "vocab_size": VOCABULARY,
        RMS: 1e-5, NORM: 1e-5,
    }  # fmt: skip
    adders: dict[type, Callable[..., None]] = {
        int: writer.add_uint32, float: writer.add_float32, list: writer.add_array,
    }  # fmt: skip
    for name, value in {**keys, **more}.items():
        full = name if name.startswith("tokenizer.") else f"{architecture}.{name}"
        adders[type(value)](full, value)


def get_shape(architecture: str, name: str) -> tuple[int, ...]:
    """Return a tensor's shape in ggml's order. A bias has the shape of its sum, a norm the width."""
    parts = name.split(".")
    stem = parts[2] if parts[0] == "blk" else parts[0]
    shape = OTHER_SHAPES.get(architecture, {}).get(stem, SHAPES.get(stem, (WIDTH,)))
    if name.endswith(".bias") and len(shape) > 1:
        return shape[1:]
    return shape
