"""Settings: every setting with its default, settings.toml, the environment, and the paths and address of the Hub.

Values are read when a function is called, never at import.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llm_hf_models.errors import BadInputError, NotWritableError
from llm_hf_models.paths import data_dir, expand_home, suggest_folder_fix
from llm_hf_models.system.text import clean_text, strip_user, suggest_word
from llm_hf_models.system.units import parse_duration, parse_rate, parse_size

DEFAULT_ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "on", "yes", "true"}
Action = Literal["delete", "large", "token", "unverified"]  # actions of an agent that a person confirms
ACTIONS: tuple[Action, ...] = ("delete", "large", "token", "unverified")


def settings_path() -> Path:
    """Return the file that `llm hf settings KEY VALUE` writes."""
    return data_dir() / "settings.toml"


def hf_home() -> Path:
    """Return the Hugging Face home: HF_HOME, or `huggingface` in the XDG cache (huggingface_hub/constants.py)."""
    if (path := os.environ.get("HF_HOME")) is not None:
        return _expand(path)
    return _expand(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"


def cache_dir() -> Path:
    """Return the Hugging Face cache, which stores the weights: HF_HUB_CACHE, or `hub` in the Hugging Face home."""
    path = os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE"))
    return hf_home() / "hub" if path is None else _expand(path)


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(expand_home(path)))


def endpoint() -> str:
    """Return the Hub's address without a trailing slash: HF_ENDPOINT, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def get_display_endpoint() -> str:
    """Return the Hub's address without user and password, for display."""
    return strip_user(endpoint())


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE turns the network off."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.lower() in _TRUE


