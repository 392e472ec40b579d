"""Find the models of GPT4All, of its application and of its Python package.

The layout is that of GPT4All's source: `gpt4all-chat/src/mysettings.cpp` (Qt's AppLocalDataLocation of
nomic.ai/GPT4All, or `modelPath` in its settings), `modellist.cpp` (*.gguf in it and below it, incomplete-* are
downloads) and `gpt4all-bindings/python/gpt4all/gpt4all.py` (~/.cache/gpt4all).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm_hf_models.other_tools.store_files import (
    MAX_SETTINGS_BYTES,
    StoreError,
    System,
    clean_name,
    find_file,
    group_models,
    make_other,
    read_text,
    walk,
)
from llm_hf_models.other_tools.types import FoundModel

TOOL = "gpt4all"
_APP = "nomic.ai/GPT4All"


def list_folders(system: System) -> list[Path]:
    """Return the folders in which GPT4All keeps its models."""
    default = system.local_data / _APP
    chosen = _read_models_folder(system)
    return list(dict.fromkeys([chosen or default, default, system.home / ".cache/gpt4all"]))


def _read_models_folder(system: System) -> Path | None:
    """Return the folder that the user chose in GPT4All's settings (QSettings, in INI format)."""
    folder = system.home / ".config" if system.platform == "darwin" else system.config
    try:
        text = read_text(folder / "nomic.ai/GPT4All.ini", folder, MAX_SETTINGS_BYTES)
    except StoreError:
        return None
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        path = Path(value.strip().strip('"').replace("\\\\", "\\"))
        if equals and key.strip() == "modelPath" and path.is_absolute():
            return path
    return None


def read_store(root: Path) -> Iterator[FoundModel]:
    """Yield the models in one of GPT4All's folders."""
    for _, files in walk(root):
        yield from _read_folder(root, files)


def _read_folder(root: Path, files: list[Path]) -> list[FoundModel]:
    first, others = group_models(files)
    models = [make_other(TOOL, path, root, problem) for path, problem in others.items()]
    for path in first:
        name = clean_name(path.name)
        try:
            find_file(path, root)
            models.append(FoundModel(TOOL, name, (str(path),)))
        except StoreError as error:
            models.append(FoundModel(TOOL, name, (str(path),), problem=str(error)))
    return models
