"""Parse the Hub's JSON into the types of `hub.types`. Each row and each field is read on its own.

A field that is null, missing or of another type counts as not reported. It never makes a repo or a list unreadable.
Digests and sizes are strict: one of another form is dropped, and then requested in another way (hub/client.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, Field, TypeAdapter

from llm_hf_models.errors import BadRefError
from llm_hf_models.hub.json_fields import (
    OR_EMPTY,
    OR_NONE,
    Flag,
    Number,
    Sha1,
    Sha256,
    Text,
    Texts,
    Time,
    fall_back_to,
    is_text,
    make_protocol_error,
    parse_flag,
    validate_json,
)
from llm_hf_models.hub.refs import RepoFile, RepoId, is_commit
from llm_hf_models.hub.types import (
    UNKNOWN_SIZE,
    Account,
    FileScan,
    FoundRepo,
    HubFile,
    RepoDetails,
    ScannerResult,
)
from llm_hf_models.system.text import clean_text

MAX_STATUS_CHARS, MAX_MESSAGE_CHARS = 40, 200
MAX_NAME_CHARS = 1000  # of a file that is left out
MAX_SCANNERS = 20
FIRST_YEAR, LAST_YEAR = 1970, 2999  # other dates can't be converted to the local time zone everywhere
UNKNOWN_LEVEL = "issue"  # of a scanner's warning without a level
_RELATIONS = ("quantized", "finetune", "adapter", "merge")  # in tags base_model:<relation>:<repo>


class _Lfs(BaseModel):
    sha256: Sha256 = Field(None, validation_alias=AliasChoices("sha256", "oid"))
    size: Number = None


class _Sibling(BaseModel):
    """A file in a repo's details, or an entry of its tree."""

    type: Text = None
    path: Text = Field(None, validation_alias=AliasChoices("rfilename", "path"))
    size: Number = None
    git_sha1: Sha1 = Field(None, validation_alias=AliasChoices("blobId", "oid"))
    lfs: Annotated[_Lfs | None, fall_back_to(_Lfs)] = None


_Siblings = list[Annotated[_Sibling | None, OR_NONE]]


class _Gguf(BaseModel):
    total: Number = None
    totalFileSize: Number = None  # noqa: N815 - the Hub's name
    architecture: Text = None
    context_length: Number = None
    chat_template: Any = None


class _Safetensors(BaseModel):
    total: Number = None


class _HubModel(BaseModel):
    id: Text = None
    modelId: Text = None  # noqa: N815 - the Hub's name
    pipeline_tag: Text = None
    library_name: Text = None
    tags: Texts = []
    usedStorage: Number = None  # noqa: N815 - the Hub's name
    downloads: Number = None
    likes: Number = None
    createdAt: Time = None  # noqa: N815 - the Hub's name
    lastModified: Time = None  # noqa: N815 - the Hub's name
    gated: Any = False
    private: Flag = False
    gguf: Annotated[_Gguf | None, OR_NONE] = None
    safetensors: Annotated[_Safetensors | None, OR_NONE] = None
    sha: Sha1 = None
    siblings: Annotated[_Siblings | None, OR_NONE] = None
    securityRepoStatus: Any = None  # noqa: N815 - the Hub's name


_MODELS: TypeAdapter[list[_HubModel | None]] = TypeAdapter(list[Annotated[_HubModel | None, OR_NONE]])
_MODEL = TypeAdapter(_HubModel)
_TREE: TypeAdapter[list[_Sibling | None]] = TypeAdapter(_Siblings)


def parse_summaries(body: bytes, host: str) -> list[FoundRepo]:
    """Parse the results of a search. Rows without the name of a repo are left out.

    Args:
        body: the Hub's JSON.
        host: the Hub's host, for error messages.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    rows = (row for row in validate_json(_MODELS, body, host) if row is not None)
    return [
        FoundRepo(**_build_summary_fields(row, repo), paths=tuple(_list_gguf_paths(row.siblings or ())))
        for row in rows
        if (repo := _find_id(row))
    ]


def _list_gguf_paths(siblings: Iterable[_Sibling | None]) -> Iterable[str]:
    """Yield the paths of the GGUF files, without those whose names can't be stored."""
    for sibling in siblings:
        if sibling is not None and sibling.path and sibling.path.lower().endswith(".gguf"):
            with suppress(BadRefError):
                yield RepoFile(sibling.path).path


