"""Decide whether a local model's files differ from those of its repo. Sends no requests."""

from __future__ import annotations

from collections.abc import Sequence

from llm_hf_models.hub.refs import is_commit
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.types import Freshness, UpdateState
from llm_hf_models.system.text import clean_text, quote_label

MAX_NOTE_CHARS = 100


def decide_without_hub(model: LocalModel) -> UpdateState | None:
    """Return the state of a model that is not compared with a branch of a repo, or None."""
    if model.endpoint:
        return UpdateState(None, "on a server")
    if model.repo is None:
        return UpdateState(None, "imported, without a repo")
    if model.commit is None:
        return UpdateState(None, "imported, not verified against its repo")
    if model.pinned:
        return UpdateState(available=False, note="pinned")
    return UpdateState(available=False) if model.revision and is_commit(model.revision) else None


def compare_with_repo(model: LocalModel, details: RepoDetails, freshness: Freshness) -> UpdateState:
    """Return whether a model's files differ from those of its repo."""
    digests = {file.path: file.etag for file in details.files}
    known = set(digests.values())
    changed = [file for file in model.files if not known & {file.sha256, file.git_sha1} - {None}]
    if any(file.path not in digests for file in changed):
        name = next(file.path for file in changed if file.path not in digests)
        return UpdateState(None, f"the repo no longer has {quote_label(name)}")
    if not changed and freshness.stale:
        return UpdateState(None, clean_text(freshness.problem or "the Hub did not answer", MAX_NOTE_CHARS))
    return UpdateState(bool(changed))


def combine(states: Sequence[UpdateState]) -> UpdateState:
    """Return whether one of several models has an update. Unknown if there is none, or if one of them is unknown."""
    if any(state.available for state in states):
        return UpdateState(available=True)
    unknown = next((state for state in states if state.available is None), None)
    return unknown or UpdateState(available=False if states else None)
