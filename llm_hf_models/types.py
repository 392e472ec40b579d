"""Define the result types of account, status, policy and cleanup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.downloads.types import DownloadView, Leftover
from llm_hf_models.hub.types import Account
from llm_hf_models.settings import Action
from llm_hf_models.system.json_values import Result, UnixTime
from llm_hf_models.system.machine import MachineMemory
from llm_hf_models.system.units import Unit

# How consent to an agent's change was given: a person agreed in a form of the host, or the agent confirmed the change
# with its exact name, because the host can show no form. Whether a person agreed to the latter is not known.
Consent = Literal["person", "words"]


@dataclass(frozen=True)
class TokenStatus(Result):
    """The source and owner of the token in use. The token itself is not included."""

    source: str | None
    account: Account | None
    problem: str | None = None  # why there is no token, or why it could not be validated


@dataclass(frozen=True)
class EngineView(Result):
    """A running engine, without its API key."""

    id: str  # of the model
    pid: int
    address: str
    context: int
    started: UnixTime
    last_used: UnixTime
    keep_alive_seconds: float
    memory_bytes: int
    tokens_per_second: float | None
    layers: tuple[str, ...]
    missing: Mapping[str, str]  # inactive confinement layers, each with the reason


@dataclass(frozen=True)
class EngineList:
    """The running engines, most recently used first."""

    engines: tuple[EngineView, ...]


@dataclass(frozen=True)
class SandboxStatus:
    """The sandbox of the engines that start from now on."""

    mode: str | None  # the setting `sandbox`; None if the settings can't be read
    layers: tuple[str, ...] | None = None  # active confinement layers; None until the first engine tests them
    missing: Mapping[str, str] = field(default_factory=dict)  # inactive confinement layers, each with the reason
    problem: str | None = None  # why engines can't start


@dataclass(frozen=True)
class Status(Result):
    """An overview of this machine and this installation."""

    machine: MachineMemory
    disk_free_bytes: int
    disk_total_bytes: int
    cache_dir: str
    cache_bytes: int
    library: str
    models: int
    models_bytes: int
    engines: tuple[EngineView, ...]
    sandbox: SandboxStatus
    endpoint: str
    offline: bool
    token: TokenStatus
    versions: Mapping[str, str | None]
    problem: str | None = None  # why the library can't be read; None if it can


@dataclass(frozen=True)
class SettingView(Result):
    """One setting with its value, default and description."""

    key: str
    value: Any
    default: Any
    source: str
    description: str
    accepts: str = ""  # a description of the accepted values
    unit: Unit | None = None
    file: str = ""  # the settings.toml that stores changed values


@dataclass(frozen=True)
class SettingList:
    """Every setting."""

    settings: tuple[SettingView, ...]


@dataclass(frozen=True)
class Cleanup(Result):
    """The files and records that `gc` removes or has removed."""

    files: tuple[Leftover, ...]
    download_records: int  # old records of finished downloads
    cached_responses: int  # old responses of the Hub
    freed_bytes: int
    done: bool = False


StoredKind = Literal["model", "data", "partial", "ref", "token"]


@dataclass(frozen=True)
class StoredItem(Result):
    """A file or folder that this package has stored."""

    kind: StoredKind
    path: str  # "keychain" for a token that is stored there
    size_bytes: int  # on the disk
    description: str  # the model's id, or the purpose


@dataclass(frozen=True)
class StoredItemList:
    """Everything that this package has stored on this machine."""

    files: tuple[StoredItem, ...]


@dataclass(frozen=True)
class Uninstallation(Result):
    """The files that `uninstall` removes or has removed."""

    files: tuple[StoredItem, ...]
    kept: tuple[StoredItem, ...]
    freed_bytes: int
    done: bool = False


DownloadVerb = Literal["pause", "resume", "cancel", "retry"]


@dataclass(frozen=True)
class DownloadChange:
    """A change of a download. `plan` is None if this version can't read it."""

    verb: DownloadVerb
    download: DownloadView
    plan: PullPlan | None


@dataclass(frozen=True)
class DownloadClearance:
    """The finished downloads whose records `clear_downloads` would remove."""

    downloads: tuple[DownloadView, ...]


@dataclass(frozen=True)
class EngineStop:
    """The engines that `stop_engines` would stop."""

    engines: tuple[EngineView, ...]


@dataclass(frozen=True)
class AliasChange:
    """A change of aliases. `owners` has the model's id for each removed alias that names one."""

    name: str | None  # the model that gets the added aliases
    add: tuple[str, ...]
    remove: tuple[str, ...]
    owners: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ConsentRequest:
    """A request that a person must agree to before an agent may act."""

    action: Action
    target: str  # the exact name that confirms the action
    text: str
