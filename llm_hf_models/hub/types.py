"""Types for the Hub's repos, files and accounts, and the parameters of a search. Sends no requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

from llm_hf_models.errors import BadInputError, FileNotFoundInRepoError
from llm_hf_models.hub.refs import RepoFile
from llm_hf_models.system.arguments import check_fields
from llm_hf_models.system.json_values import Result, json_name
from llm_hf_models.system.text import clean_text, quote_label

# Whether the Hub's scanners reported issues in some files. `not asked`: the Hub was not asked, or did not answer.
ScanState = Literal["not asked", "not reported", "not scanned", "not finished", "no issue reported", "issues reported"]
Sort = Literal["trending", "downloads", "likes", "created", "updated"]


UNKNOWN_SIZE = -1  # of a file whose size is still to be requested; no repo's details contain such a file


@dataclass(frozen=True)
class HubFile:
    """One file of a repo at one commit."""

    path: str
    size: int = field(metadata=json_name("size_bytes"))
    sha256: str | None = None  # of LFS files
    git_sha1: str | None = None  # the git blob's id, of other files
    scan: str | None = None  # the Hub's verdict: safe, unsafe, suspicious or queued; None if not scanned

    @property
    def etag(self) -> str:
        """Return the name of the file's blob in the cache: sha256 for LFS files, git blob id for others."""
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True)
class ScannerResult:
    """The result of one of the Hub's scanners for a file."""

    scanner: str  # VirusTotal, Protect AI, …
    status: str  # as reported by the Hub: safe, unsafe, suspicious, caution, queued, error or unscanned
    message: str = ""  # from the scanner, untrusted


@dataclass(frozen=True)
class FileScan:
    """The results of the Hub's scanners for one file."""

    path: str
    status: str  # the Hub's overall verdict
    scanners: tuple[ScannerResult, ...] = ()


@dataclass(frozen=True)
class RepoSummary(Result):
    """One result of a search."""

    id: str
    author: str
    task: str | None = None
    tags: tuple[str, ...] = ()
    # Of the default GGUF file if the Hub reports it, else of the whole repo.
    size: int | None = field(default=None, metadata=json_name("size_bytes"))
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
class FoundRepo(RepoSummary):
    """One result of a search, as the Hub reports it."""

    paths: tuple[str, ...] = ()  # of its GGUF files, whose sizes a search does not report


@dataclass(frozen=True)
class RepoDetails(RepoSummary):
    """One repo at one commit, with its files."""

    commit: str = ""
    files: tuple[HubFile, ...] = ()
    chat_template: bool | None = None
    base_models: tuple[str, ...] = ()
    library: str | None = None
    scans_done: bool | None = None
    files_with_issues: tuple[tuple[str, str], ...] = ()  # (path, level)
    left_out: tuple[tuple[str, str], ...] = ()  # (path, reason): listed files that can't be pulled

    @cached_property
    def _files_by_path(self) -> dict[str, HubFile]:
        return {file.path: file for file in self.files}

    def get_file(self, path: RepoFile) -> HubFile:
        """Return the file at `path`.

        Raises:
            FileNotFoundInRepoError: the repo has no such file. The hint names similar paths.
        """
        if file := self._files_by_path.get(path.path):
            return file
        if reason := dict(self.left_out).get(path.path):
            raise FileNotFoundInRepoError(
                f"{clean_text(path.path, 120)} of {self.id} can't be pulled",
                cause=reason,
                hint="Check HF_ENDPOINT, or try again later.",
            )
        near = get_close_matches(path.path, [file.path for file in self.files], n=3, cutoff=0.5)
        raise FileNotFoundInRepoError(
            f"{self.id} has no file {clean_text(path.path, 120)!r} at {self.commit[:12]}",
            hint=f"Similar files: {', '.join(map(quote_label, near))}"
            if near
            else f"List its files with `llm hf info {self.id} --files`.",
        )


@dataclass(frozen=True)
class SearchFilters:
    """The filters, order and limit of a search. `library` None means any library."""

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

    def __post_init__(self) -> None:
        check_fields(self)
        if self.limit < 1:
            raise BadInputError(f"limit must be at least 1, not {self.limit}")


@dataclass(frozen=True)
class Location:
    """The resolved URL of a file's bytes. A signed link to a storage host expires.

    The Hub's record of the file is None if a header is missing or has another form, as with many mirrors and proxies.
    The size and digest in the repo's list of files don't depend on it.
    """

    url: str
    headers: dict[str, str] = field(repr=False)  # for this URL only: they include the token only if its host is the Hub
    size: int | None = None  # X-Linked-Size
    etag: str | None = None  # X-Linked-Etag, if it is a digest
    commit: str | None = None  # X-Repo-Commit
    repo: str | None = None  # the repo's name, if the Hub redirected from another one
    # Of the last response, which a mirror or proxy may have changed. Never compared with the record.
    response_size: int | None = None  # Content-Length
    response_etag: str | None = None  # ETag, if it is a digest


@dataclass(frozen=True)
class Account:
    """The account that a token belongs to, without the token itself."""

    name: str
    organisations: tuple[str, ...] = ()
    token_name: str | None = None
    token_kind: str | None = None  # read, write, fineGrained
    scopes: tuple[str, ...] = ()


_SORTS = {
    "trending": "trendingScore", "downloads": "downloads", "likes": "likes", "created": "createdAt",
    "updated": "lastModified",
}  # fmt: skip

# Fields of a search result. `gguf` contains parameters, architecture, context length and size.
_EXPAND = (
    "author", "createdAt", "downloads", "gated", "gguf", "lastModified", "likes", "pipeline_tag", "private",
    "safetensors", "siblings", "tags", "usedStorage",
)  # fmt: skip


def build_search_params(query: str, filters: SearchFilters) -> dict[str, Any]:
    """Return a search's query parameters for the Hub's API. Unset filters are left out."""
    tags = [
        filters.library,
        f"license:{filters.license.lower()}" if filters.license else None,
        filters.language,
        f"base_model:{filters.base_model}" if filters.base_model else None,
        *filters.tags,
    ]
    params: dict[str, Any] = {
        "search": query.strip(),
        "filter": [tag for tag in tags if tag],
        "author": filters.author,
        "pipeline_tag": filters.task,
        "num_parameters": _format_parameter_range(filters),
        "gated": None if filters.gated is None else str(filters.gated).lower(),
        "sort": _SORTS[filters.sort],
        "limit": filters.limit,
        "expand": list(_EXPAND),
    }
    return {name: value for name, value in params.items() if value not in (None, "", [])}


def _format_parameter_range(filters: SearchFilters) -> str | None:
    """Return the range in the Hub's form, `min:6B,max:128B`. The Hub accepts exact numbers too."""
    bounds = (("min", filters.min_params), ("max", filters.max_params))
    return ",".join(f"{name}:{value}" for name, value in bounds if value is not None) or None
