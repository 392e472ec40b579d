"""Which files on the disk make up one model: a GGUF alone, or all shards of its split; what lies beside. Opens none."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.errors import BadInputError, HfModelsError, InvalidGgufError, MissingFileError
from llm_hf_models.gguf import variants
from llm_hf_models.paths import make_absolute
from llm_hf_models.system.text import clean_text

MAX_NAME_CHARS = 200
_KINDS = {stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}


@dataclass(frozen=True)
class _FileSize:
    path: str
    size: int


def find_shards(path: Path) -> list[Path]:
    """The file, or every shard of the split that it belongs to, in order.

    Raises:
        MissingFileError, BadInputError: there is no such file, or it is something else.
        InvalidGgufError: it is one shard, and not all others are beside it.
    """
    path = make_absolute(path)
    if not path.is_file():
        raise make_not_a_file_error(path, str(path))
    beside = _list_gguf_files(path.parent)
    for variant in variants.group_variants(beside):
        if path.name in variant.files:
            return [path.parent / name for name in variant.files]
    if any(path.name.startswith(split.name) for split in variants.find_incomplete_splits(beside)):
        raise InvalidGgufError(
            f"{path.name} is one shard of a split model, and not all of them are beside it", code="split-incomplete"
        )
    return [path]


def make_not_a_file_error(path: Path, name: str) -> HfModelsError:
    """The error for what is no file: what it is instead, under the name that a person gave it."""
    name = clean_text(name, MAX_NAME_CHARS)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # a name that no file can have, too
        return MissingFileError(f"There is no file {name}")
    if stat.S_ISDIR(mode):
        inside = sorted(file.path for file in _list_gguf_files(path))
        hint = f"Name a file, such as {path / inside[0]}" if inside else "No GGUF file lies in it."
        return BadInputError(f"{name} is a folder, not a file", hint=hint)
    kind = next((kind for holds, kind in _KINDS.items() if holds(mode)), "something else")
    return BadInputError(f"{name} is {kind}, not a file")


def find_projector(path: Path) -> Path | None:
    """The projector in a model's folder that is surely its own; None where there is none, or it may be another's."""
    found = variants.find_certain_projector(_list_gguf_files(path.parent), path.name)
    return path.parent / found if found else None


def is_only_model(path: Path) -> bool:
    """Whether a model's folder holds no other model, so that what else lies there is about this one."""
    models = variants.group_variants(_list_gguf_files(path.parent))
    return len(models) == 1 and path.name in models[0].files


def _list_gguf_files(folder: Path) -> list[_FileSize]:
    return [_FileSize(file.name, file.stat().st_size) for file in folder.glob("*.gguf") if file.is_file()]
