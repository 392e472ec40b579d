"""Provide the current settings, the Hub client with its token, and the library to every method of the service."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models import paths
from llm_hf_models.system.text import strip_credentials

if TYPE_CHECKING:
    from typing_extensions import Self

    from llm_hf_models.hub import tokens
    from llm_hf_models.hub.client import Hub
    from llm_hf_models.library.database import Database
    from llm_hf_models.library.downloads import DownloadTables
    from llm_hf_models.library.summaries import SummaryTables
    from llm_hf_models.settings import Settings

STALE_HEARTBEATS = 4  # the owner of a download counts as ended after this number of missed heartbeats


@dataclass(frozen=True)
class Context:
    """The settings, token, Hub and library of one caller. They are read on each call and never kept.

    Attributes:
        requested_by: The interface that the caller uses: `cli`, `mcp`, `python` or `worker`.
        ask_passphrase: Asks the user for the passphrase of the encrypted token file.
        notify: Shows a message to the user while a request is waiting for a retry. With None, requests don't wait.
        planned_cache: The cache of a download that was planned in another environment; None for this environment's.
        planned_endpoint: The Hub of such a download.
        show_activity: Shows the user what a long request is doing, such as the bytes of a header so far.
        stop: Ends a wait for a retry when set.
        is_patient: Whether requests are retried as long as those of a transfer, even if no user can be notified.
        deadline: The time by which requests must end, of time.monotonic(); None for no limit.
        is_agent: Whether the caller is an agent, which may name models and repos, but no files on this machine.
        reads_only: Whether nothing may be changed, not even the state of a download whose process has ended.
        own_endpoint: The caller's Hub; None for that of the environment.
        own_cache: The caller's cache; None for that of the environment.
        own_token: The caller's token for its Hub; None for the token that the environment has for its own Hub.
    """

    requested_by: str = "python"
    ask_passphrase: Callable[[], str | None] | None = None
    notify: Callable[[str], None] | None = None
    show_activity: Callable[[str], None] | None = None
    stop: threading.Event | None = None
    is_patient: bool = False
    deadline: float | None = None
    planned_cache: Path | None = None
    planned_endpoint: str | None = None
    is_agent: bool = False
    reads_only: bool = False
    own_endpoint: str | None = None
    own_cache: Path | None = None
    own_token: str | None = field(default=None, repr=False)

    def settings(self) -> Settings:
        """Return the current settings."""
        from llm_hf_models import settings  # imported late: listing models needs no settings

        return settings.load()

    def limit_time(self, seconds: float | None) -> Self:
        """Return a context whose requests must also end within `seconds`. None sets no further limit."""
        until = math.inf if seconds is None else time.monotonic() + seconds
        return self if until == math.inf else replace(self, deadline=min(until, self.deadline or math.inf))

    def count_seconds_left(self) -> float:
        """Return the seconds until the deadline; infinity if there is none."""
        return math.inf if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def stale_seconds(self) -> float:
        """Return the age in seconds at which the last heartbeat of a download's owner is stale."""
        return STALE_HEARTBEATS * self.settings().heartbeat_seconds

    def command_log(self) -> Path | None:
        """Return the log file for the output of a download's command, or None for standard error."""
        return None

    @property
    def changes_nothing(self) -> bool:
        """Return True if the caller may only read: it works on a copy of the library, and starts no process."""
        return self.reads_only or (self.is_agent and self.settings().agent_read_only)

    def open_database(self) -> Database:
        """Open the library. The result is a context manager."""
        from llm_hf_models.library.database import Database

        return Database(paths.library_path(), in_memory=self.changes_nothing)

    def open_downloads(self) -> DownloadTables:
        """Open only the tables of downloads, which is faster to import."""
        from llm_hf_models.library.downloads import DownloadTables

        return DownloadTables(paths.library_path(), in_memory=self.changes_nothing)

    def open_summaries(self) -> SummaryTables:
        """Open only the rows of a list of models, which is faster to import."""
        from llm_hf_models.library.summaries import SummaryTables

        return SummaryTables(paths.library_path(), in_memory=self.changes_nothing)

    def cache_dir(self) -> Path:
        """Return the folder of the Hugging Face cache."""
        from llm_hf_models import settings

        return self.planned_cache or self.own_cache or settings.cache_dir()

    def endpoint(self) -> str:
        """Return the address of the Hub."""
        from llm_hf_models import settings

        return self.planned_endpoint or self.own_endpoint or settings.endpoint()

    def display_endpoint(self) -> str:
        """Return the address of the Hub without user and password."""
        return strip_credentials(self.endpoint())

    @property
    def withholds_token(self) -> bool:
        """Return True if the token must not be sent, because it is for another Hub.

        The caller's own token belongs to the caller's Hub, any other token to the Hub that the environment names. The
        Hub can be another one if only a stored plan names it.
        """
        from llm_hf_models import settings

        hub_of_token = (self.own_endpoint if self.own_token else None) or settings.endpoint()
        return self.endpoint() != hub_of_token

    def fix_token(self) -> Context:
        """Return a context that looks for the token only once, for many requests in a row."""
        values = {each.name: getattr(self, each.name) for each in fields(Context)}
        return _FixedContext(**values, found_token=self.token())

    def token(self) -> tokens.Token | None:
        """Return the token for this Hub, if there is one that needs no passphrase."""
        from llm_hf_models.hub import tokens

        if self.withholds_token:
            return None
        return tokens.Token(self.own_token, "caller") if self.own_token else tokens.find_token(notify=self.notify)

    def unlock_token(self) -> tokens.Token | None:
        """Return the token for this Hub, if any. Ask for the passphrase if it is locked."""
        from llm_hf_models.hub import tokens

        token = self.token()
        if self.ask_passphrase is None or self.withholds_token or not tokens.is_locked(token):
            return token
        return tokens.find_token(self.ask_passphrase, self.notify)

    def hub(self) -> Hub:
        """Return a client of the Hub with the token for it."""
        return self.make_hub_client(self.token())

    def make_hub_client(self, token: tokens.Token | None) -> Hub:
        """Return a client of the Hub with the given token. Without one, a locked token is unlocked if it is needed."""
        from llm_hf_models import settings
        from llm_hf_models.hub import tokens
        from llm_hf_models.hub.client import Hub

        return Hub(
            self.endpoint(),
            token=token.value if token else None,
            token_hint=tokens.suggest_token_fix(token),
            unlock=self._unlock_value,
            timeout=self.settings().metadata_seconds,
            deadline=self.deadline,
            offline=settings.is_offline(),
        )

    def _unlock_value(self) -> str | None:
        token = self.unlock_token()
        return token.value if token else None


@dataclass(frozen=True)
class _FixedContext(Context):
    found_token: tokens.Token | None = field(default=None, repr=False)

    def token(self) -> tokens.Token | None:
        return self.found_token
