"""Search for models on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from llm_hf_models.context import Context
from llm_hf_models.gguf.quant_sizes import estimate_variant_bytes
from llm_hf_models.gguf.variants import Variant, group_variants
from llm_hf_models.hub.types import FoundRepo, HubFile, RepoSummary, SearchFilters
from llm_hf_models.models import metadata_cache
from llm_hf_models.models.repo_types import SearchPage, SearchResult
from llm_hf_models.models.variant_choice import assess_fit, choose_variant, get_memory_for_models

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
    local_models = _group_local_models(context)
    results = [_make_result(context, row, local_models.get(row.id, ())) for row in rows]
    if fits:
        results = [result for result in results if result.fits]
    suggestions = () if results else _suggest_changes(query, filters, fits=fits)
    more = len(results) > filters.limit or len(rows) > requested
    return SearchPage(tuple(results[: filters.limit]), freshness, suggestions, more)


def _make_result(context: Context, row: FoundRepo, local_models: Sequence[str]) -> SearchResult:
    """Return a search result with the variant that a pull chooses. Its size and memory fit are estimates."""
    found = {name: value for name, value in vars(row).items() if name in RepoSummary.__dataclass_fields__}
    variants = [
        replace(variant, size=estimate_variant_bytes(row.parameters or 0, variant.quant) or 0)
        for variant in group_variants(HubFile(path, 0) for path in row.paths)
    ]
    assumed = Variant(ASSUMED_QUANT, (), estimate_variant_bytes(row.parameters or 0, ASSUMED_QUANT) or 0)
    chosen = choose_variant(context, variants, None).variant if variants else assumed
    fit = assess_fit(chosen, None, context.settings().context, get_memory_for_models(context))
    return SearchResult(
        **found,
        local_models=tuple(local_models),
        fits=fit.fits if chosen.size else None,
        recommended_quant=chosen.quant if variants else None,
        recommended_bytes=chosen.size or None if variants else None,
    )


def _group_local_models(context: Context) -> dict[str, list[str]]:
    by_repo: dict[str, list[str]] = {}
    with context.open_database() as db:
        for model in db.list_models():
            if model.repo and model.state != "missing":
                by_repo.setdefault(model.repo, []).append(model.model_id)
    return by_repo


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
