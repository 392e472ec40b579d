"""Result types of the account, the status, the policy and the clean-up. Holds no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_hf_models.downloads.types import Leftover
from llm_hf_models.hub.types import Account
from llm_hf_models.settings import Action
from llm_hf_models.system.machine import MachineMemory


@dataclass(frozen=True)
class TokenStatus:
    """The source and the owner of the token in use. Never contains the token."""

    source: str | None
    account: Account | None
    problem: str | None = None  # the reason why there is no token, or why it could not be validated


@dataclass(frozen=True)
class EngineView:
    """A running engine, without its key. Times in Unix seconds, memory in bytes."""

    model_id: str
    pid: int
    address: str
    context: int
    started: float
    last_used: float
    keep_alive: float
    memory: int
    tokens_per_second: float | None
    layers: tuple[str, ...]
    missing: Mapping[str, str]  # inactive confinement layers, each with the reason


@dataclass(frozen=True)
class Status:
    """An overview of this machine and this installation. Sizes in bytes."""

    machine: MachineMemory
    disk_free: int
    disk_total: int
    cache_dir: str
    cache_bytes: int
    library: str
    models: int
    models_bytes: int
    engines: tuple[EngineView, ...]
    endpoint: str
    offline: bool
    token: TokenStatus
    versions: Mapping[str, str | None]
    problem: str | None = None  # the reason why the library cannot be read, if so


@dataclass(frozen=True)
class SettingView:
    """One setting with its value and its description."""

    key: str
    value: Any
    default: Any
    source: str
    description: str
    accepts: str = ""  # the accepted values, as text


@dataclass(frozen=True)
class Cleanup:
    """The leftovers that `gc` removes, or has removed."""

    files: tuple[Leftover, ...]
    download_records: int  # number of old records of finished downloads
    cached_responses: int  # number of old cached responses of the Hub
    freed_bytes: int
    done: bool = False


@dataclass(frozen=True)
class ConsentRequest:
    """A question that a person answers before an agent acts."""

    action: Action
    target: str  # the exact name that confirms the action in text
    text: str
