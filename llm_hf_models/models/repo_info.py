"""Collect information about one repo on the Hub: variants, facts, licence, access, scans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.errors import (
    BadInputError,
    HfModelsError,
)
from llm_hf_models.gguf import variants as gguf_variants
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import HUB_HOSTS, ModelRef, RepoFile, RepoId, parse_revision
from llm_hf_models.hub.types import RepoDetails, RepoSummary
from llm_hf_models.inference.options import extract_sampling
from llm_hf_models.models import metadata_cache, scan_summary
from llm_hf_models.models.repo_types import ModelInfo, VariantInfo
from llm_hf_models.models.types import Freshness
from llm_hf_models.models.variant_choice import (
    assess_fit,
    choose_variant,
    fetch_facts,
    get_memory_for_models,
    list_incomplete,
)
from llm_hf_models.network.urls import validate_endpoint
from llm_hf_models.system.text import clean_text

GENERATION_CONFIG = "generation_config.json"


def collect_repo_facts(details: RepoDetails) -> dict[str, Any]:
    """Return the repo's metadata that the library stores with a local model."""
    names = ("task", "tags", "license", "gated", "private", "likes", "downloads", "parameters", "base_models")
    return {name: getattr(details, name) for name in names}


def add_sampling(
    context: Context, hub: Hub, repo: RepoId, details: RepoDetails, repo_facts: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the repo's metadata with the sampling options from its generation_config.json, if it has that file."""
    file = next((file for file in details.files if file.path == GENERATION_CONFIG), None)
    if file is None:
        return repo_facts

    def fetch() -> str:
        return hub.fetch_small_file(repo, RepoFile(GENERATION_CONFIG), details.commit).decode("utf-8", "replace")

    key = f"generation:{file.etag}" if file.etag else None
    text = metadata_cache.cache_by_digest(
        context, key, lambda: metadata_cache.request_with_retry(context, fetch), str, str
    )
    try:
        return {**repo_facts, "generation_config": extract_sampling(json.loads(text))}
    except (ValueError, RecursionError):
        return repo_facts  # ignore a file that can't be parsed


_DETAILS: TypeAdapter[RepoDetails] = TypeAdapter(RepoDetails)


def fetch_details(context: Context, ref: ModelRef, *, refresh: bool = False) -> tuple[RepoDetails, Freshness]:
    """Return the details of one repo at the commit of the ref's revision, from the Hub or the metadata cache."""
    _warn_about_host(context, ref)
    return metadata_cache.fetch_with_cache(
        context,
        {"details": str(ref.repo), "revision": ref.revision},
        lambda hub, etag: hub.fetch_details(ref.repo, ref.revision, known_etag=etag),
        lambda details: _DETAILS.dump_json(details).decode(),
        _DETAILS.validate_json,
        refresh=refresh,
    )


def _warn_about_host(context: Context, ref: ModelRef) -> None:
    """Notify the user if the model ref is a URL of another host than the configured Hub."""
    host = urlsplit(validate_endpoint(settings.endpoint())).hostname
    if context.notify and ref.host not in (None, host, *HUB_HOSTS):
        context.notify(f"Using {host} instead of {ref.host} for {ref.repo}. Set HF_ENDPOINT to use another Hub.")


def add_revision(ref: ModelRef, revision: str | None) -> ModelRef:
    """Return the model ref with a revision that was given separately.

    Raises:
        BadInputError: The model ref already names another revision.
    """
    if not revision:
        return ref
    if ref.revision not in (None, revision):
        raise BadInputError(
            f"The model ref names revision {ref.revision}, but --revision is {clean_text(revision, 80)}"
        )
    return replace(ref, revision=parse_revision(revision))


def fetch_model_info(context: Context, text: str, *, revision: str | None, card: bool, refresh: bool) -> ModelInfo:
    """Return the details of one repo: its variants and their memory fit, header facts, access and scan reports."""
    ref = add_revision(ModelRef.parse(text), revision)
    details, freshness = fetch_details(context, ref, refresh=refresh)
    hub, notes = context.hub(), []
    variants = gguf_variants.group_variants(details.files)
    notes += [f"{line}: it can't be pulled as a model" for line in list_incomplete(details)]
    facts, choice = None, None
    if variants:
        choice = choose_variant(context, variants, None)
        try:
            facts = fetch_facts(context, hub, ref.repo, details, choice.variant)
            choice = choose_variant(context, variants, facts)
        except HfModelsError as error:
            notes.append(f"The header of {choice.variant.files[0]} could not be read: {error.message}")
    card_text = _fetch_card(context, hub, details, notes) if card else None
    variant_infos = _assess_variants(context, details, variants, choice.variant if choice else None, facts)
    scan = scan_summary.summarize_details(details)
    if freshness.stale and scan.state != "issues reported":
        scan = scan_summary.make_not_asked(freshness.problem)
    base = {name: value for name, value in vars(details).items() if name in RepoSummary.__dataclass_fields__}
    return ModelInfo(
        **base,
        revision=ref.revision,
        commit=details.commit,
        variants=variant_infos,
        choice_reason=choice.reason if choice else None,
        facts=facts,
        chat_template=facts.chat_template if facts else details.chat_template,
        base_models=details.base_models,
        library=details.library,
        access=_explain_access(details),
        scan=scan.text,
        scan_state=scan.state,
        scan_problem=scan.reason,
        files=details.files,
        card=card_text,
        notes=tuple(notes),
        freshness=freshness,
    )


def _fetch_card(context: Context, hub: Hub, details: RepoDetails, notes: list[str]) -> str | None:
    """Return the model card at that commit, or None and add a note if it can't be read."""
    try:
        return metadata_cache.cache_by_digest(
            context,
            f"card:{details.id}@{details.commit}",
            lambda: hub.fetch_card(RepoId.parse(details.id), details.commit),
            str,
            str,
        )
    except HfModelsError as error:
        notes.append(f"The model card could not be read: {error.message}")
        return None


def _assess_variants(
    context: Context,
    details: RepoDetails,
    variants: Sequence[Variant],
    chosen: Variant | None,
    facts: ModelFacts | None,
) -> tuple[VariantInfo, ...]:
    with context.open_database() as db:
        local_models = {model.quant: model.model_id for model in db.list_models() if model.repo == details.id}
    parameters = (facts and facts.parameters) or details.parameters
    tokens, memory = context.settings().context, get_memory_for_models(context)
    return tuple(
        VariantInfo(
            **vars(variant),
            bits_per_weight=round(variant.size * 8 / parameters, 2) if parameters else None,
            fit=assess_fit(variant, facts, tokens, memory),
            chosen=variant == chosen,
            local_model=local_models.get(variant.quant),
        )
        for variant in variants
    )


def _explain_access(details: RepoDetails) -> str | None:
    if not details.gated:
        return None
    how = "automatically" if details.gated == "auto" else "by its owners"
    page = f"{settings.get_display_endpoint()}/{details.id}"
    return f"Request access on {page} (granted {how}), then log in with `llm hf login`."
