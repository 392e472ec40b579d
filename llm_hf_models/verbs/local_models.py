"""The verbs of `Library` about the local models: list, import, name, verify and remove them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_hf_models.transfer.types import ignore_event

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.models.types import ImportResult, LibrarySurvey, LocalModelView, Removal, Verification
    from llm_hf_models.transfer.types import Progress


class LocalModelVerbs:
    """The verbs about the models on this machine."""

    _context: Context

    def list(
        self, *, health: bool = False, collection: str | None = None, with_collections: bool = False
    ) -> tuple[LocalModelView, ...]:
        """List the local models, newest first.

        Args:
            health: Check whether the servers of remote models respond.
            collection: Return only the models of a collection.
            with_collections: Fill in the names of the collections of each model.
        """
        from llm_hf_models.models.local import views

        return views.list_views(self._context, health=health, collection=collection, with_collections=with_collections)

    def survey(self, text: str = "", *, collection: str | None = None) -> LibrarySurvey:
        """Return the local models, newest first, with the updates on the Hub and the space that removing them frees.

        The Hub is asked for at most 3 seconds. A model whose repo did not answer is unknown.

        Args:
            text: Return only models with this text in their id or in an alias.
            collection: Return only the models of a collection.
        """
        from llm_hf_models.models import survey

        return survey.survey(self._context, text, collection)

    def show(self, name: str) -> LocalModelView:
        """Return one local model, by id, alias or repo, with every fact that is known about it."""
        from llm_hf_models.models.local import views

        return views.show(self._context, name)

    def path(self, name: str) -> tuple[str, ...]:
        """Return the paths of a local model's files: its shards in order, then its mmproj."""
        with self._context.open_database() as db:
            model = db.find_model(name)
        model.refuse_if_remote()
        return tuple(file.location for file in model.files)

    def plan_removal(self, name: str) -> Removal:
        """Return the files that `remove` would remove, and the space it would free."""
        from llm_hf_models.models.local import files as local_files

        return local_files.remove(self._context, name, dry_run=True)

    def remove(self, name: str) -> Removal:
        """Remove a local model and the files that nothing else uses."""
        from llm_hf_models.models.local import files as local_files

        return local_files.remove(self._context, name, dry_run=False)

    def verify(self, name: str, *, progress: Progress = ignore_event) -> Verification:
        """Compare the digests of a local model's files with the recorded ones, and record the result."""
        from llm_hf_models.models.local import files as local_files

        return local_files.verify(self._context, name, progress)

    def add_alias(self, name: str, *aliases: str) -> LocalModelView:
        """Add aliases to a local model: all of them, or none if one is taken."""
        return LocalModelVerbs.change_aliases(self, name, add=aliases)

    def remove_alias(self, *aliases: str) -> None:
        """Remove aliases: all of them, or none if one does not exist."""
        with self._context.open_database() as db, db.transaction():
            for alias in dict.fromkeys(aliases):
                db.remove_alias(alias)

    def change_aliases(self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> LocalModelView:
        """Remove aliases, and add others to a local model: all of the changes are made, or none if one fails."""
        from llm_hf_models.hub import refs
        from llm_hf_models.models import names as models_names
        from llm_hf_models.models.local import views

        with self._context.open_database() as db:
            model = db.find_model(name)
            models_names.refuse_taken_names(map(refs.parse_alias, add), model.facts.kind)
            with db.transaction():
                for alias in dict.fromkeys(remove):
                    db.remove_alias(alias)
                for alias in add:
                    db.add_alias(alias, model.model_id)
            return views.make_view(db.get_model(model.model_id))

    def import_file(
        self,
        file: Path | str,
        *,
        repo: str | None = None,
        copy: bool = False,
        mmproj: Path | str | None = None,
        with_mmproj: bool = True,
        aliases: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        progress: Progress = ignore_event,
    ) -> ImportResult:
        """Register a GGUF file on this machine. A generation_config.json in the same folder is used as well.

        Args:
            file: The file. Any shard of a split model stands for all its shards.
            repo: The repo that the file is from. Its digest is compared with that repo if the Hub can be reached.
            copy: Store a copy of the file instead of using it where it is.
            mmproj: The model's projector. Without it, a projector in the same folder is used if it can't belong to
                another model.
            with_mmproj: False registers the model without a projector.
            aliases: The aliases of the model.
            options: Options to store for the model, as `set_options` does: `kind` and `pooling`.
            progress: Called with the progress of hashing.
        """
        from llm_hf_models.models.importing.file import import_file

        return import_file(
            self._context,
            Path(file),
            repo=repo,
            copy=copy,
            mmproj=Path(mmproj) if mmproj is not None else None,
            with_mmproj=with_mmproj,
            aliases=aliases,
            options=options or {},
            progress=progress,
        )

    @staticmethod
    def list_importable(*paths: Path | str) -> tuple[Path, ...]:
        """Return a file of each model among files and folders, for `import_file`. Subfolders are included."""
        from llm_hf_models.gguf import shards

        return tuple(shards.list_models([Path(path) for path in paths]))
