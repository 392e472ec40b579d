"""Find the models in LM Studio's folder.

The layout is that of LM Studio's documentation (lmstudio.ai/docs/basics/import-model: models/PUBLISHER/MODEL/FILE.gguf,
as in a repo of the Hub) and of its open source: `findLMStudioHome.ts` of lmstudio.js (the file ~/.lmstudio-home-pointer
names the home folder, otherwise ~/.cache/lm-studio if it exists, otherwise ~/.lmstudio) and `importCmd.ts` of lms
(`downloadsFolder` in settings.json names the models' folder, and `lms import --symbolic-link` makes links to files
anywhere).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm_hf_models.other_tools.store_files import (
    StoreError,
    System,
    clean_name,
    find_file,
    group_models,
    is_other_format,
    make_other,
    make_repo,
    read_json,
    read_text,
    walk,
)
from llm_hf_models.other_tools.types import FoundModel

TOOL = "lmstudio"
MAX_POINTER_BYTES = 10_000
_REPO_DEPTH = 2


def list_folders(system: System) -> list[Path]:
    """Return the folders in which LM Studio keeps its models."""
    homes = [system.home / ".cache/lm-studio", system.home / ".lmstudio"]
    try:
        pointer = read_text(system.home / ".lmstudio-home-pointer", system.home, MAX_POINTER_BYTES).strip()
    except StoreError:
        pointer = ""
    if pointer and Path(pointer).is_absolute():
        homes = [Path(pointer), *homes]
    return list(dict.fromkeys(_find_models_folder(home) for home in homes))


def _find_models_folder(home: Path) -> Path:
    try:
        chosen = read_json(home / "settings.json", home).get("downloadsFolder")
    except StoreError:
        chosen = None
    is_absolute = isinstance(chosen, str) and Path(chosen).is_absolute()
    return Path(str(chosen)) if is_absolute else home / "models"


def read_store(root: Path) -> Iterator[FoundModel]:
    """Yield the models in one of LM Studio's folders."""
    for parent, files in walk(root):
        yield from _read_model_folder(root, parent, files)


def _read_model_folder(root: Path, parent: Path, files: list[Path]) -> list[FoundModel]:
    parts = parent.relative_to(root).parts
    repo = make_repo(*parts[:_REPO_DEPTH]) if len(parts) >= _REPO_DEPTH else None
    first, others = group_models(files)
    models = [make_other(TOOL, path, root, problem) for path, problem in others.items()]
    for path in first:
        name = clean_name(path.relative_to(root).as_posix())
        try:
            find_file(path, None)  # LM Studio's own links lead to files anywhere
            models.append(FoundModel(TOOL, name, (str(path),), repo=repo, may_find_projector=True))
        except StoreError as error:
            models.append(FoundModel(TOOL, name, (str(path),), problem=str(error)))
    if not first and any(is_other_format(file.name) for file in files):
        models.append(make_other(TOOL, parent, root, "It is in MLX or safetensors format, and llama.cpp needs GGUF."))
    return models
