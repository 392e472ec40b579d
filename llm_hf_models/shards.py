"""Which files on the disk make up one model: a GGUF alone, or all shards of its split; what lies beside. Opens none."""

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
    beside = _ggufs(path.parent)
    for variant in quants.group(beside):
        if path.name in variant.files:
            return [path.parent / name for name in variant.files]
    if any(path.name.startswith(split.name) for split in quants.incomplete_splits(beside)):
        raise InvalidGgufError(
            f"{path.name} is one shard of a split model, and not all of them are beside it", code="split-incomplete"
        )
    return [path]


def projector_beside(path: Path) -> Path | None:
    """The projector in a model's folder that is surely its own; None where there is none, or it may be another's."""
    found = quants.sure_projector(_ggufs(path.parent), path.name)
    return path.parent / found if found else None


def is_alone(path: Path) -> bool:
    """Whether a model's folder holds no other model, so that what else lies there is about this one."""
    models = quants.group(_ggufs(path.parent))
    return len(models) == 1 and path.name in models[0].files


def _ggufs(folder: Path) -> list[_Sized]:
    return [_Sized(file.name, file.stat().st_size) for file in folder.glob("*.gguf") if file.is_file()]
