"""Parse the Hub's JSON into the types of `hub.types`: names, digests and sizes strictly, other metadata leniently."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from llm_hf_models.errors import BadRefError, HubUnavailableError
from llm_hf_models.hub.errors import HubRequest
from llm_hf_models.hub.refs import RepoFile, is_commit
from llm_hf_models.hub.types import Account, FileScan, FoundRepo, HubFile, Location, RepoDetails, ScannerResult
from llm_hf_models.system.text import clean_text

T = TypeVar("T")
MAX_STATUS_CHARS, MAX_MESSAGE_CHARS = 40, 200
MAX_SCANNERS = 20

# A digest becomes a file name in the cache, so nothing else may match.
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
_Size = Annotated[int, Field(ge=0)]
_RELATIONS = ("quantized", "finetune", "adapter", "merge")  # in tags base_model:<relation>:<repo>


def _drop_wrong_type(kind: type) -> BeforeValidator:
    """Return a validator that replaces a value of another type by None.

    Odd metadata of one repo must not make a whole list unreadable.
    """
    return BeforeValidator(lambda value: value if isinstance(value, kind) and value is not True else None)


_Text = Annotated[str | None, _drop_wrong_type(str)]
_Number = Annotated[int | None, _drop_wrong_type(int)]


class _Lfs(BaseModel):
    sha256: _Sha256
    size: _Size


class _Sibling(BaseModel):
    rfilename: str
    size: _Size | None = None
    blobId: _Sha1 | None = None  # noqa: N815 - the Hub's name
    lfs: _Lfs | None = None


class _Issue(BaseModel):
    path: str
    level: str


class _ScanSummary(BaseModel):
    scansDone: bool  # noqa: N815 - the Hub's name
    filesWithIssues: list[_Issue] = []  # noqa: N815 - the Hub's name


class _Gguf(BaseModel):
    total: _Number = None
    totalFileSize: _Number = None  # noqa: N815 - the Hub's name
    architecture: _Text = None
    context_length: _Number = None
    chat_template: _Text = None


class _Safetensors(BaseModel):
    total: _Number = None


class _FileName(BaseModel):
    rfilename: str


class _HubModel(BaseModel):
    id: str = Field(min_length=1, max_length=200)
    author: _Text = None
    pipeline_tag: _Text = None
    library_name: _Text = None
    tags: list[str] = []
    usedStorage: _Number = None  # noqa: N815 - the Hub's name
    downloads: _Number = None
    likes: _Number = None
    createdAt: datetime | None = None  # noqa: N815 - the Hub's name
    lastModified: datetime | None = None  # noqa: N815 - the Hub's name
    gated: bool | str = False
    private: bool = False
    gguf: _Gguf | None = None
    safetensors: _Safetensors | None = None
    sha: _Sha1 | None = None
    securityRepoStatus: _ScanSummary | None = None  # noqa: N815 - the Hub's name


class _HubRow(_HubModel):
    siblings: list[_FileName] = []


class _HubRepo(_HubModel):
    siblings: list[_Sibling] = []


_MODELS = TypeAdapter(list[_HubRow])
_MODEL = TypeAdapter(_HubRepo)


def parse_summaries(body: bytes, host: str) -> list[FoundRepo]:
    """Parse the results of a search.

    Args:
        body: the Hub's JSON.
        host: the Hub's host, for error messages.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    return [
        FoundRepo(**_build_summary_fields(row), paths=tuple(_list_gguf_paths(row)))
        for row in _validate_json(_MODELS, body, host)
    ]


def _list_gguf_paths(row: _HubRow) -> Iterable[str]:
    for file in row.siblings:
        with suppress(BadRefError):  # an unsafe name, which can't be pulled
            if file.rfilename.lower().endswith(".gguf"):
                yield RepoFile(file.rfilename).path


