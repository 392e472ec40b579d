"""The application: one method per verb. CLI, MCP and Python call only this."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_hf_models.fit import Fit, Machine
from llm_hf_models.gguf_header import ModelFacts
from llm_hf_models.hub import Account, HubFile, RepoSummary, SearchFilters
from llm_hf_models.library import Check, EngineRow, LocalFile, LocalModel, State
from llm_hf_models.quants import Variant
from llm_hf_models.transfer import Event, Progress
from llm_hf_models.validate import Finding


@dataclass(frozen=True)
class Freshness:
    """Where an answer came from: the Hub just now, or the metadata cache. `age` in seconds."""

    source: Literal["hub", "cache"]
    age: float = 0.0


@dataclass(frozen=True)
class SearchResult(RepoSummary):
    """A row of a search, with what this machine knows of it."""

    here: tuple[str, ...] = ()  # ids of local models of that repo
    fits: bool | None = None  # estimated from its parameters; None where the Hub doesn't say


@dataclass(frozen=True)
class SearchPage:
    """What a search found. `loosen` suggests what to drop when it found nothing."""

    results: tuple[SearchResult, ...]
    freshness: Freshness
    loosen: tuple[str, ...] = ()


@dataclass(frozen=True)
class VariantInfo(Variant):
    """A variant, weighed against this machine."""

    bits_per_weight: float | None = None
    fit: Fit | None = None
    chosen: bool = False  # a plain pull would take this one
    here: str | None = None  # id of the local model


@dataclass(frozen=True)
class ModelInfo(RepoSummary):
    """One repo in full."""

    revision: str | None = None
    commit: str = ""
    variants: tuple[VariantInfo, ...] = ()
    choice_reason: str | None = None
    facts: ModelFacts | None = None  # from the header of the chosen variant where it was read
    chat_template: bool | None = None
    base_models: tuple[str, ...] = ()
    library: str | None = None
    access: str | None = None  # how to get access to a gated repo
    scan: str | None = None  # the Hub's scanners, as reported
    files: tuple[HubFile, ...] = ()
    card: str | None = None
    freshness: Freshness = field(default_factory=lambda: Freshness("hub"))


@dataclass(frozen=True)
class PlannedFile(HubFile):
    """A file that a pull needs. Sizes in bytes."""

    here: bool = False  # whole and on this machine already
    partial: int = 0  # bytes of it on this machine from an interrupted pull


@dataclass(frozen=True)
class PullPlan:
    """What a pull would do. Nothing has been fetched but metadata and a header."""

    ref: str
    repo: str
    revision: str | None
    commit: str
    model_id: str | None  # None for single files and for a pull to a folder without a model
    quant: str | None
    reason: str  # why this variant
    files: tuple[PlannedFile, ...]
    total_bytes: int
    fetch_bytes: int
    folder: str  # where the files will stand
    to: str | None = None
    aliases: tuple[str, ...] = ()
    fit: Fit | None = None
    facts: ModelFacts | None = None
    findings: tuple[Finding, ...] = ()
    scan: str | None = None
    already_complete: bool = False  # registered and whole: a pull is instant


@dataclass(frozen=True)
class PullResult:
    """What a pull did."""

    plan: PullPlan
    download_id: int | None
    model: LocalModelView | None
    files: tuple[str, ...]  # absolute paths
    fetched_bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LocalModelView:
    """A local model as the faces show it."""

    model_id: str
    aliases: tuple[str, ...]
    state: State | Literal["remote"]
    repo: str | None
    revision: str | None
    commit: str | None
    quant: str
    size: int
    facts: ModelFacts
    files: tuple[LocalFile, ...]
    options: Mapping[str, Any]
    checks: tuple[Check, ...]
    added: float
    last_used: float | None
    endpoint: str | None = None
    fix: str | None = None  # the command that mends a state that is not ready


@dataclass(frozen=True)
class Removal:
    """What `rm` removes, or would. Bytes; `kept` are files that something else uses or that we did not record."""

    model_id: str
    files: tuple[str, ...]
    freed_bytes: int
    kept: tuple[str, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class Verification:
    """Re-hashed files of one model."""

    model_id: str
    matches: bool
    files: tuple[tuple[str, str], ...]  # (path, "matches" | "differs: …" | "missing" | "no digest recorded")


@dataclass(frozen=True)
class Imported:
    """A file that was already on the disk and is now a local model."""

    model: LocalModelView
    digest: str  # "matches owner/name@commit" | "not checked: …"


@dataclass(frozen=True)
class TokenStatus:
    """Whether there is a token, where it came from and whose it is. Never the token."""

    source: str | None
    account: Account | None
    problem: str | None = None  # why it could not be validated


@dataclass(frozen=True)
class Status:
    """This machine and this installation at a glance. Bytes."""

    machine: Machine
    disk_free: int
    disk_total: int
    cache_dir: str
    cache_bytes: int
    library: str
    models: int
    models_bytes: int
    engines: tuple[EngineRow, ...]
    endpoint: str
    offline: bool
    token: TokenStatus
    versions: Mapping[str, str]


@dataclass(frozen=True)
class SettingView:
    """One setting."""

    key: str
    value: Any
    default: Any
    source: str
    description: str


class Library:
    """What is on this machine, and the Hub it comes from. Every verb of the product, with typed results.

    Reads settings and the environment when a verb is called. Safe to use from several threads. A context manager;
    `close` ends nothing but its own connections.
    """

    def __init__(self, *, asked_by: str = "python") -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    # The Hub
    def search(
        self, query: str = "", filters: SearchFilters | None = None, *, fits: bool = False, refresh: bool = False
    ) -> SearchPage: ...
    def info(
        self, ref: str, *, revision: str | None = None, card: bool = False, refresh: bool = False
    ) -> ModelInfo: ...
    # Pulling
    def plan(
        self,
        ref: str,
        *,
        revision: str | None = None,
        mmproj: bool = True,
        to: Path | None = None,
        aliases: Sequence[str] = (),
        allow_unsafe: bool = False,
        allow_invalid: bool = False,
    ) -> PullPlan: ...
    def pull(
        self, plan: PullPlan | str, *, progress: Progress | None = None, stop: threading.Event | None = None
    ) -> PullResult: ...
    def download_file(
        self,
        repo: str,
        file: str,
        path: Path | str | None = None,
        *,
        revision: str | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> Path: ...
    # The library
    def list(self) -> tuple[LocalModelView, ...]: ...
    def show(self, name: str) -> LocalModelView: ...
    def path(self, name: str) -> tuple[str, ...]: ...
    def plan_removal(self, name: str) -> Removal: ...
    def remove(self, name: str) -> Removal: ...
    def verify(self, name: str, *, progress: Progress | None = None) -> Verification: ...
    def add_alias(self, name: str, alias: str) -> LocalModelView: ...
    def remove_alias(self, alias: str) -> None: ...
    def import_file(
        self,
        file: Path | str,
        *,
        repo: str | None = None,
        copy: bool = False,
        aliases: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Imported: ...
    # The account and the machine
    def login(self, token: str, *, ask_passphrase: Callable[[], str]) -> TokenStatus: ...
    def logout(self) -> list[str]: ...
    def whoami(self) -> TokenStatus: ...
    def status(self) -> Status: ...
    def settings(self) -> tuple[SettingView, ...]: ...
    def set_setting(self, key: str, value: str | None) -> SettingView: ...
    # Engines
    def engines(self) -> tuple[EngineRow, ...]: ...
    def stop_engines(self, name: str | None = None) -> int: ...
    # Serving
    def mirror(self, host: str, port: int, *, allow: Sequence[str] = ()) -> Any: ...


__all__ = ["Event", "Library"]