def parse_details(body: bytes, host: str, repo: RepoId, revision: str | None = None) -> tuple[RepoDetails, bool]:
    """Parse the details of one repo.

    Args:
        body: the Hub's JSON.
        host: the Hub's host, for error messages.
        repo: the requested repo, whose name is used if the response has none.
        revision: the requested revision. If the response names no commit, it has to be a commit.

    Returns:
        The details, and False if the list of files is missing or has an entry that can't be read. A file without a
        size has `UNKNOWN_SIZE`.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    found = validate_json(_MODEL, body, host)
    commit = found.sha or (revision if revision and is_commit(revision) else None)
    if commit is None:
        raise make_protocol_error(host, "The response names no commit (field sha).")
    scans_done, issues = _parse_scan_status(found.securityRepoStatus)
    details = RepoDetails(
        **_build_summary_fields(found, _find_id(found) or repo),
        commit=commit,
        files=tuple(_parse_files(found.siblings or (), dict(issues))),
        chat_template=bool(found.gguf.chat_template) if found.gguf else None,
        base_models=tuple(_find_base_models(_list_texts(found.tags))),
        library=found.library_name,
        scans_done=scans_done,
        files_with_issues=issues,
        left_out=tuple(_find_unsafe_names(found.siblings or ())),
    )
    return details, found.siblings is not None and all(one is not None and one.path for one in found.siblings)


def parse_tree(body: bytes, host: str) -> list[HubFile]:
    """Parse a page of a repo's tree. A file without a size has `UNKNOWN_SIZE`.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    entries = validate_json(_TREE, body, host)
    return list(_parse_files(entries, {}))


def _find_id(row: _HubModel) -> RepoId | None:
    """Return the repo that a row names, or None if it names none that could be pulled."""
    for name in (row.id, row.modelId):
        with suppress(BadRefError):
            return RepoId.parse(name or "")
    return None


def _list_texts(texts: Iterable[str | None]) -> list[str]:
    return [text for text in texts if text]


def _build_summary_fields(row: _HubModel, repo: RepoId) -> dict[str, Any]:
    gguf, tags = row.gguf or _Gguf(), _list_texts(row.tags)
    parameters = gguf.total or (row.safetensors.total if row.safetensors else None)
    return {
        "id": str(repo),
        "author": repo.owner,
        "task": row.pipeline_tag,
        "tags": tuple(tags),
        "size": gguf.totalFileSize or row.usedStorage,
        "parameters": parameters,
        "downloads": row.downloads,
        "likes": row.likes,
        "created": _make_utc(row.createdAt),
        "updated": _make_utc(row.lastModified),
        "license": next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None) or None,
        "gated": _parse_gate(row.gated),
        "private": row.private,
        "architecture": gguf.architecture,
        "context_length": gguf.context_length,
    }


def _make_utc(time: datetime | None) -> datetime | None:
    """Return a date in UTC, or None if it can't be one of a repo."""
    if time is None or not FIRST_YEAR <= time.year <= LAST_YEAR:
        return None
    return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)


def _parse_gate(gated: object) -> Literal["auto", "manual", False]:
    if not parse_flag(gated):
        return False
    return "auto" if gated == "auto" else "manual"


def _parse_scan_status(status: object) -> tuple[bool | None, tuple[tuple[str, str], ...]]:
    """Return whether the scans are done, None if that is not reported, and the files with issues and their levels.

    An entry that can't be read never counts as a file without issues: its repo has no known result then.
    """
    if not isinstance(status, dict):
        return None, ()
    done = status.get("scansDone")
    entries = status.get("filesWithIssues")
    is_clear = isinstance(done, bool) and isinstance(entries, list | None)
    issues: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else ():
        path, level = (entry.get("path"), entry.get("level")) if isinstance(entry, dict) else (entry, None)
        if path and is_text(path):
            issues[path] = clean_text(level, MAX_STATUS_CHARS) if level and is_text(level) else UNKNOWN_LEVEL
        else:
            is_clear = False
    return done if is_clear else None, tuple(issues.items())


def _find_base_models(tags: Iterable[str]) -> Iterable[str]:
    names = (tag.removeprefix("base_model:") for tag in tags if tag.startswith("base_model:"))
    return dict.fromkeys(name for name in names if name and name.partition(":")[0] not in _RELATIONS)


def _parse_files(siblings: Iterable[_Sibling | None], issues: Mapping[str, str]) -> Iterable[HubFile]:
    for sibling in siblings:
        if sibling is None or sibling.path is None or sibling.type not in (None, "file"):
            continue
        try:
            path = RepoFile(sibling.path).path
        except BadRefError:
            continue  # skip an unsafe name: the file can't be pulled, but the others can
        lfs = sibling.lfs
        size = lfs.size if lfs and lfs.size is not None else sibling.size
        # The git blob of an LFS file is its pointer, so its id is not the digest of the content.
        sha256, git_sha1 = (lfs.sha256, None) if lfs else (None, sibling.git_sha1)
        yield HubFile(path, UNKNOWN_SIZE if size is None else size, sha256, git_sha1, issues.get(path))


