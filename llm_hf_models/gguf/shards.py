"""Find the files of a model on disk: a single GGUF or all its shards, and its projector. No file is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.errors import BadInputError, HfModelsError, InvalidGgufError, MissingFileError
from llm_hf_models.gguf import variants
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.filenames import is_projector, parse_name
from llm_hf_models.paths import make_absolute
from llm_hf_models.system.text import clean_text

MAX_NAME_CHARS = 200
_KINDS = {stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}


@dataclass(frozen=True)
class _FileSize:
    path: str
    size: int


def find_shards(path: Path) -> list[Path]:
    """Return the file, or all shards of the split model that it belongs to, in order.

    Raises:
        MissingFileError: the file does not exist.
        BadInputError: the path is not a file.
        InvalidGgufError: the file is a shard, and other shards are missing from its folder.
    """
    path = make_absolute(path)
    if not path.is_file():
        raise make_not_a_file_error(path, str(path))
    siblings = _list_gguf_files(path.parent)
    for variant in variants.group_variants(siblings):
        if path.name in variant.files:
            return [path.parent / name for name in variant.files]
    if any(path.name.startswith(split.name) for split in variants.find_incomplete_splits(siblings)):
        raise InvalidGgufError(
            f"{path.name} is one shard of a split model, but its folder lacks other shards", code="split-incomplete"
        )
    return [path]


def list_models(paths: Sequence[Path]) -> list[Path]:
    """Return the first file of each model among files and folders. Of the subfolders, hidden ones are left out.

    Draft models, adapters and other parts in a folder are left out, and so is a projector that was named with others.

    Raises:
        MissingFileError: a folder has no model.
    """
    found: dict[Path, None] = {}
    for path in map(make_absolute, paths):
        if path.is_dir():
            models = _walk_models(path)
            if not models:
                raise MissingFileError(f"There is no GGUF model in {clean_text(str(path), MAX_NAME_CHARS)}")
            found.update(dict.fromkeys(models))
        elif len(paths) == 1:
            found[path] = None
        else:
            name = parse_name(path.name)
            if not (name and is_projector(name)):
                groups = variants.group_variants(_list_gguf_files(path.parent))
                first = next((group.files[0] for group in groups if path.name in group.files), path.name)
                found[path.parent / first] = None
    return list(found)


def _walk_models(folder: Path) -> list[Path]:
    found = []
    for parent, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        groups = variants.group_variants(_list_gguf_files(Path(parent)))
        found += [Path(parent) / group.files[0] for group in groups]
    return found


def describe_shard(name: str, present: int) -> str | None:
    """Describe a file as one shard of a model that was checked; None for a file that is not a shard.

    Args:
        name: the file's name.
        present: the number of shards that were found.
    """
    if (shard := _number_shard(name)) is None:
        return None
    number, count = shard
    if present == count:
        return f"{number}; all {count} shards were checked"
    return f"{number}; other shards are missing, so only this one was checked"


def describe_shard_figures(name: str, facts: ModelFacts, present: int, problem: str | None = None) -> str | None:
    """Describe a file as one shard of a model, and whose figures are shown; None for a file that is not a shard.

    Args:
        name: the file's name.
        facts: the facts from the header, which has the shard's number too if the file was renamed.
        present: the number of shards that were found.
        problem: why the figures are only those of the first shard, though all shards were found.
    """
    index, total = facts.split_index, facts.split_count
    from_header = (f"shard {index + 1} of {total}", total) if index is not None and total and total > 1 else None
    if (shard := _number_shard(name) or from_header) is None:
        return None
    number, count = shard
    if problem is not None:
        return f"{number}; the figures are those of shard 1 only, because another header could not be read: {problem}"
    if present == count:
        return f"{number}; the figures are those of all {count} shards"
    return f"{number}; other shards are missing, so the figures are those of this shard only"


def _number_shard(name: str) -> tuple[str, int] | None:
    """Return `shard 2 of 4` and the number of shards, or None for a file that is not a shard."""
    parsed = parse_name(name)
    if parsed is None or parsed.count < 2:  # noqa: PLR2004 - a single shard is the whole model
        return None
    return f"shard {parsed.index} of {parsed.count}", parsed.count


def make_not_a_file_error(path: Path, name: str) -> HfModelsError:
    """Return the error for a path that is not a file. The message names what it is, such as a folder.

    Args:
        path: the path that is not a file.
        name: the path as the person wrote it.
    """
    name = clean_text(name, MAX_NAME_CHARS)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # also raised for a name that no file can have
        return MissingFileError(f"There is no file {name}")
    if stat.S_ISDIR(mode):
        models = sorted(file.path for file in _list_gguf_files(path))
        hint = f"Name a file, such as {path / models[0]}" if models else "Name a GGUF file; this folder contains none."
        return BadInputError(f"{name} is a folder, not a file", hint=hint)
    kind = next((kind for is_kind, kind in _KINDS.items() if is_kind(mode)), "something else")
    return BadInputError(f"{name} is {kind}, not a file")


def find_projectors(path: Path) -> list[Path]:
    """Return the projectors in a model's folder that can only belong to this model, the likeliest first."""
    found = variants.list_certain_projectors(_list_gguf_files(path.parent), path.name)
    return [path.parent / name for name in found]


def is_only_model(path: Path) -> bool:
    """Return whether a model's folder has no other model. If so, the folder's other files belong to this model."""
    models = variants.group_variants(_list_gguf_files(path.parent))
    return len(models) == 1 and path.name in models[0].files


def _list_gguf_files(folder: Path) -> list[_FileSize]:
    return [_FileSize(file.name, file.stat().st_size) for file in folder.glob("*.gguf") if file.is_file()]
