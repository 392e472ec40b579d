"""Define the result types of the service's methods about models. Contains no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference.types import LoadResult
from llm_hf_models.library.file_states import ModelState
from llm_hf_models.library.records import (
    Check,
    EndpointHealth,
    LocalFile,
    ModelDefault,
    VersionState,
)
from llm_hf_models.models.signature_types import SignatureReport
from llm_hf_models.system.json_values import Result, UnixTime, json_name


@dataclass(frozen=True)
class ImportResult(Result):
    """The outcome of an import: the local model, and the result of comparing its digest with the Hub."""

    model: LocalModelView
    digest: str  # "matches owner/name@commit" | "not checked: …"
    refused_aliases: Mapping[str, str] = field(default_factory=dict)  # short names of other models, with the reasons


@dataclass(frozen=True)
class SamplingValue:
    """The value of a sampling option for a prompt that does not set it, and the values that it may have.

    None is no limit. `source` is a layer of `ModelDefault`, or "default" for the value that applies to all models.
    """

    key: str
    value: float | None
    source: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class VersionView:
    """Another version of a local model: one that was replaced (`kept` with its files, or `replaced`), or a new one.

    A new one has failed its load test or was cancelled (`refused`), or that test has not ended (`untested`).

    `on_disk` tells whether all its files are on this machine. `rollback` downloads them again otherwise.
    """

    commit: str | None
    state: VersionState
    size_bytes: int
    on_disk: bool
    replaced: UnixTime
    problem: str | None = None  # why it was refused


@dataclass(frozen=True)
class LocalModelView(Result):
    """A local model as the CLI and the MCP server show it."""

    id: str
    aliases: tuple[str, ...]
    state: ModelState | Literal["remote"]
    kind: str
    repo: str | None
    revision: str | None
    commit: str | None
    quant: str
    size_bytes: int
    facts: ModelFacts
    files: tuple[LocalFile, ...]
    options: Mapping[str, Any]
    checks: tuple[Check, ...]
    added: UnixTime
    last_used: UnixTime | None
    hub: Mapping[str, Any]
    endpoint: str | None = None
    endpoint_model: str | None = None  # the server's name for the model
    key_env: str | None = None  # the environment variable that contains the API key
    key_name: str | None = None  # or the name of the API key among llm's keys
    key_in_the_clear: bool = False  # True if the API key is sent over a network without TLS
    health: EndpointHealth | None = None  # of a remote model, if requested
    defaults: tuple[ModelDefault, ...] = ()  # empty in lists of models
    sampling: tuple[SamplingValue, ...] = ()  # empty in lists of models
    fix: str | None = None  # the command that repairs a model that is not ready
    left_out: tuple[str, ...] = ()  # projectors of other models beside its files, each with the reason
    pinned: bool = False  # `llm hf update` leaves it at its commit
    other_versions: tuple[VersionView, ...] = ()  # other versions, latest first; empty in lists of models
    collections: tuple[str, ...] = ()  # those that have it as a member; empty in results of changes
    # Only in a survey (Library.survey). None otherwise, or if it is unknown.
    update_available: bool | None = None  # whether the repo has other files now
    update_note: str | None = None  # why that is unknown
    freed_bytes: int | None = None  # by removing only this model


@dataclass(frozen=True)
class UpdateState:
    """Whether the repo of a local model has other files now. `available` is None if that is unknown."""

    available: bool | None
    note: str | None = None  # why it is unknown


@dataclass(frozen=True)
class LibrarySurvey:
    """Local models, compared with the Hub and with each other. Shared data counts once."""

    models: tuple[LocalModelView, ...]
    size_bytes: int  # on the disk
    freed_bytes: int  # by removing all of these models; files of the user are kept
    outdated: int  # models with an update
    unknown: int  # models that could not be compared with the Hub


@dataclass(frozen=True)
class LocalModelList:
    """The local models. The figures are those of a survey (`list --updates`), and None without one."""

    models: tuple[LocalModelView, ...]
    size_bytes: int | None = None  # on the disk; data that models share counts once
    freed_bytes: int | None = None  # by removing all of these models; files of the user are kept
    outdated: int | None = None  # models with an update
    unknown: int | None = None  # models that could not be compared with the Hub


@dataclass(frozen=True)
class Removal(Result):
    """The files that `rm` removes, or would remove.

    `kept` are files that another model uses, that the user imported in place, or that this user can't remove.
    `llm_default` is the command that chooses another default model of llm, if the removed one is llm's default.
    """

    id: str
    files: tuple[str, ...]
    freed_bytes: int
    kept: tuple[str, ...] = ()
    done: bool = False
    llm_default: str | None = None


@dataclass(frozen=True)
class Verification(Result):
    """The result of hashing the files of one model again.

    Each file's result is MATCHES or UNCHANGED (models/local/files.py), "differs: …", "missing", "not readable: …",
    "modified while it was read" or "no digest recorded".
    """

    id: str
    matches: bool  # every file has the Hub's digest at the pinned commit
    unchanged: bool  # every file has its recorded digest, whether or not it was ever compared with the Hub
    files: tuple[tuple[str, str], ...]  # (path, result)
    fix: str | None = None
    scan: Check | None = None  # the scan reports from the time of the pull
    signature: SignatureReport | None = None  # with the signers that are trusted now; None if the repo had none


@dataclass(frozen=True)
class Freshness:
    """The source of a response: the Hub just now, or the metadata cache."""

    source: Literal["hub", "cache"] = "hub"
    age: float = field(default=0.0, metadata=json_name("age_seconds"))
    stale: bool = False  # expired, and used because the Hub did not respond
    problem: str | None = None  # why the Hub did not respond


@dataclass(frozen=True)
class PromptResult(Result):
    """A model's response to a prompt. The engine counts the tokens. `notes` list adjustments made to run the model."""

    id: str  # of the model
    text: str
    reasoning: str
    finish_reason: str | None  # "stop", "length" if it was cut at max_tokens, "loop" if it repeated the same text
    input_tokens: int | None
    output_tokens: int | None
    tokens_per_second: float | None
    load_seconds: float | None  # None if the model was already loaded
    context: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadTestReport(Result):
    """The result of a load test, which loads a model and generates a few tokens."""

    source: str
    result: LoadResult
    recorded: bool  # True for a local model; the test of a plain file is not recorded
    ran: bool = True  # False if the header can't be read, so that nothing was loaded
    doubt: str | None = None  # why the tested files differ, or may differ, from the recorded ones

    @property
    def passed(self) -> bool:
        """Whether the model loads and its files are the recorded ones."""
        return self.result.passed and self.doubt is None
