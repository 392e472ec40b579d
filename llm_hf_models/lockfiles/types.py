"""Define the types of lockfiles: their content, and the results of lock, diff, sync and export. Contains no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.library.records import CheckKind
from llm_hf_models.models.types import Removal
from llm_hf_models.system.json_values import Result, UnixTime

SyncAction = Literal["none", "hash", "link", "copy", "download", "attach", "set", "fail"]


@dataclass(frozen=True)
class LockedFile:
    """One file of a locked model, with the digest that the Hub recorded, or that the import computed."""

    path: str  # inside the repo
    role: Literal["weights", "mmproj"]
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None  # of a small file that the Hub does not store as an LFS file

    @property
    def digest(self) -> str:
        """Return the sha256, or the git blob id of a small file without one."""
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True)
class LockedFact:
    """The newest result of one kind of check on the machine that made the lockfile."""

    kind: CheckKind
    result: str
    at: UnixTime


@dataclass(frozen=True)
class LockedModel:
    """One model of a lockfile. A model without a repo was imported; one with an endpoint has no files."""

    id: str
    quant: str = ""
    repo: str | None = None
    revision: str | None = None  # as requested; None means the default branch
    commit: str | None = None
    files: tuple[LockedFile, ...] = ()
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # as set by the user, without the template
    template: str | None = None  # the chat template that replaces the file's own
    license: str | None = None
    task: str | None = None
    gated: Literal["auto", "manual"] | None = None
    private: bool = False
    generation_config: Mapping[str, Any] = field(default_factory=dict)  # sampling defaults of the repo
    endpoint: str | None = None
    endpoint_model: str | None = None
    key_env: str | None = None
    key_name: str | None = None
    kind: str | None = None  # of a model on an endpoint
    modalities: tuple[str, ...] = ()  # of a model on an endpoint
    facts: tuple[LockedFact, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Return the size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def all_options(self) -> dict[str, Any]:
        """Return the options with the template, as the library stores them."""
        return {**self.options, **({"template": self.template} if self.template is not None else {})}


@dataclass(frozen=True)
class Lockfile(Result):
    """The content of a lockfile, sorted by the ids of the models."""

    models: tuple[LockedModel, ...]
    version: int = 1

    @property
    def size_bytes(self) -> int:
        """Return the size of all files; files with the same digest count once."""
        return sum({file.digest: file.size_bytes for model in self.models for file in model.files}.values())


@dataclass(frozen=True)
class LockResult(Result):
    """A lockfile that was made."""

    text: str
    models: int
    size_bytes: int
    path: str | None = None  # of the file that was written
    signature: str | None = None  # of the signature file that was written
    left_out: tuple[str, ...] = ()  # models that can't be locked, each with the reason
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LockChange:
    """One difference between two lockfiles, or between a lockfile and this machine. None means absent."""

    id: str
    field: str  # model, commit, files PATH, aliases, options KEY, template, …
    before: str | None
    after: str | None


@dataclass(frozen=True)
class LockDiff(Result):
    """The differences between two lockfiles. Facts are not compared: they are the history of a machine."""

    changes: tuple[LockChange, ...]

    @property
    def equal(self) -> bool:
        """Return whether there is no difference."""
        return not self.changes


@dataclass(frozen=True)
class SyncStep(Result):
    """What sync does, or would do, about one model of the lockfile.

    `hash` records files whose content was unproven, `link` uses files of the cache, `copy` copies files from another
    folder, `attach` registers a remote endpoint, and `set` changes only names and options. `fail` has a `problem`.
    """

    id: str  # on this machine, where it may have other capitals
    locked: LockedModel
    action: SyncAction
    reason: str = ""
    changes: tuple[LockChange, ...] = ()  # from this machine to the lockfile
    fetch_bytes: int = 0
    pull: PullPlan | None = None
    moved_aliases: Mapping[str, str] = field(default_factory=dict)  # names that another model has now, with its id
    replaces: str | None = None  # a file of the user whose entry in the library is replaced
    problem: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class SyncPlan(Result):
    """Everything that a sync would do. Nothing has been changed for it."""

    steps: tuple[SyncStep, ...]
    removals: tuple[Removal, ...] = ()  # with --prune: models that the lockfile does not list
    unlisted: tuple[str, ...] = ()  # models that the lockfile does not list, and that stay
    fetch_bytes: int = 0
    source: str | None = None  # the mirror or folder that replaces the Hub
    concerns: tuple[str, ...] = ()  # reasons to ask a person first

    @property
    def in_sync(self) -> bool:
        """Return whether this machine matches the lockfile."""
        return all(step.action == "none" for step in self.steps) and not self.removals


@dataclass(frozen=True)
class SyncedModel:
    """The outcome for one model."""

    id: str
    action: SyncAction
    done: bool
    fetched_bytes: int = 0
    problem: str | None = None
    hint: str | None = None
    download_id: int | None = None  # of the download in the background, after which the model is synced again


@dataclass(frozen=True)
class SyncResult(Result):
    """The outcome of a sync."""

    models: tuple[SyncedModel, ...]
    removed: tuple[Removal, ...] = ()
    fetched_bytes: int = 0
    not_removed: tuple[str, ...] = ()  # with --prune: models that are kept until every model of the lockfile is here

    @property
    def complete(self) -> bool:
        """Return whether this machine matches the lockfile now."""
        return all(model.done for model in self.models)


@dataclass(frozen=True)
class ExportResult(Result):
    """A folder with a lockfile and the files of its models."""

    folder: str
    lockfile: str
    models: int
    files: int
    copied_bytes: int  # by this call; a repeated export copies only what is missing
    left_out: tuple[str, ...] = ()
