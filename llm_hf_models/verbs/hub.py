"""The verbs of `Library` about models and files on the Hub and on disk: search, info, inspect, check and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.hub.types import SearchFilters
    from llm_hf_models.models.repos.types import CheckReport, Inspection, ModelInfo, SearchPage
    from llm_hf_models.models.types import LoadTestReport


class HubVerbs:
    """The verbs that read the Hub, a GGUF file or its header."""

    _context: Context

    def search(
        self, query: str = "", filters: SearchFilters | None = None, *, fits: bool = False, refresh: bool = False
    ) -> SearchPage:
        """Search for models on the Hub.

        Args:
            query: Words in the repo's name.
            filters: How to narrow and sort the results; by default the twenty most trending GGUF repos.
            fits: Return only models that fit into this machine's memory.
            refresh: Send a request to the Hub even if a fresh response is cached.
        """
        from llm_hf_models.hub import types as hub_types
        from llm_hf_models.models.repos import search

        return search.search(self._context, query, filters or hub_types.SearchFilters(), fits=fits, refresh=refresh)

    def info(self, ref: str, *, revision: str | None = None, card: bool = False, refresh: bool = False) -> ModelInfo:
        """Return the details of one repo: its variants and their memory fit, facts, licence, access and scans.

        With `card`, the result also contains the model card.
        """
        from llm_hf_models.models.repos import info as repo_info

        return repo_info.fetch_model_info(self._context, ref, revision=revision, card=card, refresh=refresh)

    def inspect(
        self, name: str, *, metadata: bool = False, tensors: bool = False, template: bool = False
    ) -> Inspection:
        """Read the header of a GGUF file: on disk, of a local model, or on the Hub without downloading the file."""
        from llm_hf_models.models import inspect as models_inspect

        return models_inspect.inspect(self._context, name, metadata=metadata, tensors=tensors, template=template)

    def check(self, name: str) -> CheckReport:
        """Validate a GGUF file: on disk, of a local model, or the header of one on the Hub."""
        from llm_hf_models.models import inspect as models_inspect

        return models_inspect.check(self._context, name)

    def test(self, name: str) -> LoadTestReport:
        """Load a local model or a GGUF file in a sandboxed child, generate a few tokens, and record the result."""
        from llm_hf_models.models import load_test

        return load_test.run_load_test(self._context, name)