def parse_details(body: bytes, host: str) -> RepoDetails:
    """Parse the details of one repo, with its files' sizes and scans.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    found = _validate_json(_MODEL, body, host)
    if found.sha is None:
        raise _make_protocol_error(host, "The response names no commit.")
    scans = found.securityRepoStatus
    issues = tuple((issue.path, issue.level) for issue in scans.filesWithIssues) if scans else ()
    return RepoDetails(
        **_build_summary_fields(found),
        commit=found.sha,
        files=tuple(_parse_files(found.siblings, dict(issues), host)),
        chat_template=bool(found.gguf.chat_template) if found.gguf else None,
        base_models=tuple(_find_base_models(found.tags)),
        library=found.library_name,
        scans_done=scans.scansDone if scans else None,
        files_with_issues=issues,
    )


def _build_summary_fields(row: _HubModel) -> dict[str, Any]:
    gguf = row.gguf or _Gguf()
    parameters = gguf.total or (row.safetensors.total if row.safetensors else None)
    return {
        "id": row.id,
        "author": row.author or row.id.rpartition("/")[0],
        "task": row.pipeline_tag,
        "tags": tuple(row.tags),
        "size": gguf.totalFileSize or row.usedStorage,
        "parameters": parameters,
        "downloads": row.downloads,
        "likes": row.likes,
        "created": row.createdAt,
        "updated": row.lastModified,
        "license": next((tag.removeprefix("license:") for tag in row.tags if tag.startswith("license:")), None),
        "gated": _parse_gate(row.gated),
        "private": row.private,
        "architecture": gguf.architecture,
        "context_length": gguf.context_length,
    }


def _parse_gate(gated: bool | str) -> Literal["auto", "manual", False]:
    if not gated:
        return False
    return "auto" if gated == "auto" else "manual"


def _find_base_models(tags: Iterable[str]) -> Iterable[str]:
    names = (tag.removeprefix("base_model:") for tag in tags if tag.startswith("base_model:"))
    return dict.fromkeys(name for name in names if name.partition(":")[0] not in _RELATIONS)


def _parse_files(siblings: Iterable[_Sibling], issues: dict[str, str], host: str) -> Iterable[HubFile]:
    for sibling in siblings:
        size = sibling.lfs.size if sibling.lfs else sibling.size
        if size is None or not (sibling.lfs or sibling.blobId):
            raise _make_protocol_error(host, "A file has no size or no digest.")
        try:
            path = RepoFile(sibling.rfilename).path
        except BadRefError:
            continue  # skip an unsafe name: the file can't be pulled, but the others can
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        yield HubFile(path, size, sha256, None if sha256 else sibling.blobId, issues.get(path))


class _Scanner(BaseModel):
    status: _Text = None
    message: _Text = None


class _PathInfo(BaseModel):
    path: str
    securityFileStatus: dict[str, Any] | None = None  # noqa: N815 - the Hub's name


_PATHS = TypeAdapter(list[_PathInfo])

# The scanners' names in the Hub's API (paths-info with `expand`), and on the Hub's pages.
_SCANNERS = {
    "avScan": "antivirus",
    "pickleImportScan": "pickle imports",
    "jFrogScan": "JFrog",
    "protectAiScan": "Protect AI",
    "virusTotalScan": "VirusTotal",
}


def parse_scans(body: bytes, host: str) -> list[FileScan]:
    """Parse the scanner results of some files. Files without results are left out.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    return [
        FileScan(
            info.path,
            clean_text(str(result.get("status") or ""), MAX_STATUS_CHARS),
            tuple(_parse_scanner_results(result)),
        )
        for info in _validate_json(_PATHS, body, host)
        if (result := info.securityFileStatus) is not None
    ]


