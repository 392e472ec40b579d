"""Collect information about one repo on the Hub: variants, facts, licence, access, scans."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    AmbiguousNameError,
    BadInputError,
    BadRefError,
    HfModelsError,
    RepoNotFoundError,
    UnknownModelError,
)
from llm_hf_models.gguf.facts import ModelFacts, apply_task
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import HUB_HOSTS, ModelRef, RepoFile, RepoId, parse_revision
from llm_hf_models.hub.types import HubFile, RepoDetails, RepoSummary, SearchFilters
from llm_hf_models.inference.protocol.options import extract_sampling
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models import identity, metadata_cache, scan_summary
from llm_hf_models.models.collections import find_named_ref
from llm_hf_models.models.local_models import suggest_fix
from llm_hf_models.models.repairs import format_pull_ref
from llm_hf_models.models.repo_signature import judge_repo
from llm_hf_models.models.repo_types import ModelInfo, VariantInfo
from llm_hf_models.models.signature_types import SignatureReport
from llm_hf_models.models.types import Freshness, UpdateState
from llm_hf_models.models.update_state import compare_with_repo, decide_without_hub
from llm_hf_models.models.variant_choice import (
    assess_fit,
    choose_variant,
    fetch_preview,
    find_conversions,
    get_memory_for_models,
    group_variants,
    list_companions,
    list_incomplete,
    list_left_out,
)
from llm_hf_models.network.urls import validate_endpoint
from llm_hf_models.system.text import clean_text, find_similar_word, quote_label

GENERATION_CONFIG = "generation_config.json"
GGUF_SUFFIX = "-GGUF"  # of the names of most repos; it would make any two of them similar
MAX_SUGGESTED = 100  # repos among which a similar name is looked for
_BARE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


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


def fetch_details(
    context: Context, ref: ModelRef, *, refresh: bool = False, accepts_stale: bool = True
) -> tuple[RepoDetails, Freshness]:
    """Return the details of one repo at the commit of the ref's revision, from the Hub or the metadata cache."""
    _warn_about_host(context, ref)
    return metadata_cache.fetch_with_cache(
        context,
        {"details": str(ref.repo), "revision": ref.revision},
        lambda hub, etag: hub.fetch_details(ref.repo, ref.revision, known_etag=etag),
        lambda details: _DETAILS.dump_json(details).decode(),
        _DETAILS.validate_json,
        refresh=refresh,
        accepts_stale=accepts_stale,
    )


def load_details(context: Context, ref: ModelRef, problem: str) -> tuple[RepoDetails, Freshness] | None:
    """Return the cached details of a repo without a request, or None. `problem` is why no request is sent."""
    key: dict[str, object] = {"details": str(ref.repo), "revision": ref.revision}
    return metadata_cache.load_response(context, key, _DETAILS.validate_json, problem)


_FILES: TypeAdapter[list[HubFile]] = TypeAdapter(list[HubFile])


def fetch_files_at_commit(context: Context, hub: Hub, repo: RepoId, commit: str) -> list[HubFile]:
    """Return the files of a repo at a commit, which the Hub is asked for once."""
    return metadata_cache.cache_by_digest(
        context,
        f"tree:{repo}@{commit}",
        lambda: hub.fetch_tree(repo, commit),
        lambda files: _FILES.dump_json(files).decode(),
        _FILES.validate_json,
    )


def fetch_repo(
    context: Context, ref: ModelRef, *, refresh: bool = False
) -> tuple[ModelRef, RepoDetails, Freshness, str | None]:
    """Return a repo's details as `fetch_details` does, and the model ref with the name that the repo has on the Hub.

    The name differs if the ref has other capitals, or if the repo was renamed. One repo must not become two models.

    Returns:
        The model ref with the repo's name, the details, their freshness, and a note if the name differs.
    """
    try:
        details, freshness = fetch_details(context, ref, refresh=refresh)
    except RepoNotFoundError as error:
        error.hint = f"{_suggest_repo(context, ref.repo)}{error.hint or ''}"
        raise _add_local_model(context, ref, error) from None
    repo, silent = RepoId.parse(details.id), replace(context, notify=None)

    def has_new_name(old: str) -> bool:
        if old == str(ref.repo):
            return True
        return fetch_details(silent, ModelRef(RepoId.parse(old)), refresh=True)[0].id == details.id

    with context.open_database() as db:
        identity.record_new_name(db, details, has_new_name)
    if repo == ref.repo:
        return ref, details, freshness, None
    same = identity.is_same_repo(str(repo), str(ref.repo))
    note = f"{ref.repo} is {'written' if same else 'now'} {repo} on the Hub, and that name is used."
    return replace(ref, repo=repo), details, freshness, note


