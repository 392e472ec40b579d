"""Load and store the settings, and find the Hugging Face cache and endpoint. Nothing is read at import."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llm_hf_models.errors import BadInputError, NotWritableError
from llm_hf_models.paths import data_dir, expand_home, suggest_folder_fix
from llm_hf_models.system.text import clean_text, strip_credentials, suggest_word
from llm_hf_models.system.units import Unit, parse_duration, parse_rate, parse_size, parse_tokens

DEFAULT_ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "on", "yes", "true"}
# Agents need a person's consent for these actions. `interrupt` stops or discards work that a person started, and
# `endpoint` prompts a model on another server, usually with a person's API key. `alias` takes a name from a model.
Action = Literal["delete", "large", "token", "unverified", "interrupt", "endpoint", "alias"]
ACTIONS: tuple[Action, ...] = get_args(Action)


def settings_path() -> Path:
    """Return the path of the file that `llm hf settings KEY VALUE` writes."""
    return data_dir() / "settings.toml"


def hf_home() -> Path:
    """Return HF_HOME, or `huggingface` in the XDG cache, like huggingface_hub/constants.py."""
    if (path := os.environ.get("HF_HOME")) is not None:
        return _expand(path)
    return _expand(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"


def cache_dir() -> Path:
    """Return the Hugging Face cache, which holds the weights: HF_HUB_CACHE, or `hub` in the Hugging Face home."""
    path = os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE"))
    return hf_home() / "hub" if path is None else _expand(path)


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(expand_home(path)))


def endpoint() -> str:
    """Return the Hub's URL without a trailing slash: HF_ENDPOINT, or https://huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def get_display_endpoint() -> str:
    """Return the Hub's URL without user and password, for display."""
    return strip_credentials(endpoint())


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids using the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.lower() in _TRUE


