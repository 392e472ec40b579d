"""The verbs of `Library` about the queue of downloads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.downloads.plan_types import PullPlan
    from llm_hf_models.downloads.types import DownloadEvent, DownloadView
    from llm_hf_models.library.download_records import DownloadNote


class QueueVerbs:
    """The verbs that list, follow and control downloads."""

    _context: Context

    @property
    def _reading_context(self) -> Context:
        """The context for reading downloads, which also corrects their states and restarts a lost worker."""
        return self._context

    def downloads(self, *, include_finished: bool = False, limit: int = 100) -> tuple[DownloadView, ...]:
        """List at most `limit` downloads (-1: all), newest first; finished ones only with `include_finished`."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.list_downloads(self._reading_context, include_finished=include_finished, limit=limit)

    def get_download(self, download_id: int) -> DownloadView:
        """Return one download by its id."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.get_download(self._reading_context, download_id)

    def get_download_log(self, download_id: int) -> tuple[DownloadNote, ...]:
        """Return the log of a download, oldest entry first."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.read_log(self._reading_context, download_id)

    def pause(self, download_id: int) -> DownloadView:
        """Pause a download and keep the downloaded bytes."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.pause(self._context, download_id)

    def resume(self, download_id: int) -> DownloadView:
        """Continue a paused download in the background."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.resume(self._context, download_id)

    def cancel(self, download_id: int) -> DownloadView:
        """Cancel a download and remove its files."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.cancel(self._context, download_id)

    def retry(self, download_id: int) -> DownloadView:
        """Try a failed or cancelled download again, in the background."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.retry(self._context, download_id)

    def continue_in_background(self, plan: PullPlan) -> None:
        """Mark a running pull as a background download, which a worker continues when its process ends.

        This does not start the worker; `enqueue` does.
        """
        from llm_hf_models.downloads import queue as downloads_queue

        downloads_queue.continue_in_background(self._context, plan)

    def clear_downloads(self) -> int:
        """Remove the rows of finished downloads. Return the number of removed rows."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.clear_finished(self._context)

    def follow(self, download_id: int, *, stop: threading.Event | None = None) -> Iterator[DownloadEvent]:
        """Yield the events of a download until it has finished or is paused, whichever process carries it out."""
        from llm_hf_models.downloads import queue as downloads_queue

        return downloads_queue.follow(self._reading_context, download_id, stop=stop)