def notify_of_name(context: Context, note: str | None) -> None:
    """Notify the user of a repo's other name."""
    if note and context.notify:
        context.notify(note)


def _warn_about_host(context: Context, ref: ModelRef) -> None:
    """Notify the user if the model ref is a URL of another host than the configured Hub."""
    host = urlsplit(validate_endpoint(context.endpoint())).hostname
    if context.notify and ref.host not in (None, host, *HUB_HOSTS):
        context.notify(f"Using {host} instead of {ref.host} for {ref.repo}. Set HF_ENDPOINT to use another Hub.")


def parse_ref(context: Context, text: str) -> ModelRef:
    """Parse a model ref, or the role of a model in a collection.

    Raises:
        AmbiguousNameError: The text is the name of a collection.
        BadRefError: The text is not a model ref. A name without an owner may be that of a local model, or can be
            searched for.
    """
    try:
        return ModelRef.parse(find_named_ref(context, text) or text)
    except BadRefError as error:
        refuse_local_name(context, text)
        if step := suggest_search(text):
            error.cause = "A repo has the form owner/name."
            error.hint = f"{step}\n{error.hint or ''}"
        raise


def suggest_search(text: str) -> str | None:
    """Return the hint for a name without an owner: to search for it, or to import it if it is that of a file."""
    name = text.strip().partition(":")[0]
    if not _BARE_NAME.fullmatch(name) or "://" in text:
        return None
    if name.lower().endswith(".gguf"):
        return f"To register a file on this machine: llm hf import {name}"
    return f"Search for it: llm hf search {name}"


def refuse_local_name(context: Context, text: str) -> None:
    """Raise an error for a name that has no owner, and that a local model has.

    Raises:
        BadRefError: A local model has the name. The hint has the next command.
    """
    try:
        with context.open_database() as db:
            model = db.find_model(text)
    except UnknownModelError:
        return
    except AmbiguousNameError as error:
        cause = f"These are on this machine already: {error.cause}"
        raise BadRefError(error.message, cause=cause, hint=error.hint) from None
    name = clean_text(text, 80)
    if model.state == "missing" and model.endpoint is None:
        message = f"The files of {name!r} are missing on this machine"
        raise BadRefError(message, cause=f"It is the local model {model.model_id}.", hint=suggest_fix(model))
    place = "on another server" if model.endpoint else "on this machine"
    update = f" Pull its current version: llm hf pull {format_pull_ref(model.model_id)}" if model.repo else ""
    raise BadRefError(
        f"{name!r} is {place} already",
        cause=f"It is the model {model.model_id}.",
        hint=f"{_suggest_use(model)}{update}",
    )


def _suggest_use(model: LocalModel) -> str:
    return f"Use it: {'llm embed' if model.facts.kind == 'embedding' else 'llm'} -m {model.model_id}."


def _suggest_repo(context: Context, repo: RepoId) -> str:
    """Return the start of a hint with a repo of a similar name: of the same owner, else of another one."""
    filters = SearchFilters(library=None, author=repo.owner, sort="downloads", limit=MAX_SUGGESTED)
    with suppress(HfModelsError):
        for query, narrowed in (("", filters), (repo.name, replace(filters, author=None))):
            # The most downloaded repo comes first, and replaces others of the same name.
            rows = reversed(context.hub().search(query, narrowed))
            known = {row.id.partition("/")[2].removesuffix(GGUF_SUFFIX): row.id for row in rows}
            if near := find_similar_word(repo.name.removesuffix(GGUF_SUFFIX), known):
                return f"Did you mean {known[near]!r}? "
    return ""


