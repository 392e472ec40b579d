"""Estimate whether a model fits this machine's memory: weights + KV cache + overhead. No model is loaded.

llama.cpp's use of memory was measured on its server (xllamacpp 2026.10, CPU, flash attention on, batches of 512) with
SmolLM2-135M-Instruct Q4_1. The figures are the resident set minus the interpreter's 34 MB, in MB:

    context        weights    KV cache    compute    the rest    after a prompt of half the context
        512           98.4        11.8       15.9        15.8         + 8
      2,048           98.4        47.2     (17.4)       14.1        + 17
      8,192           98.4       188.7       23.7         7.8        + 20

The figure in brackets is interpolated. The KV cache is exactly kv_bytes_per_token x context. The compute buffer, as
llama.cpp's log reports it, is the sum of two parts:

- one layer's activations: 13 floats for each dimension of the embedding and each token of the batch (the estimate
  uses 16, since larger models have wider feed-forward layers);
- the attention mask: two bytes for each pair of a token of the context and a token of the batch.

Without flash attention the compute buffer would be far larger.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.system.json_values import json_name
from llm_hf_models.system.units import format_size

CONTEXT_STEP = 256  # llama.cpp pads a context to this
MIN_CONTEXT = 512  # tokens; less has no room for a question and its answer
DEFAULT_CONTEXT = 4096  # tokens, if neither the caller nor the header gives a context
BATCH_TOKENS = 512
SLOTS = 4  # prompts that one engine processes at the same time
MASK_BYTES = 2
ACTIVATION_BYTES = 16 * 4  # for each dimension of the embedding and each token of the batch
PROCESS_BYTES = 80_000_000  # interpreter, server and state of a prompt: 34 + 8 + 20 MB were measured
VOCABULARY_BYTES = 320  # for each token of the vocabulary: 15.8 MB at 49,152
PROJECTOR_BYTES = 200_000_000  # allowance for an image's activations; not measured

# Used if the header was not read. Known models, with KV bytes per token at f16 and weights at four bits:
# SmolLM2-135M 23 kB, 0.1 GB; Qwen3-0.6B 115 kB, 0.4 GB; Llama-3.1-8B 131 kB, 4.9 GB; Llama-3.3-70B 328 kB, 42 GB.
_KV_PER_SMALL_WEIGHT = 250e-6
_KV_BASE_BYTES = 100_000
_KV_PER_WEIGHT = 8e-6
_DEFAULT_EMBEDDING = 4096


@dataclass(frozen=True)
class Fit:
    """Whether a model fits, with the needed and available memory."""

    fits: bool  # with the requested context, or with a smaller one of at least MIN_CONTEXT
    needed: int = field(metadata=json_name("needed_bytes"))  # at `context`
    available: int = field(metadata=json_name("available_bytes"))
    context: int  # tokens: the requested context, or the largest that fits
    reason: str  # "needs 5.2 GB of 7.1 GB at 8,192 tokens"
    reduced: bool = False  # `context` is smaller than requested


def estimate_kv_bytes_per_token(weights_bytes: int, facts: ModelFacts | None) -> int:
    """Return the bytes of KV cache per token of context: from the header, or estimated from the weights' size."""
    if facts is not None and facts.kv_bytes_per_token is not None:
        return facts.kv_bytes_per_token
    return int(min(weights_bytes * _KV_PER_SMALL_WEIGHT, _KV_BASE_BYTES + weights_bytes * _KV_PER_WEIGHT))


def estimate_context_bytes(weights_bytes: int, facts: ModelFacts | None, tokens: int) -> int:
    """Return the bytes that a context of `tokens` tokens needs for the KV cache and the attention mask.

    A layer with a sliding window keeps one window per slot plus one batch, however long the context is
    (llama.cpp, src/llama-kv-cache-iswa.cpp).
    """
    per_token = estimate_kv_bytes_per_token(weights_bytes, facts)
    windowed, kept = 0, 0
    if facts is not None and facts.sliding_window:
        windowed = min(facts.kv_windowed_bytes_per_token, per_token)
        kept = min(tokens, facts.sliding_window * SLOTS + BATCH_TOKENS)
    return (per_token - windowed) * tokens + windowed * kept + tokens * BATCH_TOKENS * MASK_BYTES


def estimate_overhead_bytes(facts: ModelFacts | None) -> int:
    """Return the bytes that the engine needs in addition to the weights and the context."""
    embedding = (facts and facts.embedding_length) or _DEFAULT_EMBEDDING
    vocabulary = (facts and facts.vocabulary_size) or 0
    return PROCESS_BYTES + BATCH_TOKENS * embedding * ACTIVATION_BYTES + vocabulary * VOCABULARY_BYTES


def assess_fit(
    weights_bytes: int, facts: ModelFacts | None, *, context: int, available: int, mmproj_bytes: int = 0
) -> Fit:
    """Estimate whether one model fits into `available` bytes of memory.

    Args:
        weights_bytes: size of all weight files.
        facts: from the model's header; with None, the KV cache is estimated from `weights_bytes`.
        context: requested context in tokens, limited to the model's own maximum; 0 requests that maximum.
        available: bytes of memory that the model may use.
        mmproj_bytes: size of the projector, if any.
    """
    maximum = (facts and facts.context_length) or 0
    requested = min(context, maximum) if context and maximum else context or maximum or DEFAULT_CONTEXT
    fixed = weights_bytes + estimate_overhead_bytes(facts)
    if mmproj_bytes:
        fixed += mmproj_bytes + PROJECTOR_BYTES

    def estimate_needed(tokens: int) -> int:
        return fixed + estimate_context_bytes(weights_bytes, facts, tokens)

    if estimate_needed(requested) <= available:
        return _make_fit(True, estimate_needed(requested), available, requested)
    smallest = min(requested, MIN_CONTEXT)
    if estimate_needed(smallest) > available:
        return _make_fit(False, estimate_needed(smallest), available, smallest)
    steps = range(requested // CONTEXT_STEP + 1)
    largest = max(
        smallest,
        (bisect_right(steps, available, key=lambda step: estimate_needed(step * CONTEXT_STEP)) - 1) * CONTEXT_STEP,
    )
    return _make_fit(True, estimate_needed(largest), available, largest, requested=requested)


def pad_context(context: int) -> int:
    """Return the context that llama.cpp allocates: the requested one rounded up to a multiple of CONTEXT_STEP."""
    return -(-context // CONTEXT_STEP) * CONTEXT_STEP


def _make_fit(fits: bool, needed: int, available: int, context: int, requested: int = 0) -> Fit:
    if fits:
        reason = f"needs {format_size(needed)} of {format_size(available)} at {context:,} tokens"
    else:
        needs = f"needs at least {format_size(needed)} at {context:,} tokens"
        reason = f"{needs}, but {format_size(available)} are available"
    if requested:
        reason += f" (reduced from {requested:,} to fit)"
    return Fit(fits, needed, available, context, reason, reduced=requested > 0)
