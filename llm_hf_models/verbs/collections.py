"""The verbs of `Library` about collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_hf_models.system.arguments import check_arguments

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.models.collection_types import (
        CollectionDeletion,
        CollectionImport,
        CollectionMember,
        CollectionSummary,
        CollectionView,
    )


@check_arguments
class CollectionVerbs:
    """Named sets of models. A model may be in several, and a collection may contain others."""

    _context: Context

    def list_collections(self) -> tuple[CollectionSummary, ...]:
        """List the collections, sorted by name."""
        from llm_hf_models.models import collections

        return collections.list_collections(self._context)

    def show_collection(self, name: str) -> CollectionView:
        """Return a collection with its models, on this machine or not."""
        from llm_hf_models.models import collections

        return collections.show_collection(self._context, name)

    def list_collection_members(self, name: str) -> tuple[CollectionMember, ...]:
        """List the models of a collection and of those that it contains, each once."""
        from llm_hf_models.models import collections

        return collections.list_members(self._context, name)

    def create_collection(self, name: str, *, note: str = "", dry_run: bool = False) -> CollectionView:
        """Create an empty collection. `coding/small` is in `coding`, which is created too if it is missing.

        Args:
            name: The name: letters, digits and any of ._- in parts that `/` separates.
            note: A text of at most 500 characters.
            dry_run: Change nothing, and return the collection as it would be.
        """
        from llm_hf_models.models import collection_changes

        return collection_changes.create_collection(self._context, name, note=note, dry_run=dry_run)

    def add_to_collection(
        self, name: str, *members: str, role: str | None = None, note: str | None = None, dry_run: bool = False
    ) -> CollectionView:
        """Add models and other collections to a collection, or change the role and the note of a member.

        Args:
            name: The collection.
            members: Names of local models, refs of models on the Hub, or names of collections. A name that is both is
                the local model's first, then the collection's. `hf://owner/name` always is a repo.
            role: The role of one model. `COLLECTION/ROLE` then works as a name of the model. Empty removes the role.
            note: A note on each of the members. None keeps the one that it has.
            dry_run: Change nothing, and return the collection as it would be.
        """
        from llm_hf_models.models import collection_changes

        return collection_changes.add_members(self._context, name, members, role=role, note=note, dry_run=dry_run)

    def remove_from_collection(self, name: str, *members: str, dry_run: bool = False) -> CollectionView:
        """Remove models and collections from a collection: all of them, or none if one is not in it.

        Models and their files stay on this machine. With `dry_run`, nothing is changed.
        """
        from llm_hf_models.models import collection_changes

        return collection_changes.remove_members(self._context, name, members, dry_run=dry_run)

    def rename_collection(self, name: str, new_name: str, *, dry_run: bool = False) -> CollectionView:
        """Rename a collection, and the collections whose names start with its name."""
        from llm_hf_models.models import collection_changes

        return collection_changes.rename_collection(self._context, name, new_name, dry_run=dry_run)

    def import_collection(self, source: str, *, name: str | None = None, dry_run: bool = False) -> CollectionImport:
        """Copy the refs of a collection of the Hub, and of those in it, without downloading a model.

        A collection that was imported before gets the models that are new on the Hub. None is removed from it.

        Args:
            source: `owner/title-ID`, or the address of the page of the collection.
            name: The name of the collection in the library. None makes one from the title.
            dry_run: Change nothing, and return what would be added.
        """
        from llm_hf_models.models import collection_import

        return collection_import.import_collection(self._context, source, name=name, dry_run=dry_run)

    def plan_collection_deletion(self, name: str) -> CollectionDeletion:
        """Return what `delete_collection` would delete."""
        from llm_hf_models.models import collection_changes

        return collection_changes.delete_collection(self._context, name, dry_run=True)

    def delete_collection(self, name: str) -> CollectionDeletion:
        """Delete a collection, and those whose names start with its name. Models and their files are kept."""
        from llm_hf_models.models import collection_changes

        return collection_changes.delete_collection(self._context, name, dry_run=False)
