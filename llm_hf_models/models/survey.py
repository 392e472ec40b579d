"""Compare the local models with the Hub and with each other: which have updates, and what removing them frees."""

from __future__ import annotations

from dataclasses import replace

from llm_hf_models.context import Context
from llm_hf_models.models import collections, local_models, updates
from llm_hf_models.models.local_files import RemovalPlanner
from llm_hf_models.models.types import LibrarySurvey
from llm_hf_models.system.disk import measure_files, sum_space


def survey(context: Context, text: str, collection: str | None) -> LibrarySurvey:
    """Return the local models with `text` in their id or in an alias, and in a collection if given, newest first."""
    with context.open_database() as db:
        every, versions = db.list_models(), db.list_all_versions()
        selected = collections.select_models(db, every, collection)
        named = collections.find_collections_of_models(db)
    wanted = text.casefold()
    models = [each for each in selected if any(wanted in name.casefold() for name in (each.model_id, *each.aliases))]
    states, planner = updates.find_updates(context, models), RemovalPlanner(every, versions)
    views = tuple(
        replace(
            local_models.make_view(model, collections=named.get(model.model_id, ())),
            update_available=states[model.model_id].available,
            update_note=states[model.model_id].note,
            freed_bytes=planner.count_freed_bytes([model]),
        )
        for model in models
    )
    return LibrarySurvey(
        views,
        size_bytes=sum_space(measure_files(file.location for model in models for file in model.files)),
        freed_bytes=planner.count_freed_bytes(models),
        outdated=sum(view.update_available is True for view in views),
        unknown=sum(view.update_available is None for view in views),
    )
