"""What the Hub's scanners say of a pull's files: asked beside other questions, worded, refused, kept. Scans nothing.

Each scanner's word is kept as it was reported, with its date; none of them, and no sum of them, means that a file is
safe: what was not scanned, or not yet, is said as such.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from llm_hf_models import settings
from llm_hf_models.errors import HfModelsError, UnsafeFileError
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.hub.types import FileScan, HubFile, RepoDetails

UNSAFE = frozenset({"unsafe", "malicious"})
NO_VERDICT = frozenset({"unscanned", "error", "no result", ""})
NO_WARNING = frozenset({"safe", "queued"}) | NO_VERDICT  # any other word, known or not, is shown before a pull


class ScanRequest:
    """The scanners' words on some files, asked for in a thread of its own: a pull has other things to ask meanwhile."""

    def __init__(self, hub: Hub, repo: RepoId, commit: str, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self._hub, self._repo, self._commit = hub, repo, commit
        self._answer: Future[tuple[FileScan, ...]] = Future()
        threading.Thread(target=self._send, name="hub scan", daemon=True).start()

    def _send(self) -> None:
        try:
            self._answer.set_result(self._hub.fetch_scans(self._repo, self._commit, self.paths))
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
            self._answer.set_exception(error)

    def wait_for_scans(self, paths: Sequence[str]) -> tuple[tuple[FileScan, ...], str | None]:
        """The words on `paths`, asked again where those are others than was thought; or none, and why there are none.

        A Hub that can't tell, such as a mirror of another kind, keeps nobody from a pull: digests are checked anyway.
        """
        try:
            if set(paths) <= set(self.paths):
                return tuple(scan for scan in self._answer.result() if scan.path in paths), None
            return self._hub.fetch_scans(self._repo, self._commit, paths), None
        except HfModelsError as error:
            return (), error.message


def refuse_unsafe(
    details: RepoDetails, files: Sequence[HubFile], scans: Sequence[FileScan], *, allowed: bool
) -> tuple[str, ...]:
    """The files that a scanner calls unsafe.

    Args:
        details: of the repo, which name files with issues too.
        files: that are to be fetched.
        scans: each scanner's word on them, as far as it is known.
        allowed: a person wants them all the same.

    Raises:
        UnsafeFileError: there are some, and they were not allowed.
    """
    wanted = {file.path for file in files}
    found = {path: f"{path}: {level}" for path, level in details.files_with_issues if level.lower() in UNSAFE}
    found |= {scan.path: line for scan in scans if (line := _describe_alarm(scan))}
    named = sorted(wanted & set(found))
    if named and not allowed:
        raise UnsafeFileError(
            f"The Hub's scanners report {', '.join(named)} as unsafe",
            cause="\n".join([*(found[path] for path in named), f"See {_build_page_url(details)}"]),
            hint="If you know better: --allow-unsafe (it is noted in the record).",
        )
    return tuple(named)


def _build_page_url(details: RepoDetails) -> str:
    return f"{settings.get_display_endpoint()}/{details.id}/tree/{details.commit}"


def _describe_alarm(scan: FileScan) -> str:
    """Who calls a file unsafe, and why; empty where nobody does."""
    return _describe_reports(scan, lambda status: status in UNSAFE)


def list_warnings(scans: Sequence[FileScan]) -> tuple[str, ...]:
    """What a person should read before a pull: every word that is not calm, whoever said it."""
    return tuple(line for scan in scans if (line := _describe_reports(scan, lambda status: status not in NO_WARNING)))


def _describe_reports(scan: FileScan, matters: Callable[[str], bool]) -> str:
    """The words on one file that matter; the Hub's own where it is the only one; empty where none does."""
    words = [f"{word.scanner} {word.status}" + (f" ({word.message})" if word.message else "")
             for word in scan.scanners if matters(word.status.lower())]  # fmt: skip
    if not words and matters(scan.status.lower()):
        words = [scan.status]
    return f"{scan.path}: {', '.join(words)}" if words else ""


def summarize_scans(scans: Sequence[FileScan]) -> str | None:
    """All words in a few: the gravest where there is one, else how far the scanners have come. None without any."""
    if not scans:
        return None
    words = {status.lower() for scan in scans for status in (scan.status, *_list_statuses(scan))}
    if grave := sorted(words - NO_WARNING, key=lambda word: (word not in UNSAFE, word)):
        return ", ".join(grave)
    if "queued" in words:
        return "not finished"
    return "not scanned" if words <= NO_VERDICT else "no issue reported"


def _list_statuses(scan: FileScan) -> tuple[str, ...]:
    return tuple(word.status for word in scan.scanners)


def build_record(
    scans: Sequence[FileScan], *, unsafe: Sequence[str], allowed: bool, problem: str | None
) -> dict[str, Any]:
    """What the library keeps of it, beside the result and the date.

    Args:
        scans: each scanner's word.
        unsafe: the files that were pulled all the same.
        allowed: whether `--allow-unsafe` was given.
        problem: why the scanners could not be asked.
    """
    kept: dict[str, Any] = {"files": [asdict(scan) for scan in scans]} if scans else {}
    if allowed:
        kept |= {"allowed_unsafe": True, "unsafe": list(unsafe)}
    return {**kept, "problem": problem} if problem else kept
