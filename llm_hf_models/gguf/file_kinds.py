"""Decide what each GGUF file of a repo is: a model, or a file that belongs to one. No file is read.

A name alone can mean both. `Model-MTP-Q6_K.gguf` is a complete model with an additional head in one repo, and a small
draft model for the file next to it in another. Some names are used for one kind only. With any other name, the number
of weights decides, compared with the model that the name is derived from, or with the repo's largest model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from llm_hf_models.gguf import quant_types
from llm_hf_models.gguf.filenames import GgufName, is_projector, split_words

FileKind = Literal["model", "projector", "draft", "adapter", "imatrix", "other"]
DESCRIPTIONS: Mapping[FileKind, str] = {
    "model": "a model",
    "projector": "a projector of a model (mmproj)",
    "draft": "a draft model for speculative decoding",
    "adapter": "an adapter (LoRA)",
    "imatrix": "an importance matrix",
    "other": "a part of another model, or made for other machines",
}

MAX_COMPANION_SHARE = 0.5  # of the weights of the model
MAX_IMATRIX_SHARE = 0.05  # of the size of the largest other file
MAX_IMATRIX_BYTES = 4 * 1024**3  # without another file: that of a model with a trillion weights has 2 GB
USUAL_BITS = 4.89  # per weight, of a file whose name does not say it

_OTHER = re.compile(r"ggml-vocab|control[-_]?vector|big[-_]endian", re.IGNORECASE)
_ADAPTER = re.compile(
    r"^(?:ggml-)?(?:q?lora|adapter)s?(?![A-Za-z0-9])|(?<![A-Za-z0-9])(?:q?lora|adapter)s?$", re.IGNORECASE
)
_COMPANION_TYPES = ("", "F32", "F16", "BF16", "Q8_0")  # the types that adapters and projectors are converted to

# In the middle of a name, or after a quantization, `imatrix` only means that the model was quantized with one.
_IMATRIX = re.compile(r"^imatrix|[-_.]imatrix$", re.IGNORECASE)
_QUANTIZED = re.compile(r"(?:IQ|Q|TQ)[1-7](?![0-9])")

# Draft models have llama.cpp's prefixes, the name of an architecture that only drafts, or a folder of their own.
_DRAFT_NAME = re.compile(
    r"^(?:mtp|eagle\d?)(?:$|[-_.])|(?:^|[-_.])(?:draft|drafter|specdraft|eagle3|dflash|dspark)(?:$|[-_.])",
    re.IGNORECASE,
)
_DRAFT_FOLDER = re.compile(r"drafts?|drafters?|mtp|eagle\d?|dflash|dspark", re.IGNORECASE)

# Words that a file with an additional part has in its name, as well as that part by itself.
_DRAFT_WORD = re.compile(r"(?:[a-z]*mtp|nextn|eagle|assistant)(?:\d+k?)?")
_PROJECTOR_WORD = re.compile(r"vision|visual")
_OTHER_WORD = re.compile(r"vae|vocoder|tokenizer")


def classify_files(groups: Sequence[Sequence[GgufName]], sizes: Mapping[str, int]) -> list[FileKind]:
    """Return the kind of each group of files.

    Args:
        groups: the GGUF files of a repo. The shards of one model are a group, any other file is one by itself.
        sizes: the size of each path in bytes. Unknown sizes may be 0, or all the same.
    """
    names = [parts[0] for parts in groups]
    totals = [sum(sizes[part.path] for part in parts) for parts in groups]
    quantized = {name.base.casefold() for name in names if name.type not in _COMPANION_TYPES}
    largest = sorted((0, *totals))[-2:]
    kinds = [
        _classify_name(name, size, largest[0] if size == largest[-1] else largest[-1], quantized)
        for name, size in zip(names, totals, strict=True)
    ]
    weights = [size / (quant_types.get_bits(name.type) or USUAL_BITS) for name, size in zip(names, totals, strict=True)]
    words = [frozenset(split_words(name.base)) for name in names]
    suspects = {
        index: found
        for index, name in enumerate(names)
        if kinds[index] == "model" and (found := _find_possible_kind(name, words[index]))
    }
    models: dict[frozenset[str], float] = {}
    for index in range(len(names)):
        if kinds[index] == "model" and index not in suspects:
            models[words[index]] = max(weights[index], models.get(words[index], 0))
    largest_model = max(models.values(), default=0)
    for index, (kind, suspect_words) in suspects.items():
        of_namesake = models.get(words[index] - suspect_words, largest_model)
        if 0 < weights[index] < MAX_COMPANION_SHARE * of_namesake:
            kinds[index] = kind
    if "model" not in kinds:  # the repo of a draft model, which can be run by itself
        kinds = ["model" if kind == "draft" else kind for kind in kinds]
    return kinds


def _classify_name(name: GgufName, size: int, largest_other: int, quantized_bases: set[str]) -> FileKind:
    """Return the kind that the name has for certain, otherwise `model`.

    Args:
        name: the first file of a group.
        size: the size of the group.
        largest_other: the size of the largest other group, or 0.
        quantized_bases: the base names of files with types that adapters don't have.
    """
    if is_projector(name):
        return "projector"
    if _OTHER.search(name.stem):
        return "other"
    if _IMATRIX.search(name.stem) and _has_size_of_imatrix(name, size, largest_other):
        return "imatrix"
    is_merged = name.base.casefold() in quantized_bases  # a model that a LoRA was merged into, and named after
    if _ADAPTER.search(name.base) and name.type in _COMPANION_TYPES and not is_merged:
        return "adapter"
    folders = name.folder.split("/")
    if _DRAFT_NAME.search(name.stem) or any(_DRAFT_FOLDER.fullmatch(folder) for folder in folders):
        return "draft"
    return "model"


def _has_size_of_imatrix(name: GgufName, size: int, largest_other: int) -> bool:
    if size < MAX_IMATRIX_SHARE * largest_other:
        return True
    is_quantized = name.type not in _COMPANION_TYPES or _QUANTIZED.search(name.stem) is not None
    return size <= MAX_IMATRIX_BYTES and (not is_quantized or name.stem.casefold().startswith("imatrix"))


def _find_possible_kind(name: GgufName, words: frozenset[str]) -> tuple[FileKind, set[str]] | None:
    """Return the kind that a file may have, and the words in its name that say so."""
    if found := {word for word in words if _DRAFT_WORD.fullmatch(word)}:
        return "draft", found
    found = {word for word in words if _PROJECTOR_WORD.fullmatch(word)}
    if found and name.type in _COMPANION_TYPES:
        return "projector", found
    found = {word for word in words if _OTHER_WORD.fullmatch(word)}
    return ("other", found) if found else None
