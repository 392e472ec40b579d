"""Find, download, verify, organise and run open models from the Hugging Face Hub. `Library` is the entry point."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PullOptions
    from llm_hf_models.hub.types import SearchFilters
    from llm_hf_models.service import Library

__all__ = ["Library", "PullOptions", "SearchFilters"]

_MODULES = {"Library": "service", "PullOptions": "downloads.plan_types", "SearchFilters": "hub.types"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    """Import a public name on first use: every `llm` command imports this package and must start no slower."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_hf_models.{_MODULES[name]}"), name)
