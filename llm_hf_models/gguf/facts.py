"""Derive facts about a model from its GGUF header: kind, size, memory, tokenizer, template.

This module neither reads files nor validates headers. Key names are those of the GGUF specification
(ggml/docs/gguf.md) and of llama.cpp's `src/llama-arch.cpp`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from llm_hf_models.gguf.types import FILE_TYPES, ArrayInfo, TensorInfo
from llm_hf_models.system.json_values import json_name
from llm_hf_models.system.text import clean_text

Kind = Literal["chat", "base", "embedding", "reranker", "mmproj", "other"]
CHAT_TEMPLATE_KEY = "tokenizer.chat_template"
TOOL_TEMPLATE_KEY = "tokenizer.chat_template.tool_use"
MAX_NAME_CHARS = 200
MAX_BASE_MODELS = 16
MAX_WIDTHS = 32
MAX_LAYERS = 100_000  # a header may claim any number; above this, no values per layer are computed
KV_ELEMENT_BYTES = 2  # size of one f16 number in the KV cache
GUESSED_FILE_TYPE_FLAG = 1024  # LLAMA_FTYPE_GUESSED, a flag bit added to the file type

ENCODER_ARCHITECTURES = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
_EMBEDDING_POOLINGS = (1, 2, 3)  # llama.cpp's pooling types mean, cls and last (0 is none, 4 is rank)
_RANK_POOLING = 4

# Every nth layer attends to all tokens, in families whose files lack the key sliding_window_pattern (llama.cpp:
# set_swa_pattern).
_WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4}
_CLASSIFIER_TENSORS = ("cls.weight", "cls.output.weight")
_EMBEDDING_TASKS = ("feature-extraction", "sentence-similarity")
_ENCODER_PREFIXES = ("v.", "t.", "a.")  # names of tensors of an mmproj's encoders
_TOOLS = re.compile(r"\btools?\b|\btool_calls?\b")
_REASONING = re.compile(r"<think|enable_thinking|reasoning_content|<\|channel\|>|\bthinking\b|\[THINK\]")
_REPO_URL = re.compile(r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)?([\w.-]+/[\w.-]+)/?")


@dataclass(frozen=True)
class ModelFacts:
    """Facts from a header for choosing, fitting and running a model. The library stores them as JSON."""

    kind: Kind = "other"
    architecture: str | None = None
    name: str | None = None
    parameters: int | None = None
    bits_per_weight: float | None = None
    quantization: str | None = None  # from general.file_type, otherwise the tensor type of most weights
    tensor_types: Mapping[str, int] = field(default_factory=dict)  # type name -> number of tensors
    weights_bytes: int | None = None
    block_count: int | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    kv_bytes_per_token: int | None = None  # at f16
    kv_windowed_bytes_per_token: int = 0  # the part that is kept for the last sliding_window tokens only
    sliding_window: int | None = None  # tokens
    tokenizer: str | None = None
    vocabulary_size: int | None = field(default=None, metadata=json_name("vocabulary_tokens"))
    chat_template: bool = False
    tools: bool = False  # the template mentions tools, or there is a separate template for them
    reasoning: bool = False  # the template mentions thinking
    modalities: tuple[str, ...] = ()  # of an mmproj: "image", "audio"
    projection_widths: tuple[int, ...] = ()  # of an mmproj: the embedding_length of a model that it fits, in any order
    license: str | None = None
    base_models: tuple[str, ...] = ()
    split_index: int | None = None
    split_count: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)  # general.sampling.*


Metadata = Mapping[str, object]


def derive_facts(metadata: Metadata, tensors: Sequence[TensorInfo]) -> ModelFacts:
    """Derive the facts of one file, or of a split model.

    Args:
        metadata: the file's metadata; for a split model, the first shard's.
        tensors: the file's tensors; for a split model, the tensors of all shards.
    """
    architecture = get_text(metadata, "general.architecture")
    template = metadata.get(CHAT_TEMPLATE_KEY)
    template = template if isinstance(template, str) else ""
    parameters = sum(tensor.elements for tensor in tensors)
    cache = compute_kv_bytes_per_layer(metadata, architecture)
    sizes = [tensor.size for tensor in tensors]
    weights = sum(size for size in sizes if size is not None) if None not in sizes else None
    return ModelFacts(
        kind=_determine_kind(metadata, tensors, architecture),
        architecture=architecture,
        name=get_text(metadata, "general.name"),
        parameters=parameters or None,
        bits_per_weight=round(weights * 8 / parameters, 3) if parameters and weights else None,
        quantization=_determine_quantization(metadata, tensors),
        tensor_types=dict(Counter(tensor.type_name for tensor in tensors).most_common()),
        weights_bytes=weights if tensors else None,
        block_count=get_count(metadata, f"{architecture}.block_count"),
        context_length=get_count(metadata, f"{architecture}.context_length"),
        embedding_length=get_count(metadata, f"{architecture}.embedding_length"),
        kv_bytes_per_token=sum(size for size, _ in cache) if cache is not None else None,
        kv_windowed_bytes_per_token=sum(size for size, windowed in cache or () if windowed),
        sliding_window=get_count(metadata, f"{architecture}.attention.sliding_window"),
        tokenizer=get_text(metadata, "tokenizer.ggml.model"),
        vocabulary_size=get_vocabulary_size(metadata, architecture),
        chat_template=bool(template),
        tools=bool(_TOOLS.search(template)) or TOOL_TEMPLATE_KEY in metadata,
        reasoning=bool(_REASONING.search(template)),
        modalities=_list_modalities(metadata, architecture),
        projection_widths=_list_projection_widths(metadata, tensors, architecture),
        license=_get_license(metadata),
        base_models=_list_base_models(metadata),
        split_index=get_count(metadata, "split.no"),
        split_count=get_count(metadata, "split.count"),
        sampling=_get_sampling(metadata),
    )


def omit_totals(facts: ModelFacts, metadata: Metadata) -> ModelFacts:
    """Return the facts of a split model's first shard without the figures that need the tensors of all shards.

    Args:
        facts: the facts of the first shard.
        metadata: its metadata.
    """
    quantization = _determine_quantization(metadata, ())
    return replace(
        facts, parameters=None, bits_per_weight=None, quantization=quantization, tensor_types={}, weights_bytes=None
    )


def apply_template(facts: ModelFacts, template: str | None) -> ModelFacts:
    """Return the facts with a chat template that replaces the header's; None returns them unchanged."""
    if not template:
        return facts
    return replace(
        facts,
        kind="chat" if facts.kind == "base" else facts.kind,
        chat_template=True,
        tools=bool(_TOOLS.search(template)),
        reasoning=bool(_REASONING.search(template)),
    )


