"""The library for asyncio: each verb runs in a thread, so that the event loop stays responsive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from llm_hf_models.service import Library
from llm_hf_models.transfer.types import ignore_event

if TYPE_CHECKING:
    from llm_hf_models.downloads.plan_types import PullOptions, PullPlan, PullResult
    from llm_hf_models.downloads.types import DownloadEvent
    from llm_hf_models.transfer.types import Progress

P = ParamSpec("P")
R = TypeVar("R")


def _run_in_thread(
    verb: Callable[Concatenate[Library, P], R],
) -> Callable[Concatenate[AsyncLibrary, P], Coroutine[Any, Any, R]]:
    @wraps(verb)
    async def run(self: AsyncLibrary, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(verb, self._library, *args, **kwargs)

    return run


class AsyncLibrary:
    """The verbs of `Library` as coroutines, with the same arguments, results and errors.

    A cancelled `pull` stops and keeps the downloaded bytes. Any other cancelled verb continues in its thread to its
    end. The servers (`serve` and `mirror`) block a thread of their own, so they are verbs of `Library` only.

    Args:
        library: The library that does the work; by default one of this environment.
    """

    def __init__(self, library: Library | None = None) -> None:
        self._library = library or Library()

    search = _run_in_thread(Library.search)
    info = _run_in_thread(Library.info)
    inspect = _run_in_thread(Library.inspect)
    check = _run_in_thread(Library.check)
    test = _run_in_thread(Library.test)
    plan = _run_in_thread(Library.plan)
    list_concerns = _run_in_thread(Library.list_concerns)
    download_file = _run_in_thread(Library.download_file)
    enqueue = _run_in_thread(Library.enqueue)
    downloads = _run_in_thread(Library.downloads)
    get_download = _run_in_thread(Library.get_download)
    get_download_log = _run_in_thread(Library.get_download_log)
    pause = _run_in_thread(Library.pause)
    resume = _run_in_thread(Library.resume)
    cancel = _run_in_thread(Library.cancel)
    retry = _run_in_thread(Library.retry)
    continue_in_background = _run_in_thread(Library.continue_in_background)
    clear_downloads = _run_in_thread(Library.clear_downloads)
    list = _run_in_thread(Library.list)
    list_summaries = _run_in_thread(Library.list_summaries)
    survey = _run_in_thread(Library.survey)
    show = _run_in_thread(Library.show)
    path = _run_in_thread(Library.path)
    plan_removal = _run_in_thread(Library.plan_removal)
    remove = _run_in_thread(Library.remove)
    verify = _run_in_thread(Library.verify)
    outdated = _run_in_thread(Library.outdated)
    plan_update = _run_in_thread(Library.plan_update)
    update = _run_in_thread(Library.update)
    plan_rollback = _run_in_thread(Library.plan_rollback)
    rollback = _run_in_thread(Library.rollback)
    pin = _run_in_thread(Library.pin)
    add_alias = _run_in_thread(Library.add_alias)
    remove_alias = _run_in_thread(Library.remove_alias)
    change_aliases = _run_in_thread(Library.change_aliases)
    import_file = _run_in_thread(Library.import_file)
    sign = _run_in_thread(Library.sign)
    find_in_other_tools = _run_in_thread(Library.find_in_other_tools)
    plan_import_from = _run_in_thread(Library.plan_import_from)
    import_from = _run_in_thread(Library.import_from)
    plan_modelfile = _run_in_thread(Library.plan_modelfile)
    import_modelfile = _run_in_thread(Library.import_modelfile)
    prompt = _run_in_thread(Library.prompt)
    plan_gc = _run_in_thread(Library.plan_gc)
    gc = _run_in_thread(Library.gc)
    list_stored_files = _run_in_thread(Library.list_stored_files)
    plan_uninstallation = _run_in_thread(Library.plan_uninstallation)
    uninstall = _run_in_thread(Library.uninstall)
    get_disk_usage = _run_in_thread(Library.get_disk_usage)
    plan_pruning = _run_in_thread(Library.plan_pruning)
    prune = _run_in_thread(Library.prune)
    plan_deduplication = _run_in_thread(Library.plan_deduplication)
    deduplicate = _run_in_thread(Library.deduplicate)
    set_options = _run_in_thread(Library.set_options)
    attach = _run_in_thread(Library.attach)
    list_collections = _run_in_thread(Library.list_collections)
    show_collection = _run_in_thread(Library.show_collection)
    list_collection_members = _run_in_thread(Library.list_collection_members)
    create_collection = _run_in_thread(Library.create_collection)
    add_to_collection = _run_in_thread(Library.add_to_collection)
    remove_from_collection = _run_in_thread(Library.remove_from_collection)
    import_collection = _run_in_thread(Library.import_collection)
    rename_collection = _run_in_thread(Library.rename_collection)
    plan_collection_deletion = _run_in_thread(Library.plan_collection_deletion)
    delete_collection = _run_in_thread(Library.delete_collection)
    lock = _run_in_thread(Library.lock)
    save_lockfile = _run_in_thread(Library.save_lockfile)
    parse_lockfile = _run_in_thread(Library.parse_lockfile)
    read_lockfile = _run_in_thread(Library.read_lockfile)
    diff_lockfiles = _run_in_thread(Library.diff_lockfiles)
    export = _run_in_thread(Library.export)
    plan_sync = _run_in_thread(Library.plan_sync)
    sync = _run_in_thread(Library.sync)
    list_engines = _run_in_thread(Library.list_engines)
    stop_engines = _run_in_thread(Library.stop_engines)
    login = _run_in_thread(Library.login)
    logout = _run_in_thread(Library.logout)
    whoami = _run_in_thread(Library.whoami)
    get_hub_host = _run_in_thread(Library.get_hub_host)
    status = _run_in_thread(Library.status)
    settings = _run_in_thread(Library.settings)
    get_setting = _run_in_thread(Library.get_setting)
    set_setting = _run_in_thread(Library.set_setting)

    list_trusted_signers = _run_in_thread(Library.list_trusted_signers)
    add_trusted_signer = _run_in_thread(Library.add_trusted_signer)
    remove_trusted_signers = _run_in_thread(Library.remove_trusted_signers)

    async def pull(
        self, ref: str | PullPlan, options: PullOptions | None = None, *, progress: Progress = ignore_event
    ) -> PullResult:
        """Pull as `Library.pull` does. If the task is cancelled, the pull stops and keeps the downloaded bytes."""
        stop = threading.Event()
        work = asyncio.create_task(
            asyncio.to_thread(self._library.pull, ref, options, progress=progress, stop=stop), name=f"pull {ref}"
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([work])
            raise

    async def follow(self, download_id: int) -> AsyncIterator[DownloadEvent]:
        """Yield the events of a download, as `Library.follow` does."""
        stop = threading.Event()
        events = self._library.follow(download_id, stop=stop)
        try:
            while (event := await asyncio.to_thread(next, events, None)) is not None:
                yield event
        finally:
            stop.set()
