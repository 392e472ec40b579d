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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llm_hf_models.gguf_facts import ModelFacts
from llm_hf_models.units import format_size

CONTEXT_STEP = 256  # llama.cpp pads a context to this
MIN_CONTEXT = 512  # tokens; with less, a question and its answer have no room
UNKNOWN_CONTEXT = 4096  # tokens, where neither the caller nor the header says

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
class Machine:
    """Memory of this machine, in bytes; container limits are honoured."""

    total_memory: int
    free_memory: int


@dataclass(frozen=True)
class Fit:
    """The verdict, and the figures it rests on (bytes)."""

    fits: bool  # with a useful context, if not with all of the context that was asked for
    needed: int  # at `context`
    available: int
    context: int  # tokens that were asked for, or the largest that fits where those did not
    reason: str  # "needs 5.2 GB of 7.1 GB at 8192 tokens"
    reduced: bool = False  # `context` is less than was asked for


def machine(root: Path = Path("/")) -> Machine:
    """This machine's memory now, or what its container leaves of it.

    Args:
        root: where `proc` and `sys` are, for reading control groups (Linux).
    """
    import psutil

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    for limit, used in _group_limits(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return Machine(total, free)


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of every memory control group that this process is in. Bytes.

    Formats: the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. A container may see its own group as the
    root of the tree, so each path is tried up to the root, and what is not there limits nothing.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        tree = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inside = PurePosixPath(path.lstrip("/"))
        for group in (inside, *inside.parents):
            if ".." not in group.parts and (found := _group_limit(tree / group, *names)):
                yield found


def _group_limit(group: Path, limit_name: str, used_name: str) -> tuple[int, int] | None:
    try:
        limit = int((group / limit_name).read_text(encoding="ascii"))  # `max` is no limit, and no number either
        used = int((group / used_name).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        prefix = "total_" if "total_inactive_file" in stat else ""  # v1 counts child groups apart
        # Pages of files can be taken back at any time: they are no use in this sense.
        used -= int(stat.get(f"{prefix}inactive_file", 0)) + int(stat.get(f"{prefix}active_file", 0))
    except (OSError, ValueError):
        return None
    return limit, max(0, used)


def kv_bytes_per_token(weights_bytes: int, facts: ModelFacts | None) -> int:
    """Bytes that one token of context takes: from the header, or estimated from the size of the weights."""
    if facts is not None and facts.kv_bytes_per_token is not None:
        return facts.kv_bytes_per_token
    return int(min(weights_bytes * _KV_PER_SMALL_WEIGHT, _KV_LEAST + weights_bytes * _KV_PER_WEIGHT))


def context_bytes(weights_bytes: int, facts: ModelFacts | None, tokens: int) -> int:
    """What a context of so many tokens takes: the KV cache, and the attention mask.

    A layer with a sliding window keeps that window for each slot, and a batch more, however long the context is
    (llama.cpp, src/llama-kv-cache-iswa.cpp).
    """
    per_token = kv_bytes_per_token(weights_bytes, facts)
    windowed, kept = 0, 0
    if facts is not None and facts.sliding_window:
        windowed = min(facts.kv_windowed_bytes_per_token, per_token)
        kept = min(tokens, facts.sliding_window * SLOTS + BATCH_TOKENS)
    return (per_token - windowed) * tokens + windowed * kept + tokens * BATCH_TOKENS * MASK_BYTES


def overhead_bytes(facts: ModelFacts | None) -> int:
    """What the engine takes beside weights and what grows with the context. Bytes."""
    embedding = (facts and facts.embedding_length) or _EMBEDDING_OF_UNKNOWN
    vocabulary = (facts and facts.vocabulary_size) or 0
    return PROCESS_BYTES + BATCH_TOKENS * embedding * ACTIVATION_BYTES + vocabulary * VOCABULARY_BYTES


def assess(weights_bytes: int, facts: ModelFacts | None, *, context: int, available: int, mmproj_bytes: int = 0) -> Fit:
    """Weighs one model against `available` bytes.

    Args:
        weights_bytes: size of all its weight files.
        facts: from its header; None estimates the KV cache from the size.
        context: tokens asked for, never more than the model's own; 0 is the model's own.
        available: bytes that it may take.
        mmproj_bytes: size of its projector, if any.
    """
    own = (facts and facts.context_length) or 0
    asked = min(context, own) if context and own else context or own or UNKNOWN_CONTEXT
    fixed = weights_bytes + overhead_bytes(facts)
    if mmproj_bytes:
        fixed += mmproj_bytes + PROJECTOR_BYTES

    def needed(tokens: int) -> int:
        return fixed + context_bytes(weights_bytes, facts, tokens)

    if needed(asked) <= available:
        return _fit(True, needed(asked), available, asked)
    least = min(asked, MIN_CONTEXT)
    if needed(least) > available:
        return _fit(False, needed(least), available, least)
    steps = range(asked // CONTEXT_STEP + 1)
    largest = max(
        least, (bisect_right(steps, available, key=lambda step: needed(step * CONTEXT_STEP)) - 1) * CONTEXT_STEP
    )
    return _fit(True, needed(largest), available, largest, instead_of=asked)


def _fit(fits: bool, needed: int, available: int, context: int, instead_of: int = 0) -> Fit:
    verb = "needs" if fits else "needs at least"
    reason = f"{verb} {format_size(needed)} of {format_size(available)} at {context} tokens"
    if instead_of:
        reason += f", the most that fits of {instead_of}"
    return Fit(fits, needed, available, context, reason, reduced=instead_of > 0)
