"""Which files on the disk make up one model: a GGUF alone, or all shards of its split. Opens none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_hf_models import quants
from llm_hf_models.errors import InvalidGgufError, MissingFileError


@dataclass(frozen=True)
class _Sized:
    path: str
    size: int


def shards_beside(path: Path) -> list[Path]:
    """The file, or every shard of the split that it belongs to, in order.

    Raises:
        MissingFileError: there is no such file.
        InvalidGgufError: it is one shard, and not all others are beside it.
    """
    path = path.expanduser().absolute()
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}")
    beside = [_Sized(file.name, file.stat().st_size) for file in path.parent.glob("*.gguf") if file.is_file()]
    for variant in quants.group(beside):
        if path.name in variant.files:
            return [path.parent / name for name in variant.files]
    if any(path.name.startswith(split.name) for split in quants.incomplete_splits(beside)):
        raise InvalidGgufError(
            f"{path.name} is one shard of a split model, and not all of them are beside it", code="split-incomplete"
        )
    return [path]
