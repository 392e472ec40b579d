"""Takes one GGUF file's name apart: base, quantization, shard; and tells what kind of file it names. Reads no file.

Names are all that a listing gives, and their only rule is custom: what stands here was learnt from how the large
converters name their files, and from how llama.cpp itself looks for a repo's model (`common/download.cpp`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Types between separators: `(UD-)` and a float, a block type with its known tails, or a packed float. The tails are
# listed, so that the type in `Q4_K_M_v2` ends where the quantization does.
_TYPE = re.compile(
    r"(?<![A-Za-z0-9])(?P<dynamic>UD-)?(?P<type>(?:BF|FP|F)(?:16|32|64)|(?:MX|NV)FP4(?:_MOE)?"
    r"|(?:IQ|TQ|Q)[1-8](?:_(?:[0-9]|KV|KSS|KS|KT|KL|K|XXS|XS|XXL|XL|NL|S|M|L|P|R4|R8))+)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_BARE_TYPE = re.compile(r"(?<![A-Za-z0-9])(?P<dynamic>UD-)?(?P<type>Q[2-8])$", re.IGNORECASE)
_SAME_TYPE = {"FP16": "F16", "FP32": "F32", "MXFP4_MOE": "MXFP4"}

# llama.cpp's shards are numbered with five digits: `llama_split_path` in src/llama.cpp.
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>(?!00000)\d{5})", re.DOTALL | re.ASCII)

# Cut by bytes with `split`, before llama.cpp had shards of its own: `.gguf-split-a`, `.gguf.part1of2`, `.gguf-part-b`.
_BYTE_PART = re.compile(
    r"(?P<whole>.+\.gguf)[.-](?:split|part)[-_.]?(?:\d+of\d+|\d+|[a-z]{1,2})", re.IGNORECASE | re.DOTALL
)
_PROJECTOR = re.compile(r"mm-?_?proj", re.IGNORECASE)

# Measurements (`imatrix.gguf`, `Model.imatrix.gguf`); in the middle of a name the word says how a model was quantized.
_IMATRIX = re.compile(r"^imatrix|[-_.]imatrix$", re.IGNORECASE)
_NOT_A_MODEL = re.compile(r"ggml-vocab|control[-_]?vector", re.IGNORECASE)

_ADAPTER = re.compile(
    r"^(?:ggml-)?(?:q?lora|adapter)s?(?![A-Za-z0-9])|(?<![A-Za-z0-9])(?:q?lora|adapter)s?$", re.IGNORECASE
)
_ADAPTER_TYPES = {"", "F32", "F16", "BF16", "Q8_0"}  # what adapters are converted to
_DRAFT = re.compile(r"^(?:mtp|draft|eagle3?|dflash|dspark)[-_.]", re.IGNORECASE)

# How it was quantized (`i1` is mradermacher's word for "with an importance matrix"): matters only to tell two apart.
_MARK = re.compile(r"(?<![A-Za-z0-9])(?:i1|imat|imatrix)(?![A-Za-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class GgufName:
    """A GGUF file's name taken apart."""

    path: str
    folder: str
    stem: str  # the file's name without shard number and ending
    base: str  # the stem without its quantization and how it was made
    type: str  # canonical, `Q4_K_M`; empty where neither the name nor a folder has one
    dynamic: bool  # unsloth's `UD-`
    marks: str  # `i1`, `imat`
    index: int
    count: int  # 0 for a file that is no shard

    @property
    def split_key(self) -> tuple[str, str, int]:
        """What the shards of one model share."""
        return self.folder, self.stem, self.count


def find_quant_type(text: str) -> tuple[str, bool]:
    """The quantization that a name or a label speaks of, and whether it is one of unsloth's dynamic ones (`UD-`)."""
    found = _match_type(text)
    return _normalize_type(found) if found else ("", False)


def _match_type(text: str) -> re.Match[str] | None:
    found = None
    for match in _TYPE.finditer(text):
        found = match  # the last one: a model's own name comes first
    return found or _BARE_TYPE.search(text)


def _normalize_type(found: re.Match[str]) -> tuple[str, bool]:
    written = found["type"].upper()
    return _SAME_TYPE.get(written, written), found["dynamic"] is not None


def parse_name(path: str) -> GgufName | None:
    """A path inside a repo taken apart; None where it names no GGUF file."""
    folder, _, name = path.rpartition("/")
    if not name.lower().endswith(".gguf"):
        return None
    stem = name[: -len(".gguf")]
    index, count = 1, 0
    if shard := _SHARD.fullmatch(stem):
        stem, index, count = shard["prefix"], int(shard["index"]), int(shard["count"])
    marks = "-".join(mark.group().lower() for mark in _MARK.finditer(stem))
    found, base = _match_type(stem), stem
    if found:
        kind, base = _normalize_type(found), stem[: found.start()] + stem[found.end() :]
    else:
        kind = next((of for part in reversed(folder.split("/")) if (of := find_quant_type(part))[0]), ("", False))
    base = re.sub(r"([-_. ])[-_. ]+", r"\1", _MARK.sub("", base)).strip("-_. ")
    return GgufName(path, folder, stem, base, kind[0], kind[1], marks, index, count)


def find_whole_file(path: str) -> str | None:
    """The file that a part cut with `split` belongs to; None where a path names no such part."""
    found = _BYTE_PART.fullmatch(path)
    return found["whole"] if found else None


def is_projector(name: GgufName) -> bool:
    """Whether it is the part of a model that reads images or sound (an mmproj)."""
    return _PROJECTOR.search(name.stem) is not None or "mmproj" in name.folder.lower().split("/")


def is_model(name: GgufName) -> bool:
    """Whether it holds a model's weights, as far as the name tells: no projector, adapter or measurement."""
    return not (
        is_projector(name)
        or _IMATRIX.search(name.stem)
        or _NOT_A_MODEL.search(name.stem)
        or (_ADAPTER.search(name.base) and name.type in _ADAPTER_TYPES)
    )


def is_draft(name: GgufName) -> bool:
    """Whether it only guesses ahead for another model (speculative decoding, multi-token prediction)."""
    return _DRAFT.search(name.stem) is not None


_QUANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def is_quant_name(text: str) -> bool:
    """Whether a text can stand for a quantization after a ref's colon, and would not be read as a file there."""
    return _QUANT.fullmatch(text) is not None and not _is_file_name(text)


def _is_file_name(text: str) -> bool:
    """A known ending, or any that starts with a letter: `README.md`, `model.gguf`, but not `Q4_K_M` or `v1.0`."""
    return re.search(r"\.[A-Za-z][A-Za-z0-9_]*$", text) is not None or text in ("LICENSE", "NOTICE", "Modelfile")
