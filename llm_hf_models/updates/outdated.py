"""Find out which local models the Hub has other versions of, and what changed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from llm_hf_models.context import Context
from llm_hf_models.downloads.local_files import count_partial_bytes, find_local_files
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.hub.types import HubFile, RepoDetails
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.update_state import decide_without_hub
from llm_hf_models.system.parallel import compute_at_once
from llm_hf_models.updates.ask_hub import THREADS, RepoKey, RepoQuestions
from llm_hf_models.updates.compare import Comparison, compare
from llm_hf_models.updates.types import HubAnswer, OutdatedModel, OutdatedModels


class Survey:
    """The local models compared with the Hub, with what a plan of their updates needs."""

    def __init__(self, context: Context, models: Sequence[LocalModel], *, with_pinned: bool) -> None:
        self.models = models
        self.details: dict[str, RepoDetails] = {}  # of the repo of each model that has changed
        self.comparisons: dict[str, Comparison] = {}
        self._context = context
        rows = {model.model_id: _describe_untracked(model, with_pinned=with_pinned) for model in models}
        asked = _group_by_repo(model for model in models if rows[model.model_id] is None)
        self._questions = RepoQuestions(context, asked)
        for of_repo in compute_at_once(self._ask, asked, seconds=math.inf, threads=THREADS).values():
            rows |= {row.id: row for row in of_repo}
        self.rows = tuple(row for model in models if (row := rows[model.model_id]))

    @property
    def problem(self) -> str | None:
        """Why the Hub could not be asked, or None."""
        return self._questions.problem

    def _ask(self, key: RepoKey) -> list[OutdatedModel]:
        answer = self._questions.ask(key)
        return [self._describe(model, key, answer) for model in self._questions.get_models(key)]

    def _describe(self, model: LocalModel, key: RepoKey, answer: HubAnswer) -> OutdatedModel:
        row = replace(
            _make_row(model),
            new_commit=answer.commit,
            renamed_to=answer.name,
            note=answer.note or answer.freshness.problem,
            stale=answer.freshness.stale,
            checked=None if answer.status == "unknown" else time.time() - answer.freshness.age,
        )
        if answer.status:
            return replace(row, status=answer.status)
        details = self._questions.get_details(key)
        if details is None:
            return replace(row, status="up to date")
        found = compare(model, details, lambda: self._list_old_files(model))
        self.details[model.model_id], self.comparisons[model.model_id] = details, found
        return replace(
            row,
            status=found.status,
            files=found.files,
            fetch_bytes=_count_missing_bytes(self._context, details, found.changed),
            note=found.note or row.note,
        )

    def _list_old_files(self, model: LocalModel) -> Sequence[HubFile] | None:
        return self._questions.list_files(str(model.repo), model.commit) if model.commit else None


def find_outdated(context: Context, names: Sequence[str], *, with_pinned: bool) -> OutdatedModels:
    """Compare local models with the Hub.

    Args:
        context: The context with the library and the Hub.
        names: The models; empty for all.
        with_pinned: Compare pinned models as well.

    Raises:
        UnknownModelError: There is no model with a name.
    """
    survey = Survey(context, select_models(context, names), with_pinned=with_pinned)
    return OutdatedModels(
        survey.rows,
        outdated=sum(row.status == "new files" for row in survey.rows),
        unknown=sum(row.status == "unknown" for row in survey.rows),
        problem=survey.problem,
    )


def select_models(context: Context, names: Sequence[str]) -> list[LocalModel]:
    """Return the models with these names, each once, or all of them.

    Raises:
        UnknownModelError: There is no model with a name.
    """
    with context.open_database() as db:
        if not names:
            return db.list_models()
        return list({model.model_id: model for model in map(db.find_model, names)}.values())


def _group_by_repo(models: Iterable[LocalModel]) -> dict[RepoKey, list[LocalModel]]:
    found: dict[RepoKey, list[LocalModel]] = {}
    for model in models:
        found.setdefault((str(model.repo), model.revision), []).append(model)
    return found


def _make_row(model: LocalModel) -> OutdatedModel:
    return OutdatedModel(model.model_id, "unknown", model.repo, model.revision, model.commit, pinned=model.pinned)


def _describe_untracked(model: LocalModel, *, with_pinned: bool) -> OutdatedModel | None:
    """Return the row of a model that is not compared with the Hub, or None."""
    if model.pinned and not with_pinned:
        return replace(_make_row(model), status="pinned")
    state = decide_without_hub(replace(model, pinned=False))
    if state is None:
        return None
    if state.available is None:
        return replace(_make_row(model), status="not tracked", note=state.note)
    return replace(_make_row(model), status="up to date", note="pulled at this commit, which never changes")


def _count_missing_bytes(context: Context, details: RepoDetails, files: Sequence[HubFile]) -> int:
    """Return the bytes of these files that are not on this machine, under whatever name."""
    cache = context.cache_dir()
    local = find_local_files(cache, RepoId.parse(details.id), details.commit, files)
    work = cache_layout.cache_work_folder(cache)
    missing = {file.etag: file for file in files if file.path not in local}.values()
    return sum(file.size - count_partial_bytes(work, file) for file in missing)
