"""Find out whether the Hub has newer versions of local models, from cached responses or within a time limit."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import replace

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.errors import HfModelsError
from llm_hf_models.hub.refs import ModelRef, RepoId
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.repos.info import fetch_details
from llm_hf_models.models.repos.update_state import MAX_NOTE_CHARS, compare_with_repo, decide_without_hub
from llm_hf_models.models.types import Freshness, UpdateState
from llm_hf_models.system.parallel import compute_at_once
from llm_hf_models.system.text import clean_text

SECONDS = 3.0  # for all repos together
PAUSE_SECONDS = 60.0  # no requests are sent for this time after a Hub answered none of them

RepoKey = tuple[str, str | None]  # repo and revision
_Answer = tuple[RepoDetails, Freshness] | str  # or why there is none

_paused_until: dict[str, float] = {}  # by endpoint, in seconds of the monotonic clock


def find_updates(context: Context, models: Iterable[LocalModel], *, seconds: float = SECONDS) -> dict[str, UpdateState]:
    """Return for each model, by its id, whether its repo has other files now. This takes at most `seconds`.

    Cached responses of the Hub are used while they are fresh. A repo that does not answer in time is unknown. Its
    answer is cached when it arrives, for the next call.
    """
    found: dict[str, UpdateState] = {}
    by_repo: dict[RepoKey, list[LocalModel]] = {}
    for model in models:
        if state := decide_without_hub(model):
            found[model.model_id] = state
        else:
            by_repo.setdefault((str(model.repo), model.revision), []).append(model)
    answers = _fetch_all(context, by_repo, seconds)
    for key, of_repo in by_repo.items():
        answer = answers.get(key, f"no answer within {seconds:.0f} s")
        for model in of_repo:
            found[model.model_id] = (
                UpdateState(None, answer) if isinstance(answer, str) else compare_with_repo(model, *answer)
            )
    return found


def _fetch_all(context: Context, repos: Collection[RepoKey], seconds: float) -> dict[RepoKey, _Answer]:
    """Request the details of several repos at once. Repos that did not answer in time are missing in the result."""
    endpoint, now = context.endpoint(), time.monotonic()
    if _paused_until.get(endpoint, 0.0) > now and not settings.is_offline():
        return dict.fromkeys(repos, "the Hub did not answer a moment ago")
    silent = replace(context, notify=None, ask_passphrase=None)
    answers = compute_at_once(lambda key: _fetch(silent, key), repos, seconds=seconds)
    if repos and not answers:
        _paused_until[endpoint] = time.monotonic() + PAUSE_SECONDS
    return answers


def _fetch(context: Context, key: RepoKey) -> _Answer:
    repo, revision = key
    try:
        return fetch_details(context, ModelRef(RepoId.parse(repo), revision=revision))
    except HfModelsError as error:
        return clean_text(error.message, MAX_NOTE_CHARS)