def apply_kind(facts: ModelFacts, kind: str | None) -> ModelFacts:
    """Return the facts with a kind that the user set; None returns them unchanged."""
    return replace(facts, kind=cast("Kind", kind)) if kind in get_args(Kind) else facts


def apply_task(facts: ModelFacts, task: object) -> ModelFacts:
    """Return the facts with the Hub's task as a second witness for the kind.

    Many embedding models are language models without a pooling type in the header, which then looks like that of a
    base or chat model.
    """
    embeds = task in _EMBEDDING_TASKS and facts.kind in ("base", "chat")
    return replace(facts, kind="embedding") if embeds else facts


def get_count(metadata: Metadata, key: str) -> int | None:
    """Return a metadata value if it is a non-negative integer and not a bool, otherwise None."""
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def get_text(metadata: Metadata, key: str) -> str | None:
    """Return a string without control characters, cut to MAX_NAME_CHARS; None if it is empty or not a string."""
    value = metadata.get(key)
    return (clean_text(value, MAX_NAME_CHARS) or None) if isinstance(value, str) else None


def get_array_length(value: object) -> int | None:
    """Return an array's length, whether its elements were kept or skipped; None for any other value."""
    if isinstance(value, ArrayInfo):
        return value.length
    return len(value) if isinstance(value, tuple) else None


def get_vocabulary_size(metadata: Metadata, architecture: str | None) -> int | None:
    """Return how many tokens the tokenizer lists, or the architecture's vocab_size if it lists none."""
    tokens = get_array_length(metadata.get("tokenizer.ggml.tokens"))
    return tokens if tokens is not None else get_count(metadata, f"{architecture}.vocab_size")


def get_layer_values(metadata: Metadata, key: str, layers: int) -> list[int] | None:
    """Return one value for each layer, from a list in the header or from one number for all layers.

    Returns:
        None if the key is missing, or if its list is too short or has a value that is not a count.
    """
    value = metadata.get(key)
    if isinstance(value, tuple):
        numbers = [number for number in value if isinstance(number, int) and number >= 0]
        return numbers[:layers] if len(numbers) == len(value) >= layers else None
    number = get_count(metadata, key)
    return [number] * layers if number is not None else None


def compute_kv_bytes_per_layer(metadata: Metadata, architecture: str | None) -> list[tuple[int, bool]] | None:
    """Compute the KV cache that each layer needs for one token of context.

    With multi-head latent attention (a file with the key key_length_mla), a layer stores one compressed key and no
    value (llama.cpp: `src/llama-kv-cache.cpp`). A layer stores nothing if it has no attention or shares another
    layer's keys.

    Returns:
        For each layer that stores anything: the bytes at f16, and whether a sliding window limits them. None if the
        header lacks the keys for it or claims too many layers.
    """
    layers = get_count(metadata, f"{architecture}.block_count")
    if not layers or layers > MAX_LAYERS:
        return None
    attention = f"{architecture}.attention."
    heads = get_layer_values(metadata, attention + "head_count", layers)
    kv_heads = get_layer_values(metadata, attention + "head_count_kv", layers) or heads
    width = get_count(metadata, f"{architecture}.embedding_length")
    head_width = width // max(heads) if heads and max(heads) and width else None
    key, value = (
        _use_default(get_count(metadata, attention + name), head_width) for name in ("key_length", "value_length")
    )
    if kv_heads is None or key is None or value is None:
        return None
    if get_count(metadata, attention + "key_length_mla"):
        value = 0
    windowed_sizes = [_use_default(get_count(metadata, attention + name), default) or 0
                      for name, default in (("key_length_swa", key), ("value_length_swa", value))]  # fmt: skip
    windowed_layers = _find_windowed_layers(metadata, architecture, layers)
    interval = get_count(metadata, f"{architecture}.full_attention_interval") or 1
    unshared = layers - (get_count(metadata, attention + "shared_kv_layers") or 0)
    return [
        (count * (sum(windowed_sizes) if windowed else key + value) * KV_ELEMENT_BYTES, windowed)
        for layer, (count, windowed) in enumerate(zip(kv_heads, windowed_layers, strict=True))
        if layer < unshared and layer % interval == interval - 1
    ]


