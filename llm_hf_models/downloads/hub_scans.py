"""Fetch the reports of the Hub's scanners on the files of a pull, describe them, and refuse unsafe files.

This module scans nothing itself. The library stores each scanner's report unchanged, with its date. Reports, even
from all scanners, do not prove that a file is safe. A file that has not been scanned is described as such.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

from llm_hf_models.errors import HfModelsError, UnsafeFileError
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.hub.types import FileScan, HubFile, RepoDetails
from llm_hf_models.models.repos.scan_summary import (
    NO_WARNING,
    UNSAFE,
    ScanSummary,
    find_unsafe,
    make_not_asked,
    summarize_reports,
)
from llm_hf_models.system.text import strip_credentials


class ScanRequest:
    """A request for the scan reports on some files. It runs in its own thread while a pull sends other requests."""

    def __init__(self, hub: Hub, repo: RepoId, commit: str, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self._hub, self._repo, self._commit = hub, repo, commit
        self._response: Future[tuple[FileScan, ...]] = Future()
        threading.Thread(target=self._send, name="hub scan", daemon=True).start()

    def _send(self) -> None:
        try:
            self._response.set_result(self._hub.fetch_scans(self._repo, self._commit, self.paths))
        except BaseException as error:  # noqa: BLE001 - wait_for_scans raises it
            self._response.set_exception(error)

    def wait_for_scans(self, paths: Sequence[str]) -> tuple[tuple[FileScan, ...], str | None]:
        """Wait for the reports on `paths`, which are requested again if they were not part of the first request.

        A Hub without reports, such as a mirror, must not prevent a pull: digests are verified in any case.

        Returns:
            The reports, and None; or no reports, and the reason.
        """
        try:
            if set(paths) <= set(self.paths):
                return tuple(scan for scan in self._response.result() if scan.path in paths), None
            return self._hub.fetch_scans(self._repo, self._commit, paths), None
        except HfModelsError as error:
            return (), error.message


def refuse_unsafe(
    details: RepoDetails, files: Sequence[HubFile], scans: Sequence[FileScan], *, allowed: bool, endpoint: str
) -> tuple[str, ...]:
    """Return the files that a scanner reports as unsafe.

    Args:
        details: The details of the repo, which also list files with issues.
        files: The files to download.
        scans: The scanners' reports on them, as far as they are known.
        allowed: True if the user allowed unsafe files.
        endpoint: The address of the Hub, for the page of the repo in the error.

    Raises:
        UnsafeFileError: A scanner reports a file as unsafe, and unsafe files are not allowed.
    """
    paths = {file.path for file in files}
    reports = {path: f"{path}: {level}" for path, level in find_unsafe(details).items()}
    reports |= {scan.path: line for scan in scans if (line := _describe_alarm(scan))}
    unsafe = sorted(paths & set(reports))
    if unsafe and not allowed:
        page = f"{strip_credentials(endpoint)}/{details.id}/tree/{details.commit}"
        raise UnsafeFileError(
            f"The Hub's scanners report {', '.join(unsafe)} as unsafe",
            cause="\n".join([*(reports[path] for path in unsafe), f"See {page}"]),
            hint="To pull it anyway, add --allow-unsafe (the library records it).",
        )
    return tuple(unsafe)


def _describe_alarm(scan: FileScan) -> str:
    """Describe the reports that call a file unsafe; empty if there are none."""
    return _describe_reports(scan, lambda status: status in UNSAFE)


def list_warnings(scans: Sequence[FileScan]) -> tuple[str, ...]:
    """List the reports that a person should read before a pull: all except those known to be harmless."""
    return tuple(line for scan in scans if (line := _describe_reports(scan, lambda status: status not in NO_WARNING)))


def _describe_reports(scan: FileScan, matters: Callable[[str], bool]) -> str:
    """Describe the scanners' reports that matter, else the Hub's own status if that matters; empty if none does."""
    reports = [f"{result.scanner} {result.status}" + (f" ({result.message})" if result.message else "")
               for result in scan.scanners if matters(result.status.lower())]  # fmt: skip
    if not reports and matters(scan.status.lower()):
        reports = [scan.status]
    return f"{scan.path}: {', '.join(reports)}" if reports else ""


def summarize(
    from_details: ScanSummary, scans: Sequence[FileScan], paths: Sequence[str], problem: str | None
) -> ScanSummary:
    """Summarize the scans of a pull's files.

    Args:
        from_details: The summary of the repo's details.
        scans: The scanners' reports on the files.
        paths: The paths of the files.
        problem: Why the reports could not be fetched. The repo's details alone never show that there is no issue then.
    """
    if problem is None:
        return summarize_reports(scans, paths) or from_details
    return replace(from_details, reason=problem) if from_details.state == "issues reported" else make_not_asked(problem)


def build_scan_details(
    scans: Sequence[FileScan], *, unsafe: Sequence[str], allowed: bool, problem: str | None
) -> dict[str, Any]:
    """Build the details that the library stores with the result and the date of the scan.

    Args:
        scans: The scanners' reports.
        unsafe: The files that were pulled although a scanner reports them as unsafe.
        allowed: Whether `--allow-unsafe` was given.
        problem: Why the reports could not be fetched.
    """
    details: dict[str, Any] = {"files": [asdict(scan) for scan in scans]} if scans else {}
    if allowed:
        details |= {"allowed_unsafe": True, "unsafe": list(unsafe)}
    return {**details, "problem": problem} if problem else details
