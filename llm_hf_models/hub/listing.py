"""Complete a repo's list of files: sizes and digests that its details lack are requested in other ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from llm_hf_models.errors import (
    AccessError,
    FileNotFoundInRepoError,
    HubServerError,
    HubUnavailableError,
    NotFoundError,
)
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import UNKNOWN_SIZE, HubFile, Location, RepoDetails

MAX_FILES_TO_LOCATE = 20  # one request each
MAX_GIT_FILE_BYTES = 10_000_000  # the Hub stores larger files with LFS, so their git blob is not their content
SHA256_CHARS = 64


class FileRecords(Protocol):
    """The requests that the Hub's client offers about files. The client imports this module, not the reverse."""

    def fetch_tree(self, repo: RepoId, commit: str) -> list[HubFile]:
        """Return all files of a repo."""

    def locate(self, repo: RepoId, file: RepoFile, commit: str) -> Location:
        """Return the current URL of a file's bytes, with the Hub's record of the file."""


def complete_details(hub: FileRecords, details: RepoDetails, *, is_whole: bool) -> RepoDetails:
    """Return the details with a size for every file, and with the digests that the repo's tree has.

    A file whose size can't be determined is left out, with the reason.

    Args:
        hub: the Hub that sent the details.
        details: the details, in which files may lack a size or a digest.
        is_whole: False if the list of files is missing, or an entry of it can't be read.

    Raises:
        HubUnavailableError: the Hub lists no files.
        HfModelsError: a request failed.
    """
    if is_whole and all(_is_complete(file) for file in details.files):
        return details
    repo = RepoId.parse(details.id)
    files = _add_tree(hub, repo, details, is_whole=is_whole)
    unsized = sorted((file for file in files if file.size == UNKNOWN_SIZE), key=lambda file: not _is_gguf(file))
    sized: dict[str, HubFile] = {}
    left_out: dict[str, str] = {}
    for file in unsized:
        if len(sized) + len(left_out) == MAX_FILES_TO_LOCATE:
            break
        try:
            sized[file.path] = complete_file(hub, repo, file, details.commit, needs_digest=False)
        except (FileNotFoundInRepoError, HubUnavailableError) as error:
            if isinstance(error, HubServerError):
                raise
            left_out[file.path] = error.cause or error.message
    rest = {file.path: "The Hub reports no size for it." for file in unsized if file.path not in sized}
    kept = [sized.get(file.path, file) for file in files]
    return replace(
        details,
        files=tuple(file for file in kept if file.size != UNKNOWN_SIZE),
        left_out=(*details.left_out, *{**rest, **left_out}.items()),
    )


def _is_gguf(file: HubFile) -> bool:
    return file.path.lower().endswith(".gguf")


def _is_complete(file: HubFile) -> bool:
    return file.size != UNKNOWN_SIZE and (has_proof(file) or not _is_gguf(file))


def _add_tree(hub: FileRecords, repo: RepoId, details: RepoDetails, *, is_whole: bool) -> tuple[HubFile, ...]:
    """Return the files with the sizes and digests of the repo's tree. Many mirrors have no tree."""
    try:
        tree = {file.path: file for file in hub.fetch_tree(repo, details.commit)}
    except (AccessError, NotFoundError, HubUnavailableError) as error:
        if isinstance(error, HubServerError) or not (is_whole or details.files):
            raise
        return details.files
    listed = {file.path: file for file in details.files}
    issues = dict(details.files_with_issues)
    files = {
        path: replace(file, scan=issues.get(path)) for path, file in tree.items() if path in listed or not is_whole
    }
    files |= {path: file for path, file in listed.items() if path not in files or _is_complete(file)}
    return tuple(files[path] for path in dict.fromkeys([*listed, *files]))


def has_proof(file: HubFile) -> bool:
    """Return whether the list of files has the digest of a file's content.

    A git blob id is the digest of the content only for a file that is not an LFS file.
    """
    may_be_pointer = _is_gguf(file) or file.size > MAX_GIT_FILE_BYTES
    return bool(file.sha256 or (file.git_sha1 and not may_be_pointer))


def complete_file(hub: FileRecords, repo: RepoId, file: HubFile, commit: str, *, needs_digest: bool = True) -> HubFile:
    """Return a file with its size and digest. What the list of files lacks comes from the headers of its address.

    Raises:
        HubUnavailableError: no response has the size or the digest. The cause names the missing headers.
        HfModelsError: the request failed.
    """
    if file.size != UNKNOWN_SIZE and has_proof(file):
        return file
    location = hub.locate(repo, RepoFile(file.path), commit)
    file = _add_digest(file, location)
    if file.size == UNKNOWN_SIZE:
        size = location.size if location.size is not None else location.response_size
        if size is None:
            raise HubUnavailableError(
                f"The Hub reports no size for {file.path}",
                cause="Neither the list of files nor the headers X-Linked-Size and Content-Length have it.",
                hint="Check HF_ENDPOINT: its mirror or proxy may remove headers.",
            )
        file = replace(file, size=size)
    if needs_digest and not file.etag:
        raise HubUnavailableError(
            f"The Hub reports no digest for {file.path}, so it can't be verified",
            cause="Neither the list of files nor the headers X-Linked-Etag and ETag have a digest.",
            hint="Check HF_ENDPOINT: its mirror or proxy may remove headers.",
        )
    return file


def _add_digest(file: HubFile, location: Location) -> HubFile:
    """Return the file with the Hub's record of its digest, else with the digest that it has already."""
    etag = location.etag or (None if file.etag else location.response_etag)
    if etag and not file.sha256 and len(etag) == SHA256_CHARS:
        return replace(file, sha256=etag, git_sha1=None)
    return replace(file, git_sha1=etag) if etag and not file.etag else file
