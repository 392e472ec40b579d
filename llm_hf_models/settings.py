"""Where things are and what the person decided: paths, endpoint, limits, policy. Read when called, never at import."""

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
Action = Literal["delete", "large", "token", "unverified"]  # what a person is asked before an agent does it
ACTIONS: tuple[Action, ...] = ("delete", "large", "token", "unverified")


def settings_path() -> Path:
    """The file that `llm hf settings KEY VALUE` writes."""
    return data_dir() / "settings.toml"


def hf_home() -> Path:
    """The Hugging Face home: HF_HOME, or `huggingface` in the XDG cache, as huggingface_hub/constants.py has it."""
    if (path := os.environ.get("HF_HOME")) is not None:
        return _expand(path)
    return _expand(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"


def cache_dir() -> Path:
    """The Hugging Face cache, where weights live: HF_HUB_CACHE, or `hub` in the Hugging Face home."""
    path = os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE"))
    return hf_home() / "hub" if path is None else _expand(path)


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(expand_home(path)))


def endpoint() -> str:
    """The Hub's address without a trailing slash: HF_ENDPOINT, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def get_display_endpoint() -> str:
    """The same as it may be shown: without a password."""
    return strip_user(endpoint())


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE asks for no network at all."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.lower() in _TRUE


class Settings(BaseModel):
    """Every setting, its default and what it does. Environment variables `LLM_HF_<NAME>` override the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    connections: int = Field(
        8,
        ge=1,
        le=64,
        description="Connections that all downloads together may open at most; those in the foreground come first.",
    )
    limit_rate: int = Field(0, ge=0, description="Bytes per second for all downloads together; 0 is no limit.")
    transport: Literal["http", "xet"] = Field(
        "http",
        description="Who moves the bytes: `http` is our own transfer, `xet` hands files to huggingface_hub, which knows"
        " no limit_rate and starts over after an interruption. Digests are checked either way.",
    )
    connect_seconds: float = Field(10, gt=0, description="How long a connection may take to be made.")
    metadata_seconds: float = Field(20, gt=0, description="How long the Hub may take to answer a question.")
    header_seconds: float = Field(
        60, gt=0, description="How long reading a model's header may take, from the Hub or from a disk."
    )
    stall_seconds: float = Field(30, gt=0, description="A download connection without a byte for this long is cut.")
    network_wait_seconds: float = Field(
        # Tries are a minute apart in the end: an outage of ten minutes is past by the last ones.
        900,
        ge=0,
        description="How long a download waits for a network that has gone away before it pauses.",
    )
    retry_seconds: float = Field(1, gt=0, description="First pause before a retry; it doubles up to a minute.")
    metadata_lifetime_seconds: float = Field(
        300, ge=0, description="For how long search and info are answered from the metadata cache."
    )
    disk_reserve: int = Field(1_000_000_000, ge=0, description="Bytes that a download leaves free on the disk.")
    memory_reserve: int = Field(
        1_000_000_000, ge=0, description="Bytes of memory left to everything else when choosing what fits."
    )
    concurrent_downloads: int = Field(
        2,
        ge=1,
        le=16,
        description="A download in the background waits while so many run; one in the foreground begins at once.",
    )
    heartbeat_seconds: float = Field(
        2,
        gt=0,
        description="How often a download says that it lives; after four missed signs, or when its process is gone,"
        " another takes it over.",
    )
    orphan_seconds: float = Field(
        86_400, ge=0, description="For how long `gc` leaves partial files that no download here names."
    )
    history_seconds: float = Field(
        2_592_000, ge=0, description="For how long `gc` leaves downloads that are over, and answers of the Hub."
    )
    keep_alive: float = Field(
        300, ge=-1, description="Seconds that an idle engine stays warm; 0 stops it at once, -1 keeps it."
    )
    engine: Literal["auto", "xllamacpp", "llama-server"] = Field(
        "auto", description="Which llama.cpp answers; `auto` prefers whichever has a usable GPU."
    )
    engine_start_seconds: float = Field(120, gt=0, description="How long an engine may take to load a model.")
    context: int = Field(
        8192,
        ge=0,
        description="Context length in tokens to load with, or the model's own if smaller; 0 is the model's.",
    )
    threads: int = Field(0, ge=0, description="Threads per engine; 0 chooses from the physical cores.")
    gpu_layers: int = Field(-1, ge=-1, description="Layers to put on a GPU where there is one; -1 is all of them.")
    sandbox: bool = Field(True, description="Confine the engine and the load test as far as the system allows.")
    max_download_bytes: int = Field(0, ge=0, description="Refuse a pull larger than this; 0 is no limit.")
    allowed_owners: str = Field("", description="Pull only from these owners (comma-separated); empty allows all.")
    allowed_licenses: str = Field("", description="Pull only these licences (comma-separated); empty allows all.")
    agent_read_only: bool = Field(False, description="Agents (the MCP server) may look at models, and change nothing.")
    agent_allow_delete: bool = Field(False, description="Agents may delete models, each time with a person's consent.")
    agent_ask_above_bytes: int = Field(
        5_000_000_000, ge=0, description="Ask a person before an agent's pull larger than this; 0 never asks."
    )
    agent_max_total_bytes: int = Field(
        0, ge=0, description="Refuse an agent's pull that would make the library larger than this; 0 is no limit."
    )
    agent_max_prompt_tokens: int = Field(
        1024, ge=0, description="Tokens that an answer to an agent's prompt may have; 0 is no limit."
    )
    agent_yes_to: str = Field(
        "", description="What agents may do without asking a person: any of delete, large, token, unverified."
    )

    @field_validator("agent_yes_to")
    @classmethod
    def _check_actions(cls, text: str) -> str:
        if unknown := split_list(text) - set(ACTIONS):
            word = clean_text(min(unknown), 40)
            hint = f"{suggest_word(word, ACTIONS)}It takes any of {', '.join(ACTIONS)}."
            raise BadInputError(f"Setting 'agent_yes_to': there is no {word!r}", hint=hint)
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
    """One setting from the words of a person: `5M` for sizes, `5m` for durations, on/off for switches.

    Raises:
        BadInputError: no such setting, or a value that it does not take.
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
    """What one setting can be, in words: its choices, its unit, its bounds."""
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
    """Checks that there is such a setting.

    Raises:
        BadInputError: there is none.
    """
    if key not in Settings.model_fields:
        hint = suggest_word(key, Settings.model_fields) + "`llm hf settings` lists them."
        raise BadInputError(f"There is no setting {key[:60]!r}", hint=hint)


def _validate(key: str, value: object) -> Any:  # noqa: ANN401 - of any setting's type
    check_key(key)
    try:
        return getattr(Settings.model_validate({key: value}), key)
    except ValidationError as error:
        said = error.errors()[0]["msg"].lower()
        hint = f"See `llm hf settings {key}` for what it takes."
        raise BadInputError(f"Setting {key!r}: {said}", hint=hint) from None


def _read_file() -> dict[str, Any]:
    """What settings.toml holds, not judged."""
    path = settings_path()
    remedy = "Mend it, or begin anew: " + shlex.join(["mv", str(path), f"{path}.broken"])
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
    remedy = "To be rid of it: llm hf settings {} --unset"
    return {
        key: _parse_stored_value(key, value, f"It stands in {settings_path()}.", remedy.format(shlex.quote(key[:60])))
        for key, value in stored.items()
    }


def _read_environment() -> dict[str, Any]:
    names = {key: f"LLM_HF_{key.upper()}" for key in Settings.model_fields}
    return {
        key: _parse_stored_value(
            key, os.environ[name], f"{name} in the environment says so.", f"Change or unset {name}."
        )
        for key, name in names.items()
        if os.environ.get(name)
    }


def _parse_stored_value(key: str, value: object, where: str, remedy: str) -> Any:  # noqa: ANN401 - of any setting's type
    """What a person left somewhere; if it is wrong, they are told where that was and how to be rid of it.

    Written by hand, settings.toml may hold `"5M"` where our own hand writes 5000000.
    """
    try:
        return parse_value(key, value) if isinstance(value, str) else _validate(key, value)
    except BadInputError as error:
        raise BadInputError(error.message, cause=where, hint=remedy) from None


def load() -> Settings:
    """The settings in force now: defaults, then settings.toml, then the environment.

    Raises:
        BadInputError: settings.toml or a variable holds what a setting does not take.
    """
    return Settings(**{**_parse_file(_read_file()), **_read_environment()})


def find_source(key: str) -> str:
    """Where a setting's value comes from: `environment`, `settings.toml` or `default`."""
    if os.environ.get(f"LLM_HF_{key.upper()}"):
        return "environment"
    return "settings.toml" if key in _read_file() else "default"


def store(key: str, value: object | None) -> None:
    """Writes one setting to settings.toml, whole or not at all; None goes back to the default.

    Whatever stands there can be taken out: what is wrong with the file must not keep anybody from mending it.

    Raises:
        BadInputError: no such setting, a value that it does not take, or the file holds such a one.
        NotWritableError: the file can't be written.
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
        raise NotWritableError(f"Can't write {path}", cause=error.strerror, hint=suggest_folder_fix(path)) from None


def split_list(text: str) -> frozenset[str]:
    """The members of a comma-separated setting, lower-cased."""
    return frozenset(part.lower() for part in re.split(r"[,\s]+", text) if part)
