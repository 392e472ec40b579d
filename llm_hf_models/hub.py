"""The Hub, through huggingface_hub's public functions: the only module that imports it. Its errors become ours here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from llm_hf_models.refs import RepoFile, RepoId

Sort = Literal["trending", "downloads", "likes", "created", "updated"]


@dataclass(frozen=True)
class HubFile:
    """One file of a repo at one commit."""

    path: str
    size: int  # bytes
    sha256: str | None = None  # of an LFS file
    git_sha1: str | None = None  # the git blob's id: of a file that is not LFS
    scan: str | None = None  # the Hub's word: safe, unsafe, suspicious, queued, None where not scanned

    @property
    def etag(self) -> str:
        """The name of its blob in the cache: sha256 for LFS, git blob id otherwise."""
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True)
class RepoSummary:
    """One row of a search."""

    id: str
    author: str
    task: str | None = None
    tags: tuple[str, ...] = ()
    size: int | None = None  # bytes: of the default GGUF file where the Hub says, else all the repo's storage
    parameters: int | None = None
    downloads: int | None = None  # last 30 days
    likes: int | None = None
    created: datetime | None = None
    updated: datetime | None = None
    license: str | None = None
    gated: Literal["auto", "manual", False] = False
    private: bool = False
    architecture: str | None = None
    context_length: int | None = None


@dataclass(frozen=True)
class RepoDetails(RepoSummary):
    """One repo at one commit, files included."""

    commit: str = ""
    files: tuple[HubFile, ...] = ()
    chat_template: bool | None = None
    base_models: tuple[str, ...] = ()
    library: str | None = None
    scans_done: bool | None = None
    files_with_issues: tuple[tuple[str, str], ...] = ()  # (path, level)

    def file(self, path: RepoFile) -> HubFile:
        """The file at that path.

        Raises:
            FileNotFoundInRepoError: there is none; the hint names near ones.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SearchFilters:
    """What a search is narrowed by. `library` None is any."""

    author: str | None = None
    task: str | None = None
    library: str | None = "gguf"
    license: str | None = None
    language: str | None = None
    tags: tuple[str, ...] = ()
    min_params: int | None = None
    max_params: int | None = None
    gated: bool | None = None
    base_model: str | None = None
    sort: Sort = "trending"
    limit: int = 20


@dataclass(frozen=True)
class Location:
    """Where one file's bytes are, as resolved now: a signed link to a storage host expires."""

    url: str
    headers: dict[str, str] = field(repr=False)  # for that host alone: the token only where it is the Hub's
    size: int
    etag: str
    commit: str


@dataclass(frozen=True)
class Account:
    """Whose token it is; never the token."""

    name: str
    organisations: tuple[str, ...] = ()
    token_name: str | None = None
    token_kind: str | None = None  # read, write, fineGrained
    scopes: tuple[str, ...] = ()


class Hub:
    """The Hub at one endpoint, with one token or none. Cheap to make; the first call imports huggingface_hub."""

    def __init__(self, endpoint: str, *, token: str | None = None, timeout: float = 20, offline: bool = False) -> None:
        """`timeout` in seconds for each question; `offline` refuses every call with OfflineError."""
        raise NotImplementedError

    def search(self, query: str, filters: SearchFilters) -> list[RepoSummary]:
        """One request for the whole list."""
        raise NotImplementedError

    def details(self, repo: RepoId, revision: str | None = None) -> RepoDetails:
        """One repo with sizes, digests and scan results, at the commit that `revision` names now.

        Raises:
            RepoNotFoundError, RevisionNotFoundError, GatedRepoError, TokenMissingError, TokenInvalidError, NetworkError
        """
        raise NotImplementedError

    def card(self, repo: RepoId, revision: str) -> str:
        """The model card's Markdown, front matter removed, untrusted. Empty where there is none."""
        raise NotImplementedError

    def locate(self, repo: RepoId, file: RepoFile, commit: str) -> Location:
        """Where a file's bytes are now."""
        raise NotImplementedError

    def whoami(self) -> Account:
        """Whose token this is.

        Raises:
            TokenMissingError, TokenInvalidError, NetworkError
        """
        raise NotImplementedError

    def conversions(self, repo: RepoId, limit: int = 5) -> list[RepoSummary]:
        """GGUF repos that name `repo` as their base model, most downloaded first."""
        raise NotImplementedError


@dataclass(frozen=True)
class CachedFile:
    """A file in the Hugging Face cache, whoever fetched it."""

    repo: RepoId
    commit: str
    path: str
    location: Path  # the file in the snapshot
    blob: Path
    size: int


def scan_cache(cache_dir: Path) -> list[CachedFile]:
    """Every model file in the Hugging Face cache; empty where there is no cache."""
    raise NotImplementedError


def free_cached(cache_dir: Path, files: Sequence[CachedFile], *, dry_run: bool = False) -> int:
    """Removes files from the cache, with blobs that nothing else there uses. Returns the bytes freed (or that would be)."""
    raise NotImplementedError
