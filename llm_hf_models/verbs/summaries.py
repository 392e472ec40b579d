"""Define the verb that lists local models without their facts, options and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_hf_models.context import Context

if TYPE_CHECKING:
    from llm_hf_models.library.types import ModelSummary


class SummaryVerbs:
    """The part of `Library` that lists local models."""

    _context: Context

    def list_summaries(self, *, health: bool = False) -> tuple[ModelSummary, ...]:
        """List the local models, newest first, as rows of a list: a fraction of the work of `list`.

        With `health`, check whether the servers of remote models respond.
        """
        from llm_hf_models.models.local import summaries

        return summaries.list_summaries(self._context, health=health)
