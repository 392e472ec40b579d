"""Define the models that other programs have on this machine, and the results of importing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_hf_models.models.types import ImportResult
from llm_hf_models.system.json_values import Result

FolderState = Literal["read", "missing", "not readable"]


@dataclass(frozen=True)
class StoreFolder:
    """A folder in which a tool keeps its models."""

    path: str
    state: FolderState
    problem: str | None = None  # why it, or a part of it, can't be read


@dataclass(frozen=True)
class FoundModel(Result):
    """A model in the store of another tool. It is used where it is, and never modified."""

    tool: str
    name: str  # the tool's name for it, such as llama3.2:3b
    files: tuple[str, ...] = ()  # the weights: one file, or the first shard of a split model
    projector: str | None = None
    stem: str | None = None  # the name for the model's id, if its files have names that say nothing
    repo: str | None = None  # the repo on the Hub that the tool downloaded it from, if it has recorded that
    sha256: str | None = None  # the digest of the weights that the tool has recorded
    license: str | None = None  # the first line of the licence that the tool has stored
    aliases: tuple[str, ...] = ()  # proposed names
    options: Mapping[str, Any] = field(default_factory=dict)  # the tool's parameters as options of `llm hf set`
    notes: tuple[str, ...] = ()  # settings of the tool that can't be used here
    has_foreign_template: bool = False  # the tool has a template in a language that the engine does not have
    may_find_projector: bool = False  # a projector in the same folder may belong to it
    # From the files themselves:
    size_bytes: int = 0
    kind: str | None = None
    quant: str | None = None
    identical_to: str | None = None  # a local model, or an earlier model of the list, with the same files
    problem: str | None = None  # why it can't be imported


@dataclass(frozen=True)
class ToolModels(Result):
    """The models of one tool, and the folders that were searched for them."""

    tool: str
    folders: tuple[StoreFolder, ...]
    models: tuple[FoundModel, ...]


@dataclass(frozen=True)
class ToolImportPlan(Result):
    """The models that an import from a tool registers, and those that it leaves out."""

    tool: str
    folders: tuple[StoreFolder, ...]
    models: tuple[FoundModel, ...]
    left_out: tuple[FoundModel, ...]  # each has a problem, or is identical to another model


@dataclass(frozen=True)
class ImportedModel(Result):
    """A registered model of another tool, or of a Modelfile."""

    name: str  # the tool's name for it
    result: ImportResult
    notes: tuple[str, ...] = ()  # settings that could not be taken over, with the reasons


@dataclass(frozen=True)
class ToolImport(Result):
    """The outcome of an import from a tool."""

    tool: str
    folders: tuple[StoreFolder, ...]
    imported: tuple[ImportedModel, ...]
    left_out: tuple[FoundModel, ...]
    failed: Mapping[str, str] = field(default_factory=dict)  # models that could not be registered, with the reasons


@dataclass(frozen=True)
class ModelfilePlan(Result):
    """The model that importing a Modelfile registers."""

    base: str  # the model after FROM
    model: FoundModel