def _use_default(number: int | None, default: int | None) -> int | None:
    return default if number is None else number


def _find_windowed_layers(metadata: Metadata, architecture: str | None, layers: int) -> list[bool]:
    """Return for each layer whether it attends to a sliding window only.

    The header has a flag for each layer, or a period: the last layer of each period attends to all tokens.
    """
    if not get_count(metadata, f"{architecture}.attention.sliding_window"):
        return [False] * layers
    pattern = metadata.get(f"{architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) == layers:
        return [bool(flag) for flag in pattern]
    period = pattern if isinstance(pattern, int) else _WINDOW_PERIODS.get(architecture or "", 1)
    return [period > 1 and layer % period < period - 1 for layer in range(layers)]


def _determine_kind(metadata: Metadata, tensors: Sequence[TensorInfo], architecture: str | None) -> Kind:
    general_type = metadata.get("general.type")
    if architecture == "clip" or general_type == "mmproj":
        return "mmproj"
    if general_type not in (None, "model") or architecture is None:
        return "other"
    pooling = get_count(metadata, f"{architecture}.pooling_type")
    encoder = architecture in ENCODER_ARCHITECTURES
    classifies = f"{architecture}.classifier.output_labels" in metadata
    if pooling == _RANK_POOLING or (encoder and (classifies or any(t.name in _CLASSIFIER_TENSORS for t in tensors))):
        return "reranker"
    if encoder or pooling in _EMBEDDING_POOLINGS:
        return "embedding"
    if metadata.get("tokenizer.ggml.model") in (None, "no_vocab", "none"):
        return "other"
    return "chat" if metadata.get(CHAT_TEMPLATE_KEY) else "base"


def _determine_quantization(metadata: Metadata, tensors: Sequence[TensorInfo]) -> str | None:
    file_type = get_count(metadata, "general.file_type")
    name = FILE_TYPES.get(file_type & ~GUESSED_FILE_TYPE_FLAG) if file_type is not None else None
    if name or not tensors:
        return name
    elements: Counter[str] = Counter()
    for tensor in tensors:
        elements[tensor.type_name] += tensor.elements
    return elements.most_common(1)[0][0]


def _list_modalities(metadata: Metadata, architecture: str | None) -> tuple[str, ...]:
    if architecture != "clip" and metadata.get("general.type") != "mmproj":
        return ()
    flags = (("image", "clip.has_vision_encoder"), ("audio", "clip.has_audio_encoder"))
    return tuple(name for name, key in flags if metadata.get(key) is True)


def _list_projection_widths(
    metadata: Metadata, tensors: Sequence[TensorInfo], architecture: str | None
) -> tuple[int, ...]:
    """Return the widths of models that an mmproj can belong to; empty if they are unknown.

    llama.cpp's converter stores the model's embedding_length as projection_dim, and sets general.type. Earlier
    converters stored a width of CLIP there (768 for LLaVA). Their projector ends in one of the tensors outside of the
    encoder (`v.`), so all dimensions of those tensors are possible.
    """
    if architecture != "clip" and metadata.get("general.type") != "mmproj":
        return ()
    keys = (f"clip.{part}projection_dim" for part in ("vision.", "audio.", ""))
    widths = {width for key in keys if (width := get_count(metadata, key))}
    if metadata.get("general.type") != "mmproj":
        widths |= {size for one in tensors if not one.name.startswith(_ENCODER_PREFIXES) for size in one.shape}
    return tuple(sorted(widths)) if len(widths) <= MAX_WIDTHS else ()


def _get_license(metadata: Metadata) -> str | None:
    name = get_text(metadata, "general.license")
    return (get_text(metadata, "general.license.name") or name) if name == "other" else name


def _list_base_models(metadata: Metadata) -> tuple[str, ...]:
    found: list[str] = []
    for index in range(min(get_count(metadata, "general.base_model.count") or 0, MAX_BASE_MODELS)):
        prefix = f"general.base_model.{index}."
        url = _REPO_URL.fullmatch(get_text(metadata, prefix + "repo_url") or "")
        name = url[1] if url else get_text(metadata, prefix + "name")
        if name:
            found.append(name)
    return tuple(found)


def _get_sampling(metadata: Metadata) -> dict[str, float]:
    prefix = "general.sampling."
    return {
        key.removeprefix(prefix): value
        for key, value in metadata.items()
        if key.startswith(prefix) and isinstance(value, (int, float)) and math.isfinite(value)
    }
