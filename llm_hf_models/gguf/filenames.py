"""Parse GGUF file names: base name, quantization, shard number, and the kind of file. No file is read.

A repo's listing gives names only, and names follow conventions, not a standard. The patterns below follow the file
names of the large converters, and the way llama.cpp finds a repo's model (`common/download.cpp`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# A type between separators: an optional `UD-`, then a float, a packed float, or a block type with its known suffixes.
# The suffixes are listed so that the match in `Q4_K_M_v2` ends before `_v2`.
_TYPE = re.compile(
    r"(?<![A-Za-z0-9])(?P<dynamic>UD-)?(?P<type>(?:BF|FP|F)(?:16|32|64)|(?:MX|NV)FP4(?:_MOE)?"
    r"|(?:IQ|TQ|Q)[1-8](?:_(?:[0-9]|KV|KSS|KS|KT|KL|K|XXS|XS|XXL|XL|NL|S|M|L|P|R4|R8))+)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_BARE_TYPE = re.compile(r"(?<![A-Za-z0-9])(?P<dynamic>UD-)?(?P<type>Q[2-8])$", re.IGNORECASE)
_SAME_TYPE = {"FP16": "F16", "FP32": "F32", "MXFP4_MOE": "MXFP4"}

# llama.cpp's shards are numbered with five digits: `llama_split_path` in src/llama.cpp.
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>(?!00000)\d{5})", re.DOTALL | re.ASCII)

# Files cut by bytes with `split`, before llama.cpp had shards: `.gguf-split-a`, `.gguf.part1of2`, `.gguf-part-b`.
_BYTE_PART = re.compile(
    r"(?P<whole>.+\.gguf)[.-](?:split|part)[-_.]?(?:\d+of\d+|\d+|[a-z]{1,2})", re.IGNORECASE | re.DOTALL
)
_PROJECTOR = re.compile(r"mm-?_?proj", re.IGNORECASE)

# Importance matrices (`imatrix.gguf`, `Model.imatrix.gguf`). In the middle of a model's name, `imatrix` only means that
# the model was quantized with one.
_IMATRIX = re.compile(r"^imatrix|[-_.]imatrix$", re.IGNORECASE)
_NOT_A_MODEL = re.compile(r"ggml-vocab|control[-_]?vector", re.IGNORECASE)

_ADAPTER = re.compile(
    r"^(?:ggml-)?(?:q?lora|adapter)s?(?![A-Za-z0-9])|(?<![A-Za-z0-9])(?:q?lora|adapter)s?$", re.IGNORECASE
)
_ADAPTER_TYPES = {"", "F32", "F16", "BF16", "Q8_0"}  # the types that adapters are converted to
_DRAFT = re.compile(r"^(?:mtp|draft|eagle3?|dflash|dspark)[-_.]", re.IGNORECASE)

# How a model was quantized (mradermacher writes `i1` for "with an importance matrix"). Used only to distinguish two
# files of the same type.
_MARK = re.compile(r"(?<![A-Za-z0-9])(?:i1|imat|imatrix)(?![A-Za-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class GgufName:
    """The parts of a GGUF file's name."""

    path: str
    folder: str
    stem: str  # the file's name without shard number and suffix
    base: str  # the stem without quantization and marks
    type: str  # canonical, such as `Q4_K_M`; empty if neither the name nor a folder has one
    dynamic: bool  # with unsloth's prefix `UD-`
    marks: str  # `i1`, `imat`
    index: int
    count: int  # 0 for a file that is not a shard

    @property
    def split_key(self) -> tuple[str, str, int]:
        """The key that all shards of one model have in common."""
        return self.folder, self.stem, self.count


def find_quant_type(text: str) -> tuple[str, bool]:
    """Return the quantization in a name or label, and whether it is one of unsloth's dynamic ones (`UD-`)."""
    match = _match_type(text)
    return _normalize_type(match) if match else ("", False)


def _match_type(text: str) -> re.Match[str] | None:
    last = None
    for match in _TYPE.finditer(text):
        last = match  # the quantization comes after the model's own name, which may look like a type too
    return last or _BARE_TYPE.search(text)


def _normalize_type(match: re.Match[str]) -> tuple[str, bool]:
    name = match["type"].upper()
    return _SAME_TYPE.get(name, name), match["dynamic"] is not None


def parse_name(path: str) -> GgufName | None:
    """Parse a path inside a repo; return None if it does not name a GGUF file."""
    folder, _, name = path.rpartition("/")
    if not name.lower().endswith(".gguf"):
        return None
    stem = name[: -len(".gguf")]
    index, count = 1, 0
    if shard := _SHARD.fullmatch(stem):
        stem, index, count = shard["prefix"], int(shard["index"]), int(shard["count"])
    marks = "-".join(mark.group().lower() for mark in _MARK.finditer(stem))
    match, base = _match_type(stem), stem
    if match:
        (quant_type, dynamic), base = _normalize_type(match), stem[: match.start()] + stem[match.end() :]
    else:
        in_folders = (find_quant_type(part) for part in reversed(folder.split("/")))
        quant_type, dynamic = next((found for found in in_folders if found[0]), ("", False))
    base = re.sub(r"([-_. ])[-_. ]+", r"\1", _MARK.sub("", base)).strip("-_. ")
    return GgufName(path, folder, stem, base, quant_type, dynamic, marks, index, count)


def find_whole_file(path: str) -> str | None:
    """Return the name of the whole file that `split` cut into this part; None if the path does not name a part."""
    match = _BYTE_PART.fullmatch(path)
    return match["whole"] if match else None


def is_projector(name: GgufName) -> bool:
    """Return whether the file is an mmproj, the part of a model that processes images or sound."""
    return _PROJECTOR.search(name.stem) is not None or "mmproj" in name.folder.lower().split("/")


def is_model(name: GgufName) -> bool:
    """Return whether the name is that of a model's weights, not of a projector, adapter or importance matrix."""
    return not (
        is_projector(name)
        or _IMATRIX.search(name.stem)
        or _NOT_A_MODEL.search(name.stem)
        or (_ADAPTER.search(name.base) and name.type in _ADAPTER_TYPES)
    )


def is_draft(name: GgufName) -> bool:
    """Return whether the file is a draft model for another one (speculative decoding, multi-token prediction)."""
    return _DRAFT.search(name.stem) is not None


_QUANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def is_quant_name(text: str) -> bool:
    """Return whether a text is valid as a quantization in a model ref and is not a file name."""
    return _QUANT.fullmatch(text) is not None and not is_file_name(text)


def is_file_name(text: str) -> bool:
    """Return whether the text is a known file name or has a suffix that starts with a letter.

    `README.md` and `model.gguf` are file names, but `Q4_K_M` and `v1.0` are not.
    """
    return re.search(r"\.[A-Za-z][A-Za-z0-9_]*$", text) is not None or text in ("LICENSE", "NOTICE", "Modelfile")
