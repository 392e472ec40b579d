"""Every rule a GGUF file is held to: its code, why it matters, and the finding that names it. Checks nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from llm_hf_models.system.text import clean_text

Severity = Literal["error", "warning", "note"]
Part = Literal["structure", "meaning", "template"]

STRUCTURE_RULES = {
    "not-gguf": "Without the magic GGUF it is some other file, whatever its name says.",
    "version": "Versions 2 and 3 are what llama.cpp reads; another is damage or a format that nobody here knows.",
    "byte-order": "llama.cpp reads only files in the byte order of its machine.",
    "truncated": "A file that ends before what its header announces was cut short, in a download or on purpose.",
    "header-too-large": "A length beyond every real header is how a reader is made to exhaust memory.",
    "count-too-large": "Readers allocate by counts: one beyond the file's room exhausts them (CVE-2024-21836, -23605).",
    "key-length": "An empty key aborts llama.cpp, and a huge one overflowed its buffers (CVE-2024-21802, -23496).",
    "key-text": "A key that is not plain text reads differently in different programs.",
    "duplicate-key": "Of two values for one key, each program believes another.",
    "value-type": "A value of an unknown type can't be skipped: everything after it would be misread.",
    "bool-value": "A bool other than 0 and 1 is undefined behaviour in C++.",
    "array-nested": "llama.cpp reads no arrays of arrays, and nesting is how a reader's stack is exhausted.",
    "alignment": "Tensor data begins at multiples of it; 0, or anything but a power of two, breaks address arithmetic.",
    "duplicate-tensor": "Of two tensors with one name, one is never checked and may be the one that is used.",
    "tensor-name-length": "llama.cpp keeps 63 bytes of a name; an empty one can't be found.",
    "tensor-name-text": "A tensor's name with control characters reads differently in different programs.",
    "tensor-dimensions": "ggml has room for four dimensions; more were written past its array (CVE-2024-21825).",
    "tensor-shape": "A 0 divides by zero; a product beyond 63 bits wraps to a small allocation (CVE-2025-53630).",
    "tensor-type": "A type that ggml does not know, or has dropped, has no size: nothing after it can be placed.",
    "tensor-block": "Rows of a quantized tensor divide into whole blocks; otherwise reads run past the row.",
    "tensor-too-large": "Sizes that overflow 63 bits wrap to small allocations (CVE-2026-27940, CVE-2026-33298).",
    "tensor-offset": "Tensors lie one after another, aligned; another offset overlaps or hides data.",
    "tensor-past-end": "The header places a tensor beyond the file's end: cut short, or made to read foreign memory.",
    "data-unpadded": "The last tensor is not padded as the format asks; some readers take the file for cut short.",
    "trailing-bytes": "Bytes after the last tensor belong to nothing that the header names.",
    "string-not-utf8": "Text that is not UTF-8 shows differently in different programs.",
    "string-too-long": "Metadata strings beyond a megabyte are not read; nothing real needs them.",
}

SEMANTIC_RULES = {
    "architecture": "Without general.architecture nothing knows how to run the weights.",
    "key-type": "llama.cpp refuses a key whose value is of another type than it expects.",
    "block-count": "llama.cpp takes 1 to 512 blocks; a huge number makes it allocate or loop until it is killed.",
    "context-length": "0 tokens of context divide by zero; more than 31 bits overflow.",
    "embedding-length": "The width of every layer; 0 or a huge one makes every size wrong.",
    "head-count": "Query heads are shared out evenly to key heads; otherwise attention reads past its tensors.",
    "layer-array-length": "An array with one value for each layer must have as many as there are blocks.",
    "rope-sections": "llama.cpp takes exactly four; files made for other programs have three, and don't load.",
    "experts": "More experts used than there are reads past the router's output.",
    "number-not-finite": "NaN or infinity in a parameter turns every output to nonsense.",
    "tokenizer": "A model that reads text lists its tokens; without them nothing can be typed to it.",
    "token-array-type": "llama.cpp reads these arrays as one exact type, and others as garbage.",
    "token-arrays-differ": "Scores and types stand beside tokens one by one; a shorter array is read past its end.",
    "token-id-range": "A special token outside the vocabulary is ignored by llama.cpp, or read past the end by others.",
    "vocabulary-shape": "The embedding has one row for each token; otherwise llama.cpp refuses it or reads past it.",
    "tensor-missing": "A tensor that this architecture can't run without is not there.",
    "block-out-of-range": "A tensor of a block beyond block_count is never used, and llama.cpp may refuse it.",
    "no-tensors": "There are no weights in it.",
    "split-keys": "A shard's number lies below their count; llama.cpp refuses another.",
    "split-part": "This is one shard of several: what needs the others was not checked.",
    "shards-disagree": "Shards of one model agree on their count, come in order and share no tensor.",
    "more-findings": "Only the first findings are listed.",
}

TEMPLATE_RULES = {
    "template-type": "A chat template is one string; another type slips past programs that look for text.",
    "template-too-large": "Real templates have a few thousand characters; a huge one exhausts what parses it.",
    "template-nesting": "Deep nesting overflows the stack of llama.cpp's template engine, and ends the process.",
    "template-syntax": "Jinja can't parse it. llama.cpp has an engine of its own, which may or may not.",
    "template-dunder": "Names with double underscores reach Python's internals: the way out of a template.",
    "template-include": "A template that loads others reads files that are not part of the model.",
    "template-danger-call": "A chat template has no business with the operating system or with evaluating code.",
    "template-unknown-call": "It calls what is outside the set that chat templates use.",
    "template-loop-bounds": "A loop of constant, huge length never ends, for every single prompt.",
    "template-huge-constant": "Repetition or powers of constants build values that fill the memory.",
    "template-content-trigger": "It adds text when a message holds certain words: hidden instructions work like this.",
    "template-date-trigger": "It adds text depending on the date: what was tested today may differ tomorrow.",
    "template-rewrites-content": "It replaces words in messages: the model is not told what was typed.",
    "template-invisible-characters": "Characters that are not shown can hide instructions from a reader.",
    "template-url": "An address in a template may end up in every prompt.",
}
DOCUMENTED_RULES: Mapping[str, str] = MappingProxyType({**STRUCTURE_RULES, **SEMANTIC_RULES, **TEMPLATE_RULES})


@dataclass(frozen=True)
class Finding:
    """One thing that the validator has to say."""

    code: str  # a documented rule, such as `tensor-past-end`
    severity: Severity
    part: Part
    message: str  # what, cleaned of control characters
    where: str | None = None  # a metadata key, a tensor's name, a line of the template
    why: str | None = None  # why it matters


def make_finding(code: str, severity: Severity, message: str, where: str | None = None) -> Finding:
    """A finding under a documented rule, with its part and its reason filled in.

    Args:
        code: a key of DOCUMENTED_RULES.
        severity: `error` where the file must not be run, `warning` where a person should look, `note` otherwise.
        message: one sentence; what it quotes is cleaned here.
        where: a metadata key, a tensor's name or a template's line; cleaned here.
    """
    part: Part = "structure" if code in STRUCTURE_RULES else "meaning" if code in SEMANTIC_RULES else "template"
    place = clean_text(where, 100) if where is not None else None
    return Finding(code, severity, part, clean_text(message, 400), place, DOCUMENTED_RULES[code])