class Settings(BaseModel):
    """Every setting with its default and its description. Environment variables `LLM_HF_<NAME>` override the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    connections: int = Field(
        8,
        ge=1,
        le=64,
        description="Maximum number of connections for all downloads together; foreground downloads have priority.",
    )
    limit_rate: int = Field(
        0, ge=0, description="Maximum rate of all downloads together, in bytes per second; 0 means no limit."
    )
    transport: Literal["http", "xet"] = Field(
        "http",
        description="Transfer method: `http` resumes and obeys limit_rate; `xet` uses huggingface_hub,"
        " which does neither. Digests are checked with both.",
    )
    connect_seconds: float = Field(10, gt=0, description="Timeout for opening a connection, in seconds.")
    metadata_seconds: float = Field(20, gt=0, description="Timeout for a response of the Hub's API, in seconds.")
    header_seconds: float = Field(
        60, gt=0, description="Timeout for reading a model's header from the Hub or a disk, in seconds."
    )
    stall_seconds: float = Field(
        30, gt=0, description="Close a download connection that receives no data for this many seconds."
    )
    network_wait_seconds: float = Field(
        # Attempts end up a minute apart, so an outage of ten minutes is over before the last ones.
        900,
        ge=0,
        description="Time that a download waits for a lost network before it pauses, in seconds.",
    )
    retry_seconds: float = Field(
        1, gt=0, description="Delay before the first retry, in seconds; it doubles up to a minute."
    )
    metadata_lifetime_seconds: float = Field(
        300, ge=0, description="Time that search and info use cached responses of the Hub, in seconds."
    )
    disk_reserve: int = Field(1_000_000_000, ge=0, description="Disk space that downloads leave free, in bytes.")
    memory_reserve: int = Field(
        1_000_000_000, ge=0, description="Memory left free when a quantization is chosen, in bytes."
    )
    concurrent_downloads: int = Field(
        2,
        ge=1,
        le=16,
        description="Number of running downloads at which background downloads wait; foreground ones start at once.",
    )
    heartbeat_seconds: float = Field(
        2,
        gt=0,
        description="Heartbeat interval of a download, in seconds; another process takes over after four missed"
        " heartbeats, or when the process has ended.",
    )
    orphan_seconds: float = Field(
        86_400,
        ge=0,
        description="Minimum age of partial files without a download before `gc` removes them, in seconds.",
    )
    history_seconds: float = Field(
        2_592_000,
        ge=0,
        description="Minimum age of finished downloads and cached responses before `gc` removes them, in seconds.",
    )
    keep_alive: float = Field(
        300,
        ge=-1,
        description="Time that an idle engine stays loaded, in seconds; 0 stops it at once, -1 never stops it.",
    )
    engine: Literal["auto", "xllamacpp", "llama-server"] = Field(
        "auto", description="Engine that runs models; `auto` prefers the one with a usable GPU."
    )
    engine_start_seconds: float = Field(120, gt=0, description="Timeout for loading a model, in seconds.")
    context: int = Field(
        8192,
        ge=0,
        description="Context length in tokens, limited to the model's maximum; 0 means the model's maximum.",
    )
    threads: int = Field(0, ge=0, description="Threads per engine; 0 derives the number from the physical cores.")
    gpu_layers: int = Field(-1, ge=-1, description="Number of layers on the GPU, if there is one; -1 means all.")
    sandbox: bool = Field(
        True, description="Confine the engine and the load test with every layer that the system allows."
    )
    max_download_bytes: int = Field(0, ge=0, description="Refuse larger pulls, in bytes; 0 means no limit.")
    allowed_owners: str = Field("", description="Owners whose repos may be pulled, comma-separated; empty allows all.")
    allowed_licenses: str = Field("", description="Licences that may be pulled, comma-separated; empty allows all.")
    agent_read_only: bool = Field(False, description="Agents (the MCP server) can read and change nothing.")
    agent_allow_delete: bool = Field(False, description="Agents may delete models; a person confirms each deletion.")
    agent_ask_above_bytes: int = Field(
        5_000_000_000, ge=0, description="Ask a person before an agent pulls more, in bytes; 0 never asks."
    )
    agent_max_total_bytes: int = Field(
        0, ge=0, description="Refuse an agent's pull if the library would become larger, in bytes; 0 means no limit."
    )
    agent_max_prompt_tokens: int = Field(
        1024, ge=0, description="Maximum length of a response to an agent's prompt, in tokens; 0 means no limit."
    )
    agent_yes_to: str = Field(
        "", description="Actions that agents may perform without asking: any of delete, large, token, unverified."
    )

    @field_validator("agent_yes_to")
    @classmethod
    def _check_actions(cls, text: str) -> str:
        if unknown := split_list(text) - set(ACTIONS):
            word = clean_text(min(unknown), 40)
            hint = f"{suggest_word(word, ACTIONS)}Accepted actions: {', '.join(ACTIONS)}."
            raise BadInputError(f"Setting 'agent_yes_to': unknown action {word!r}", hint=hint)
        return text


_SIZES = {
    "disk_reserve",
    "memory_reserve",
    "max_download_bytes",
    "agent_ask_above_bytes",
    "agent_max_total_bytes",
}


def _is_duration(key: str) -> bool:
    return key.endswith("_seconds") or key == "keep_alive"


def parse_value(key: str, text: str) -> Any:  # noqa: ANN401 - of any setting's type
    """Parse a value as people write it: `5M` for sizes, `5m` for durations, on or off for switches.

    Raises:
        BadInputError: The setting does not exist, or it does not accept the value.
    """
    value: object = text
    if key in _SIZES:
        value = parse_size(text)
    elif key == "limit_rate":
        value = parse_rate(text)
    elif _is_duration(key) and not text.startswith("-"):
        value = parse_duration(text)
    return _validate(key, value)


def describe_accepted_values(key: str) -> str:
    """Describe the values that a setting accepts: its choices, its unit, its limits."""
    field = Settings.model_fields[key]
    if choices := get_args(field.annotation):
        return ", ".join(choices)
    if field.annotation is bool:
        return "on, off"
    if field.annotation is str:
        return "names, comma-separated"
    bounds = {name: getattr(one, name) for one in field.metadata for name in ("gt", "ge", "le") if hasattr(one, name)}
    least = f"from {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}"
    most = f" to {bounds['le']}" if "le" in bounds else ""
    kind = "a size such as 5M or 2GiB" if key in _SIZES else "a whole number"
    kind = "a rate such as 5M or 1.5MB/s" if key == "limit_rate" else kind
    kind = "a time such as 30s or 5m" if _is_duration(key) else kind
    return f"{kind}, {least}{most}"


def check_key(key: str) -> None:
    """Check that a setting exists.

    Raises:
        BadInputError: It does not.
    """
    if key not in Settings.model_fields:
        hint = suggest_word(key, Settings.model_fields) + "`llm hf settings` lists all settings."
        raise BadInputError(f"Unknown setting {key[:60]!r}", hint=hint)


def _validate(key: str, value: object) -> Any:  # noqa: ANN401 - of any setting's type
    check_key(key)
    try:
        return getattr(Settings.model_validate({key: value}), key)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        hint = f"`llm hf settings {key}` shows the accepted values."
        raise BadInputError(f"Setting {key!r}: {reason}", hint=hint) from None


def _read_file() -> dict[str, Any]:
    """Read settings.toml without validation."""
    path = settings_path()
    remedy = "Fix the file, or start with a new one: " + shlex.join(["mv", str(path), f"{path}.broken"])
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInputError(f"Cannot read {path}", cause=error.strerror, hint=suggest_folder_fix(path)) from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"Cannot read {path}", cause=str(error), hint=remedy) from None
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInputError(f"{path} is not valid TOML", cause=str(error), hint=remedy) from None


def _parse_file(stored: Mapping[str, Any]) -> dict[str, Any]:
    remedy = "Remove it: llm hf settings {} --unset"
    return {
        key: _parse_stored_value(
            key, value, f"The value is in {settings_path()}.", remedy.format(shlex.quote(key[:60]))
        )
        for key, value in stored.items()
    }


def _read_environment() -> dict[str, Any]:
    names = {key: f"LLM_HF_{key.upper()}" for key in Settings.model_fields}
    return {
        key: _parse_stored_value(
            key, os.environ[name], f"The environment variable {name} sets it.", f"Change or unset {name}."
        )
        for key, name in names.items()
        if os.environ.get(name)
    }


def _parse_stored_value(key: str, value: object, where: str, remedy: str) -> Any:  # noqa: ANN401 - of any setting's type
    """Parse a stored value; an error names the place and how to remove the value.

    A settings.toml written by hand may contain `"5M"`, where `store` writes 5000000.
    """
    try:
        return parse_value(key, value) if isinstance(value, str) else _validate(key, value)
    except BadInputError as error:
        raise BadInputError(error.message, cause=where, hint=remedy) from None


def load() -> Settings:
    """Load the settings in force: defaults, then settings.toml, then the environment.

    Raises:
        BadInputError: A value in settings.toml or in a variable is invalid.
    """
    return Settings(**{**_parse_file(_read_file()), **_read_environment()})


def find_source(key: str) -> str:
    """Return the source of a setting's value: `environment`, `settings.toml` or `default`."""
    if os.environ.get(f"LLM_HF_{key.upper()}"):
        return "environment"
    return "settings.toml" if key in _read_file() else "default"


def store(key: str, value: object | None) -> None:
    """Write one setting to settings.toml atomically; None restores the default.

    Unknown keys in the file can be removed too, so that a broken file can be repaired with this command.

    Raises:
        BadInputError: The setting does not exist, or its value or another value in the file is invalid.
        NotWritableError: The file cannot be written.
    """
    stored = _read_file()
    if value is not None:
        stored[key] = _validate(key, value)
        _parse_file(stored)
    elif key in stored:
        del stored[key]
    else:
        check_key(key)
    _write(stored)


def _write(stored: Mapping[str, Any]) -> None:
    import tomli_w

    path = settings_path()
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(tomli_w.dumps(stored), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise NotWritableError(f"Cannot write {path}", cause=error.strerror, hint=suggest_folder_fix(path)) from None


def split_list(text: str) -> frozenset[str]:
    """Split a comma-separated setting into its members, in lower case."""
    return frozenset(part.lower() for part in re.split(r"[,\s]+", text) if part)
