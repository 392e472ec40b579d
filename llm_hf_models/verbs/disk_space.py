"""The verbs of `Library` about disk space."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.disk_space.types import Deduplication, DiskUsage, Pruning
    from llm_hf_models.transfer.types import Event, Progress


def _ignore_event(event: Event) -> None:
    """Ignore a progress event."""


class DiskSpaceVerbs:
    """Measure the disk space of models, and free some of it."""

    _context: Context

    def get_disk_usage(self, by: Literal["model", "repo", "collection"] = "model") -> DiskUsage:
        """Return the disk space by model, repo or collection, and what else is in the Hugging Face cache."""
        from llm_hf_models.disk_space import usage

        return usage.measure_usage(self._context, by)

    def plan_pruning(
        self, *, unused_seconds: float | None = None, larger_bytes: int | None = None, keep: Sequence[str] = ()
    ) -> Pruning:
        """Return the models that meet all criteria, at least one of which is needed.

        The default model of llm, pinned models and models with a running engine are kept.

        Args:
            unused_seconds: The time since the last use, or since the pull of a model that was never used.
            larger_bytes: The size on the disk that a model exceeds.
            keep: Collections whose models are kept.
        """
        from llm_hf_models.disk_space import prune

        return prune.plan_pruning(
            self._context, unused_seconds=unused_seconds, larger_bytes=larger_bytes, keep=tuple(keep)
        )

    def prune(self, plan: Pruning) -> Pruning:
        """Remove the models of a plan, except for those that were used since it was made."""
        from llm_hf_models.disk_space import prune

        return prune.prune(self._context, plan)

    def plan_deduplication(self) -> Deduplication:
        """Return the files that `deduplicate` would link. Only their names and sizes are compared."""
        from llm_hf_models.disk_space import dedupe

        return dedupe.deduplicate(self._context, _ignore_event, threading.Event(), dry_run=True)

    def deduplicate(self, *, progress: Progress = _ignore_event, stop: threading.Event | None = None) -> Deduplication:
        """Replace identical files in the Hugging Face cache by hard links to one file.

        Args:
            progress: Called with the progress of hashing.
            stop: Ends the work with InterruptedByUserError when set.
        """
        from llm_hf_models.disk_space import dedupe

        return dedupe.deduplicate(self._context, progress, stop or threading.Event(), dry_run=False)
