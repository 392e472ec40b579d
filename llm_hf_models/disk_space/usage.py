"""Measure the disk space of models, repos and collections. A file with several names is counted once.

Two names are one file if they have the same device and inode, so hard links and symlinks are recognized, as are the
links into huggingface_hub's shared blobs (`<cache>/blobs/<2 hex>/<hash>`). Copies that share blocks (reflinks) are not:
the system does not tell.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.disk_space.types import DiskUsage, UsageGroup, UsageKind, UsageRow
from llm_hf_models.downloads.leftovers import choose_work_folder, group_by_digest
from llm_hf_models.downloads.records import load_plan_if_readable
from llm_hf_models.hub import cache_layout
from llm_hf_models.library.download_records import UNFINISHED_STATES
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.collections import list_members_by_collection
from llm_hf_models.system.disk import FileSpace, count_free_bytes, measure_file, measure_files, sum_space

STORE = "blobs"  # the folder of the blobs that repos share
CONTENT_FOLDERS = ("blobs", "snapshots")  # of a repo; its refs and trees are small
INCOMPLETE = ".incomplete"  # the end of the names of huggingface_hub's partial files
_BLOB_NAME = re.compile(r"[0-9a-f]{64}")  # beside it are its lock and the list of its users
_REPO_PREFIXES = {"models": "", "datasets": "datasets/", "spaces": "spaces/", "kernels": "kernels/"}


@dataclass
class CacheUsage:
    """The files of a Hugging Face cache, in groups."""

    repos: dict[str, set[FileSpace]] = field(default_factory=dict)  # by name, such as `datasets/owner/name`
    partial: set[FileSpace] = field(default_factory=set)
    shared: set[FileSpace] = field(default_factory=set)  # all blobs in the shared store
    unreadable: set[str] = field(default_factory=set)


Group = tuple[UsageKind, str]


def measure_usage(context: Context, by: UsageGroup) -> DiskUsage:
    """Return the disk space by model, repo or collection, with the rest of the cache."""
    with context.open_database() as db:
        models, versions = db.list_models(), db.list_all_versions()
    caches = _measure_caches(context, models)
    own = {model.model_id: measure_files(file.location for file in model.files) for model in models}
    old = {
        model_id: measure_files(file.location for one in found for file in one.files) - own[model_id]
        for model_id, found in versions.items()
        if model_id in own
    }
    groups: dict[Group, set[FileSpace]] = {}
    if by == "repo":
        _group_by_repo(groups, models, own, old, caches)
    else:
        _group_by_model(groups, own, old, caches)
    if by == "collection":
        groups = _regroup_by_collection(context, groups)
    partial = {file for cache in caches.values() for file in cache.partial} | _measure_partials(context)
    _add(groups, ("partial downloads", ""), partial)
    used = {file for files in groups.values() for file in files}
    _add(groups, ("shared blobs", ""), {file for cache in caches.values() for file in cache.shared} - used)
    registered = {file for files in (*own.values(), *old.values()) for file in files}
    return DiskUsage(
        by,
        _make_rows(groups, registered),
        size_bytes=sum_space(file for files in groups.values() for file in files),
        shared_bytes=sum_space(_find_shared(groups)),
        disk_free_bytes=count_free_bytes(context.cache_dir()),
        cache_dir=str(context.cache_dir()),
        unreadable=tuple(sorted(path for cache in caches.values() for path in cache.unreadable)),
    )


def _measure_caches(context: Context, models: Sequence[LocalModel]) -> dict[Path, CacheUsage]:
    """Measure the cache in use, and those in which models are: HF_HUB_CACHE may have had another value at a pull."""
    folders = {context.cache_dir()} | {
        cache_layout.infer_cache_dir(file.location, file.path)
        for model in models
        if model.place == "cache"
        for file in model.files
    }
    return {folder: measure_cache(folder) for folder in sorted(folders)}


def measure_cache(cache: Path) -> CacheUsage:
    """Measure the files of a Hugging Face cache, whichever tool downloaded them."""
    found = CacheUsage()
    for folder in _list_folders(cache, found):
        kind, _, name = folder.name.partition("--")
        if folder.name == STORE:
            found.shared |= measure_files(
                file for file in _walk(folder, found) if _BLOB_NAME.fullmatch(Path(file).name)
            )
        elif name and kind in _REPO_PREFIXES:
            repo = found.repos.setdefault(_REPO_PREFIXES[kind] + name.replace("--", "/"), set())
            for part in CONTENT_FOLDERS:
                for file in _walk(folder / part, found):
                    if space := measure_file(file):
                        (found.partial if file.endswith(INCOMPLETE) else repo).add(space)
    work = cache_layout.cache_work_folder(cache)
    found.partial |= measure_files(path for paths in group_by_digest(work).values() for path in paths)
    return found


def _list_folders(folder: Path, found: CacheUsage) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError:
        found.unreadable.add(str(folder))
        return []


def _walk(folder: Path, found: CacheUsage) -> Iterator[str]:
    """Yield the paths of all files in a folder, including symlinks to files."""

    def note_unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            found.unreadable.add(str(error.filename))

    for parent, _, names in os.walk(folder, onerror=note_unreadable):
        yield from (os.path.join(parent, name) for name in names)  # noqa: PTH118 - faster than Path, for many files


def _measure_partials(context: Context) -> set[FileSpace]:
    """Return the partial files of unfinished downloads, also of those into a folder (`--to`)."""
    with context.open_downloads() as db:
        rows = db.list_downloads(states=UNFINISHED_STATES, limit=-1)
    plans = (plan for row in rows if (plan := load_plan_if_readable(row)))
    folders = {choose_work_folder(context.cache_dir(), plan) for plan in plans}
    return measure_files(path for folder in folders for paths in group_by_digest(folder).values() for path in paths)


def _add(groups: dict[Group, set[FileSpace]], group: Group, files: set[FileSpace]) -> None:
    if files:
        groups.setdefault(group, set()).update(files)


def _group_by_repo(
    groups: dict[Group, set[FileSpace]],
    models: Sequence[LocalModel],
    own: Mapping[str, set[FileSpace]],
    old: Mapping[str, set[FileSpace]],
    caches: Mapping[Path, CacheUsage],
) -> None:
    for cache in caches.values():
        for repo, files in cache.repos.items():
            _add(groups, ("repo", repo), files)
    for model in models:
        files = own[model.model_id] | old.get(model.model_id, set())
        _add(groups, ("repo", model.repo) if model.repo else ("model", model.model_id), files)


def _group_by_model(
    groups: dict[Group, set[FileSpace]],
    own: Mapping[str, set[FileSpace]],
    old: Mapping[str, set[FileSpace]],
    caches: Mapping[Path, CacheUsage],
) -> None:
    registered = {file for files in (*own.values(), *old.values()) for file in files}
    for model_id, files in own.items():
        _add(groups, ("model", model_id), files)
    for model_id, files in old.items():
        _add(groups, ("old versions", model_id), files)
    for cache in caches.values():
        for repo, files in cache.repos.items():
            _add(groups, ("repo", repo), files - registered)


def _regroup_by_collection(context: Context, groups: Mapping[Group, set[FileSpace]]) -> dict[Group, set[FileSpace]]:
    """Replace the models that are in collections by these collections. A model may be in several."""
    found: dict[Group, set[FileSpace]] = {}
    grouped = set()
    for name, members in list_members_by_collection(context).items():
        for member in members:
            if member.id and ("model", member.id) in groups:
                grouped.add(("model", member.id))
                _add(found, ("collection", name), groups["model", member.id])
    return found | {group: files for group, files in groups.items() if group not in grouped}


def _find_shared(groups: Mapping[Group, set[FileSpace]]) -> set[FileSpace]:
    """Return the files that are in several groups."""
    uses = Counter(file for files in groups.values() for file in files)
    return {file for file, count in uses.items() if count > 1}


def _make_rows(groups: Mapping[Group, set[FileSpace]], registered: set[FileSpace]) -> tuple[UsageRow, ...]:
    shared = _find_shared(groups)
    rows = [
        UsageRow(
            kind, name, sum_space(files), sum_space(files & shared), is_registered=not files.isdisjoint(registered)
        )
        for (kind, name), files in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.size_bytes, row.name)))