def _add_local_model(context: Context, ref: ModelRef, error: RepoNotFoundError) -> RepoNotFoundError:
    """Return the error for an unknown repo, with the local model of this name, if there is one."""
    with suppress(UnknownModelError, AmbiguousNameError), context.open_database() as db:
        model = db.find_model(str(ref))
        error.cause = f"{ref} is the name of the local model {model.model_id}."
        error.hint = f"{_suggest_use(model)} {error.hint or ''}".strip()
    return error


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
    ref, details, freshness, note = fetch_repo(
        context, add_revision(parse_ref(context, text), revision), refresh=refresh
    )
    hub, notes = context.hub(), [note] if note else []
    variants = group_variants(details)
    notes += [f"{line}: it can't be pulled as a model" for line in list_incomplete(details)]
    notes += [f"Left out {line}" for line in list_left_out(details)]
    notes += [f"Not a variant: {line}" for line in list_companions(details)]
    conversions = () if variants or notes else find_conversions(hub, details)
    facts, choice = None, None
    if variants:
        choice = choose_variant(context, variants, None)
        try:
            preview = fetch_preview(context, hub, ref.repo, details, choice.variant)
            if preview.problem:
                notes.append(f"The number of parameters in the files is unknown: {preview.problem}")
            facts = apply_task(preview.facts, details.task)
            choice = choose_variant(context, variants, facts)
        except HfModelsError as error:
            notes.append(f"The header of {quote_label(choice.variant.quant)} could not be read: {error.message}")
    signature = _judge_signature(context, hub, details, choice.variant if choice else None)
    card_text = _fetch_card(context, hub, details, notes) if card else None
    variant_infos = _assess_variants(context, details, variants, choice.variant if choice else None, facts)
    variant_infos = _add_local_models(context, ref.revision, details, freshness, variant_infos)
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
        conversions=conversions,
        facts=facts,
        chat_template=facts.chat_template if facts else details.chat_template,
        base_models=details.base_models,
        library=details.library,
        access=_explain_access(details, context.display_endpoint()),
        scan=scan.text,
        scan_state=scan.state,
        scan_problem=scan.reason,
        signature=signature,
        files=details.files,
        card=card_text,
        notes=tuple(notes),
        freshness=freshness,
    )


def _judge_signature(
    context: Context, hub: Hub, details: RepoDetails, variant: Variant | None
) -> SignatureReport | None:
    """Return the facts about the repo's signature for the files of a variant, or for all files without one."""
    paths = set(variant.all_files) if variant else {file.path for file in details.files}
    return judge_repo(context, hub, details, [file for file in details.files if file.path in paths])


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
    parameters = (facts and facts.parameters) or details.parameters
    tokens, memory = context.settings().context, get_memory_for_models(context)
    unsafe = scan_summary.find_unsafe(details)
    return tuple(
        VariantInfo(
            **vars(variant),
            bits_per_weight=round(variant.size * 8 / parameters, 2) if parameters else None,
            fit=assess_fit(variant, facts, tokens, memory),
            chosen=variant == chosen,
            refused=", ".join(f"{path}: {unsafe[path]}" for path in variant.all_files if path in unsafe) or None,
        )
        for variant in variants
    )


def _add_local_models(
    context: Context,
    revision: str | None,
    details: RepoDetails,
    freshness: Freshness,
    variants: Sequence[VariantInfo],
) -> tuple[VariantInfo, ...]:
    """Add the local model with each variant, and whether its files differ from those of the repo."""
    with context.open_database() as db:
        models = db.list_models()
    digests = {file.path: file.sha256 for file in details.files}
    found = []
    for variant in variants:
        if model := identity.find_local_variant(models, details.id, variant, digests):
            is_same = model.revision == revision or model.commit == details.commit
            state = decide_without_hub(model) or (
                compare_with_repo(model, details, freshness)
                if is_same
                else UpdateState(None, "the local model is of another revision")
            )
            variant = replace(  # noqa: PLW2901
                variant, local_model=model.model_id, update_available=state.available, update_note=state.note
            )
        found.append(variant)
    return tuple(found)


def _explain_access(details: RepoDetails, endpoint: str) -> str | None:
    if not details.gated:
        return None
    how = "automatically" if details.gated == "auto" else "by its owners"
    page = f"{endpoint}/{details.id}"
    return f"Request access on {page} (granted {how}), then log in with `llm hf login`."
