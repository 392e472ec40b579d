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
    """Whether there is a token, where it came from and whose it is. Never the token."""

    source: str | None
    account: Account | None
    problem: str | None = None  # why there is none, or why it could not be validated


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
    missing: Mapping[str, str]  # layers that don't hold, each with the reason


@dataclass(frozen=True)
class Status:
    """This machine and this installation at a glance. Bytes."""

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
    problem: str | None = None  # why the library can't be read, where it can't


@dataclass(frozen=True)
class SettingView:
    """One setting."""

    key: str
    value: Any
    default: Any
    source: str
    description: str
    accepts: str = ""  # what it can be, in words


@dataclass(frozen=True)
class Cleanup:
    """What `gc` removes, or has removed."""

    files: tuple[Leftover, ...]
    download_records: int  # of downloads that have long been over
    cached_responses: int  # of the Hub, kept for so long that nobody asks for them
    freed_bytes: int
    done: bool = False


@dataclass(frozen=True)
class ConsentRequest:
    """What a person is asked before an agent does it."""

    action: Action
    target: str  # the exact name that confirms it in words
    text: str
