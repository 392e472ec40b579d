"""Remove and verify the files of local models."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from llm_hf_models.context import Context
from llm_hf_models.errors import NotWritableError, StorageError
from llm_hf_models.hub import cache_layout
from llm_hf_models.inference import running_engines
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import STATES_WITH_FILES, Check, LocalFile, LocalModel, ModelVersion
from llm_hf_models.models.local_models import make_view
from llm_hf_models.models.names import suggest_new_default
from llm_hf_models.models.repo_signature import judge_again, make_check
from llm_hf_models.models.types import Removal, Verification
from llm_hf_models.system import verified_files
from llm_hf_models.system.disk import count_freed_bytes, measure_file, measure_files
from llm_hf_models.system.hashing import FileDigests, FileStamp, compute_digests, read_stamp
from llm_hf_models.transfer.types import Event, Progress

if TYPE_CHECKING:
    from llm_hf_models.hub.cache_files import CacheContents

MATCHES = "matches"
UNCHANGED = "unchanged since it was imported; never compared with the Hub"


class RemovalPlanner:
    """Plans the removal of local models, with one scan of each cache.

    Args:
        models: All local models.
        versions: Their other versions, by the id of the model. Those that are kept use their files.
    """

    def __init__(
        self, models: Sequence[LocalModel], versions: Mapping[str, Sequence[ModelVersion]] = MappingProxyType({})
    ) -> None:
        self._models, self._versions = models, versions
        self._caches: dict[Path, CacheContents] = {}

    def list_removable(self, models: Collection[LocalModel]) -> list[LocalFile]:
        """Return the files that removing all these models removes: no file that another model uses or that a user owns.

        The files of their other versions are included. A file that was imported in place belongs to the user. A
        read-only cache can belong to another user.
        """
        ids = {model.model_id for model in models}
        own = [file for model in models if model.place != "in place" for file in model.files]
        other = [file for model in models for version in self.list_versions(model) for file in version.files]
        return self._select_unused([*own, *filter(self._is_on_disk, other)], self._list_used(except_ids=ids))

    def list_abandoned(self, model: LocalModel) -> list[LocalFile]:
        """Return the files that only versions of the model use that are not kept."""
        abandoned = (version for version in self.list_versions(model) if version.state not in STATES_WITH_FILES)
        return self._select_unused(
            filter(self._is_on_disk, (file for version in abandoned for file in version.files)), self._list_used()
        )

    def _is_on_disk(self, file: LocalFile) -> bool:
        """Return whether a cached file exists, or only its blob is left, because a deletion was killed."""
        if Path(file.location).exists():
            return True
        blob, cache = _find_blob(file), cache_layout.infer_cache_dir(file.location, file.path)
        return blob.is_file() and all(cached.blob != blob for cached in self._read_cache(cache).files)

    def list_versions(self, model: LocalModel) -> Sequence[ModelVersion]:
        """Return the other versions of a model."""
        return self._versions.get(model.model_id, ())

    def _list_used(self, except_ids: Collection[str] = ()) -> set[str]:
        """Return the locations of the files of all models and their kept versions, except for some models."""
        models = [model for model in self._models if model.model_id not in except_ids]
        return {file.location for each in list_kept(models, self._versions) for file in each.files}

    @staticmethod
    def _select_unused(files: Iterable[LocalFile], used: Collection[str]) -> list[LocalFile]:
        removable = {file.location: file for file in files if file.location not in used}
        return [file for location, file in removable.items() if _is_removable(Path(location))]

    def count_freed_bytes(self, models: Collection[LocalModel]) -> int:
        """Return the bytes that removing all these models frees. Data that they share counts once.

        Data that another model, another snapshot or another hard link uses is not freed.
        """
        files = self.list_removable(models)
        in_cache = {file.location for model in models if model.place == "cache" for file in model.files}
        in_cache |= {file.location for model in models for one in self.list_versions(model) for file in one.files}
        unlinked = {Path(file.location) for file in files if file.location not in in_cache}
        shared = 0
        for cache, locations in group_by_cache([file for file in files if file.location in in_cache]).items():
            deletion = self._read_cache(cache).plan_deletion(locations)
            unlinked |= deletion.unlinked
            shared += deletion.shared_bytes
        return count_freed_bytes(unlinked) + shared

    def _read_cache(self, cache: Path) -> CacheContents:
        from llm_hf_models.hub.cache_files import CacheContents  # imported late: only needed here

        if cache not in self._caches:
            self._caches[cache] = CacheContents(cache)
        return self._caches[cache]


def list_kept(
    models: Iterable[LocalModel], versions: Mapping[str, Sequence[ModelVersion]]
) -> list[LocalModel | ModelVersion]:
    """Return the models and those of their other versions whose files are kept."""
    found: list[LocalModel | ModelVersion] = []
    for model in models:
        found += [model, *(one for one in versions.get(model.model_id, ()) if one.state in STATES_WITH_FILES)]
    return found


def group_by_cache(files: Iterable[LocalFile]) -> dict[Path, set[Path]]:
    """Return the locations of cached files by their cache. HF_HUB_CACHE may have had another value at the pull."""
    groups: dict[Path, set[Path]] = {}
    for file in files:
        groups.setdefault(cache_layout.infer_cache_dir(file.location, file.path), set()).add(Path(file.location))
    return groups


def remove(context: Context, name: str, *, dry_run: bool) -> Removal:
    """Remove a model and the files that nothing else uses.

    A file that the user imported in place, or in a cache of another user that is read-only, is never removed.
    """
    with context.open_database() as db:
        model = db.find_model(name)
        planner = RemovalPlanner(db.list_models(), db.list_all_versions())
        removable, freed = planner.list_removable([model]), planner.count_freed_bytes([model])
        locations = [file.location for file in removable]
        kept = tuple(file.location for file in model.files if file.location not in locations)
        if not dry_run:
            removal = ModelRemoval(db, [model], planner)
            removal.remove_records()
            removal.delete_files()
    default = suggest_new_default((model.model_id, *model.aliases))
    return Removal(model.model_id, tuple(locations), freed, kept, done=not dry_run, llm_default=default)


class ModelRemoval:
    """Removes models in two steps: their records, then the files that nothing else uses.

    After a kill between the steps, a pull adopts the files, and no record names missing files.

    Args:
        db: The library.
        models: The models to remove.
        planner: A planner that knows all local models.
    """

    def __init__(self, db: Database, models: Sequence[LocalModel], planner: RemovalPlanner) -> None:
        self._db, self._models = db, models
        self._versions = {model.model_id: planner.list_versions(model) for model in models}
        self._removable = {file.location for file in planner.list_removable(models)}
        self.freed_bytes = planner.count_freed_bytes(models)

    def remove_records(self) -> None:
        """Remove the records of the models."""
        for model in self._models:
            self._db.remove_model(model.model_id)

    def delete_files(self) -> None:
        """Stop the engines of the models, and delete the files.

        Raises:
            NotWritableError: A file can't be removed. The records of its models are restored.
        """
        for model in self._models:
            running_engines.stop_engines(self._db, model.model_id)
        linked = _find_linked_files(self._db, self._removable)
        owners = [(model.place, model.files) for model in self._models]
        owners += [("cache", one.files) for versions in self._versions.values() for one in versions]
        try:
            for place in ("cache", "folder"):
                files = {file.location: file for each, own in owners if each == place for file in own}
                _delete_files(place, [file for location, file in files.items() if location in self._removable])
        except StorageError:
            for model in self._models:
                if all(Path(file.location).exists() for file in model.files):
                    self._db.register(model)
                    for version in self._versions[model.model_id]:
                        self._db.save_version(model.model_id, version)
            raise
        finally:
            _renew_stamps(self._db, linked)


_LinkedFile = tuple[str, LocalFile, FileStamp]  # a model's id and its file, with the file's stamp


def _find_linked_files(db: Database, removable: Collection[str]) -> list[_LinkedFile]:
    """Return the unchanged files of other models that are hard links to files that will be removed."""
    removed = {found[:2] for found in measure_files(removable)}
    return [
        (model.model_id, file, read_stamp(Path(file.location)))
        for model in db.list_models()
        for file in model.files
        if file.location not in removable
        and (found := measure_file(file.location))
        and found[:2] in removed
        and file.compare_with_disk() == "as recorded"
    ]


def _renew_stamps(db: Database, linked: Iterable[_LinkedFile]) -> None:
    """Record the stamps of files again: removing another hard link has changed their ctime."""
    for model_id, file, before in linked:
        digest, location = file.sha256 or file.git_sha1, Path(file.location)
        with suppress(OSError):
            after = read_stamp(location)
            if digest and after != before and after.has_same_content_as(before):
                verified_files.note_verified(digest, location, after)
                db.record_verified_files(model_id, {file.location: after})


def _is_removable(path: Path) -> bool:
    """Return False if the file is in a folder of another user that this user can't write to."""
    try:
        is_own = os.name != "posix" or path.parent.stat().st_uid == os.geteuid()
    except PermissionError:
        return False
    except OSError:
        return True  # it is missing
    return is_own or os.access(path.parent, os.W_OK)


