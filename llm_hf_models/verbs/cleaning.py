"""The verbs of `Library` about the files that this package stores: gc and uninstall."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.types import Cleanup, StoredItem, Uninstallation


class CleaningVerbs:
    """The verbs that list and remove what this package has stored."""

    _context: Context

    def plan_gc(self) -> Cleanup:
        """Return the leftover files, old rows and old responses that `gc` would remove now. It never removes models."""
        from llm_hf_models import cleanup

        return cleanup.plan_cleanup(self._context)

    def gc(self) -> Cleanup:
        """Remove leftover files, old rows and old responses. Files that have come into use since `plan_gc` are kept."""
        from llm_hf_models import cleanup

        return cleanup.clean_up(self._context)

    def list_stored_files(self) -> tuple[StoredItem, ...]:
        """List the files and folders that this package has stored on this machine."""
        from llm_hf_models import stored_files

        return stored_files.list_stored_files(self._context)

    def plan_uninstallation(self, *, keep_models: bool = False) -> Uninstallation:
        """Return what `uninstall` would remove."""
        from llm_hf_models import stored_files

        return stored_files.plan_uninstallation(self._context, keep_models=keep_models)

    def uninstall(self, *, keep_models: bool = False) -> Uninstallation:
        """Stop the engines and downloads, and remove everything that this package has stored on this machine."""
        from llm_hf_models import stored_files

        return stored_files.uninstall(self._context, keep_models=keep_models)
