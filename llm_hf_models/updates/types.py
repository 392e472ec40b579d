"""Define the result types of updates: what changed on the Hub, what an update would do, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llm_hf_models.downloads.plan_types import PullPlan
from llm_hf_models.models.types import Freshness
from llm_hf_models.system.json_values import Result, UnixTime

# `card` and `other files`: only files that the model does not consist of have changed. `unavailable`: private or
# deleted, which the Hub does not tell apart. `not tracked`: the model follows no branch of a repo.
UpdateStatus = Literal[
    "up to date", "card", "other files", "new files", "removed", "gated", "unavailable", "unknown", "pinned",
    "not tracked",
]  # fmt: skip
Outcome = Literal["updated", "rolled back", "up to date", "skipped", "failed"]
CHANGED: frozenset[UpdateStatus] = frozenset({"card", "other files", "new files"})


@dataclass(frozen=True)
class OutdatedModel(Result):
    """A local model compared with the branch or tag that it was pulled from. Sizes are in bytes.

    `files` are the changed files: those of the model for `new files`, else those of the repo, if they are known.
    """

    id: str
    status: UpdateStatus
    repo: str | None
    revision: str | None
    commit: str | None
    new_commit: str | None = None
    files: tuple[str, ...] = ()
    fetch_bytes: int = 0  # to download for an update
    renamed_to: str | None = None  # the current name of the repo
    note: str | None = None  # why the status is unknown, or more about it
    pinned: bool = False
    checked: UnixTime | None = None  # when the Hub sent the answer; None if it sent none
    stale: bool = False  # whether that is an earlier answer, because the Hub could not be asked now


@dataclass(frozen=True)
class OutdatedModels(Result):
    """The local models compared with the Hub. `problem` is why cached answers were used, such as offline mode."""

    models: tuple[OutdatedModel, ...]
    outdated: int  # models with new files
    unknown: int
    problem: str | None = None


@dataclass(frozen=True)
class PlannedUpdate(Result):
    """What an update does with one model. Sizes are in bytes.

    `action` is `none` if the model is up to date, `skip` if it is pinned, follows no branch, has no new version on the
    Hub or is not in the cache, and `refuse` if its state is unknown or the new version can't be pulled. `plan` is the
    pull of the new version.
    """

    id: str
    action: Literal["update", "none", "skip", "refuse"]
    status: UpdateStatus
    commit: str | None
    new_commit: str | None
    reason: str
    fetch_bytes: int = 0
    reused_bytes: int = 0  # on this machine already
    freed_bytes: int = 0  # by removing the files of the old version
    keep_old: bool = False
    renamed_to: str | None = None
    hint: str | None = None
    plan: PullPlan | None = None


@dataclass(frozen=True)
class UpdatePlan(Result):
    """What an update does. `disk_bytes` are needed while old and new versions are both on the disk."""

    models: tuple[PlannedUpdate, ...]
    fetch_bytes: int
    disk_bytes: int
    freed_bytes: int
    problem: str | None = None  # why the Hub could not be asked


@dataclass(frozen=True)
class UpdatedModel(Result):
    """The outcome of an update or a rollback of one model."""

    id: str
    outcome: Outcome
    commit: str | None  # in force now
    previous_commit: str | None
    fetched_bytes: int = 0
    elapsed_seconds: float = 0.0
    message: str = ""  # why it was not updated
    hint: str | None = None


@dataclass(frozen=True)
class UpdatedModels(Result):
    """The outcome of an update of several models."""

    models: tuple[UpdatedModel, ...]
    updated: int
    failed: int


@dataclass(frozen=True)
class HubAnswer:
    """What the Hub reports about one branch or tag of a repo, or why it does not."""

    commit: str | None = None
    name: str | None = None  # the repo's current name, if it was renamed
    freshness: Freshness = field(default_factory=Freshness)
    status: Literal["removed", "gated", "unavailable", "unknown"] | None = None
    note: str | None = None
