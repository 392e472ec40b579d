"""The names of quantizations: how to find one in a text, their order of quality, and their bits per weight."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_SAME_TYPE = {"FP16": "F16", "FP32": "F32", "FP64": "F64", "MXFP4_MOE": "MXFP4", "NVFP4_MOE": "NVFP4"}

# A type between separators: a float, a packed float, or a block type with words after underscores. `UD-` before it is
# unsloth's mark for a dynamic quantization.
_TYPE = re.compile(
    r"(?<![A-Za-z0-9])(?P<dynamic>UD-)?(?P<type>(?:BF|FP|F)(?:16|32|64)|(?:MX|NV)FP4(?:_MOE)?"
    r"|(?P<block>(?:IQ|TQ|Q)[1-8])(?P<words>(?:_[A-Za-z0-9]+)+))(?![A-Za-z0-9])",
    re.IGNORECASE,
)

# The words of the block types of llama.cpp and its forks. Other words continue an unknown type (`Q4_K_HB`), unless they
# are written in another case (`Q4_K_M_v2`, `q4_0_Instruct`) or say something else than a type.
_TYPE_WORD = re.compile(r"[0-9]|KV|KSS|KS|KT|KL|K|XXS|XS|XXL|XL|NL|S|M|L|P|R4|R8", re.IGNORECASE)
_UNKNOWN_TYPE_WORD = re.compile(r"(?:[A-Z]{1,5}\d?|[a-z]{1,3}\d?)", re.ASCII)
_NOT_A_TYPE_WORD = re.compile(r"v\d+|i1|imat(?:rix)?|mtp|it|gguf|final|fixed|new", re.IGNORECASE)

# At the end of a name, types are also written without underscores (`q4km`, `IQ2XXS`, `Q8`).
_COMPACT_TYPE = re.compile(
    r"(?<![A-Za-z0-9])(?P<dynamic>UD-)?(?P<type>(?:IQ|TQ|Q)[1-8](?:K?(?:XXS|XS|XL|NL|S|M|L)?|[01]))$", re.IGNORECASE
)

# Best quality first, with bits per weight as measured by llama.cpp's quantize tool (`tools/quantize/README.md`). A
# legacy type comes after the K-quant that is better at its size. The types `_L` and `_XL` of converters (embeddings and
# output at more bits) come before the plain type.
_BITS = {
    "F64": 64.0, "F32": 32.0, "BF16": 16.0, "F16": 16.0, "Q8_K_XL": 9.3, "Q8_0": 8.5,
    "Q6_K_XL": 7.2, "Q6_K_L": 6.8, "Q6_K": 6.56, "Q5_K_XL": 5.9, "Q5_K_L": 5.9, "Q5_K_M": 5.7, "Q5_K_S": 5.57,
    "Q5_1": 6.0, "Q5_0": 5.6, "Q4_K_XL": 5.1, "Q4_K_L": 5.1, "Q4_K_M": 4.89, "Q4_K_S": 4.67, "NVFP4": 4.6,
    "MXFP4": 4.3, "IQ4_NL": 4.68, "IQ4_XS": 4.46, "Q4_1": 5.1, "Q4_0": 4.66,
    "Q3_K_XL": 4.4, "Q3_K_L": 4.3, "Q3_K_M": 4.0, "IQ3_M": 3.76, "IQ3_S": 3.66, "Q3_K_S": 3.64, "IQ3_XS": 3.5,
    "IQ3_XXS": 3.25, "Q2_K_XL": 3.4, "Q2_K_L": 3.3, "Q2_K": 3.16, "IQ2_M": 2.93, "Q2_K_S": 2.97, "IQ2_S": 2.74,
    "IQ2_XS": 2.59, "IQ2_XXS": 2.38, "Q2_0": 2.2, "TQ2_0": 2.1, "IQ1_M": 2.15, "IQ1_S": 2.0, "TQ1_0": 1.7, "Q1_0": 1.1,
}  # fmt: skip
QUALITY = tuple(_BITS)
_RANK = {name: rank for rank, name in enumerate(QUALITY)}
_COMPACT = {name.replace("_", ""): name for name in (*QUALITY, "Q2_K", "Q3_K", "Q4_K", "Q5_K")}

# Short names for one of these types: those of the quantize tool (`Q4_K` is `Q4_K_M`) and those of converters.
_SHORT_FOR = {
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "Q2": "Q2_K",
    "Q3": "Q3_K_M",
    "Q4": "Q4_0",
    "Q5": "Q5_0",
    "Q6": "Q6_K",
    "Q8": "Q8_0",
}
_NAMED_BITS = re.compile(r"(?<![0-9.])(\d{1,2}(?:\.\d{1,3})?)[-_ ]?bpw", re.IGNORECASE)


class QuantType(NamedTuple):
    """A quantization in a text: its canonical name, empty if there is none, and its place."""

    name: str = ""
    dynamic: bool = False  # with unsloth's prefix `UD-`
    start: int = 0
    end: int = 0


def find_type(text: str) -> QuantType:
    """Find the quantization that a file's name or a label states.

    The last block type counts: the model's own name comes first and may look like a type too. A float counts only
    without a block type, because beside one it states what was quantized, or the type of some tensors.
    """
    found = [quant for match in _TYPE.finditer(text) if (quant := _parse_type(match))]
    if found:
        return max(found, key=lambda quant: (not is_float(quant.name), quant.start))
    compact = _COMPACT_TYPE.search(text)
    if compact is None:
        return QuantType()
    name = compact["type"].upper()
    return QuantType(_COMPACT.get(name, name), compact["dynamic"] is not None, compact.start(), compact.end())


def _parse_type(match: re.Match[str]) -> QuantType | None:
    name = match["type"]
    if match["block"]:
        block, *words = name.split("_")
        kept = list(itertools.takewhile(lambda word: _is_type_word(block, word), words))
        if not kept:
            return None
        name = "_".join((block, *kept))
    end, name = match.start("type") + len(name), name.upper()
    return QuantType(_SAME_TYPE.get(name, name), match["dynamic"] is not None, match.start(), end)


def _is_type_word(block: str, word: str) -> bool:
    if _TYPE_WORD.fullmatch(word):
        return True
    is_same_case = word == (word.upper() if block.isupper() else word.lower())
    return is_same_case and bool(_UNKNOWN_TYPE_WORD.fullmatch(word)) and not _NOT_A_TYPE_WORD.fullmatch(word)


def is_float(name: str) -> bool:
    """Return whether the canonical name is that of unquantized weights."""
    return name in _FLOATS


def expand_short_name(name: str) -> str:
    """Return the type that a short name means: `Q4_K_M` for `Q4_K`."""
    return _SHORT_FOR.get(name, name)


def get_bits(name: str) -> float | None:
    """Return the bits per weight of a type, None for an unknown type."""
    return _BITS.get(expand_short_name(name))


def find_named_bits(text: str) -> float | None:
    """Return the bits per weight that a name states, such as `3.7bpw`."""
    match = _NAMED_BITS.search(text)
    return float(match[1]) if match and float(match[1]) > 0 else None


def rank_quality(name: str, bits: float | None) -> float:
    """Return the place of a type in the order of quality, best first.

    Args:
        name: a canonical name, empty if the type is not known.
        bits: bits per weight. They place an unknown type before the first type with fewer bits.
    """
    known = _RANK.get(expand_short_name(name))
    if known is not None:
        return known
    if bits is None:
        return len(_RANK)
    return next((rank for rank, of_type in enumerate(_BITS.values()) if of_type <= bits), len(_RANK)) - 0.5
