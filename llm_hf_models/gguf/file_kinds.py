"""Decide what each GGUF file of a repo is: a model, or a file that belongs to one. No file is read.

A name alone can mean both. `Model-MTP-Q6_K.gguf` is a complete model with an additional head in one repo, and a small
draft model for the file next to it in another. Some names are used for one kind only. With any other name, the number
of weights decides, compared with the model that the name is derived from, or with the repo's largest model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from llm_hf_models.gguf import quant_types
from llm_hf_models.gguf.filenames import GgufName, is_projector, split_words

FileKind = Literal["model", "projector", "draft", "adapter", "imatrix", "other"]
DESCRIPTIONS: Mapping[FileKind, str] = {
    "model": "a model",
    "projector": "a projector of a model (mmproj)",
    "draft": "a draft model for speculative decoding",
    "adapter": "an adapter (LoRA)",
    "imatrix": "an importance matrix",
    "other": "a part of a model, or made for other machines",
}

MAX_COMPANION_SHARE = 0.5  # of the weights of the model
MAX_DRAFT_SHARE = 0.8  # of the weights of the model, if prefix or folder say that the file is a draft model
MAX_PART_SHARE = 0.1  # of the weights of the model that the file is named after
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

# Draft models have the name of an architecture that only drafts, llama.cpp's prefixes, or a folder of their own.
_DRAFT_NAME = re.compile(
    r"(?:^|[-_.])(?:draft|drafter|specdraft|eagle3|dflash|dspark|speculators?)(?:$|[-_.])", re.IGNORECASE
)
_DRAFT_PREFIX = re.compile(r"(?:mtp|eagle\d?)(?:$|[-_.])", re.IGNORECASE)
_DRAFT_FOLDER_WORD = re.compile(r"drafts?|drafters?|mtp|nextn|eagle\d?|dflash|dspark|medusa|spec|speculat[a-z]+")

# Words that a file with an additional part has in its name, as well as that part by itself.
_DRAFT_WORD = re.compile(r"(?:[a-z]*mtp|mtp[a-z]*|nextn|eagle|assistant|medusa)(?:\d+k?)?")
_PROJECTOR_WORD = re.compile(r"vision|visual|m?mproj(?:ector)?|projectors?|clip|vit")
_OTHER_WORD = re.compile(r"vae|vocoder|tokenizer|encoder|decoder|hifigan\d*|token2wav")
_SIZE_WORD = re.compile(r"(?:\d+x)?[ae]?\d+(?:\.\d+)?[bmk]|lite|mini|nano|small|tiny")  # of a smaller model of a series


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
    kinds = _compare_weights(names, totals, kinds)
    if "model" not in kinds:  # the repo of a draft model, which can be run by itself
        kinds = ["model" if kind == "draft" else kind for kind in kinds]
    return kinds


def _compare_weights(names: Sequence[GgufName], totals: Sequence[int], kinds: Sequence[FileKind]) -> list[FileKind]:
    """Return the kinds after a comparison of the files that may be a part of a model with that model."""
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
    main, of_main = max(models.items(), key=lambda model: model[1], default=(frozenset(), 0.0))
    are_sizes_known = len(set(totals)) > 1
    compared = list(kinds)
    for index, suspect in suspects.items():
        of_namesake = models.get(words[index] - suspect.words, of_main)
        is_small = 0 < weights[index] < suspect.max_share * of_namesake
        if is_small or (suspect.is_certain and not are_sizes_known):
            compared[index] = suspect.kind
    for index, kind in enumerate(compared):
        # A file next to the model with no other word is a variant of it, however small.
        is_marked = main < words[index] or (main == words[index] and names[index].folder != "")
        is_named_after_main = is_marked and not any(map(_SIZE_WORD.fullmatch, words[index] - main))
        if kind == "model" and main and is_named_after_main and 0 < weights[index] < MAX_PART_SHARE * of_main:
            compared[index] = "other"
    return compared


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
    return "draft" if _DRAFT_NAME.search(name.stem) else "model"


def _has_size_of_imatrix(name: GgufName, size: int, largest_other: int) -> bool:
    if size < MAX_IMATRIX_SHARE * largest_other:
        return True
    is_quantized = name.type not in _COMPANION_TYPES or _QUANTIZED.search(name.stem) is not None
    return size <= MAX_IMATRIX_BYTES and (not is_quantized or name.stem.casefold().startswith("imatrix"))


class _Suspect(NamedTuple):
    """The kind that a file may have, and the words in its name that say so."""

    kind: FileKind
    words: frozenset[str]
    max_share: float = MAX_COMPANION_SHARE  # of the weights of the model
    is_certain: bool = False  # unless the size says otherwise


def _find_possible_kind(name: GgufName, words: frozenset[str]) -> _Suspect | None:
    """Return the kind that a file may have by the words in the names of the file and its folders."""
    folder_words = split_words(name.folder.replace("/", " "))
    found = frozenset(filter(_DRAFT_WORD.fullmatch, words))
    if _DRAFT_PREFIX.match(name.stem) or any(map(_DRAFT_FOLDER_WORD.fullmatch, folder_words)):
        return _Suspect("draft", found, MAX_DRAFT_SHARE, is_certain=True)
    if found:
        return _Suspect("draft", found)
    all_words = words | folder_words
    if name.type in _COMPANION_TYPES and any(map(_PROJECTOR_WORD.fullmatch, all_words)):
        return _Suspect("projector", frozenset(filter(_PROJECTOR_WORD.fullmatch, words)))
    if any(map(_OTHER_WORD.fullmatch, all_words)):
        return _Suspect("other", frozenset(filter(_OTHER_WORD.fullmatch, words)))
    return None
