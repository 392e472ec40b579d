"""The verbs of `Library` about pulls: plan, pull, download_file and enqueue."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models.errors import BadInputError
from llm_hf_models.transfer.types import ignore_event

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.downloads.plan_types import PullOptions, PullPlan, PullResult
    from llm_hf_models.downloads.types import DownloadView
    from llm_hf_models.transfer.types import Progress


class PullVerbs:
    """The verbs that plan and start downloads."""

    _context: Context

    def plan(self, ref: str, options: PullOptions | None = None, *, draft_after: float | None = None) -> PullPlan:
        """Plan a pull of `ref`. Raise an error if a policy, the disk space or an invalid header prevents it.

        Args:
            ref: The model ref.
            options: The options of the pull.
            draft_after: The seconds after which the plan is returned without the header and the scan reports, if they
                are slow. The process that carries out the plan then reads and checks them first.
        """
        from llm_hf_models.downloads import plan as downloads_plan
        from llm_hf_models.downloads import plan_types

        return downloads_plan.plan_pull(
            self._context, ref, options or plan_types.PullOptions(), draft_after=draft_after
        )

    def list_concerns(self, plan: PullPlan) -> tuple[str, ...]:
        """Return the reasons to ask a person before a plan is carried out, such as that the model does not fit."""
        from llm_hf_models.downloads import plan_checks

        return plan_checks.list_concerns(self._context, plan)

    def pull(
        self,
        ref: str | PullPlan,
        options: PullOptions | None = None,
        *,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> PullResult:
        """Download one variant, verify it and register it. Continue an earlier pull that was interrupted.

        Args:
            ref: The model ref to pull, or a plan that was shown before.
            options: The options of the pull. A plan has its own.
            progress: Called with events, from any thread.
            stop: Ends the pull with InterruptedByUserError when set. The downloaded bytes are kept. Each pull needs its
                own event, because the pull sets it too when it is paused or fails.
        """
        from llm_hf_models.downloads import pull

        plan = self._find_plan(ref, options)
        return pull.pull(self._context, plan, progress=progress, stop=stop or threading.Event())

    def _find_plan(self, ref: str | PullPlan, options: PullOptions | None) -> PullPlan:
        if isinstance(ref, str):
            return self.plan(ref, options)
        if options is not None:
            raise BadInputError("A plan already has its options")
        return ref

    def download_file(
        self,
        repo: str,
        file: str,
        path: Path | str | None = None,
        *,
        revision: str | None = None,
        progress: Progress = ignore_event,
        stop: threading.Event | None = None,
    ) -> Path:
        """Download any one file of a repo, and verify its digest.

        Args:
            repo: The repo, `owner/name`.
            file: The path of the file in the repo.
            path: The folder for the file; None stores it in the Hugging Face cache.
            revision: A branch, tag or commit.
            progress: As in `pull`.
            stop: As in `pull`.

        Returns:
            The path of the file on this machine.
        """
        plan = self._plan_file(repo, file, path, revision)
        return Path(self.pull(plan, progress=progress, stop=stop).files[0])

    def _plan_file(self, repo: str, file: str, path: Path | str | None, revision: str | None) -> PullPlan:
        from llm_hf_models.downloads import plan_types
        from llm_hf_models.hub import refs

        ref = refs.ModelRef(refs.RepoId.parse(repo), file=refs.RepoFile(file))
        return self.plan(
            str(ref), plan_types.PullOptions(revision=revision, to=Path(path) if path else None, file_only=True)
        )

    def enqueue(
        self,
        ref: str | PullPlan,
        options: PullOptions | None = None,
        *,
        on_done: str | None = None,
    ) -> DownloadView:
        """Pull in the background: queue a plan, and start a worker if none is running.

        Args:
            ref: The model ref to pull, or a plan that was shown before.
            options: The options of the pull. A plan has its own.
            on_done: A command line to run when the download is done, with LLM_HF_MODEL in its environment.
        """
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.enqueue(self._context, self._find_plan(ref, options), on_done=on_done)