def _find_unsafe_names(siblings: Iterable[_Sibling | None]) -> Iterable[tuple[str, str]]:
    """Yield the files that can't be stored everywhere because of their names, each with the reason."""
    for sibling in siblings:
        if sibling is not None and sibling.path and sibling.type in (None, "file"):
            try:
                RepoFile(sibling.path)
            except BadRefError as error:
                yield clean_text(sibling.path, MAX_NAME_CHARS), error.cause or error.message


class _Scanner(BaseModel):
    status: Text = None
    message: Text = None


class _PathInfo(BaseModel):
    path: Text = None
    securityFileStatus: Any = None  # noqa: N815 - the Hub's name


_PATHS: TypeAdapter[list[_PathInfo | None]] = TypeAdapter(list[Annotated[_PathInfo | None, OR_NONE]])

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
    scans = []
    for info in validate_json(_PATHS, body, host):
        result = info and info.securityFileStatus
        if result and is_text(result):
            result = {"status": result}
        if info and info.path and isinstance(result, dict):
            status = _Scanner.model_validate(result).status or ""
            scanners = tuple(_parse_scanner_results(result))
            scans.append(FileScan(info.path, clean_text(status, MAX_STATUS_CHARS), scanners))
    return scans


def _parse_scanner_results(result: Mapping[str, Any]) -> Iterable[ScannerResult]:
    """Yield the result of each scanner. The Hub adds and removes scanners, so every key that ends in "Scan" counts."""
    for key, value in list(result.items())[:MAX_SCANNERS]:
        if key.endswith("Scan") and isinstance(value, dict):
            scanner = _Scanner.model_validate(value)
            name = _SCANNERS.get(key) or clean_text(key.removesuffix("Scan"), MAX_STATUS_CHARS)
            status = clean_text(scanner.status or "no result", MAX_STATUS_CHARS)
            yield ScannerResult(name, status, clean_text(scanner.message or "", MAX_MESSAGE_CHARS))


class _Name(BaseModel):
    name: Text = None


_Names = Annotated[list[Annotated[_Name | None, OR_NONE]], OR_EMPTY]


class _Refs(BaseModel):
    branches: _Names = []
    tags: _Names = []


_REFS = TypeAdapter(_Refs)


def _list_names(names: Sequence[_Name | None]) -> list[str]:
    return _list_texts(one.name for one in names if one is not None)


def parse_revision_names(body: bytes, host: str) -> list[str]:
    """Parse a repo's branches and tags. The branches come first.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    found = validate_json(_REFS, body, host)
    return [clean_text(name, MAX_STATUS_CHARS) for name in _list_names([*found.branches, *found.tags])]


class _Scope(BaseModel):
    entity: Annotated[_Name, fall_back_to(_Name)] = _Name()
    permissions: Texts = []


class _FineGrained(BaseModel):
    scoped: Annotated[list[Annotated[_Scope | None, OR_NONE]], OR_EMPTY] = []


class _AccessToken(BaseModel):
    displayName: Text = None  # noqa: N815 - the Hub's name
    role: Text = None
    fineGrained: Annotated[_FineGrained | None, OR_NONE] = None  # noqa: N815 - the Hub's name


class _Auth(BaseModel):
    accessToken: Annotated[_AccessToken | None, OR_NONE] = None  # noqa: N815 - the Hub's name


class _Whoami(BaseModel):
    name: Text = None
    orgs: _Names = []
    auth: Annotated[_Auth, fall_back_to(_Auth)] = _Auth()


_WHOAMI = TypeAdapter(_Whoami)


def parse_account(body: bytes, host: str) -> Account:
    """Parse the account that a token belongs to.

    Raises:
        HubUnavailableError: the response does not follow the Hub's protocol.
    """
    found = validate_json(_WHOAMI, body, host)
    if not found.name:
        raise make_protocol_error(host, "The response names no account (field name).")
    token = found.auth.accessToken or _AccessToken()
    scopes = [
        f"{scope.entity.name or ''}: {permission}".removeprefix(": ")
        for scope in (token.fineGrained.scoped if token.fineGrained else ())
        if scope is not None
        for permission in _list_texts(scope.permissions)
    ]
    return Account(found.name, tuple(_list_names(found.orgs)), token.displayName, token.role, tuple(scopes))
