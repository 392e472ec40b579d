"""Define the result types of the service's methods about collections. Contains no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_hf_models.system.json_values import Result, UnixTime


@dataclass(frozen=True)
class CollectionMember(Result):
    """A model in a collection, or in a collection that it contains."""

    ref: str  # the model ref that `llm hf pull` takes; with `hf://` if a collection or a role has the same name
    id: str | None  # of the local model; None if it is not on this machine
    role: str | None = None  # its name in the collection, such as `best` in `coding/best`
    note: str = ""
    collection: str = ""  # the collection that has this member
    fix: str | None = None  # the command that gets a model that is not on this machine
    clash: str | None = None  # why `collection/role` means another model

    @property
    def is_on_hub(self) -> bool:
        """Whether the ref names a repo, and not an imported model or one on a remote endpoint."""
        return not self.ref.startswith(("local/", "remote/"))


@dataclass(frozen=True)
class ContainedCollection:
    """A collection in another one. `by_name` tells that its name starts with the name of the other one."""

    name: str
    by_name: bool
    note: str = ""


@dataclass(frozen=True)
class CollectionSummary(Result):
    """A collection in a list. The numbers include the models of the collections that it contains."""

    name: str
    note: str
    source: str | None  # the address on the Hub that it was imported from
    created: UnixTime
    models: int
    local_models: int  # of these, the models on this machine


@dataclass(frozen=True)
class CollectionList:
    """All collections, sorted by name."""

    collections: tuple[CollectionSummary, ...]


@dataclass(frozen=True)
class CollectionView(Result):
    """A collection with its models, and those of the collections that it contains. Each model is listed once."""

    name: str
    note: str
    source: str | None  # the address on the Hub that it was imported from
    created: UnixTime
    collections: tuple[ContainedCollection, ...]
    members: tuple[CollectionMember, ...]
    messages: tuple[str, ...] = ()  # about a change, such as a role that another model had


@dataclass(frozen=True)
class CollectionDeletion(Result):
    """The collections that `collection delete` deletes, or would delete. Models and their files are kept."""

    name: str
    collections: tuple[str, ...]  # the collection, and those whose names start with its name
    models: int  # in these collections
    roles: tuple[str, ...]  # the names of models that end with it, such as `coding/best`
    containers: tuple[str, ...]  # other collections that contain one of them
    done: bool = False


SkippedKind = Literal["dataset", "space", "paper", "bucket", "collection", "model", "unknown"]


@dataclass(frozen=True)
class SkippedItem:
    """An item of a collection on the Hub that was not imported. `id` and `kind` are the Hub's."""

    kind: SkippedKind
    id: str
    why: str


@dataclass(frozen=True)
class CollectionImport(Result):
    """The result of reading a collection of the Hub."""

    name: str  # of the collection on this machine
    source: str  # the address of the collection's page
    title: str
    added: tuple[str, ...]  # refs of models that the collection did not have before
    kept: tuple[str, ...]  # refs of models that it already had
    missing: tuple[str, ...]  # refs of other models that it has and the Hub's collection does not
    skipped: tuple[SkippedItem, ...]
    collections: tuple[str, ...]  # collections on this machine with the models of nested ones
    done: bool = True
