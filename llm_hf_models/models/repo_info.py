"""Information about one repo on the Hub: variants, facts, licence, access, scans."""

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
from llm_hf_models.models import metadata_cache
from llm_hf_models.models.types import Freshness, ModelInfo, VariantInfo
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
    """What is kept with a local model of its repo."""
    kept = ("task", "tags", "license", "gated", "private", "likes", "downloads", "parameters", "base_models")
    return {name: getattr(details, name) for name in kept}


def _add_sampling(
    context: Context, hub: Hub, repo: RepoId, details: RepoDetails, said: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What the Hub said of the repo, with the sampling that its generation_config.json recommends if it has one."""
    file = next((file for file in details.files if file.path == GENERATION_CONFIG), None)
    if file is None:
        return said
    text = metadata_cache.cache_by_digest(
        context,
        f"generation:{file.etag}" if file.etag else None,
        lambda: hub.fetch_small_file(repo, RepoFile(GENERATION_CONFIG), details.commit).decode("utf-8", "replace"),
        str,
        str,
    )
    try:
        return {**said, "generation_config": extract_sampling(json.loads(text))}
    except (ValueError, RecursionError):
        return said  # a recommendation that can't be read is none


_DETAILS: TypeAdapter[RepoDetails] = TypeAdapter(RepoDetails)


def fetch_details(context: Context, ref: ModelRef, *, refresh: bool = False) -> tuple[RepoDetails, Freshness]:
    """One repo at the commit that the ref's revision names, from the Hub or the metadata cache."""
    _warn_about_host(context, ref)
    return metadata_cache.fetch_with_cache(
        context,
        {"details": str(ref.repo), "revision": ref.revision},
        lambda hub, etag: hub.fetch_details(ref.repo, ref.revision, known_etag=etag),
        lambda answer: _DETAILS.dump_json(answer).decode(),
        _DETAILS.validate_json,
        refresh=refresh,
    )


def _warn_about_host(context: Context, ref: ModelRef) -> None:
    """Where an address was given whose host is another than the Hub that is asked."""
    asked = urlsplit(validate_endpoint(settings.endpoint())).hostname
    if context.notify and ref.host not in (None, asked, *HUB_HOSTS):
        context.notify(f"{ref.host} is not asked: {ref.repo} is looked for on {asked}. HF_ENDPOINT names another Hub.")


def pin_revision(ref: ModelRef, revision: str | None) -> ModelRef:
    """The ref, pinned to a revision that was given beside it.

    Raises:
        BadInputError: it names another one itself.
    """
    if not revision:
        return ref
    if ref.revision not in (None, revision):
        raise BadInputError(f"Two revisions are given: {ref.revision} in the ref, and {clean_text(revision, 80)}")
    return replace(ref, revision=parse_revision(revision))


def fetch_model_info(context: Context, text: str, *, revision: str | None, card: bool, refresh: bool) -> ModelInfo:
    """One repo in full: its variants weighed, its header's facts, its access, what scanners said."""
    ref = pin_revision(ModelRef.parse(text), revision)
    details, freshness = fetch_details(context, ref, refresh=refresh)
    hub, notes = context.hub(), []
    variants = gguf_variants.group_variants(details.files)
    notes += [f"{line}: it can't be pulled as a model" for line in list_incomplete(details)]
    room = get_memory_for_models(context)
    facts, choice = None, None
    if variants:
        choice = choose_variant(context, variants, None)
        try:
            facts = fetch_facts(context, hub, ref.repo, details, choice.variant)
            choice = choose_variant(context, variants, facts)
        except HfModelsError as error:
            notes.append(f"The header of {choice.variant.files[0]} could not be read: {error.message}")
    card_text = _fetch_card(context, hub, details, notes) if card else None
    weighed = _weigh(context, details, variants, choice.variant if choice else None, facts, room)
    base = {name: value for name, value in vars(details).items() if name in RepoSummary.__dataclass_fields__}
    return ModelInfo(
        **base,
        revision=ref.revision,
        commit=details.commit,
        variants=weighed,
        choice_reason=choice.reason if choice else None,
        facts=facts,
        chat_template=facts.chat_template if facts else details.chat_template,
        base_models=details.base_models,
        library=details.library,
        access=_explain_access(details),
        scan=summarize_scan(details),
        files=details.files,
        card=card_text,
        notes=tuple(notes),
        freshness=freshness,
    )


def _fetch_card(context: Context, hub: Hub, details: RepoDetails, notes: list[str]) -> str | None:
    """The model card at that commit; None, and a note, where it can't be had."""
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


def _weigh(
    context: Context,
    details: RepoDetails,
    variants: Sequence[Variant],
    chosen: Variant | None,
    facts: ModelFacts | None,
    room: int,
) -> tuple[VariantInfo, ...]:
    with context.open_library() as db:
        here = {model.quant: model.model_id for model in db.list_models() if model.repo == details.id}
    parameters = (facts and facts.parameters) or details.parameters
    return tuple(
        VariantInfo(
            **vars(variant),
            bits_per_weight=round(variant.size * 8 / parameters, 2) if parameters else None,
            fit=assess_fit(variant, facts, context, room),
            chosen=variant == chosen,
            local_model=here.get(variant.quant),
        )
        for variant in variants
    )


def _explain_access(details: RepoDetails) -> str | None:
    if not details.gated:
        return None
    how = "at once" if details.gated == "auto" else "once its owners agree"
    return f"Ask for access on {settings.get_display_endpoint()}/{details.id} (granted {how}), then `llm hf login`."


def summarize_scan(details: RepoDetails, paths: Sequence[str] | None = None) -> str | None:
    """What the Hub's scanners reported, in their words: of the whole repo, or of some of its files."""
    issues = [(path, level) for path, level in details.files_with_issues if paths is None or path in paths]
    levels = {file.path: file.scan for file in details.files if file.scan and (paths is None or file.path in paths)}
    if issues:
        return "; ".join(f"{path}: {level}" for path, level in issues)
    if levels:
        return ", ".join(sorted({level for level in levels.values() if level}))
    if details.scans_done is None:
        return None
    return "no issue reported" if details.scans_done else "not finished"
