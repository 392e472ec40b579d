"""List and remove everything that this package has stored on this machine, for `status --files` and `uninstall`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from llm_hf_models import account, cleanup, paths
from llm_hf_models.context import Context
from llm_hf_models.downloads import queue, worker
from llm_hf_models.errors import HfModelsError, LibraryBusyError, LibraryError, NotWritableError, UnknownModelError
from llm_hf_models.hub import cache_layout, encrypted_token, keychain, tokens
from llm_hf_models.inference import running_engines
from llm_hf_models.library.download_records import UNFINISHED_STATES
from llm_hf_models.library.records import LocalModel, ModelVersion
from llm_hf_models.models import local_files
from llm_hf_models.system.disk import count_bytes_in_folder, count_bytes_on_disk
from llm_hf_models.system.ownership import wait_at_most
from llm_hf_models.system.runtime_folder import choose_runtime_folder
from llm_hf_models.types import StoredItem, Uninstallation

STOP_SECONDS = 30.0
IMPORTED = "imported"
DESCRIPTIONS = {
    "agents.log": "log of what agents changed",
    IMPORTED: "copies made by `import --copy`",
    "library.db": "models, aliases, options and downloads",
    "library.db-shm": "part of library.db",
    "library.db-wal": "part of library.db",
    "on_done.log": "output of --on-done commands",
    "sandbox.json": "result of the sandbox test",
    "settings.toml": "settings",
    "verified": "notes about verified files",
    "worker.lock": "lock of the worker for background downloads",
    "worker.log": "log of background downloads",
}


def list_stored_files(context: Context) -> tuple[StoredItem, ...]:
    """Return the files and folders of this package: models first, then its own data, partial files and the token.

    Files that the user imported in place are not included. Files of the cache that another tool downloaded are
    included if they belong to a registered model.

    Raises:
        LibraryError: The library can't be read.
    """
    cache = context.cache_dir()
    with context.open_database() as db:
        models, versions = db.list_models(), db.list_all_versions()
    return (
        *_list_model_files(models),
        *_list_version_files(models, versions),
        *_list_data(),
        *_list_work(cache),
        *_list_refs(models, cache),
        *_list_token(),
    )


def _list_model_files(models: list[LocalModel]) -> Iterator[StoredItem]:
    seen: set[str] = set()
    for model in models:
        for file in model.files:
            if model.place != "in place" and file.location not in seen:
                seen.add(file.location)
                yield StoredItem("model", file.location, _measure(Path(file.location).resolve()), model.model_id)


def _list_version_files(
    models: list[LocalModel], versions: Mapping[str, Sequence[ModelVersion]]
) -> Iterator[StoredItem]:
    """Yield the files of other versions that no model uses."""
    seen = {file.location for model in models for file in model.files}
    for model_id, of_model in versions.items():
        for file in (file for version in of_model for file in version.files):
            if file.location not in seen and Path(file.location).exists():
                seen.add(file.location)
                yield StoredItem(
                    "model", file.location, _measure(Path(file.location).resolve()), f"{model_id}, another version"
                )


def _list_data() -> Iterator[StoredItem]:
    folder = paths.data_dir()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path in (encrypted_token.get_path(), tokens.plain_token_path()):
            yield StoredItem("token", str(path), _measure(path), "Hub token")
        elif path.name != IMPORTED:  # its files belong to models
            yield StoredItem("data", str(path), _measure(path), DESCRIPTIONS.get(path.name, ""))
    runtime = choose_runtime_folder()
    if runtime.is_dir():
        yield StoredItem("data", str(runtime), _measure(runtime), "sockets and logs of running engines")


def _list_work(cache: Path) -> Iterator[StoredItem]:
    folder = cache_layout.cache_work_folder(cache)
    if folder.is_dir():
        yield StoredItem("partial", str(folder), _measure(folder), "partial files of downloads")


def _list_refs(models: list[LocalModel], cache: Path) -> Iterator[StoredItem]:
    caches = {cache} | {
        cache_layout.infer_cache_dir(file.location, file.path)
        for model in models
        if model.place == "cache"
        for file in model.files
    }
    for folder in sorted(caches):
        for ref in sorted(folder.glob(f"models--*/refs/{cache_layout.REF_NAMESPACE}/*")):
            yield StoredItem("ref", str(ref), _measure(ref), "keeps `hf cache prune` from removing a model")


def _list_token() -> Iterator[StoredItem]:
    with suppress(HfModelsError):
        if keychain.read_token() is not None:
            yield StoredItem("token", "keychain", 0, "Hub token")


def _measure(path: Path) -> int:
    """Return the disk space of a file, or of all files in a folder, in bytes."""
    return count_bytes_in_folder(path) if path.is_dir() else count_bytes_on_disk(path)


def plan_uninstallation(context: Context, *, keep_models: bool) -> Uninstallation:
    """Return what `uninstall` would remove. This changes nothing."""
    files = list_stored_files(context)
    kept = tuple(file for file in files if keep_models and file.kind == "model")
    removed = tuple(file for file in files if file not in kept)
    return Uninstallation(removed, kept, sum(file.size_bytes for file in removed))


def uninstall(context: Context, *, keep_models: bool) -> Uninstallation:
    """Stop the engines and downloads, then remove everything that this package has stored.

    A file that another tool of the cache or another library uses is kept, as with `remove` and `gc`.

    Args:
        context: The context of the library to remove.
        keep_models: Keep the files of the models: other tools can still use them.

    Raises:
        LibraryBusyError: A download did not stop in time.
        NotWritableError: A file can't be removed.
        KeychainError: The stored token can't be removed.
    """
    plan = plan_uninstallation(context, keep_models=keep_models)
    _stop_everything(context)
    if not keep_models:
        _remove_models(context)
    cleanup.clean_up(context)
    account.logout()
    for file in (*plan.files, *_list_data()):  # the plan may have created files, such as those of the open library
        if file.kind in ("ref", "data"):
            _remove(Path(file.path))
    data = paths.data_dir()
    for folder in (
        cache_layout.cache_work_folder(context.cache_dir()),
        *data.glob(f"{IMPORTED}/*"),
        data / IMPORTED,
        data,
    ):
        with suppress(OSError):
            folder.rmdir()  # if it is empty
    left = tuple(file for file in plan.files if file.kind != "model" and Path(file.path).exists())
    removed = tuple(file for file in plan.files if file not in left)
    return Uninstallation(removed, (*plan.kept, *left), sum(file.size_bytes for file in removed), done=True)


def _stop_everything(context: Context) -> None:
    with context.open_database() as db:
        running_engines.stop_engines(db)
    wait = wait_at_most(STOP_SECONDS, LibraryBusyError("A download has not stopped", hint="Run this command again."))
    while unfinished := _list_unfinished(context):
        for download_id in unfinished:
            with suppress(LibraryError):  # it has just ended
                queue.cancel(context, download_id)
        wait()
    while worker.is_running():
        wait()


def _list_unfinished(context: Context) -> list[int]:
    with context.open_downloads() as db:
        return [row.id for row in db.list_downloads(states=UNFINISHED_STATES, limit=-1, with_plans=False)]


def _remove_models(context: Context) -> None:
    with context.open_database() as db:
        names = [model.model_id for model in db.list_models()]
    for name in names:
        with suppress(UnknownModelError):
            local_files.remove(context, name, dry_run=False)


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(f"Can't remove {path}", cause=error.strerror) from None
