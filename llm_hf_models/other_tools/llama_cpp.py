"""Find the models that llama.cpp downloaded (`-hf`, `--hf-repo`).

Its source has two layouts. `fs_get_cache_directory` in `common/common.cpp` names the older cache: LLAMA_CACHE,
otherwise the folder llama.cpp in the user's cache folder. `common/download.cpp` stores there OWNER_REPO_FILE.gguf, an
.etag (earlier a .json with the URL) beside it, and manifest=OWNER=REPO=TAG.json, which names the file and its mmproj.
Newer versions use the Hugging Face cache (`common/hf-cache.cpp`): LLAMA_CACHE, HF_HUB_CACHE, HF_HOME/hub, or
~/.cache/huggingface/hub, with models--OWNER--REPO/snapshots/COMMIT/FILE.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.gguf.filenames import is_projector, parse_name
from llm_hf_models.other_tools.store_files import (
    StoreError,
    System,
    clean_name,
    find_file,
    find_repo,
    group_models,
    make_other,
    make_repo,
    read_json,
    walk,
)
from llm_hf_models.other_tools.types import FoundModel

TOOL = "llamacpp"
_MANIFEST_PARTS = 4  # manifest=OWNER=REPO=TAG


@dataclass(frozen=True)
class _Manifest:
    repo: str
    name: str  # OWNER/REPO:TAG
    files: frozenset[str]  # the names of its files in the cache
    mmproj: str | None


def list_folders(system: System) -> list[Path]:
    """Return the folders in which llama.cpp keeps downloaded models."""
    cache = system.get_folder("LLAMA_CACHE")
    if cache is None:
        base = {
            "win32": system.local_data,
            "darwin": system.home / "Library/Caches",
        }.get(system.platform) or system.get_folder("XDG_CACHE_HOME") or system.home / ".cache"  # fmt: skip
        cache = base / "llama.cpp"
    return list(dict.fromkeys([cache, _find_hugging_face_cache(system)]))


def _find_hugging_face_cache(system: System) -> Path:
    for name, below in (
        ("LLAMA_CACHE", ""),
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if folder := system.get_folder(name):
            return folder / below
    return system.home / ".cache/huggingface/hub"


def read_store(root: Path) -> Iterator[FoundModel]:
    """Yield the models in one of llama.cpp's folders, of either layout."""
    yield from _read_flat_cache(root)
    yield from _read_snapshots(root)


def _read_flat_cache(root: Path) -> Iterator[FoundModel]:
    files = sorted(path for path in root.iterdir() if not path.is_dir())
    manifests = [manifest for path in files if (manifest := _read_manifest(path, root))]
    first, others = group_models(files)
    for path in first:
        manifest = next((one for one in manifests if path.name in one.files), None)
        yield _make_model(path, root, manifest)
    for path, problem in others.items():
        yield make_other(TOOL, path, root, problem)
    for manifest in manifests:
        if not any(path.name in manifest.files for path in first):
            yield FoundModel(TOOL, manifest.name, problem="Its manifest is there, and its file is missing.")


def _read_manifest(path: Path, root: Path) -> _Manifest | None:
    parts = path.stem.split("=")
    if path.suffix != ".json" or parts[0] != "manifest" or len(parts) != _MANIFEST_PARTS:
        return None
    repo = make_repo(parts[1], parts[2])
    try:
        content = read_json(path, root)
    except StoreError:
        return None
    if repo is None:
        return None
    file, mmproj = (_get_file_name(content.get(key)) for key in ("ggufFile", "mmprojFile"))
    prefix = f"{parts[1]}_{parts[2]}_"
    return _Manifest(
        repo,
        clean_name(f"{repo}:{parts[3]}"),
        frozenset({prefix + file.replace("/", "_")} if file else ()),
        prefix + mmproj.replace("/", "_") if mmproj else None,
    )


def _get_file_name(value: object) -> str | None:
    name = value.get("rfilename") if isinstance(value, dict) else None
    return name if isinstance(name, str) and name.lower().endswith(".gguf") else None


def _make_model(path: Path, root: Path, manifest: _Manifest | None) -> FoundModel:
    repo = manifest.repo if manifest else _find_recorded_repo(path, root)
    name = manifest.name if manifest else clean_name(path.name)
    try:
        find_file(path, root)
        mmproj = find_file(root / manifest.mmproj, root) if manifest and manifest.mmproj else None
    except StoreError as error:
        return FoundModel(TOOL, name, (str(path),), repo=repo, problem=str(error))
    return FoundModel(TOOL, name, (str(path),), str(mmproj) if mmproj else None, repo=repo)


def _find_recorded_repo(path: Path, root: Path) -> str | None:
    """Return the repo in the address that an earlier version of llama.cpp stored beside a file."""
    try:
        return find_repo(read_json(path.with_name(f"{path.name}.json"), root).get("url"))
    except StoreError:
        return None


def _read_snapshots(root: Path) -> Iterator[FoundModel]:
    """Yield the models of a Hugging Face cache, those of each repo's current commit only."""
    for folder in sorted(root.glob("models--*--*")):
        repo = make_repo(*folder.name.removeprefix("models--").split("--", 1))
        snapshot = _find_snapshot(folder)
        if repo is None or snapshot is None:
            continue
        for _, files in walk(snapshot):
            first, _ = group_models(files)
            projectors = [file for file in files if (name := parse_name(file.name)) and is_projector(name)]
            for path in first:
                yield _make_snapshot_model(path, repo, snapshot, root, has_projector=bool(projectors))


def _make_snapshot_model(path: Path, repo: str, snapshot: Path, root: Path, *, has_projector: bool) -> FoundModel:
    name = clean_name(f"{repo}:{path.relative_to(snapshot).as_posix()}")
    try:
        find_file(path, root)
    except StoreError as error:
        return FoundModel(TOOL, name, (str(path),), repo=repo, problem=str(error))
    return FoundModel(TOOL, name, (str(path),), repo=repo, may_find_projector=has_projector)


def _find_snapshot(folder: Path) -> Path | None:
    refs = sorted((folder / "refs").glob("*"), key=lambda ref: (ref.name != "main", ref.name))
    for ref in refs:
        try:
            commit = ref.read_bytes()[:100].decode("ascii").strip() if ref.is_file() else ""
        except (OSError, UnicodeDecodeError):
            continue
        snapshot = folder / "snapshots" / commit
        if commit.isalnum() and snapshot.is_dir():
            return snapshot
    return None
