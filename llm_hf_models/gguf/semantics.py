"""Check that the values of a parsed GGUF header fit together: shapes, counts, tokenizer, blocks.

An error is a value that can't be valid in any version of llama.cpp. What only today's llama.cpp refuses, such as
another type of integer or a missing key of the architecture, is a warning, because a later one may accept it. Which
tensors an architecture needs is not checked: llama.cpp decides that when it loads the model (load_test).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from llm_hf_models.gguf.facts import get_array_length, get_count, get_layer_values, get_text
from llm_hf_models.gguf.header import GgufHeader
from llm_hf_models.gguf.rules import Finding, Severity, make_finding

MAX_BLOCKS = 2**16  # far above llama.cpp's own limits for blocks and experts, which grow with its versions
MAX_EXPERTS = 2**16
MAX_CONTEXT = 2**31 - 1  # tokens
MAX_EMBEDDING = 2**20
MAX_HEADS = 2**16
ROPE_SECTIONS = 4
_BLOCK_NUMBER = re.compile(r"blk\.(\d{1,9})\.")
_TOKENS = "tokenizer.ggml.tokens"

# Arrays with one value per token. llama.cpp reads them as this type without checking the type in the header.
_TOKEN_ARRAYS = {"tokenizer.ggml.scores": "array of float32", "tokenizer.ggml.token_type": "array of int32"}

_KEY_TYPES = {
    "general.architecture": "string",
    "tokenizer.ggml.model": "string",
    "split.no": "uint16",
    "split.count": "uint16",
    "split.tensors.count": "int32",
}
_ARCHITECTURE_KEY_TYPES = ("block_count", "context_length", "embedding_length")


def check_semantics(header: GgufHeader) -> Iterator[Finding]:
    """Yield all findings about a header.

    For a split model, `header` has the first shard's metadata and the tensors of all shards.
    """
    yield from _check_key_types(header)
    yield from _check_numbers(header)
    yield from _check_split_keys(header)
    kind = header.facts.kind
    if is_later_shard(header) or kind == "mmproj":
        return
    architecture = header.facts.architecture
    if architecture is None:
        yield make_finding("architecture", "error", "The file does not name its architecture.", "general.architecture")
        return
    if header.metadata.get("general.type") not in (None, "model"):
        return
    yield from _check_sizes(header, architecture)
    yield from _check_attention(header, architecture)
    yield from _check_tokenizer(header)
    yield from _check_tensors(header)


def is_later_shard(header: GgufHeader) -> bool:
    """Return whether a file is a shard after the first. Their only metadata are the keys split.*."""
    return (header.facts.split_index or 0) > 0


def _check_key_types(header: GgufHeader) -> Iterator[Finding]:
    expected_types = dict(_KEY_TYPES)
    expected_types.update({f"{header.facts.architecture}.{name}": "uint32" for name in _ARCHITECTURE_KEY_TYPES})
    for key, expected in expected_types.items():
        actual = header.value_types.get(key)
        if actual is not None and actual != expected:
            severity: Severity = "error" if expected == "string" else "warning"
            yield make_finding("key-type", severity, f"Its type is {actual}, not {expected}.", key)


def _check_numbers(header: GgufHeader) -> Iterator[Finding]:
    for key, value in header.metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield make_finding("number-not-finite", "warning", f"It is {value}.", key)


def _check_split_keys(header: GgufHeader) -> Iterator[Finding]:
    count, number = header.facts.split_count, header.facts.split_index
    if count is None and number is None:
        return
    if not count or number is None or number >= count:
        yield make_finding("split-keys", "error", f"Its split.no is {number}, but split.count is {count}.", "split.no")
    elif count > 1 and (total := get_count(header.metadata, "split.tensors.count")) != len(header.tensors):
        yield make_finding(
            "split-part", "note", f"It is shard {number + 1} of {count} of a model with {total} tensors.", "split.count"
        )


def _check_sizes(header: GgufHeader, architecture: str) -> Iterator[Finding]:
    limits = (
        ("block_count", "block-count", MAX_BLOCKS),
        ("context_length", "context-length", MAX_CONTEXT),
        ("embedding_length", "embedding-length", MAX_EMBEDDING),
    )
    for name, code, limit in limits:
        key = f"{architecture}.{name}"
        value = header.metadata.get(key)
        if not isinstance(value, int):
            state = "missing" if value is None else "not a single integer"
            yield make_finding(code, "warning", f"It is {state}.", key)
        elif not 0 < value <= limit:
            # Files for other programs, such as image models, have their own keys, and llama.cpp does not load them.
            severity: Severity = "warning" if header.facts.kind == "other" else "error"
            yield make_finding(code, severity, f"It is {value}; it must be 1 to {limit}.", key)
    experts = get_count(header.metadata, f"{architecture}.expert_count")
    used = get_count(header.metadata, f"{architecture}.expert_used_count")
    if experts and (experts > MAX_EXPERTS or (used is not None and not 0 < used <= experts)):
        yield make_finding("experts", "error", f"It uses {used} of {experts} experts.", f"{architecture}.expert_count")


def _check_attention(header: GgufHeader, architecture: str) -> Iterator[Finding]:
    blocks = header.facts.block_count or 0
    if not 0 < blocks <= MAX_BLOCKS:
        return
    prefix = f"{architecture}."
    for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        length = get_array_length(header.metadata.get(prefix + name))
        if length is not None and length != blocks:
            message = f"It has {length} values for {blocks} blocks."
            yield make_finding("layer-array-length", "warning", message, prefix + name)
    sections = get_array_length(header.metadata.get(prefix + "rope.dimension_sections"))
    if sections not in (None, ROPE_SECTIONS):
        message = f"It has {sections} values, not {ROPE_SECTIONS}."
        yield make_finding("rope-sections", "warning", message, prefix + "rope.dimension_sections")
    heads = get_layer_values(header.metadata, prefix + "attention.head_count", blocks)
    kv_heads = get_layer_values(header.metadata, prefix + "attention.head_count_kv", blocks)
    for query, key in zip(heads or (), kv_heads or heads or (), strict=False):
        if query > MAX_HEADS or key > query or (key and query % key):
            message = f"{query} query heads can't be divided among {key} key heads."
            yield make_finding("head-count", "error", message, prefix + "attention.head_count_kv")
            return


def _check_tokenizer(header: GgufHeader) -> Iterator[Finding]:
    types = header.value_types
    model = get_text(header.metadata, "tokenizer.ggml.model")
    tokens = get_array_length(header.metadata.get(_TOKENS))
    if not tokens:
        if model not in ("no_vocab", "none"):
            yield make_finding("tokenizer", "warning", "It lists no tokens.", _TOKENS)
        return
    merges = "tokenizer.ggml.merges"
    if model == "gpt2" and types.get(merges) != "array of string":
        yield make_finding("tokenizer", "warning", "A gpt2 tokenizer should list its merges.", merges)
    yield from _check_token_arrays(header, tokens)
    yield from _check_special_tokens(header, tokens)


def _check_token_arrays(header: GgufHeader, tokens: int) -> Iterator[Finding]:
    for key, expected in {_TOKENS: "array of string", **_TOKEN_ARRAYS}.items():
        actual = header.value_types.get(key, expected)
        length = get_array_length(header.metadata.get(key))
        if actual != expected:
            yield make_finding("token-array-type", "error", f"Its type is {actual}, not {expected}.", key)
        elif length is not None and length != tokens:
            yield make_finding("token-arrays-differ", "error", f"It has {length} values for {tokens} tokens.", key)


def _check_special_tokens(header: GgufHeader, tokens: int) -> Iterator[Finding]:
    for key, value in header.metadata.items():
        special = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        if special and isinstance(value, int) and not 0 <= value < tokens:
            yield make_finding(
                "token-id-range", "warning", f"Token {value} is outside the vocabulary of {tokens}.", key
            )


def _check_tensors(header: GgufHeader) -> Iterator[Finding]:
    facts = header.facts
    if (facts.split_count or 1) > 1 and get_count(header.metadata, "split.tensors.count") != len(header.tensors):
        return  # the missing tensors may be in the other shards
    if not header.tensors:
        yield make_finding("no-tensors", "warning", "The file has no tensors.")
        return
    tokens = get_array_length(header.metadata.get(_TOKENS))
    expected = (facts.embedding_length, tokens)
    for tensor in header.tensors:
        if all(expected) and tensor.name == "token_embd.weight" and tensor.shape != expected:
            message = f"Its shape is {tensor.shape}; the header requires {expected}."
            yield make_finding("vocabulary-shape", "warning", message, tensor.name)
        block = _BLOCK_NUMBER.match(tensor.name)
        if block and facts.block_count and int(block[1]) >= facts.block_count:
            message = f"The model has only {facts.block_count} blocks."
            yield make_finding("block-out-of-range", "warning", message, tensor.name)
