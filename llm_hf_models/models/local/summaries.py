"""List the local models as rows, with the command that repairs a model and the health of remote endpoints."""

from __future__ import annotations

from llm_hf_models.context import Context
from llm_hf_models.library.types import ModelSummary
from llm_hf_models.models.local.repairs import REPAIRABLE_STATES, suggest_fix


def list_summaries(context: Context, *, health: bool) -> tuple[ModelSummary, ...]:
    """Return a row for each local model, newest first."""
    with context.open_summaries() as db:
        found = [_add_fix(each) if each.state in REPAIRABLE_STATES else each for each in db.list_summaries()]
    return tuple(_add_health(context, found) if health else found)


def _add_fix(found: ModelSummary) -> ModelSummary:
    fix = suggest_fix(
        found.id, found.state, found.repo, found.commit, found.location, has_unproven_files=found.has_unproven_files
    )
    return found._replace(fix=fix)


def _add_health(context: Context, found: list[ModelSummary]) -> list[ModelSummary]:
    remote = [each.id for each in found if each.state == "remote"]
    if not remote:
        return found
    from llm_hf_models.models.local import remote_endpoints  # imported late: it imports engine and network modules

    with context.open_database() as db:
        states = remote_endpoints.check_health([db.get_model(model_id) for model_id in remote])
    return [each._replace(health=states.get(each.id)) for each in found]