class Settings(BaseModel):
    """All settings with defaults and descriptions. Environment variables `LLM_HF_<NAME>` override settings.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    connections: int = Field(
        8,
        ge=1,
        le=64,
        description="Maximum number of connections for all downloads together; foreground downloads come first.",
    )
    limit_rate: int = Field(
        0, ge=0, description="Maximum bytes per second for all downloads together; 0 means no limit."
    )
    transport: Literal["http", "xet"] = Field(
        "http",
        description="Download method: `http`, or `xet`, which passes files to huggingface_hub and does not support"
        " limit_rate or resuming. Digests are checked with both.",
    )
    connect_seconds: float = Field(10, gt=0, description="Time limit for opening a connection, in seconds.")
    metadata_seconds: float = Field(20, gt=0, description="Time limit for one request to the Hub's API, in seconds.")
    header_seconds: float = Field(
        60, gt=0, description="Time limit for reading a model's header from the Hub or from disk, in seconds."
    )
    stall_seconds: float = Field(
        30, gt=0, description="Close a download connection that receives nothing for this many seconds."
    )
    network_wait_seconds: float = Field(
        # Later retries are a minute apart, so the last ones come well after an outage of ten minutes.
        900,
        ge=0,
        description="Pause a download after the network has been lost for this many seconds.",
    )
    retry_seconds: float = Field(
        1, gt=0, description="Seconds before the first retry; each retry doubles them, up to a minute."
    )
    unlock_seconds: float = Field(
        28_800,
        ge=0,
        description="Seconds for which an encrypted token stays unlocked after its passphrase was entered; 0 asks in"
        " each command.",
    )
    metadata_lifetime_seconds: float = Field(
        300, ge=0, description="Seconds for which search and info use cached responses of the Hub."
    )
    disk_reserve_bytes: int = Field(1_000_000_000, ge=0, description="Bytes of disk space that downloads leave free.")
    memory_reserve_bytes: int = Field(
        1_000_000_000, ge=0, description="Bytes of memory to leave free when choosing a model that fits."
    )
    concurrent_downloads: int = Field(
        2,
        ge=1,
        le=16,
        description="Maximum number of simultaneous downloads in the background; foreground downloads start at once.",
    )
    heartbeat_seconds: float = Field(
        2,
        gt=0,
        description="Heartbeat interval of a download, in seconds; after four missed heartbeats, or when its process"
        " has exited, another process takes over.",
    )
    orphan_seconds: float = Field(
        86_400, ge=0, description="Age in seconds at which `gc` removes partial files without a download."
    )
    history_seconds: float = Field(
        2_592_000,
        ge=0,
        description="Age in seconds at which `gc` removes finished downloads and cached responses of the Hub.",
    )
    keep_old_versions: bool = Field(
        False, description="`llm hf update` and `llm hf rollback` keep the files of the version that they replace."
    )
    keep_alive: float = Field(
        300, ge=-1, description="Seconds before an idle engine stops; 0 stops it at once, -1 never stops it."
    )
    engine: Literal["auto", "xllamacpp", "llama-server"] = Field(
        "auto", description="The llama.cpp program to use; `auto` prefers one with a usable GPU."
    )
    engine_start_seconds: float = Field(120, gt=0, description="Time limit for loading a model, in seconds.")
    context: int = Field(
        8192,
        ge=0,
        description="Context length in tokens, limited to the model's maximum; 0 means that maximum.",
    )
    threads: int = Field(
        0, ge=0, description="Threads per engine; 0 means all physical cores, minus one if there are more than two."
    )
    gpu_layers: int = Field(-1, ge=-1, description="Layers to load on a GPU, if there is one; -1 means all of them.")
    sandbox: Literal["on", "off", "required"] = Field(
        "on",
        description="Confine the engine and the load test with every layer that works on this machine; `required`"
        " refuses to run a model if a layer is inactive.",
    )
    max_download_bytes: int = Field(0, ge=0, description="Refuse a pull larger than this, in bytes; 0 means no limit.")
    ask_above_bytes: int = Field(
        10_000_000_000,
        ge=0,
        description="Ask before `llm hf pull` downloads more than this, in bytes, or a model that does not fit this"
        " machine's memory; 0 asks only for those.",
    )
    allowed_owners: str = Field("", description="Pull only from these owners (comma-separated); empty allows all.")
    allowed_licenses: str = Field("", description="Pull only these licences (comma-separated); empty allows all.")
    require_signature: Literal["off", "if-present", "owners"] = Field(
        "off",
        description="Refuse a pull if the repo's signature is not proven (`if-present`), or also if an owner with"
        " signers in `llm hf trust` has no signature by one of them that lists all files (`owners`).",
    )
    agent_read_only: bool = Field(False, description="Agents (the MCP server) may view models but change nothing.")
    agent_allow_delete: bool = Field(False, description="Agents may delete models, each time with a person's consent.")
    agent_ask_above_bytes: int = Field(
        5_000_000_000,
        ge=0,
        description="Require a person's consent for an agent's pull larger than this, in bytes; 0 means never.",
    )
    agent_max_total_bytes: int = Field(
        0,
        ge=0,
        description="Refuse an agent's pull that would make the library larger than this, in bytes; 0 means no limit.",
    )
    agent_max_prompt_tokens: int = Field(
        1024, ge=0, description="Maximum number of tokens in a response to an agent's prompt; 0 means no limit."
    )
    agent_yes_to: str = Field(
        "", description=f"Actions that agents may take without consent: any of {', '.join(ACTIONS)}."
    )

    @field_validator("agent_yes_to")
    @classmethod
    def _check_actions(cls, text: str) -> str:
        if unknown := split_list(text) - set(ACTIONS):
            action = clean_text(min(unknown), 40)
            hint = f"{suggest_word(action, ACTIONS)}Use any of {', '.join(ACTIONS)}."
            raise BadInputError(f"Setting 'agent_yes_to': there is no action {action!r}", hint=hint)
        return text


_RENAMED = {"disk_reserve": "disk_reserve_bytes", "memory_reserve": "memory_reserve_bytes"}  # the old names still work

_LISTS = {
    "allowed_owners": "names of users or organisations",
    "allowed_licenses": "licences such as apache-2.0",
    "agent_yes_to": f"any of {', '.join(ACTIONS)}",
}


# A setting that is also a flag of `pull` or an option of a model has its name. Other names end in their unit.


def _is_duration(key: str) -> bool:
    return key.endswith("_seconds") or key == "keep_alive"


def _is_size(key: str) -> bool:
    return key.endswith("_bytes")


def _is_token_count(key: str) -> bool:
    return key.endswith("_tokens") or key == "context"


def get_current_name(key: str) -> str:
    """Return the current name of a setting that was renamed; any other name unchanged."""
    return _RENAMED.get(key, key)


def _list_names(key: str) -> list[str]:
    """Return the current name of a setting and its old ones."""
    return [key, *(old for old, current in _RENAMED.items() if current == key)]


def _list_variables(key: str) -> list[str]:
    """Return the environment variables of a setting, the one that takes precedence first."""
    return [f"LLM_HF_{name.upper()}" for name in _list_names(key)]


def parse_value(key: str, text: str) -> Any:  # noqa: ANN401 - of any setting's type
    """Parse a setting's value as a person writes it: `5M` for sizes, `16k` for tokens, `5m` for durations, on/off.

    Raises:
        BadInputError: the setting does not exist or does not accept the value.
    """
    key = get_current_name(key)
    value: object = text
    if _is_size(key):
        value = parse_size(text)
    elif key == "limit_rate":
        value = parse_rate(text)
    elif _is_duration(key) and not text.startswith("-"):
        value = parse_duration(text)
    elif _is_token_count(key) and not text.startswith("-"):
        value = parse_tokens(text)
    return _validate(key, value)


def get_unit(key: str) -> Unit | None:
    """Return the unit of a setting's value, None if it has none."""
    if _is_size(key):
        return "bytes"
    if key == "limit_rate":
        return "bytes per second"
    return "seconds" if _is_duration(key) else None


