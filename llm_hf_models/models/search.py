"""Search for models on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from llm_hf_models.context import Context
from llm_hf_models.gguf import memory_fit as fitting
from llm_hf_models.hub.types import RepoSummary, SearchFilters
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models import metadata_cache, updates
from llm_hf_models.models.identity import find_models_of_repo
from llm_hf_models.models.repo_types import SearchPage, SearchResult
from llm_hf_models.models.types import UpdateState
from llm_hf_models.models.update_state import combine
from llm_hf_models.models.variant_choice import get_memory_for_models

# A search knows only the number of parameters of a repo. A pull usually chooses Q4_K_M, which has 4.85 bits per
# weight (llama.cpp, tools/quantize/README.md).
ASSUMED_BITS_PER_WEIGHT = 4.85
FITS_PAGES = 5  # `fits` is decided on this machine, so more rows are requested than are shown
MAX_ROWS = 500
_SUMMARIES: TypeAdapter[list[RepoSummary]] = TypeAdapter(list[RepoSummary])


def search(context: Context, query: str, filters: SearchFilters, *, fits: bool, refresh: bool) -> SearchPage:
    """Return one page of repos, each with its estimated memory fit and the local models from it."""
    hub_filters = replace(filters, limit=min(filters.limit * FITS_PAGES, MAX_ROWS)) if fits else filters
    rows, freshness = metadata_cache.fetch_with_cache(
        context,
        {"search": query, **asdict(hub_filters)},
        lambda hub, etag: hub.search(query, hub_filters, known_etag=etag),
        lambda rows: _SUMMARIES.dump_json(rows).decode(),
        _SUMMARIES.validate_json,
        refresh=refresh,
    )
    memory = get_memory_for_models(context)
    results = [SearchResult(**vars(row), fits=_estimate_fit(row, memory)) for row in rows]
    if fits:
        results = [result for result in results if result.fits]
    suggestions = () if results else _suggest_changes(query, filters, fits=fits)
    return SearchPage(_add_local_models(context, results[: filters.limit]), freshness, suggestions)


def _estimate_fit(row: RepoSummary, memory: int) -> bool | None:
    if row.parameters is None:
        return None
    weights = int(row.parameters * ASSUMED_BITS_PER_WEIGHT / 8)
    return fitting.assess_fit(weights, None, context=0, available=memory).fits


def _add_local_models(context: Context, results: Sequence[SearchResult]) -> tuple[SearchResult, ...]:
    """Add the local models from each repo, and whether one of them has an update."""
    with context.open_database() as db:
        every = [model for model in db.list_models() if model.state != "missing"]
    of_repo = {row.id: find_models_of_repo(every, row.id) for row in results}
    states = updates.find_updates(context, [model for models in of_repo.values() for model in models])
    return tuple(_add_update(row, of_repo[row.id], states) for row in results)


def _add_update(row: SearchResult, here: Sequence[LocalModel], states: Mapping[str, UpdateState]) -> SearchResult:
    ids = tuple(model.model_id for model in here)
    found = combine([states[name] for name in ids])
    return replace(row, local_models=ids, update_available=found.available, update_note=found.note)


def _suggest_changes(query: str, filters: SearchFilters, *, fits: bool) -> tuple[str, ...]:
    """Suggest filters to drop, the narrowest first."""
    candidates = (
        (fits, "drop --fits"),
        (filters.min_params is not None or filters.max_params is not None, "widen --min-params/--max-params"),
        (bool(filters.tags), "drop a --tag"),
        (filters.license, "drop --license"),
        (filters.language, "drop --language"),
        (filters.task, "drop --task"),
        (filters.gated is not None, "drop --gated/--no-gated"),
        (filters.author, "drop --author"),
        (len(query.split()) > 1, "use fewer words"),
        (filters.library is not None, "--library any (includes models without GGUF files)"),
    )
    return tuple(suggestion for is_set, suggestion in candidates if is_set)
