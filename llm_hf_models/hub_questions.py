"""What the Hub is asked: addresses and parameters. Sends nothing (hub.py does)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from llm_hf_models.errors import BadInputError
from llm_hf_models.hub_nouns import SearchFilters
from llm_hf_models.text import without_user

_SORTS = {
    "trending": "trendingScore", "downloads": "downloads", "likes": "likes", "created": "createdAt",
    "updated": "lastModified",
}  # fmt: skip
# What a row of a search shows; `gguf` brings parameters, architecture, context length and size.
_EXPAND = (
    "author", "createdAt", "downloads", "gated", "gguf", "lastModified", "likes", "pipeline_tag", "private",
    "safetensors", "tags", "usedStorage",
)  # fmt: skip


def checked_endpoint(endpoint: str) -> str:
    """The address. On one that is none huggingface_hub, which reads HF_ENDPOINT too, breaks when it is imported.

    Raises:
        BadInputError: it is no http(s) address.
    """
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise BadInputError(
            f"{without_user(endpoint)[:100]!r} can't be asked",
            cause="It is no http(s) address.",
            hint="Set HF_ENDPOINT to one.",
        )
    return endpoint


def search_params(query: str, filters: SearchFilters) -> dict[str, Any]:
    """A search as the Hub takes it; what was not asked for is left out."""
    tags = [
        filters.library,
        f"license:{filters.license.lower()}" if filters.license else None,
        filters.language,
        f"base_model:{filters.base_model}" if filters.base_model else None,
        *filters.tags,
    ]
    params: dict[str, Any] = {
        "search": query.strip(),
        "filter": [tag for tag in tags if tag],
        "author": filters.author,
        "pipeline_tag": filters.task,
        "num_parameters": _parameter_range(filters),
        "gated": None if filters.gated is None else str(filters.gated).lower(),
        "sort": _SORTS[filters.sort],
        "limit": filters.limit,
        "expand": list(_EXPAND),
    }
    return {name: value for name, value in params.items() if value not in (None, "", [])}


def _parameter_range(filters: SearchFilters) -> str | None:
    """The Hub's own form, `min:6B,max:128B`; exact numbers are taken too."""
    bounds = (("min", filters.min_params), ("max", filters.max_params))
    return ",".join(f"{name}:{value}" for name, value in bounds if value is not None) or None


def same_origin(url: str, other: str) -> bool:
    """Whether two addresses are of one scheme, host and port: a token goes nowhere else."""
    one, two = urlsplit(url), urlsplit(other)
    ports = {"http": 80, "https": 443}
    return (one.scheme, one.hostname, one.port or ports.get(one.scheme)) == (
        two.scheme, two.hostname, two.port or ports.get(two.scheme),
    )  # fmt: skip
