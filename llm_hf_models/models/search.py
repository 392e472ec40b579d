"""Search for models on the Hub."""

from __future__ import annotations

from dataclasses import asdict, replace

from pydantic import TypeAdapter

from llm_hf_models.context import Context
from llm_hf_models.gguf import memory_fit as fitting
from llm_hf_models.hub.types import RepoSummary, SearchFilters
from llm_hf_models.models import metadata_cache
from llm_hf_models.models.types import SearchPage, SearchResult
from llm_hf_models.models.variant_choice import get_memory_for_models

# What a pull would take, Q4_K_M, weighs 4.85 bits a parameter (llama.cpp, tools/quantize/README.md): for rows
# of a search, where only the number of parameters is known.
ASSUMED_BITS_PER_WEIGHT = 4.85
FITS_PAGES = 5  # `fits` is decided here, so more rows are asked for than are shown
MAX_ROWS = 500
_SUMMARIES: TypeAdapter[list[RepoSummary]] = TypeAdapter(list[RepoSummary])


def search(context: Context, query: str, filters: SearchFilters, *, fits: bool, refresh: bool) -> SearchPage:
    """One page of repos, with which of them fit and which are here."""
    asked = replace(filters, limit=min(filters.limit * FITS_PAGES, MAX_ROWS)) if fits else filters
    rows, freshness = metadata_cache.fetch_with_cache(
        context,
        {"search": query, **asdict(asked)},
        lambda hub, etag: hub.search(query, asked, known_etag=etag),
        lambda answer: _SUMMARIES.dump_json(answer).decode(),
        _SUMMARIES.validate_json,
        refresh=refresh,
    )
    here = _group_local_models(context)
    room = get_memory_for_models(context)
    results = [
        SearchResult(**vars(row), local_models=tuple(here.get(row.id, ())), fits=_estimate_fit(row, room))
        for row in rows
    ]
    if fits:
        results = [result for result in results if result.fits]
    loosen = () if results else _suggest_changes(query, filters, fits=fits)
    return SearchPage(tuple(results[: filters.limit]), freshness, loosen)


def _estimate_fit(row: RepoSummary, room: int) -> bool | None:
    if row.parameters is None:
        return None
    weights = int(row.parameters * ASSUMED_BITS_PER_WEIGHT / 8)
    return fitting.assess_fit(weights, None, context=0, available=room).fits


def _group_local_models(context: Context) -> dict[str, list[str]]:
    here: dict[str, list[str]] = {}
    with context.open_library() as db:
        for model in db.list_models():
            if model.repo and model.state != "missing":
                here.setdefault(model.repo, []).append(model.model_id)
    return here


def _suggest_changes(query: str, filters: SearchFilters, *, fits: bool) -> tuple[str, ...]:
    """Options to drop, narrowest first."""
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
        (filters.library is not None, "--library any (models without GGUF files too)"),
    )
    return tuple(advice for asked, advice in candidates if asked)
