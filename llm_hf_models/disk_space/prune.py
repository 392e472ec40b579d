"""Plan and carry out the removal of local models that were not used for long, or that are large."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from llm_hf_models.context import Context
from llm_hf_models.disk_space.types import KeptModel, PrunedModel, Pruning
from llm_hf_models.errors import BadInputError
from llm_hf_models.inference import running_engines
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models.collections import list_members
from llm_hf_models.models.local_files import ModelRemoval, RemovalPlanner
from llm_hf_models.models.names import suggest_new_default
from llm_hf_models.system.disk import measure_files, sum_space
from llm_hf_models.system.units import format_duration, format_size

USED = "it was used after the plan was made"


def plan_pruning(
    context: Context, *, unused_seconds: float | None, larger_bytes: int | None, keep: Sequence[str]
) -> Pruning:
    """Return the models that meet all criteria, and those that meet them and are kept. This changes nothing.

    Raises:
        BadInputError: There is no criterion.
        UnknownCollectionError: A collection in `keep` does not exist.
    """
    if unused_seconds is None and larger_bytes is None:
        raise BadInputError("No criterion was given", hint="Use --unused 90d, --larger 5G, or both.")
    kept_ids = _list_kept_ids(context, keep)
    with context.open_database() as db:
        models, versions = db.list_models(), db.list_all_versions()
        protected = _find_protected(db, models, kept_ids)
    planner, pruned, kept = RemovalPlanner(models, versions), [], []
    for model in models:
        size = sum_space(measure_files(file.location for file in model.files))
        reasons = _list_reasons(model, size, unused_seconds, larger_bytes)
        if not reasons or model.endpoint is not None:
            continue
        if reason := protected.get(model.model_id) or _explain_nothing_to_free(model, planner):
            kept.append(KeptModel(model.model_id, reason))
        else:
            freed = planner.count_freed_bytes([model])
            pruned.append(PrunedModel(model.model_id, size, freed, model.added, model.last_used, reasons))
    chosen = {each.id for each in pruned}
    freed = planner.count_freed_bytes([model for model in models if model.model_id in chosen])
    order = sorted(pruned, key=lambda each: (-each.size_bytes, each.id))
    return Pruning(tuple(order), tuple(kept), freed, unused_seconds, larger_bytes, tuple(keep))


def prune(context: Context, plan: Pruning) -> Pruning:
    """Remove the models of a plan, except for those that were used or protected since it was made.

    Raises:
        NotWritableError: A file can't be removed.
    """
    kept_ids = _list_kept_ids(context, plan.keep)
    with context.open_database() as db:
        with db.transaction():  # no other process records the use of a model in the meantime
            models = db.list_models()
            reasons = dict(_find_doubts(plan, models, _find_protected(db, models, kept_ids)))
            chosen = {each.id for each in plan.models} - reasons.keys()
            planner = RemovalPlanner(models, db.list_all_versions())
            removal = ModelRemoval(db, [each for each in models if each.model_id in chosen], planner)
            removal.remove_records()
        removal.delete_files()
    kept = (*plan.kept, *(KeptModel(model_id, reason) for model_id, reason in reasons.items()))
    removed = tuple(each for each in plan.models if each.id in chosen)
    return replace(plan, models=removed, kept=kept, freed_bytes=removal.freed_bytes, done=True)


def _list_kept_ids(context: Context, keep: Sequence[str]) -> dict[str, str]:
    """Return the ids of the models in the collections to keep, each with the name of its collection."""
    return {member.id: name for name in keep for member in list_members(context, name) if member.id}


def _find_protected(db: Database, models: Collection[LocalModel], kept_ids: dict[str, str]) -> dict[str, str]:
    """Return the ids of the models that are never pruned, each with the reason."""
    found = {model_id: f"it is in the collection {name}" for model_id, name in kept_ids.items()}
    found |= dict.fromkeys((row.model_id for row in running_engines.list_running_engines(db)), "its engine is running")
    found |= {each.model_id: "it is pinned" for each in models if each.pinned}
    is_default = "it is llm's default model"
    return found | {each.model_id: is_default for each in models if suggest_new_default((each.model_id, *each.aliases))}


def _list_reasons(
    model: LocalModel, size: int, unused_seconds: float | None, larger_bytes: int | None
) -> tuple[str, ...]:
    """Return the reasons to prune a model; none if it does not meet a criterion."""
    reasons = []
    if unused_seconds is not None:
        age = time.time() - (model.last_used or model.added)
        if age <= unused_seconds:
            return ()
        reasons.append(
            f"unused for {format_duration(age)}" if model.last_used else f"never used in {format_duration(age)}"
        )
    if larger_bytes is not None:
        if size <= larger_bytes:
            return ()
        reasons.append(f"larger than {format_size(larger_bytes)}")
    return tuple(reasons)


def _explain_nothing_to_free(model: LocalModel, planner: RemovalPlanner) -> str | None:
    if planner.list_removable([model]):
        return None
    return "its files were imported in place" if model.place == "in place" else "its files are used by others"


def _find_doubts(plan: Pruning, models: Collection[LocalModel], protected: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the planned models that must be kept now, with the reasons."""
    now = {model.model_id: model for model in models}
    for each in plan.models:
        model = now.get(each.id)
        if model is None:
            yield each.id, "it was removed after the plan was made"
        elif each.id in protected:
            yield each.id, protected[each.id]
        elif (model.last_used, model.added) != (each.last_used, each.added):
            yield each.id, USED
