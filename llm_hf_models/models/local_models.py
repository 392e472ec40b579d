"""Build the views of local models that the CLI and the MCP server show, from their records only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from llm_hf_models.context import Context
from llm_hf_models.library.file_states import UNPROVEN_STATES, ModelState
from llm_hf_models.library.records import (
    ENDPOINT_KEY_ENV,
    ENDPOINT_KEY_NAME,
    ENDPOINT_MODEL,
    Check,
    EndpointHealth,
    LocalModel,
    ModelVersion,
)
from llm_hf_models.models import repairs
from llm_hf_models.models.types import LocalModelView, VersionView


def list_views(
    context: Context, *, health: bool, collection: str | None, with_collections: bool
) -> tuple[LocalModelView, ...]:
    """Build the views of all local models, or of those in a collection, newest first."""
    from llm_hf_models.models import collections

    with context.open_database() as db:
        models = collections.select_models(db, db.list_models(), collection)
        named = collections.find_collections_of_models(db) if with_collections else {}
    states = {}
    if health and (remote := [model for model in models if model.endpoint]):
        from llm_hf_models.models import remote_endpoints  # imported late: it imports engine and network modules

        states = remote_endpoints.check_health(remote)
    return tuple(
        make_view(model, states.get(model.model_id), collections=named.get(model.model_id, ())) for model in models
    )


def show(context: Context, name: str) -> LocalModelView:
    """Build the full view of the model with a name, with its collections."""
    from llm_hf_models.models import collections

    with context.open_database() as db:
        model = db.find_model(name)
        view = make_full_view(model, versions=db.list_versions(model.model_id))
        return replace(view, collections=collections.find_collections_of_models(db).get(view.id, ()))


def make_full_view(
    model: LocalModel, health: EndpointHealth | None = None, versions: Sequence[ModelVersion] = ()
) -> LocalModelView:
    """Build the view of a local model, including every default that applies to it."""
    # Imported late: a list of models does not need the modules for engines.
    from llm_hf_models.models.default_options import list_effective_defaults, list_sampling

    view = make_view(model, health)
    return replace(
        view,
        defaults=list_effective_defaults(model),
        sampling=list_sampling(model),
        other_versions=tuple(
            _make_version_view(version) for version in versions if version.state != "untested" or version.is_complete
        ),
    )


def _make_version_view(version: ModelVersion) -> VersionView:
    test = next((check for check in version.checks if check.kind == "load_test"), None)
    problem = f"{test.result}: {test.detail.get('reason') or ''}".rstrip(": ") if test else None
    return VersionView(
        version.commit,
        version.state,
        version.size,
        version.is_complete,
        version.replaced,
        problem if version.state == "refused" else None,
    )


def make_view(
    model: LocalModel, health: EndpointHealth | None = None, *, collections: tuple[str, ...] = ()
) -> LocalModelView:
    """Build the view of a local model, with its current state and the command that repairs it."""
    state: ModelState | Literal["remote"] = "remote" if model.endpoint else model.state
    return LocalModelView(
        id=model.model_id,
        aliases=model.aliases,
        state=state,
        kind=model.facts.kind,
        repo=model.repo,
        revision=model.revision,
        commit=model.commit,
        quant=model.quant,
        size_bytes=model.size,
        facts=model.facts,
        files=model.files,
        options=model.user_options,
        checks=tuple(_correct_scan(_add_doubt(check, model)) for check in model.checks),
        added=model.added,
        last_used=model.last_used,
        hub=model.hub,
        endpoint=model.endpoint,
        endpoint_model=model.options.get(ENDPOINT_MODEL),
        key_env=model.options.get(ENDPOINT_KEY_ENV),
        key_name=model.options.get(ENDPOINT_KEY_NAME),
        key_in_the_clear=_is_key_in_the_clear(model),
        health=health,
        fix=suggest_fix(model) if state in repairs.REPAIRABLE_STATES else None,
        left_out=_find_left_out(model),
        pinned=model.pinned,
        collections=collections,
    )


def _find_left_out(model: LocalModel) -> tuple[str, ...]:
    structure = model.latest_check("structure")
    return tuple(structure.detail.get("left_out", ())) if structure else ()


def _add_doubt(check: Check, model: LocalModel) -> Check:
    """Return a check, with a doubt if the load test used another chat template than prompts use now."""
    if check.kind != "load_test" or check.detail.get("template") == model.template_digest:
        return check
    doubt = f"tested with another chat template than the current one: llm hf test {model.model_id}"
    return replace(check, detail={**check.detail, "doubt": check.detail.get("doubt") or doubt})


def _correct_scan(check: Check) -> Check:
    """Return a check, without the statement of earlier versions that a Hub that did not answer reported no issue."""
    if check.kind != "scan" or not check.detail.get("problem"):
        return check
    return replace(check, result="not asked") if check.result in ("no issue reported", "not reported") else check


def _is_key_in_the_clear(model: LocalModel) -> bool:
    """Return True if the API key is sent over a network without TLS."""
    if ENDPOINT_KEY_ENV not in model.options and ENDPOINT_KEY_NAME not in model.options:
        return False
    import ipaddress
    from urllib.parse import urlsplit

    parts = urlsplit(model.endpoint or "")
    if parts.scheme == "https" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True


def suggest_fix(model: LocalModel) -> str:
    """Return the command that restores or verifies a model's files."""
    has_unproven_files = any(file.compare_with_disk() in UNPROVEN_STATES for file in model.files)
    location = model.files[0].location if model.files else None
    return repairs.suggest_fix(
        model.model_id, model.state, model.repo, model.commit, location, has_unproven_files=has_unproven_files
    )