def _find_blob(file: LocalFile) -> Path:
    """Return the path that the blob of a cached file has, whether or not it exists."""
    folder = cache_layout.infer_repo_folder(file.location, file.path)
    return folder / "blobs" / (file.sha256 or file.git_sha1 or "unknown")


def delete_from_cache(files: Iterable[LocalFile]) -> None:
    """Delete files of models from the Hugging Face cache, and blobs that are left of them."""
    from llm_hf_models.hub import cache_files  # imported late: only needed here

    files = list(files)
    for cache, locations in group_by_cache(files).items():
        cache_files.delete_cached_files(cache, locations)
        of_cache = (file for file in files if Path(file.location) in locations)
        if orphans := {blob for file in of_cache if (blob := _find_blob(file)).is_file()}:
            cache_files.delete_orphans(cache, orphans)


def _delete_files(place: str, files: Sequence[LocalFile]) -> None:
    if place == "cache":
        delete_from_cache(files)
        return
    for path in (Path(file.location) for file in files):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise NotWritableError(f"Can't remove {path}", cause=error.strerror) from None


def verify(context: Context, name: str, progress: Progress) -> Verification:
    """Compare the digest of every file with the recorded one, and record the result."""
    with context.open_database() as db:
        model = db.find_model(name)
        model.refuse_if_remote()
        same = MATCHES if model.commit else UNCHANGED  # without a commit, the digest is from the import, not the Hub
        stamps: dict[str, FileStamp] = {}
        files = tuple((file.path, _compare(file, stamps, progress) or same) for file in model.files)
        unchanged = all(result == same for _, result in files)
        matches = unchanged and same == MATCHES
        outcome = same if unchanged else "differs" if _has_difference(files) else "not proven"
        db.record_verified_files(model.model_id, stamps)
        db.add_check(
            model.model_id, Check("digest", outcome, time.time(), {"repo": model.repo, "commit": model.commit,
                                                                  "files": dict(files)})
        )  # fmt: skip
        signature = judge_again(context, model)
        if signature is not None:
            db.add_check(model.model_id, make_check(signature))
        view = make_view(db.get_model(model.model_id))
    fix = None if matches else view.fix
    return Verification(model.model_id, matches, unchanged, files, fix, model.latest_check("scan"), signature)


