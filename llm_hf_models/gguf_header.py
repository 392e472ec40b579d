"""Reads a GGUF header from any byte source, strictly and with limits. Does not judge what it means (validate.py does)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Kind = Literal["chat", "base", "embedding", "reranker", "mmproj", "other"]


class ByteSource(Protocol):
    """Anything that can be read forward: an open file, a Range reader of a Hub file, a socket's file."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's entry in the header. `offset` counts from the start of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(frozen=True)
class ArrayInfo:
    """An array that was skipped by length: what a header says without its elements."""

    type_name: str
    length: int


@dataclass(frozen=True)
class ModelFacts:
    """What follows from a header for choosing, fitting and running a model. JSON-able: the library keeps it."""

    kind: Kind = "other"
    architecture: str | None = None
    name: str | None = None
    parameters: int | None = None
    bits_per_weight: float | None = None
    quantization: str | None = None  # from general.file_type, else the commonest tensor type
    tensor_types: Mapping[str, int] = field(default_factory=dict)  # type name -> number of tensors
    weights_bytes: int | None = None
    block_count: int | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    kv_bytes_per_token: int | None = None  # at f16
    tokenizer: str | None = None
    vocabulary_size: int | None = None
    chat_template: bool = False
    tools: bool = False  # the template speaks of tools
    reasoning: bool = False  # the template speaks of thinking
    modalities: tuple[str, ...] = ()  # of an mmproj: "image", "audio"
    license: str | None = None
    base_models: tuple[str, ...] = ()
    split_index: int | None = None
    split_count: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)  # general.sampling.*


@dataclass(frozen=True)
class GgufHeader:
    """A parsed header: everything before the tensor data."""

    version: int
    byte_order: Literal["little", "big"]
    metadata: Mapping[str, object]  # arrays that were not asked for stand as ArrayInfo
    tensors: tuple[TensorInfo, ...]
    alignment: int
    header_bytes: int  # up to and including the padding before tensor data
    facts: ModelFacts
    chat_template: str | None = None


def read_header(source: ByteSource, *, file_bytes: int | None = None) -> GgufHeader:
    """Reads and checks the header's structure.

    Args:
        source: read forward from its current position, never past the header by more than one block.
        file_bytes: the file's whole size in bytes where it is known: counts and lengths that could not fit are refused.

    Raises:
        InvalidGgufError: not a GGUF header, or one that breaks a rule; `code` names the rule.
    """
    raise NotImplementedError
