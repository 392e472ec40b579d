"""Ask the Hub for the current commits of many repos, with few requests and within its rate limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    AccessError,
    FileNotFoundInRepoError,
    HfModelsError,
    HubServerError,
    NetworkError,
    RateLimitedError,
    RepoNotFoundError,
    RevisionNotFoundError,
)
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import ModelRef, RepoFile, RepoId
from llm_hf_models.hub.types import HubFile, Location, RepoDetails
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models import repo_info
from llm_hf_models.models.types import Freshness
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_duration
from llm_hf_models.updates.compare import CARD
from llm_hf_models.updates.types import HubAnswer

THREADS = 24  # 200 repos with two replies of 0.1 s each take less than two seconds
MAX_NOTE_CHARS = 160
MAX_FAILURES = 3  # requests without a reply, one after another, before the Hub counts as unreachable
DEFAULT_BRANCH = "main"

RepoKey = tuple[str, str | None]  # repo and revision
T = TypeVar("T")


class RequestPacer:
    """Pauses the requests of all threads while the Hub refuses them, and ends them if the Hub can't be reached."""

    def __init__(self, context: Context, hub: Hub) -> None:
        self._context, self._hub = context, hub
        self._lock = threading.Lock()
        self._resume_at = 0.0
        self._waited = 0.0
        self._failures = 0
        self.problem: NetworkError | None = None  # why no more requests are sent

    def send(self, request: Callable[[], T]) -> T:
        """Send a request, and send it again after the time that the Hub asks for.

        Raises:
            NetworkError: The Hub did not answer, or refuses requests for too long.
        """
        while True:
            self._wait()
            try:
                answer = request()
            except RateLimitedError as error:
                self._pause(error)
            except HubServerError:
                raise
            except NetworkError as error:
                with self._lock:
                    self._failures += 1
                    if self._failures >= MAX_FAILURES:
                        self.problem = self.problem or error
                raise
            else:
                self._failures = 0
                wait, self._hub.pause_seconds = self._hub.pause_seconds, None
                if wait:
                    self._pause(RateLimitedError("Rate limited by the Hub", retry_after=wait))
                return answer

    def _wait(self) -> None:
        while (left := self._resume_at - time.monotonic()) > 0 and self.problem is None:
            (self._context.stop or threading.Event()).wait(min(left, 1.0))
        if self.problem is not None:
            raise self.problem

    def _pause(self, error: RateLimitedError) -> None:
        """Pause all requests, unless nobody can be notified or the pauses would take too long."""
        now = self._context.settings()
        wait = now.retry_seconds if error.retry_after is None else error.retry_after
        with self._lock:
            until = time.monotonic() + wait
            more = max(0.0, until - max(self._resume_at, time.monotonic()))
            if self._context.notify is None or self._waited + more > now.network_wait_seconds:
                self.problem = self.problem or error
                raise error
            if more > 1 or self._resume_at < time.monotonic():
                self._context.notify(f"{error.message}: continuing in {format_duration(wait)}")
            self._waited, self._resume_at = self._waited + more, max(self._resume_at, until)


class RepoQuestions:
    """The current state of several repos, each asked for once.

    A HEAD request for a file of the model tells the commit. The list of files is requested only if that commit is not
    the one of every local model.
    """

    def __init__(self, context: Context, models: Mapping[RepoKey, list[LocalModel]]) -> None:
        self._models = models
        self._silent = replace(context.fix_token(), notify=None)
        self._hub = self._silent.hub()
        self._pacer = RequestPacer(context, self._hub)
        self._problem: NetworkError | None = None
        self._details: dict[RepoKey, RepoDetails] = {}

    @property
    def problem(self) -> str | None:
        """Why the Hub could not be asked."""
        return _shorten(self._problem) if self._problem else None

    def get_models(self, key: RepoKey) -> list[LocalModel]:
        """Return the local models of a repo and revision."""
        return self._models[key]

    def get_details(self, key: RepoKey) -> RepoDetails | None:
        """Return the repo as the answer has it, or None if its list of files was not needed."""
        return self._details.get(key)

    def list_files(self, repo: str, commit: str) -> list[HubFile] | None:
        """Return the files of a repo at an earlier commit, or None if the Hub no longer has it or can't be asked."""
        try:
            return self._pacer.send(
                lambda: repo_info.fetch_files_at_commit(self._silent, self._hub, RepoId.parse(repo), commit)
            )
        except HfModelsError:
            return None

    def ask(self, key: RepoKey) -> HubAnswer:
        """Return the state of one repo. Several threads may ask at once."""
        try:
            return self._ask_hub(key)
        except RevisionNotFoundError as error:
            return HubAnswer(status="removed", note=_shorten(error))
        except RepoNotFoundError as error:
            return HubAnswer(status="unavailable", note=_shorten(error))
        except AccessError as error:
            return HubAnswer(status="gated" if error.is_gated else "unknown", note=_shorten(error))
        except NetworkError as error:
            return self._load(key, error)
        except HfModelsError as error:
            return HubAnswer(status="unknown", note=_shorten(error))

    def _ask_hub(self, key: RepoKey) -> HubAnswer:
        found = self._locate_file(key)
        if found and found.commit and all(model.commit == found.commit for model in self._models[key]):
            return HubAnswer(found.commit, found.repo)
        ref = ModelRef(RepoId.parse(key[0]), revision=key[1])
        try:
            details, freshness = self._pacer.send(
                lambda: repo_info.fetch_details(self._silent, ref, refresh=True, accepts_stale=False)
            )
        except NetworkError as error:
            if found is None or found.commit is None:
                raise
            return HubAnswer(found.commit, found.repo, status="unknown", note=_shorten(error))
        return self._keep(key, details, freshness)

    def _locate_file(self, key: RepoKey) -> Location | None:
        """Return the location of a file of a model in the repo now, or None if the repo no longer has it."""
        file = next((file.path for model in self._models[key] for file in model.files), CARD)
        try:
            return self._pacer.send(
                lambda: self._hub.locate(RepoId.parse(key[0]), RepoFile(file), key[1] or DEFAULT_BRANCH)
            )
        except FileNotFoundInRepoError:
            return None

    def _keep(self, key: RepoKey, details: RepoDetails, freshness: Freshness) -> HubAnswer:
        self._details[key] = details
        is_renamed = details.id.casefold() != key[0].casefold()
        return HubAnswer(details.commit, details.id if is_renamed else None, freshness)

    def _load(self, key: RepoKey, error: NetworkError) -> HubAnswer:
        """Return the answer that an earlier command cached, or why there is none."""
        self._problem = self._problem or error
        ref, why = ModelRef(RepoId.parse(key[0]), revision=key[1]), _shorten(error)
        cached = repo_info.load_details(self._silent, ref, why)
        if cached is None:
            return HubAnswer(status="unknown", note=why)
        return self._keep(key, *cached)


def _shorten(error: HfModelsError) -> str:
    return clean_text(error.message, MAX_NOTE_CHARS)
