"""Find, download, verify, organise and run open models from the Hugging Face Hub. `Library` is the entry point."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_hf_models import errors
    from llm_hf_models.async_library import AsyncLibrary
    from llm_hf_models.downloads.plan_types import PullOptions
    from llm_hf_models.errors import HfModelsError
    from llm_hf_models.hub.types import SearchFilters
    from llm_hf_models.service import Library

    __version__: str

__all__ = ["AsyncLibrary", "HfModelsError", "Library", "PullOptions", "SearchFilters", "__version__", "errors"]

_MODULES = {
    "AsyncLibrary": "async_library",
    "HfModelsError": "errors",
    "Library": "service",
    "PullOptions": "downloads.plan_types",
    "SearchFilters": "hub.types",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    """Import a public name on first use: every `llm` command imports this package and must start no slower."""
    if name == "__version__":
        return import_module("importlib.metadata").version("llm-hf-models")
    if name == "errors":
        return import_module("llm_hf_models.errors")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_hf_models.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
