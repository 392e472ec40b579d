"""Verbs about the versions of local models: outdated, update, rollback and pin."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_hf_models.context import Context
from llm_hf_models.system.arguments import check_arguments
from llm_hf_models.transfer.types import ignore_event

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PullPlan
    from llm_hf_models.models.types import LocalModelView
    from llm_hf_models.transfer.types import Progress
    from llm_hf_models.updates.types import OutdatedModels, UpdatedModel, UpdatedModels, UpdatePlan


@check_arguments
class UpdateVerbs:
    """The verbs of `Library` about the versions of local models."""

    _context: Context

    def outdated(self, names: Sequence[str] = (), *, include_pinned: bool = False) -> OutdatedModels:
        """Compare local models with the branches or tags that they were pulled from.

        Args:
            names: The models; empty for all.
            include_pinned: Compare pinned models as well.
        """
        from llm_hf_models.updates import outdated

        return outdated.find_outdated(self._context, names, with_pinned=include_pinned)

    def plan_update(
        self, names: Sequence[str] = (), *, keep_old: bool | None = None, draft_after: float | None = None
    ) -> UpdatePlan:
        """Plan the update of local models to the current commits of their branches.

        Args:
            names: The models; empty for all.
            keep_old: Keep the files of the old versions. None takes the setting keep_old_versions.
            draft_after: As in `plan`, for each model.
        """
        from llm_hf_models.updates import update

        return update.plan_update(self._context, names, keep_old=keep_old, draft_after=draft_after)

    def update(
        self,
        plan: UpdatePlan | Sequence[str] = (),
        *,
        keep_old: bool | None = None,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> UpdatedModels:
        """Update local models. Each one keeps its version until the new one is verified and has passed a load test.

        Args:
            plan: The models, empty for all; or a plan that was shown before.
            keep_old: As in `plan_update`. A plan has its own.
            progress: As in `pull`.
            stop: Ends the update with InterruptedByUserError when set. Updating again continues.
        """
        from llm_hf_models.updates import types, update

        if not isinstance(plan, types.UpdatePlan):
            plan = update.plan_update(self._context, plan, keep_old=keep_old)
        return update.update(self._context, plan, progress=progress, stop=stop or threading.Event())

    def plan_rollback(self, name: str, *, to: str | None = None, keep_old: bool | None = None) -> PullPlan:
        """Plan the return of a model to an earlier version.

        Args:
            name: The model.
            to: The commit of the version, or its first characters. With None, the version that was replaced last.
            keep_old: Keep the files of the current version. None takes the setting keep_old_versions.
        """
        from llm_hf_models.updates import update

        return update.plan_rollback(self._context, name, to=to, keep_old=keep_old)

    def rollback(
        self,
        name: str | PullPlan,
        *,
        to: str | None = None,
        keep_old: bool | None = None,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> UpdatedModel:
        """Return a model to an earlier version, which is verified and load-tested first.

        Args:
            name: The model, or a plan that was shown before.
            to: As in `plan_rollback`.
            keep_old: As in `plan_rollback`.
            progress: As in `pull`.
            stop: As in `update`.
        """
        from llm_hf_models.updates import update

        plan = update.plan_rollback(self._context, name, to=to, keep_old=keep_old) if isinstance(name, str) else name
        return update.rollback(self._context, plan, progress=progress, stop=stop or threading.Event())

    def pin(self, name: str, *, pinned: bool = True) -> LocalModelView:
        """Keep a model at its commit: `update` and `outdated` skip it. With `pinned` False, update it again."""
        from llm_hf_models.models import local_models

        with self._context.open_database() as db:
            model = db.find_model(name)
            model.refuse_if_remote()
            db.set_pinned(model.model_id, pinned)
            versions = db.list_versions(model.model_id)
            return local_models.make_full_view(db.get_model(model.model_id), versions=versions)
