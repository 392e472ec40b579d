"""What tools answer beyond the service's own nouns: a list in a field, with the cursor of its next page."""

from __future__ import annotations

from dataclasses import dataclass

from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.library.download_records import DownloadNote
from llm_hf_models.models.types import CheckReport, LoadTestReport, LocalModelView, ModelInfo, SearchPage, Verification


@dataclass(frozen=True)
class SearchModelsResult(SearchPage):
    """`llm hf search --json`, a page of it."""

    next_cursor: str | None = None


@dataclass(frozen=True)
class GetModelResult(ModelInfo):
    """`llm hf info --json`; files only where asked for, variants by pages."""

    next_cursor: str | None = None


@dataclass(frozen=True)
class GetDownloadsResult:
    """`llm hf downloads --json`, a page of it; of a single one also the end of `llm hf downloads log ID --json`."""

    downloads: tuple[DownloadView, ...]
    next_cursor: str | None = None
    log: tuple[DownloadNote, ...] = ()  # oldest first


@dataclass(frozen=True)
class ListModelsResult:
    """`llm hf list --json`, a page of it."""

    models: tuple[LocalModelView, ...]
    next_cursor: str | None = None


@dataclass(frozen=True)
class DownloadModelResult:
    """A download as it is now, and the local model once it is here. No download: nothing had to be fetched."""

    download: DownloadView | None
    model: LocalModelView | None = None


@dataclass(frozen=True)
class VerifyModelResult:
    """Three facts, each by itself: `llm hf verify --json`, `llm hf check --json`, `llm hf test --json`."""

    digest: Verification
    structure: CheckReport | None  # None where a file is missing
    load_test: LoadTestReport | None = None  # None where it was not asked for, or a digest is not the recorded one


@dataclass(frozen=True)
class OrganiseResult:
    """The names of a local model, as `llm hf alias --json` has them: alias to model."""

    model_id: str
    aliases: dict[str, str]
