"""Search for models on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from llm_hf_models.context import Context
from llm_hf_models.gguf import quant_types
from llm_hf_models.gguf.variants import Variant, group_variants
from llm_hf_models.hub.types import FoundRepo, HubFile, RepoSummary, SearchFilters
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models import metadata_cache
from llm_hf_models.models.repos import updates
from llm_hf_models.models.repos.identity import find_models_of_repo
from llm_hf_models.models.repos.types import SearchPage, SearchResult
from llm_hf_models.models.repos.update_state import combine
from llm_hf_models.models.repos.variant_choice import assess_fit, choose_variant, get_memory_for_models
from llm_hf_models.models.types import UpdateState

ASSUMED_QUANT = "Q4_K_M"  # for a repo without GGUF files, which may have conversions
FITS_PAGES = 5  # `fits` is decided on this machine, so more rows are requested than are shown
MAX_ROWS = 500
_FOUND: TypeAdapter[list[FoundRepo]] = TypeAdapter(list[FoundRepo])


def search(context: Context, query: str, filters: SearchFilters, *, fits: bool, refresh: bool) -> SearchPage:
    """Return one page of repos, each with its estimated memory fit and the local models from it."""
    requested = min(filters.limit * FITS_PAGES, MAX_ROWS) if fits else filters.limit
    hub_filters = replace(filters, limit=requested + 1)  # one more row shows whether the limit has cut the list
    rows, freshness = metadata_cache.fetch_with_cache(
        context,
        {"search": query, **asdict(hub_filters)},
        lambda hub, etag: hub.search(query, hub_filters, known_etag=etag),
        lambda rows: _FOUND.dump_json(rows).decode(),
        _FOUND.validate_json,
        refresh=refresh,
    )
    results = [_make_result(context, row) for row in rows]
    if fits:
        results = [result for result in results if result.fits]
    suggestions = () if results else _suggest_changes(query, filters, fits=fits)
    more = len(results) > filters.limit or len(rows) > requested
    return SearchPage(_add_local_models(context, results[: filters.limit]), freshness, suggestions, more)


def _make_result(context: Context, row: FoundRepo) -> SearchResult:
    """Return a search result with the variant that a pull chooses. Its size and memory fit are estimates."""
    found = {name: value for name, value in vars(row).items() if name in RepoSummary.__dataclass_fields__}
    variants = [
        replace(variant, size=_estimate_bytes(row, variant.quant))
        for variant in group_variants((HubFile(path, 0) for path in row.paths), row.id)
    ]
    assumed = Variant(ASSUMED_QUANT, (), _estimate_bytes(row, ASSUMED_QUANT))
    chosen = choose_variant(context, variants, None).variant if variants else assumed
    fit = assess_fit(chosen, None, context.settings().context, get_memory_for_models(context))
    return SearchResult(
        **found,
        fits=fit.fits if chosen.size else None,
        recommended_quant=chosen.quant if variants else None,
        recommended_bytes=chosen.size or None if variants else None,
    )


def _estimate_bytes(row: RepoSummary, quant: str) -> int:
    """Return the approximate size of a variant, 0 if it is unknown.

    It is about a tenth off, more for a small model, whose embeddings are a larger part.
    """
    bits = quant_types.get_bits(quant_types.find_type(quant).name) or quant_types.find_named_bits(quant)
    return int((row.parameters or 0) * (bits or 0) / 8)


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
