"""The Hub's JSON, read strictly where it matters (names, digests, sizes) and leniently elsewhere, into our nouns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from llm_hf_models.errors import BadRefError, HubUnavailableError
from llm_hf_models.hub.errors import HubRequest
from llm_hf_models.hub.refs import RepoFile, is_commit
from llm_hf_models.hub.types import Account, FileScan, HubFile, Location, RepoDetails, RepoSummary, ScannerResult
from llm_hf_models.system.text import clean_text

T = TypeVar("T")
MAX_STATUS_CHARS, MAX_MESSAGE_CHARS = 40, 200
MAX_SCANNERS = 20

# A digest names a blob in the cache: nothing else may come through here.
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
_Size = Annotated[int, Field(ge=0)]
_RELATIONS = ("quantized", "finetune", "adapter", "merge")  # base_model:<relation>:<repo>, beside base_model:<repo>


def _drop_wrong_type(kind: type) -> BeforeValidator:
    """What isn't of that kind is nothing: a repo's own odd metadata must not spoil a list."""
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
    siblings: list[_Sibling] = []
    securityRepoStatus: _ScanSummary | None = None  # noqa: N815 - the Hub's name


_MODELS = TypeAdapter(list[_HubModel])
_MODEL = TypeAdapter(_HubModel)


def parse_summaries(body: bytes, host: str) -> list[RepoSummary]:
    """The rows of a search.

    Args:
        body: the Hub's JSON.
        host: whose, for the message.

    Raises:
        HubUnavailableError: it is not the Hub's protocol.
    """
    return [RepoSummary(**_build_summary_fields(row)) for row in _validate_json(_MODELS, body, host)]


def parse_details(body: bytes, host: str) -> RepoDetails:
    """One repo, asked for with its files' sizes and its scans.

    Raises:
        HubUnavailableError: it is not the Hub's protocol.
    """
    found = _validate_json(_MODEL, body, host)
    if found.sha is None:
        raise _make_protocol_error(host, "it named no commit")
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
            raise _make_protocol_error(host, "it told neither size nor digest of a file")
        try:
            path = RepoFile(sibling.rfilename).path
        except BadRefError:
            continue  # a name that no file here could have: it can't be pulled, and must not keep others from it
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        yield HubFile(path, size, sha256, None if sha256 else sibling.blobId, issues.get(path))


class _Scanner(BaseModel):
    status: _Text = None
    message: _Text = None


class _PathInfo(BaseModel):
    path: str
    securityFileStatus: dict[str, Any] | None = None  # noqa: N815 - the Hub's name


_PATHS = TypeAdapter(list[_PathInfo])

# The Hub's names for its scanners (its API's paths-info with `expand`), and what they are called on its pages.
_SCANNERS = {
    "avScan": "antivirus",
    "pickleImportScan": "pickle imports",
    "jFrogScan": "JFrog",
    "protectAiScan": "Protect AI",
    "virusTotalScan": "VirusTotal",
}


def parse_scans(body: bytes, host: str) -> list[FileScan]:
    """What each scanner says of some files; those of which nothing is said are left out.

    Raises:
        HubUnavailableError: it is not the Hub's protocol.
    """
    return [
        FileScan(
            info.path, clean_text(str(said.get("status") or ""), MAX_STATUS_CHARS), tuple(_parse_scanner_results(said))
        )
        for info in _validate_json(_PATHS, body, host)
        if (said := info.securityFileStatus) is not None
    ]


def _parse_scanner_results(said: dict[str, Any]) -> Iterable[ScannerResult]:
    """Scanners come and go: whatever looks like one is one."""
    for key, value in list(said.items())[:MAX_SCANNERS]:
        if key.endswith("Scan") and isinstance(value, dict):
            word = _Scanner.model_validate(value)
            name = _SCANNERS.get(key) or clean_text(key.removesuffix("Scan"), MAX_STATUS_CHARS)
            status = clean_text(word.status or "no word", MAX_STATUS_CHARS)
            yield ScannerResult(name, status, clean_text(word.message or "", MAX_MESSAGE_CHARS))


_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def parse_location(
    asked: HubRequest, url: str, headers: dict[str, str], told: Mapping[str, str], last: Mapping[str, str]
) -> Location:
    """What `resolve` told on its way. The Hub's own X- headers win over those of whoever answered last.

    Args:
        asked: for which file.
        url: where its bytes are.
        headers: to ask there with.
        told: the Hub's X- headers so far, names in lower case.
        last: the headers of the answer that was no redirect, if it came to one.

    Raises:
        HubUnavailableError: it is not the Hub's protocol, or another commit's.
    """
    etag = (told.get("x-linked-etag") or last.get("ETag") or "").removeprefix("W/").strip('"')
    size = told.get("x-linked-size") or last.get("Content-Length") or ""
    commit = told.get("x-repo-commit") or ""
    if not _ETAG.fullmatch(etag) or not re.fullmatch(r"\d{1,18}", size) or not is_commit(commit):
        raise HubUnavailableError(
            f"{asked.host} did not tell size, digest and commit of {asked.path}",
            cause="It did not answer as the Hub does.",
            hint="Is HF_ENDPOINT a Hub? A network that asks for a log-in first answers like this too.",
        )
    if asked.revision and is_commit(asked.revision) and commit != asked.revision:
        raise HubUnavailableError(f"{asked.host} answered for commit {commit[:12]} and not {asked.revision[:12]}")
    return Location(url, headers, int(size), etag, commit)


class _Name(BaseModel):
    name: str


class _Refs(BaseModel):
    branches: list[_Name] = []
    tags: list[_Name] = []


_REFS = TypeAdapter(_Refs)


def parse_revision_names(body: bytes, host: str) -> list[str]:
    """The branches of a repo, then its tags.

    Raises:
        HubUnavailableError: it is not the Hub's protocol.
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
    """Whose token it is.

    Raises:
        HubUnavailableError: it is not the Hub's protocol.
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
        f"{host} did not answer as the Hub does",
        cause=why,
        hint="Is HF_ENDPOINT a Hub? A network that asks for a log-in first answers like this too.",
    )