def describe_accepted_values(key: str) -> str:
    """Describe the values that one setting accepts: its choices, unit and bounds."""
    field = Settings.model_fields[key]
    if choices := get_args(field.annotation):
        return ", ".join(choices)
    if field.annotation is bool:
        return "on, off"
    if key in _LISTS:
        return f"{_LISTS[key]}, comma-separated"
    bounds = {
        name: getattr(bound, name) for bound in field.metadata for name in ("gt", "ge", "le") if hasattr(bound, name)
    }
    lower = f"from {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}"
    upper = f" to {bounds['le']}" if "le" in bounds else ""
    kind = "a size such as 5M or 2GiB" if _is_size(key) else "a whole number"
    kind = "a number of tokens such as 8192 or 16k (16384)" if _is_token_count(key) else kind
    kind = "a rate such as 5M or 1.5MB/s" if key == "limit_rate" else kind
    kind = "a time such as 30s or 5m" if _is_duration(key) else kind
    return f"{kind}, {lower}{upper}"


def check_key(key: str) -> None:
    """Check that a setting exists.

    Raises:
        BadInputError: the setting does not exist.
    """
    if get_current_name(key) not in Settings.model_fields:
        hint = suggest_word(key, Settings.model_fields) + "Run `llm hf settings` to list all settings."
        raise BadInputError(f"There is no setting {key[:60]!r}", hint=hint)


def _validate(key: str, value: object) -> Any:  # noqa: ANN401 - of any setting's type
    check_key(key)
    key = get_current_name(key)
    try:
        return getattr(Settings.model_validate({key: value}), key)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        hint = f"Run `llm hf settings {key}` to see the values that it accepts."
        raise BadInputError(f"Setting {key!r}: {reason}", hint=hint) from None


def _read_file() -> dict[str, Any]:
    """Read settings.toml without validating it."""
    path = settings_path()
    remedy = "Fix the file, or move it away: " + shlex.join(["mv", str(path), f"{path}.broken"])
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInputError(f"Can't read {path}", cause=error.strerror, hint=suggest_folder_fix(path)) from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"Can't read {path}", cause=str(error), hint=remedy) from None
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInputError(f"{path} is not valid TOML", cause=str(error), hint=remedy) from None


def _parse_file(stored: Mapping[str, Any]) -> dict[str, Any]:
    remedy = "Remove it with: llm hf settings {} --unset"
    return {
        get_current_name(key): _parse_stored_value(
            key, value, f"It is set in {settings_path()}.", remedy.format(shlex.quote(key[:60]))
        )
        for key, value in sorted(stored.items(), key=lambda item: item[0] not in _RENAMED)  # current names come last
    }


def _read_environment() -> dict[str, Any]:
    names = {key: next(filter(os.environ.get, _list_variables(key)), None) for key in Settings.model_fields}
    return {
        key: _parse_stored_value(
            key, os.environ[name], f"It is set by the environment variable {name}.", f"Change or unset {name}."
        )
        for key, name in names.items()
        if name
    }


def _parse_stored_value(key: str, value: object, where: str, remedy: str) -> Any:  # noqa: ANN401 - of any setting's type
    """Parse a value from settings.toml or the environment. An error names the place of the value and how to remove it.

    If a person wrote settings.toml, it may have `"5M"`, while `store` writes 5000000.
    """
    try:
        return parse_value(key, value) if isinstance(value, str) else _validate(key, value)
    except BadInputError as error:
        raise BadInputError(error.message, cause=where, hint=remedy) from None


def load() -> Settings:
    """Load the current settings: the defaults, overridden by settings.toml, overridden by the environment.

    Raises:
        BadInputError: settings.toml or an environment variable has a value that its setting does not accept.
    """
    return Settings(**{**_parse_file(_read_file()), **_read_environment()})


def find_source(key: str) -> str:
    """Return the source of a setting's value: `environment`, `settings.toml` or `default`."""
    if any(map(os.environ.get, _list_variables(key))):
        return "environment"
    return "settings.toml" if not _read_file().keys().isdisjoint(_list_names(key)) else "default"


def store(key: str, value: object | None) -> None:
    """Write one setting to settings.toml atomically; None restores the default.

    Any key can be removed, even an invalid one, so that a broken file can be repaired key by key.

    Raises:
        BadInputError: the setting does not exist, it does not accept the value, or settings.toml is invalid.
        NotWritableError: settings.toml can't be written.
    """
    key = get_current_name(key)
    stored = _read_file()
    if value is None and not any(name in stored for name in _list_names(key)):
        check_key(key)
    for name in _list_names(key):
        stored.pop(name, None)
    if value is not None:
        stored[key] = _validate(key, value)
        _parse_file(stored)
    _write(stored)


def _write(stored: Mapping[str, Any]) -> None:
    import tomli_w

    from llm_hf_models.system.private_files import write_private_file  # imported late: llm's hooks load this module

    path = settings_path()
    try:
        write_private_file(path, tomli_w.dumps(stored).encode())
    except OSError as error:
        raise NotWritableError(f"Can't write {path}", cause=error.strerror, hint=suggest_folder_fix(path)) from None


def split_list(text: str) -> frozenset[str]:
    """Return the items of a comma-separated setting in lower case."""
    return frozenset(part.lower() for part in re.split(r"[,\s]+", text) if part)
