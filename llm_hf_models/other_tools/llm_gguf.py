"""Find the models of the plugin llm-gguf.

The layout is that of its source, `llm_gguf.py`: models.json and embed-models.json in the folder gguf of llm's user
directory have `path`, `aliases`, `clip_model_path` and `n_ctx` of each model. Downloaded files are in gguf/models, and
registered ones anywhere. The address of a download is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm_hf_models import paths
from llm_hf_models.other_tools.store_files import StoreError, System, clean_name, find_file, read_json
from llm_hf_models.other_tools.types import FoundModel

TOOL = "llm-gguf"
FILES = ("models.json", "embed-models.json")


def list_folders(_system: System) -> list[Path]:
    """Return the folder of llm-gguf."""
    return [paths.user_dir() / "gguf"]


def read_store(root: Path) -> Iterator[FoundModel]:
    """Yield the models in llm-gguf's files."""
    problems: list[str] = []
    for name in FILES:
        if not (root / name).exists():
            continue
        try:
            yield from (_read_model(key, value) for key, value in read_json(root / name, root).items())
        except StoreError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise StoreError(problems[0])


def _read_model(key: str, fields: object) -> FoundModel:
    name = clean_name(key)
    if not isinstance(fields, dict) or not isinstance(path := fields.get("path"), str):
        return FoundModel(TOOL, name, problem="Its entry has no path.")
    aliases, tokens, clip = fields.get("aliases"), fields.get("n_ctx"), fields.get("clip_model_path")
    known = [alias for alias in aliases if isinstance(alias, str)] if isinstance(aliases, list) else []
    try:
        find_file(Path(path), None)  # the user registered it, wherever it is
        projector = str(find_file(Path(clip), None)) if isinstance(clip, str) else None
    except StoreError as error:
        return FoundModel(TOOL, name, (path,), problem=f"Its file {str(error)[0].lower()}{str(error)[1:]}")
    return FoundModel(
        TOOL,
        name,
        (path,),
        projector,
        aliases=(name, *map(clean_name, known)),
        options={"context": tokens} if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0 else {},
        notes=("its chat handler",) if fields.get("chat_handler_class") else (),
    )
