"""List the validator's rules: a code for each, and why the rule matters. Findings refer to a rule by its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from llm_hf_models.system.text import clean_text

Severity = Literal["error", "warning", "note"]
Part = Literal["structure", "meaning", "template"]

STRUCTURE_RULES = {
    "not-gguf": "A file without the magic bytes GGUF is in another format, whatever its name is.",
    "version": "llama.cpp reads versions 2 and 3. Any other version is damage or an unknown format.",
    "byte-order": "llama.cpp reads only files in the byte order of its machine.",
    "truncated": "A file shorter than its header claims was truncated, in a download or on purpose.",
    "header-too-large": "A length far beyond that of real headers can exhaust a reader's memory.",
    "count-too-large": "A count larger than the file makes readers allocate too much memory (CVE-2024-21836, -23605).",
    "key-length": "An empty key aborts llama.cpp, and a huge one overflowed its buffers (CVE-2024-21802, -23496).",
    "key-text": "A key that is not plain text reads differently in different programs.",
    "duplicate-key": "If a key has two values, one program uses the first and another uses the second.",
    "value-type": "A value of unknown type can't be skipped, so everything after it would be misread.",
    "bool-value": "A bool other than 0 and 1 is undefined behaviour in C++.",
    "array-nested": "llama.cpp does not read arrays of arrays, and nesting can exhaust a reader's stack.",
    "alignment": "Tensor data starts at multiples of it. Only a power of two works in address arithmetic.",
    "duplicate-tensor": "If two tensors have one name, the program may use the one that was not checked.",
    "tensor-name-length": "llama.cpp keeps 63 bytes of a name, and can't look up an empty one.",
    "tensor-name-text": "A tensor's name with control characters reads differently in different programs.",
    "tensor-dimensions": "ggml has room for four dimensions; more were written past its array (CVE-2024-21825).",
    "tensor-shape": "A 0 divides by zero; a product beyond 63 bits wraps to a small allocation (CVE-2025-53630).",
    "tensor-type": "If ggml does not know a type or has removed it, the size of the tensor is unknown.",
    "tensor-block": "A row that is not a whole number of blocks makes ggml read past its end.",
    "tensor-too-large": "Sizes that overflow 63 bits wrap to small allocations (CVE-2026-27940, CVE-2026-33298).",
    "tensor-offset": "Tensors follow one another, aligned. Any other offset overlaps or hides data.",
    "tensor-past-end": "A tensor past the end of the file means a truncated file, or an attempt to read other memory.",
    "data-unpadded": "The format requires padding after the last tensor; some readers report the file as truncated.",
    "trailing-bytes": "The header does not describe the bytes after the last tensor.",
    "string-not-utf8": "Text that is not UTF-8 is displayed differently in different programs.",
    "string-too-long": "Metadata strings over a megabyte are not read; real models don't have them.",
}

SEMANTIC_RULES = {
    "architecture": "Without general.architecture, no program can run the weights.",
    "key-type": "llama.cpp may refuse a key if its value has an unexpected type.",
    "block-count": "A model has blocks. A huge number makes llama.cpp allocate or loop until it is killed.",
    "context-length": "A context of 0 tokens divides by zero; more than 31 bits overflow.",
    "embedding-length": "This is the width of every layer; 0 or a huge value makes every size wrong.",
    "head-count": "Each key head serves the same number of query heads; otherwise attention reads past its tensors.",
    "layer-array-length": "An array with one value per layer usually has as many values as there are blocks.",
    "rope-sections": "llama.cpp expects four values. Files made for other programs have three, and may not load.",
    "experts": "If a model uses more experts than it has, it reads past the router's output.",
    "number-not-finite": "NaN or infinity in a parameter makes all output meaningless.",
    "tokenizer": "A model that reads text lists its tokens; without them llama.cpp may not load it.",
    "token-array-type": "llama.cpp reads these arrays as one fixed type; values of another type become garbage.",
    "token-arrays-differ": "Each token has a score and a type. llama.cpp reads past the end of a shorter array.",
    "token-id-range": "llama.cpp ignores a special token outside the vocabulary; other programs may read past the end.",
    "vocabulary-shape": "An embedding usually has one row per token, and llama.cpp may refuse another shape.",
    "block-out-of-range": "A tensor in a block beyond block_count is never used, and llama.cpp may refuse it.",
    "no-tensors": "The file contains no weights.",
    "split-keys": "llama.cpp refuses a shard number that is not below the number of shards.",
    "split-part": "This is one of several shards. Checks that need the other shards were skipped.",
    "shards-disagree": "The shards of a model must have the same count, be in order and share no tensor.",
    "more-findings": "Only the first findings are listed.",
}

TEMPLATE_RULES = {
    "template-type": "A chat template is a string; programs that look for text overlook a value of another type.",
    "template-too-large": "Real templates have a few thousand characters; a huge one exhausts the parser.",
    "template-nesting": "Deep nesting overflows the stack of llama.cpp's template engine and crashes the process.",
    "template-syntax": "Jinja can't parse the template. llama.cpp has its own parser, which may accept it.",
    "template-dunder": "Names with double underscores give access to Python's internals, outside the template.",
    "template-include": "A template that loads other templates reads files outside the model.",
    "template-danger-call": "A chat template has no reason to call the operating system or to evaluate code.",
    "template-unknown-call": "The template calls a function that chat templates do not normally use.",
    "template-loop-bounds": "A loop with a huge constant length runs almost forever, for every prompt.",
    "template-huge-constant": "Repeating constants or raising them to a power can fill the memory.",
    "template-content-trigger": "The template adds text if a message has certain words, as hidden instructions do.",
    "template-date-trigger": "The template adds text depending on the date, so it may behave differently tomorrow.",
    "template-rewrites-content": "The template replaces words in messages, so the model receives another text.",
    "template-invisible-characters": "Invisible characters can hide instructions from a reader.",
    "template-url": "A URL in a template may appear in every prompt.",
}
DOCUMENTED_RULES: Mapping[str, str] = MappingProxyType({**STRUCTURE_RULES, **SEMANTIC_RULES, **TEMPLATE_RULES})


@dataclass(frozen=True)
class Finding:
    """One result of the validator: a rule that a file breaks, or a note about it."""

    code: str  # a documented rule, such as `tensor-past-end`
    severity: Severity
    part: Part
    message: str  # without control characters
    where: str | None = None  # a metadata key, a tensor's name, a line of the template
    why: str | None = None  # why it matters


def make_finding(code: str, severity: Severity, message: str, where: str | None = None) -> Finding:
    """Return a finding for a documented rule, with the rule's part and reason.

    Control characters are removed from `message` and `where`.

    Args:
        code: a key of DOCUMENTED_RULES.
        severity: `error` if the file must not be run, `warning` if a person should look at it, otherwise `note`.
        message: one sentence; its subject is the file, or the key or tensor in `where`.
        where: a metadata key, a tensor's name or a line of the template.
    """
    part: Part = "structure" if code in STRUCTURE_RULES else "meaning" if code in SEMANTIC_RULES else "template"
    place = clean_text(where, 100) if where is not None else None
    return Finding(code, severity, part, clean_text(message, 400), place, DOCUMENTED_RULES[code])
