"""Whether a model fits this machine's memory: weights + KV cache + overhead. Loads nothing.

How much llama.cpp takes was measured on its server (xllamacpp 2026.10, CPU, flash attention on, batches of 512) with
SmolLM2-135M-Instruct Q4_1, resident set less the interpreter's 34 MB, in MB:

    context        weights    KV cache    compute    the rest    after a prompt of half the context
        512           98.4        11.8       15.9        15.8         + 8
      2,048           98.4        47.2     (17.4)       14.1        + 17
      8,192           98.4       188.7       23.7         7.8        + 20

(In brackets: interpolated.) The KV cache is kv_bytes_per_token x context to the byte. The compute buffer, as
llama.cpp's own log gives it, grows with the attention mask (two bytes for each token of the context and each of the
batch) from what one layer's activations take (13 floats for each dimension of the embedding and each token of the
batch; 16 are counted here, since larger models have wider feed-forward layers). Without flash attention it would be
far more.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.system.units import format_size

CONTEXT_STEP = 256  # llama.cpp pads a context to this
MIN_CONTEXT = 512  # tokens; with less, a question and its answer have no room
DEFAULT_CONTEXT = 4096  # tokens, where neither the caller nor the header says
BATCH_TOKENS = 512
SLOTS = 4  # prompts that one engine answers at a time
MASK_BYTES = 2
ACTIVATION_BYTES = 16 * 4  # for each dimension of the embedding and each token of the batch
PROCESS_BYTES = 80_000_000  # interpreter, server, prompt's own state: 34 + 8 + 20 were measured
VOCABULARY_BYTES = 320  # for each token of the vocabulary: 15.8 MB at 49,152
PROJECTOR_BYTES = 200_000_000  # an allowance for a picture's activations; not measured

# For a header that was not read. KV bytes per token of well-known models at f16 beside their weights at four bits:
# SmolLM2-135M 23 kB, 0.1 GB; Qwen3-0.6B 115 kB, 0.4 GB; Llama-3.1-8B 131 kB, 4.9 GB; Llama-3.3-70B 328 kB, 42 GB.
_KV_PER_SMALL_WEIGHT = 250e-6
_KV_LEAST = 100_000
_KV_PER_WEIGHT = 8e-6
_EMBEDDING_OF_UNKNOWN = 4096


@dataclass(frozen=True)
class Fit:
    """The verdict, and the figures it rests on (bytes)."""

    fits: bool  # with a useful context, if not with all of the context that was asked for
    needed: int  # at `context`
    available: int
    context: int  # tokens that were asked for, or the largest that fits where those did not
    reason: str  # "needs 5.2 GB of 7.1 GB at 8192 tokens"
    reduced: bool = False  # `context` is less than was asked for


def estimate_kv_bytes_per_token(weights_bytes: int, facts: ModelFacts | None) -> int:
    """Bytes that one token of context takes: from the header, or estimated from the size of the weights."""
    if facts is not None and facts.kv_bytes_per_token is not None:
        return facts.kv_bytes_per_token
    return int(min(weights_bytes * _KV_PER_SMALL_WEIGHT, _KV_LEAST + weights_bytes * _KV_PER_WEIGHT))


def estimate_context_bytes(weights_bytes: int, facts: ModelFacts | None, tokens: int) -> int:
    """What a context of so many tokens takes: the KV cache, and the attention mask.

    A layer with a sliding window keeps that window for each slot, and a batch more, however long the context is
    (llama.cpp, src/llama-kv-cache-iswa.cpp).
    """
    per_token = estimate_kv_bytes_per_token(weights_bytes, facts)
    windowed, kept = 0, 0
    if facts is not None and facts.sliding_window:
        windowed = min(facts.kv_windowed_bytes_per_token, per_token)
        kept = min(tokens, facts.sliding_window * SLOTS + BATCH_TOKENS)
    return (per_token - windowed) * tokens + windowed * kept + tokens * BATCH_TOKENS * MASK_BYTES


def estimate_overhead_bytes(facts: ModelFacts | None) -> int:
    """What the engine takes beside weights and what grows with the context. Bytes."""
    embedding = (facts and facts.embedding_length) or _EMBEDDING_OF_UNKNOWN
    vocabulary = (facts and facts.vocabulary_size) or 0
    return PROCESS_BYTES + BATCH_TOKENS * embedding * ACTIVATION_BYTES + vocabulary * VOCABULARY_BYTES


def assess_fit(
    weights_bytes: int, facts: ModelFacts | None, *, context: int, available: int, mmproj_bytes: int = 0
) -> Fit:
    """Weighs one model against `available` bytes.

    Args:
        weights_bytes: size of all its weight files.
        facts: from its header; None estimates the KV cache from the size.
        context: tokens asked for, never more than the model's own; 0 is the model's own.
        available: bytes that it may take.
        mmproj_bytes: size of its projector, if any.
    """
    own = (facts and facts.context_length) or 0
    asked = min(context, own) if context and own else context or own or DEFAULT_CONTEXT
    fixed = weights_bytes + estimate_overhead_bytes(facts)
    if mmproj_bytes:
        fixed += mmproj_bytes + PROJECTOR_BYTES

    def needed(tokens: int) -> int:
        return fixed + estimate_context_bytes(weights_bytes, facts, tokens)

    if needed(asked) <= available:
        return _make_fit(True, needed(asked), available, asked)
    least = min(asked, MIN_CONTEXT)
    if needed(least) > available:
        return _make_fit(False, needed(least), available, least)
    steps = range(asked // CONTEXT_STEP + 1)
    largest = max(
        least, (bisect_right(steps, available, key=lambda step: needed(step * CONTEXT_STEP)) - 1) * CONTEXT_STEP
    )
    return _make_fit(True, needed(largest), available, largest, instead_of=asked)


def pad_context(context: int) -> int:
    """The context that llama.cpp makes of one that it is asked for."""
    return -(-context // CONTEXT_STEP) * CONTEXT_STEP


def _make_fit(fits: bool, needed: int, available: int, context: int, instead_of: int = 0) -> Fit:
    verb = "needs" if fits else "needs at least"
    reason = f"{verb} {format_size(needed)} of {format_size(available)} at {context} tokens"
    if instead_of:
        reason += f", the most that fits of {instead_of}"
    return Fit(fits, needed, available, context, reason, reduced=instead_of > 0)
