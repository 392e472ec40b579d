"""Build the Hub's JSON from served repos: lists, one repo, trees. servers/hub_mirror.py sends it.

The formats follow huggingface_hub (hf_api.py: ModelInfo, RepoFile, RepoFolder, list_models) and the Hub's API pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from llm_hf_models.errors import BadInputError
from llm_hf_models.servers.catalog import ServedFile, ServedRepo
from llm_hf_models.system.units import parse_count

Query = Mapping[str, Sequence[str]]
Json = dict[str, Any]
PAGE_SIZE = 1000
TREE_PAGE_SIZE, EXPANDED_TREE_PAGE_SIZE = 1000, 50

# The properties in a list, unless the request has `expand` or `full`, and the properties of a single repo.
_LIST_PROPERTIES = (
    "private", "likes", "trendingScore", "downloads", "tags", "pipeline_tag", "library_name", "createdAt", "modelId",
)  # fmt: skip
_FULL_LIST_PROPERTIES = (*_LIST_PROPERTIES, "author", "gated", "disabled", "lastModified", "sha", "siblings")

_MODEL_PROPERTIES = (
    "author", "private", "gated", "disabled", "likes", "downloads", "tags", "pipeline_tag", "library_name", "createdAt",
    "lastModified", "modelId", "sha", "siblings", "cardData", "gguf", "usedStorage", "spaces", "config",
)  # fmt: skip

_SORTS: dict[str, Callable[[ServedRepo], float]] = {
    "trendingScore": lambda repo: repo.trending,
    "downloads": lambda repo: repo.downloads,
    "likes": lambda repo: repo.likes,
    "lastModified": lambda repo: repo.updated,
    "createdAt": lambda repo: repo.created_at,
}


def _get_first(query: Query, name: str) -> str | None:
    values = query.get(name)
    return values[0] if values else None


def is_true(query: Query, name: str) -> bool:
    """Return whether a flag in a query is on, in the form that huggingface_hub sends."""
    return (_get_first(query, name) or "").lower() in ("true", "1")


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


# One repo


def _build_card(repo: ServedRepo) -> Json:
    card: Json = {"license": repo.license, "pipeline_tag": repo.task, "library_name": repo.library, **repo.card}
    if repo.base_models:
        card["base_model"] = repo.base_models[0] if len(repo.base_models) == 1 else list(repo.base_models)
    return {name: value for name, value in card.items() if value is not None}


def _build_base_models(repo: ServedRepo) -> Json | None:
    if not repo.base_models:
        return None
    return {"relation": "quantized", "models": [{"id": base} for base in repo.base_models]}


_PROPERTIES: dict[str, Callable[[ServedRepo], object]] = {
    "author": lambda repo: repo.id.partition("/")[0],
    "baseModels": _build_base_models,
    "cardData": _build_card,
    "createdAt": lambda repo: _format_time(repo.created_at),
    "downloads": lambda repo: repo.downloads,
    "downloadsAllTime": lambda repo: repo.downloads,
    "gated": lambda repo: repo.gated,
    "gguf": lambda repo: repo.gguf,
    "lastModified": lambda repo: _format_time(repo.updated),
    "library_name": lambda repo: repo.library_name,
    "likes": lambda repo: repo.likes,
    "modelId": lambda repo: repo.id,
    "pipeline_tag": lambda repo: repo.task,
    "private": lambda repo: repo.private,
    "sha": lambda repo: repo.commit,
    "siblings": lambda repo: [{"rfilename": file.path} for file in repo.files],
    "tags": lambda repo: list(repo.all_tags),
    "trendingScore": lambda repo: repo.trending,
    "usedStorage": lambda repo: sum(file.size for file in repo.files),
}
_CONSTANT_PROPERTIES: dict[str, object] = {"config": {}, "disabled": False, "spaces": []}

# Properties that a mirror doesn't have. A request for them is valid; the response omits them, as the Hub omits missing
# properties.
_UNSUPPORTED_PROPERTIES = frozenset({
    "childrenModelCount", "evalResults", "inference", "inferenceProviderMapping", "mask_token", "model-index",
    "resourceGroup", "safetensors", "securityRepoStatus", "transformersInfo", "widgetData", "xetEnabled",
})  # fmt: skip


def _select_properties(repo: ServedRepo, names: Iterable[str]) -> Json:
    values = {
        name: _PROPERTIES[name](repo) if name in _PROPERTIES else _CONSTANT_PROPERTIES.get(name) for name in names
    }
    identity = hashlib.sha1(repo.id.encode(), usedforsecurity=False).hexdigest()[:24]
    return {"_id": identity, "id": repo.id, **{name: value for name, value in values.items() if value is not None}}


def _parse_expand(query: Query) -> list[str] | None:
    names = [name for value in (*query.get("expand", ()), *query.get("expand[]", ())) for name in value.split(",")]
    for name in names:
        if name not in {*_PROPERTIES, *_CONSTANT_PROPERTIES, *_UNSUPPORTED_PROPERTIES}:
            raise BadInputError(f"expand: unknown property {name[:60]!r}")
    return names or None


def build_model(repo: ServedRepo, query: Query) -> Json:
    """Return one repo, as `/api/models/owner/name` does.

    Raises:
        BadInputError: `expand` names an unknown property.
    """
    names = _parse_expand(query)
    model = _select_properties(repo, _MODEL_PROPERTIES if names is None else names)
    if is_true(query, "blobs") and "siblings" in model:
        model["siblings"] = [_build_sibling(file) for file in repo.files]
    if is_true(query, "securityStatus") and repo.scans_done is not None:
        issues = [{"path": path, "level": level} for path, level in repo.files_with_issues]
        model["securityRepoStatus"] = {"scansDone": repo.scans_done, "filesWithIssues": issues}
    return model


def _build_sibling(file: ServedFile) -> Json:
    shown: Json = {"rfilename": file.path, "size": file.size, "blobId": file.blob_id}
    if file.lfs_pointer is not None:
        shown["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.lfs_pointer)}
    return shown


def build_refs(commits: Sequence[ServedRepo]) -> Json:
    """Return the branches of a repo."""
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": repo.commit}
        for repo in commits
        for name in repo.revisions
    ]
    return {"branches": branches, "converts": [], "tags": [], "pullRequests": []}


# Many repos


def filter_repos(repos: Iterable[ServedRepo], query: Query) -> list[ServedRepo]:
    """Return the repos that match a query, sorted, with one commit of each.

    Raises:
        BadInputError: A filter or the sort order is not valid.
    """
    unique = {repo.id: repo for repo in reversed(list(repos))}
    sort = _get_first(query, "sort") or "trendingScore"
    if sort not in _SORTS:
        raise BadInputError(f"sort: unknown order {sort[:60]!r}")
    matches = _build_matcher(query)
    found = [repo for repo in unique.values() if matches(repo)]
    return sorted(found, key=lambda repo: (-_SORTS[sort](repo), repo.id))


def _build_matcher(query: Query) -> Callable[[ServedRepo], bool]:
    words = (_get_first(query, "search") or "").lower().split()
    tags = {tag.lower() for value in query.get("filter", ()) for tag in value.split(",") if tag}
    author, task, gated = (_get_first(query, name) for name in ("author", "pipeline_tag", "gated"))
    least, most = _parse_parameter_range(_get_first(query, "num_parameters"))
    apps = bool(query.get("apps"))  # the apps that can use a mirror's files run GGUF

    def matches(repo: ServedRepo) -> bool:
        return (
            all(word in repo.id.lower() for word in words)
            and tags <= {tag.lower() for tag in repo.all_tags}
            and (author is None or repo.id.partition("/")[0].lower() == author.lower())
            and (task is None or repo.task == task)
            and (gated is None or bool(repo.gated) == is_true(query, "gated"))
            and (not apps or repo.has_gguf)
            and (least is None or (repo.parameters is not None and repo.parameters >= least))
            and (most is None or (repo.parameters is not None and repo.parameters <= most))
        )

    return matches


def _parse_parameter_range(text: str | None) -> tuple[int | None, int | None]:
    bounds: dict[str, int] = {}
    for part in (text or "").split(","):
        name, colon, value = part.partition(":")
        if part and (name not in ("min", "max") or not colon):
            raise BadInputError("num_parameters must have the form min:6B,max:128B")
        if part:
            bounds[name] = parse_count(value)
    return bounds.get("min"), bounds.get("max")


def build_models(found: Sequence[ServedRepo], query: Query) -> list[Json]:
    """Return the rows of a list.

    Raises:
        BadInputError: `expand` names an unknown property.
    """
    names = _parse_expand(query)
    if names is None:
        names = list(_FULL_LIST_PROPERTIES if is_true(query, "full") else _LIST_PROPERTIES)
        names += ["cardData"] if is_true(query, "cardData") else []
        names += ["config"] if is_true(query, "config") else []
    return [_select_properties(repo, names) for repo in found]


# Trees


def build_tree(repo: ServedRepo, folder: str, query: Query) -> list[Json] | None:
    """Return the files and folders in a folder of a repo, sorted by path; None if the folder does not exist."""
    start = f"{folder}/" if folder else ""
    inside = [file for file in repo.files if file.path.startswith(start)]
    if folder and not inside:
        return None
    expand, recursive = is_true(query, "expand"), is_true(query, "recursive")
    entries: dict[str, Json] = {}
    for file in inside:
        parts = file.path[len(start) :].split("/")
        for depth in range(1, len(parts)):
            path = start + "/".join(parts[:depth])
            if path not in entries and (recursive or depth == 1):
                entries[path] = _build_folder_entry(repo, path, expand=expand)
        if recursive or len(parts) == 1:
            entries[file.path] = build_file_entry(repo, file, expand=expand)
    return [entries[path] for path in sorted(entries)]


def build_paths_info(repo: ServedRepo, paths: Iterable[str], *, expand: bool) -> list[Json]:
    """Return the entries at the given paths. Paths that do not exist are omitted, as on the Hub."""
    entries = []
    for path in paths:
        if file := repo.find_file(path):
            entries.append(build_file_entry(repo, file, expand=expand))
        elif any(file.path.startswith(f"{path}/") for file in repo.files):
            entries.append(_build_folder_entry(repo, path, expand=expand))
    return entries


def build_file_entry(repo: ServedRepo, file: ServedFile, *, expand: bool) -> Json:
    """Return the entry of one file in a tree, with its commit and its scan if `expand` is set."""
    entry: Json = {"type": "file", "oid": file.blob_id, "size": file.size, "path": file.path}
    if file.lfs_pointer is not None:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.lfs_pointer)}
    if expand:
        entry["lastCommit"] = _build_last_commit(repo)
        if file.scan is not None:
            scanners = {name: {"status": status, "message": message} for name, status, message in file.scanners}
            entry["securityFileStatus"] = {"status": file.scan, "avScan": None, "pickleImportScan": None, **scanners}
    return entry


def _build_folder_entry(repo: ServedRepo, path: str, *, expand: bool) -> Json:
    entry: Json = {"type": "directory", "oid": repo.compute_folder_id(path), "size": 0, "path": path}
    return {**entry, "lastCommit": _build_last_commit(repo)} if expand else entry


def _build_last_commit(repo: ServedRepo) -> Json:
    return {"id": repo.commit, "title": "As mirrored", "date": _format_time(repo.updated)}
