"""Find the files of a planned pull that are on this machine already."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads.local_files import count_partial_bytes, find_files_in_folder, find_local_files
from llm_hf_models.downloads.plan_types import PlannedFile, PullOptions
from llm_hf_models.errors import UnknownModelError
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.paths import make_absolute
from llm_hf_models.system.hashing import compute_digests


def plan_files(
    context: Context, repo: RepoId, commit: str, files: Sequence[HubFile], options: PullOptions
) -> tuple[PlannedFile, ...]:
    """Return the files with the place of each on this machine, and the number of bytes that are there already."""
    with context.open_database() as db:  # files that failed `verify` have the right size, but are downloaded again
        broken = {file.location for model in db.list_models() if model.state == "changed" for file in model.files}
    cached = find_local_files(context.cache_dir(), repo, commit, files)
    cached = {path: location for path, location in cached.items() if str(location) not in broken}
    if options.to is None:
        local, copy, work = cached, set[str](), cache_layout.cache_work_folder(context.cache_dir())
    else:
        folder = make_absolute(options.to)
        local, work = _find_verified_files(folder, files), cache_layout.target_work_folder(folder)
        copy = cached.keys() - local.keys()
    return tuple(
        PlannedFile(
            **vars(file),
            local=file.path in local,
            partial=0 if file.path in copy else count_partial_bytes(work, file),
            copy=file.path in copy,
        )
        for file in files
    )


def _find_verified_files(folder: Path, files: Sequence[HubFile]) -> dict[str, Path]:
    """Return the files that a plain folder already contains, by path.

    Their digests are compared, because the user's own files may have the same names.
    """
    etags, found = {file.path: file.etag for file in files}, {}
    for path, location in find_files_in_folder(folder, files).items():
        with suppress(OSError):
            if not etags[path] or compute_digests(location).get_same_kind(etags[path]) == etags[path]:
                found[path] = location
    return found


def find_replaced(files: Sequence[PlannedFile], options: PullOptions) -> tuple[str, ...]:
    """Return the paths in the user's folder that the pull replaces."""
    if options.to is None:
        return ()
    folder = make_absolute(options.to)
    locations = [folder / RepoFile(file.path).path for file in files if not file.local]
    return tuple(str(location) for location in locations if location.is_symlink() or location.exists())


def choose_folder(context: Context, repo: RepoId, commit: str, options: PullOptions) -> Path:
    """Return the folder of the files: the user's own, or the snapshot in the cache."""
    if options.to is not None:
        return make_absolute(options.to)
    return cache_layout.cache_path(context.cache_dir(), repo, commit, "x").parent


def is_complete(
    context: Context, model_id: str | None, commit: str, files: Sequence[PlannedFile], options: PullOptions
) -> bool:
    """Return whether the local model has exactly these files at this commit, and is ready."""
    if model_id is None or options.to is not None or not all(file.local for file in files):
        return False
    with context.open_database() as db:
        try:
            model = db.get_model(model_id)
        except UnknownModelError:
            return False
    return (
        model.state == "ready"
        and model.commit == commit
        and {file.path for file in model.files} == {file.path for file in files}
    )
