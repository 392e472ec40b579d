"""Find, fetch, prove, keep and run open models from the Hugging Face Hub. `Library` is the way in."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_hf_models.hub import SearchFilters
    from llm_hf_models.service import Library, PullOptions

__all__ = ["Library", "PullOptions", "SearchFilters"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for
    """Late, so that `llm` starts no slower: this package is imported by each of its commands."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llm_hf_models import service

    return getattr(service, name)