def _parse_scanner_results(result: dict[str, Any]) -> Iterable[ScannerResult]:
    """Yield the result of each scanner. The Hub adds and removes scanners, so every key that ends in "Scan" counts."""
    for key, value in list(result.items())[:MAX_SCANNERS]:
        if key.endswith("Scan") and isinstance(value, dict):
            scanner = _Scanner.model_validate(value)
            name = _SCANNERS.get(key) or clean_text(key.removesuffix("Scan"), MAX_STATUS_CHARS)
            status = clean_text(scanner.status or "no result", MAX_STATUS_CHARS)
            yield ScannerResult(name, status, clean_text(scanner.message or "", MAX_MESSAGE_CHARS))


_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def parse_location(
    request: HubRequest,
    url: str,
    headers: dict[str, str],
    hub_headers: Mapping[str, str],
    last_headers: Mapping[str, str],
) -> Location:
    """Return a file's location from the responses to `resolve`.

    The Hub's own X- headers take precedence over headers of the final response.

    Args:
        request: the request for the file.
        url: URL of the file's bytes.
        headers: headers for a request to that URL.
        hub_headers: the Hub's X- headers so far, with names in lower case.
        last_headers: headers of the final response; empty if the last redirect was not followed.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol, or is for another
            commit.
    """
    etag = (hub_headers.get("x-linked-etag") or last_headers.get("ETag") or "").removeprefix("W/").strip('"')
    size = hub_headers.get("x-linked-size") or last_headers.get("Content-Length") or ""
    commit = hub_headers.get("x-repo-commit") or ""
    if not _ETAG.fullmatch(etag) or not re.fullmatch(r"\d{1,18}", size) or not is_commit(commit):
        raise _make_protocol_error(request.host, f"The size, digest or commit of {request.path} is missing or invalid.")
    if request.revision and is_commit(request.revision) and commit != request.revision:
        raise HubUnavailableError(f"{request.host} returned commit {commit[:12]} instead of {request.revision[:12]}")
    return Location(url, headers, int(size), etag, commit)


class _Name(BaseModel):
    name: str


class _Refs(BaseModel):
    branches: list[_Name] = []
    tags: list[_Name] = []


_REFS = TypeAdapter(_Refs)


def parse_revision_names(body: bytes, host: str) -> list[str]:
    """Parse a repo's branches and tags. The branches come first.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    found = _validate_json(_REFS, body, host)
    return [clean_text(one.name, MAX_STATUS_CHARS) for one in (*found.branches, *found.tags)]


class _Scope(BaseModel):
    entity: dict[str, Any] = {}
    permissions: list[str] = []


class _FineGrained(BaseModel):
    scoped: list[_Scope] = []


class _AccessToken(BaseModel):
    displayName: _Text = None  # noqa: N815 - the Hub's name
    role: _Text = None
    fineGrained: _FineGrained | None = None  # noqa: N815 - the Hub's name


class _Auth(BaseModel):
    accessToken: _AccessToken | None = None  # noqa: N815 - the Hub's name


class _Whoami(BaseModel):
    name: str
    orgs: list[_Name] = []
    auth: _Auth = _Auth()


_WHOAMI = TypeAdapter(_Whoami)


def parse_account(body: bytes, host: str) -> Account:
    """Parse the account that a token belongs to.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    found = _validate_json(_WHOAMI, body, host)
    token = found.auth.accessToken or _AccessToken()
    scopes = [
        f"{scope.entity.get('name', '')}: {permission}".removeprefix(": ")
        for scope in (token.fineGrained.scoped if token.fineGrained else ())
        for permission in scope.permissions
    ]
    names = tuple(organisation.name for organisation in found.orgs)
    return Account(found.name, names, token.displayName, token.role, tuple(scopes))


def _validate_json(adapter: TypeAdapter[T], body: bytes, host: str) -> T:
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _make_protocol_error(host, f"{where}: {first['msg']}" if where else first["msg"]) from None


def _make_protocol_error(host: str, why: str) -> HubUnavailableError:
    return HubUnavailableError(
        f"{host} returned an invalid response",
        cause=why,
        hint="Check HF_ENDPOINT, and whether this network requires a login first.",
    )
