"""Parse GGUF file names: base name, quantization, shard number, and the kind of file. No file is read.

A repo's listing gives names only, and names follow conventions, not a standard. The patterns below follow the file
names of the large converters, and the way llama.cpp finds a repo's model (`common/download.cpp`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llm_hf_models.gguf.quant_types import find_type

# llama.cpp's shards are numbered with five digits: `llama_split_path` in src/llama.cpp.
_SHARD = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>(?!00000)\d{5})", re.DOTALL | re.ASCII)

# Files cut by bytes with `split`, before llama.cpp had shards: `.gguf-split-a`, `.gguf.part1of2`, `.gguf-part-b`.
_BYTE_PART = re.compile(
    r"(?P<whole>.+\.gguf)[.-](?:split|part)[-_.]?(?:\d+of\d+|\d+|[a-z]{1,2})", re.IGNORECASE | re.DOTALL
)
_PROJECTOR = re.compile(r"(?:mm|multi[-_]?modal|vision)[-_]?proj|(?<![A-Za-z0-9])mproj(?![A-Za-z0-9])", re.IGNORECASE)
_PROJECTOR_TYPES = ("", "F32", "F16", "BF16", "Q8_0")

# How a model was quantized (mradermacher writes `i1` for "with an importance matrix"). Used only to distinguish two
# files of the same type.
_MARK = re.compile(r"(?<![A-Za-z0-9])(?:i1|imat|imatrix)(?![A-Za-z0-9])", re.IGNORECASE)
_LAST_MARK = re.compile(rf"[-_. ]+{_MARK.pattern}$", re.IGNORECASE)
WORD = re.compile(r"\d+(?:\.\d+)+[A-Za-z]*|[^-_. ]+")  # of a name; a number such as `3.7bpw` is one word


@dataclass(frozen=True)
class GgufName:
    """The parts of a GGUF file's name."""

    path: str
    folder: str
    stem: str  # the file's name without shard number and suffix
    base: str  # the stem without quantization and marks
    before: str  # the stem before the quantization; all of it if it has none
    after: str  # the stem after the quantization
    type: str  # canonical, such as `Q4_K_M`; empty if neither the name nor a folder has one
    dynamic: bool  # with unsloth's prefix `UD-`
    marks: str  # `i1`, `imat`
    index: int
    count: int  # 0 for a file that is not a shard

    @property
    def split_key(self) -> str:
        """The key that all shards of one model have in common: their path without their number."""
        end = len("-of-00001.gguf")
        return f"{self.path[: -end - len('-00001')]}{self.path[-end:]}" if self.count else self.path


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
    quant = find_type(_LAST_MARK.sub("", stem))
    before, after = (stem[: quant.start], stem[quant.end :]) if quant.name else (stem, "")
    if not quant.name:
        in_folders = (find_type(part) for part in reversed(folder.split("/")))
        quant = next((found for found in in_folders if found.name), quant)
    base = re.sub(r"([-_. ])[-_. ]+", r"\1", _MARK.sub("", before + after)).strip("-_. ")
    return GgufName(path, folder, stem, base, before, after, quant.name, quant.dynamic, marks, index, count)


def split_words(text: str) -> set[str]:
    """Return the words of a name, in lower case."""
    return {word.casefold() for word in WORD.findall(text)}


def find_whole_file(path: str) -> str | None:
    """Return the name of the whole file that `split` cut into this part; None if the path does not name a part."""
    match = _BYTE_PART.fullmatch(path)
    return match["whole"] if match else None


def is_projector(name: GgufName) -> bool:
    """Return whether the file is an mmproj, the part of a model that processes images or sound."""
    folders = name.folder.casefold().split("/")
    return (
        _PROJECTOR.search(name.stem) is not None
        or any(map(_PROJECTOR.search, folders))
        or ("vision" in folders and name.type in _PROJECTOR_TYPES)
    )


_QUANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def is_quant_name(text: str) -> bool:
    """Return whether a text is valid as a quantization in a model ref and is not a file name."""
    return _QUANT.fullmatch(text) is not None and not is_file_name(text)


def is_file_name(text: str) -> bool:
    """Return whether the text is a known file name or has a suffix that starts with a letter.

    `README.md` and `model.gguf` are file names, but `Q4_K_M` and `v1.0` are not.
    """
    return re.search(r"\.[A-Za-z][A-Za-z0-9_]*$", text) is not None or text in ("LICENSE", "NOTICE", "Modelfile")
