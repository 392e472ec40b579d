"""Collect the state of this installation: memory, disk, engines, token, versions and settings."""

from __future__ import annotations

import platform
import shutil
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from llm_hf_models import paths, settings
from llm_hf_models.account import whoami
from llm_hf_models.context import Context
from llm_hf_models.errors import HfModelsError, LibraryError, StorageError
from llm_hf_models.inference import engine, running_engines
from llm_hf_models.library.records import EngineRow, LocalModel
from llm_hf_models.settings import Settings
from llm_hf_models.system.disk import count_bytes_in_folder
from llm_hf_models.system.machine import read_memory
from llm_hf_models.types import EngineView, SandboxStatus, SettingView, Status, TokenStatus


def _check_token(context: Context) -> TokenStatus:
    """Return the result of `whoami`; an error is reported in `problem`, so that the rest of the status is shown."""
    source = None
    try:
        token = context.token()
        source = token.source if token else None
        return whoami(context, unlock=False)
    except HfModelsError as error:
        return TokenStatus(source, None, f"could not be checked: {error.message}" if source else error.message)


def collect_status(context: Context) -> Status:
    """Collect the status of memory, disk, cache, engines, endpoint and token."""
    cache = context.cache_dir()
    disk = _measure_disk(cache)
    models, engines, problem = _read_library(context)
    locations = {file.location: file.size for model in models for file in model.files}
    return Status(
        machine=read_memory(),
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
        cache_dir=str(cache),
        cache_bytes=count_bytes_in_folder(cache),
        library=str(paths.library_path()),
        models=len(models),
        models_bytes=sum(locations.values()),
        engines=engines,
        sandbox=_read_sandbox(context),
        endpoint=context.display_endpoint(),
        offline=settings.is_offline(),
        token=_check_token(context),
        versions=_list_versions(),
        problem=problem,
    )


def _read_library(context: Context) -> tuple[list[LocalModel], tuple[EngineView, ...], str | None]:
    """Return the local models, the running engines, and the error if the library can't be read."""
    try:
        with context.open_database() as db:
            return (
                db.list_models(),
                tuple(make_engine_view(row) for row in running_engines.list_running_engines(db)),
                None,
            )
    except (LibraryError, StorageError) as error:
        return [], (), str(error)


def _read_sandbox(context: Context) -> SandboxStatus:
    mode = None
    try:
        current = context.settings()
        mode = current.sandbox
        result = engine.read_sandbox_result(current) if mode != "off" else None
    except HfModelsError as error:  # invalid settings, or no llama-server although the settings require one
        return SandboxStatus(mode, problem=error.message)
    return SandboxStatus(mode, result.layers, result.missing) if result else SandboxStatus(mode)


def make_engine_view(row: EngineRow) -> EngineView:
    """Return an engine's row without its API key."""
    return EngineView(
        id=row.model_id,
        pid=row.pid,
        address=row.address,
        context=row.context,
        started=row.started,
        last_used=row.last_used,
        keep_alive_seconds=row.keep_alive,
        memory_bytes=row.memory,
        tokens_per_second=row.tokens_per_second,
        layers=row.layers,
        missing=row.missing,
    )


def _measure_disk(folder: Path) -> shutil._ntuple_diskusage:
    """Return the disk usage of the folder, or of its nearest parent that exists."""
    for path in (folder, *folder.parents):
        with suppress(OSError):
            return shutil.disk_usage(path)
    return shutil.disk_usage(".")


def _list_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("llm-hf-models", "llm", "huggingface_hub", "xllamacpp"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def list_settings() -> tuple[SettingView, ...]:
    """Return all settings with their current values."""
    current = settings.load()
    return tuple(
        SettingView(
            key,
            getattr(current, key),
            field.default,
            settings.find_source(key),
            field.description or "",
            settings.describe_accepted_values(key),
            settings.get_unit(key),
            str(settings.settings_path()),
        )
        for key, field in Settings.model_fields.items()
    )


def get_setting(key: str) -> SettingView:
    """Return one setting with its current value. An old name of the setting works too.

    Raises:
        BadInputError: the setting does not exist.
    """
    settings.check_key(key)
    return next(view for view in list_settings() if view.key == settings.get_current_name(key))


def set_setting(key: str, value: str | None) -> SettingView:
    """Parse and store one setting's value; None restores the default.

    With None, an unknown key can be removed from settings.toml too.

    Raises:
        BadInputError: the setting does not exist or does not accept the value.
    """
    settings.store(key, None if value is None else settings.parse_value(key, value))
    if settings.get_current_name(key) not in Settings.model_fields:
        return SettingView(key, "", "", "default", "Unknown setting, removed from settings.toml.")
    return get_setting(key)
