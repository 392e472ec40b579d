"""Result types of tools, if the service's types are not enough: lists with the cursor of the next page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.library.download_records import DownloadNote
from llm_hf_models.lockfiles.types import SyncedModel
from llm_hf_models.models.collection_types import (
    CollectionDeletion,
    CollectionMember,
    CollectionSummary,
    ContainedCollection,
    SkippedItem,
)
from llm_hf_models.models.repo_types import CheckReport, Inspection, ModelInfo, SearchPage
from llm_hf_models.models.types import LoadTestReport, LocalModelView, Verification
from llm_hf_models.other_tools.types import FoundModel, ImportedModel


@dataclass(frozen=True)
class Totals:
    """The size of a list of which an answer has one page."""

    total: int | None  # rows in all; None if the Hub does not report it
    shown: int  # rows in this answer
    size_bytes: int | None = None  # of all rows; None if the rows have no sizes


Lists = Mapping[str, Totals]  # by the name of the list in the answer


@dataclass(frozen=True)
class SearchModelsResult(SearchPage):
    """One page of `llm hf search --json`."""

    next_cursor: str | None = None
    totals: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class GetModelResult(ModelInfo):
    """The output of `llm hf info --json`, with one page of its variants, followed by its files on request."""

    next_cursor: str | None = None
    totals: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class InspectGgufResult(Inspection):
    """The output of `llm hf inspect --json`, with one page of the metadata, followed by the tensors."""

    next_cursor: str | None = None
    totals: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class GetDownloadsResult:
    """One page of `llm hf downloads --json`.

    For a single download, `log` has the end of `llm hf downloads log ID --json`.
    """

    downloads: tuple[DownloadView, ...]
    next_cursor: str | None = None
    log: tuple[DownloadNote, ...] = ()  # oldest first
    totals: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class ListModelsResult:
    """One page of `llm hf list --updates --json`, and figures about all models that match."""

    models: tuple[LocalModelView, ...]
    freed_bytes: int  # by removing all of them; data that they share counts once
    outdated: int  # models with an update
    unknown: int  # models that could not be compared with the Hub
    next_cursor: str | None = None
    totals: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class DownloadModelResult:
    """The state of a download, and the local model once it is complete.

    `download` is None if the model was already on this machine. `note` has the name of the repo on the Hub, if the
    request had another one, and the short names that the model did not get, with the reasons.
    """

    download: DownloadView | None
    model: LocalModelView | None = None
    note: str | None = None


@dataclass(frozen=True)
class UpdateModelResult:
    """The state of the download of a new version, and the local model once it has that version.

    `download` is None if there is nothing to update; `note` then has the reason.
    """

    download: DownloadView | None
    model: LocalModelView | None = None
    note: str | None = None


@dataclass(frozen=True)
class VerifyModelResult:
    """Three separate facts: `llm hf verify --json`, `llm hf check --json`, `llm hf test --json`."""

    digest: Verification
    structure: CheckReport | None  # None if a file is missing
    load_test: LoadTestReport | None = None  # None if not requested, or if a digest does not match


@dataclass(frozen=True)
class EditAliasesResult:
    """The names of a local model, as in `llm hf alias --json`: each alias with its model."""

    id: str
    aliases: dict[str, str]
    totals: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class ListCollectionsResult:
    """One page of `llm hf collection list --json`, or of the models of one collection (`collection show --json`)."""

    collections: tuple[CollectionSummary, ...]
    contains: tuple[ContainedCollection, ...] = ()  # collections in the named one
    members: tuple[CollectionMember, ...] = ()
    next_cursor: str | None = None
    totals: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class EditCollectionResult:
    """A collection after a change, with its models, or what was deleted."""

    collection: str
    members: tuple[CollectionMember, ...] = ()
    messages: tuple[str, ...] = ()
    skipped: tuple[SkippedItem, ...] = ()  # items of the Hub's collection that were not imported
    deletion: CollectionDeletion | None = None
    totals: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class LockModelsResult:
    """One page of the text of a lockfile, and figures about the whole."""

    text: str
    models: int
    size_bytes: int
    left_out: tuple[str, ...] = ()  # models that can't be locked, each with the reason
    next_cursor: str | None = None


@dataclass(frozen=True)
class SyncLockfileResult:
    """The outcome of a sync for each model. With `dry_run`, what it would do."""

    models: tuple[SyncedModel, ...]
    removed: tuple[str, ...]
    unlisted: tuple[str, ...]  # models that the lockfile does not list, and that stay
    complete: bool  # whether this machine matches the lockfile
    dry_run: bool = False


@dataclass(frozen=True)
class ImportModelResult:
    """One page of the models of a program, or the model that was registered."""

    models: tuple[FoundModel, ...]  # with a name: the named model, if it was not registered
    imported: ImportedModel | None = None
    next_cursor: str | None = None
    totals: Lists = field(default_factory=dict)
