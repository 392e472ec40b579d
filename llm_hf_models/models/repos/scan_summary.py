"""Summarize the reports of the Hub's scanners in a few words, or state that the Hub was not asked, with the reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llm_hf_models.hub.types import FileScan, RepoDetails, ScanState

UNSAFE = frozenset({"unsafe", "malicious"})
NO_VERDICT = frozenset({"unscanned", "error", "no result", ""})
NO_WARNING = frozenset({"safe", "queued"}) | NO_VERDICT  # any other word, known or not, is an issue


@dataclass(frozen=True)
class ScanSummary:
    """What is known about the scans of some files. `reason` is why the Hub was not asked, or did not answer."""

    state: ScanState
    text: str
    reason: str | None = None


def make_not_asked(reason: str | None) -> ScanSummary:
    """Return the summary for a Hub that was not asked, or that did not answer."""
    reason = reason or "the Hub did not respond"
    return ScanSummary("not asked", f"not asked: {reason}", reason)


def _make(state: ScanState) -> ScanSummary:
    return ScanSummary(state, state)


def find_unsafe(details: RepoDetails) -> dict[str, str]:
    """Return the paths of the files that the repo's details report as unsafe, each with the Hub's word for it."""
    return {path: level for path, level in details.files_with_issues if level.lower() in UNSAFE}


def summarize_details(details: RepoDetails, paths: Collection[str] | None = None) -> ScanSummary:
    """Summarize the Hub's statements about a whole repo, or about some of its files, in its details."""
    paths = None if paths is None else set(paths)
    issues = [(path, level) for path, level in details.files_with_issues if paths is None or path in paths]
    if issues:
        return ScanSummary("issues reported", "; ".join(f"{path}: {level}" for path, level in issues))
    files = [file for file in details.files if paths is None or file.path in paths]
    statuses = {(file.scan or "").lower() for file in files}
    if found := _summarize_statuses(statuses):
        return found
    if details.scans_done is not None and statuses <= {"", "safe"}:
        return _make("no issue reported" if details.scans_done else "not finished")
    if statuses <= {""}:
        return _make("not reported")
    return _count_unscanned([(file.scan or "").lower() in NO_VERDICT for file in files])


def summarize_reports(scans: Sequence[FileScan], paths: Collection[str]) -> ScanSummary | None:
    """Summarize the scanners' reports on the files with these paths. Return None if there are no reports."""
    if not scans:
        return None
    by_path = {scan.path: {scan.status.lower(), *(one.status.lower() for one in scan.scanners)} for scan in scans}
    return _summarize_statuses(set().union(*by_path.values())) or _count_unscanned(
        [by_path.get(path, set()) <= NO_VERDICT for path in paths]
    )


def _summarize_statuses(statuses: set[str]) -> ScanSummary | None:
    """Return the warnings, worst first, or that scans are running, or None."""
    if warnings := sorted(statuses - NO_WARNING, key=lambda status: (status not in UNSAFE, status)):
        return ScanSummary("issues reported", ", ".join(warnings))
    return _make("not finished") if "queued" in statuses else None


def _count_unscanned(unscanned: Sequence[bool]) -> ScanSummary:
    """Summarize files of which each one has no verdict (True) or is harmless as reported."""
    count = sum(unscanned)
    if not count:
        return _make("no issue reported")
    return (
        _make("not scanned")
        if count == len(unscanned)
        else ScanSummary("not scanned", f"not scanned: {count} of {len(unscanned)} files")
    )