def _has_difference(files: Sequence[tuple[str, str]]) -> bool:
    return any(result.startswith("differs") for _, result in files)


def _compare(file: LocalFile, stamps: dict[str, FileStamp], progress: Progress) -> str | None:
    """Return why a file is not the recorded one. If it is, add its stamp to `stamps` and return None."""
    if problem := _find_problem(Path(file.location)):
        return problem
    recorded = file.sha256 or file.git_sha1
    if not recorded:
        return "no digest recorded"
    try:
        found = hash_with_progress(Path(file.location), file.path, progress)
    except OSError as error:
        return f"not readable: {error.strerror}"
    if found.get_same_kind(recorded) != recorded:
        verified_files.forget(Path(file.location))  # otherwise a pull would trust the note
        return f"differs: recorded {recorded}, found {found.get_same_kind(recorded)}"
    if found.stamp is None:
        return "modified while it was read"
    verified_files.note_verified(recorded, Path(file.location), found.stamp)
    stamps[file.location] = found.stamp
    return None


def _find_problem(path: Path) -> str | None:
    """Return why a file is not there for this user, or None if it is."""
    try:
        path.stat()
    except PermissionError as error:  # it is in a folder of another user
        return f"not readable: {error.strerror}"
    except OSError:
        return "missing"
    return None


def hash_with_progress(path: Path, name: str, progress: Progress) -> FileDigests:
    """Compute both digests of a file, and report progress.

    Raises:
        OSError: The file can't be read.
    """
    size = path.stat().st_size
    progress(Event("verifying", name, 0, size))
    digests = compute_digests(path, lambda done: progress(Event("progress", name, done, size)))
    progress(Event("done", name, size, size))
    return digests
