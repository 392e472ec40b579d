"""Find the models in Jan's data folder.

The layout is that of Jan's source: `src-tauri/src/core/app/paths.rs` and `commands.rs` (JAN_DATA_FOLDER, otherwise
`data_folder` in the settings.json of the folder Jan in the data folder of the user's programs or in JAN_DATA_ROOT,
otherwise Jan/data there) and `extensions/llamacpp-extension/src/index.ts` (llamacpp/models/ID/model.yml, whose
`model_path` and `mmproj_path` are below the data folder, or absolute for a model that the user imported in place).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from llm_hf_models.other_tools.store_files import (
    MAX_SETTINGS_BYTES,
    StoreError,
    System,
    clean_name,
    find_file,
    find_repo,
    read_json,
    read_text,
    walk,
)
from llm_hf_models.other_tools.types import FoundModel

TOOL = "jan"
MODEL_FILE = "model.yml"
_MODELS = "llamacpp/models"


def list_folders(system: System) -> list[Path]:
    """Return the folders in which Jan keeps its models."""
    return [data / _MODELS for data in _list_data_folders(system)]


def _list_data_folders(system: System) -> list[Path]:
    if folder := system.get_folder("JAN_DATA_FOLDER"):
        return [folder]
    root = system.get_folder("JAN_DATA_ROOT")
    homes = [(root if root and root.is_absolute() else system.app_data) / "Jan", system.config / "Jan"]
    for home in homes:
        try:
            chosen = read_json(home / "settings.json", home).get("data_folder")
        except StoreError:
            continue
        if isinstance(chosen, str) and Path(chosen).is_absolute():
            return [Path(chosen)]
    return list(dict.fromkeys(home / "data" for home in homes))


def read_store(root: Path) -> Iterator[FoundModel]:
    """Yield the models in Jan's folder of models."""
    data = root.parent.parent
    for parent, files in walk(root):
        name = clean_name(parent.relative_to(root).as_posix())
        if any(file.name == MODEL_FILE for file in files):
            try:
                yield _read_model(data, parent / MODEL_FILE, name)
            except StoreError as error:
                yield FoundModel(TOOL, name, problem=str(error))
        elif any(file.suffix == ".gguf" for file in files):
            yield FoundModel(TOOL, name, problem="It has no model.yml, so its download is not complete.")


def _read_model(data: Path, path: Path, name: str) -> FoundModel:
    try:
        fields = _parse_flat_yaml(read_text(path, data, MAX_SETTINGS_BYTES))
    except StoreError as error:
        raise StoreError(f"Its model.yml: {error}") from None
    weights = fields.get("model_path")
    if not weights:
        raise StoreError("Its model.yml names no file.")
    projector = fields.get("mmproj_path")
    return FoundModel(
        TOOL,
        name,
        (str(_find_named_file(data, weights)),),
        str(_find_named_file(data, projector)) if projector else None,
        name.rpartition("/")[2],
        find_repo(fields.get("source")),
        aliases=(name,),
    )


def _find_named_file(data: Path, named: str) -> Path:
    """Return a file that model.yml names: anywhere if its path is absolute, otherwise in Jan's data folder."""
    path = Path(named)
    try:
        return find_file(path, None) if path.is_absolute() else find_file(data / path, data)
    except StoreError as error:
        raise StoreError(f"The file that its model.yml names: {error}") from None


def _parse_flat_yaml(text: str) -> dict[str, str]:
    """Return the texts at the top level of a YAML file in the form that Jan writes: one `key: value` on each line."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        value = value.strip()
        if not colon or not key.isidentifier() or (value and not line[len(key) + 1].isspace()):
            continue
        if value[:1] == value[-1:] == '"' and len(value) > 1:
            try:
                value = str(json.loads(value))
            except ValueError:
                continue
        elif value[:1] == value[-1:] == "'" and len(value) > 1:
            value = value[1:-1].replace("''", "'")
        found.setdefault(key, value)
    return found
