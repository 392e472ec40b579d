"""What every verb of the service needs: settings as they are now, the Hub with the token in force, the open library."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from llm_hf_models import settings as settings_module
from llm_hf_models.errors import (
    HubTroubleError,
    HubUnavailableError,
    NetworkError,
    NotChangedError,
    OfflineError,
    RateLimitedError,
    TlsError,
)
from llm_hf_models.library_downloads import LibraryDownloads
from llm_hf_models.settings import Settings
from llm_hf_models.units import format_duration

if TYPE_CHECKING:
    from llm_hf_models import tokens
    from llm_hf_models.hub import Hub
    from llm_hf_models.library import LibraryDB
    from llm_hf_models.records import CachedMetadata
    from llm_hf_models.transfer import TransferLimits

ATTEMPTS = 3  # at a question that a moment later may be answered
STALE_BEATS = 4  # an owner is taken for dead after so many missed signs of life

T = TypeVar("T")


@dataclass(frozen=True)
class Freshness:
    """Where an answer came from: the Hub just now, or the metadata cache. `age` in seconds."""

    source: Literal["hub", "cache"] = "hub"
    age: float = 0.0
    stale: bool = False  # older than it should be, and shown because the Hub gave none now
    problem: str | None = None  # why it gave none


@dataclass(frozen=True)
class Context:
    """Reads settings and the environment when asked, never before."""

    asked_by: str = "python"
    ask_passphrase: Callable[[], str | None] | None = None
    agent: str | None = None  # which agent asks, by its host's name; None is a person
    notice: Callable[[str], None] | None = None  # tells a person of a wait; None: nobody is there, so nobody waits
    while_asking: Callable[[str], AbstractContextManager[object]] = nullcontext  # given the host that is being asked
    planned_cache: Path | None = None  # of a download that was planned in another environment; None is this one's
    planned_endpoint: str | None = None
    names_taken: Callable[[str], Mapping[str, str]] | None = None  # others' names in llm; None: free_names asks

    def settings(self) -> Settings:
        """The settings in force now."""
        return settings_module.load()

    def stale_seconds(self) -> float:
        """Owners of downloads whose last sign of life is older than that are dead."""
        return STALE_BEATS * self.settings().heartbeat_seconds

    def command_log(self) -> Path | None:
        """Where what a download's own command says is kept; None is where errors go."""
        return None

    def db(self) -> LibraryDB:
        """The library, opened; a context manager."""
        from llm_hf_models.library import LibraryDB

        return LibraryDB(settings_module.library_path())

    def queue(self) -> LibraryDownloads:
        """The part of the library that is about downloads, for who needs no other: it is there at once."""
        return LibraryDownloads(settings_module.library_path())

    def cache_dir(self) -> Path:
        """The Hugging Face cache."""
        return self.planned_cache or settings_module.cache_dir()

    def endpoint(self) -> str:
        """The Hub's address."""
        return self.planned_endpoint or settings_module.endpoint()

    @property
    def withholds_token(self) -> bool:
        """Whether only a stored plan names this Hub: whoever gave this process a token didn't give it for that one."""
        return self.endpoint() != settings_module.endpoint()

    def token(self) -> tokens.Token | None:
        """The token in force for this Hub, if any."""
        return None if self.withholds_token else self._found_token()

    def _found_token(self) -> tokens.Token | None:
        from llm_hf_models import tokens

        return tokens.find(self.ask_passphrase)

    def hub(self) -> Hub:
        """The Hub, with the token in force."""
        return self._hub(self.token())

    def _hub(self, token: tokens.Token | None) -> Hub:
        from llm_hf_models import tokens
        from llm_hf_models.hub import Hub

        return Hub(
            self.endpoint(),
            token=token.value if token else None,
            token_hint=tokens.remedy(token),
            timeout=self.settings().metadata_seconds,
            offline=settings_module.offline(),
            while_asking=self.while_asking,
        )

    def transfer_limits(
        self, number: int | None, connections: int | None = None, limit_rate: int | None = None
    ) -> TransferLimits:
        """How the download of that number behaves, from settings and what was asked for this one."""
        from llm_hf_models.shares import Shares
        from llm_hf_models.transfer import TransferLimits

        now = self.settings()
        shares = Shares(self, number, limit_rate)
        return TransferLimits(
            connections=connections or now.connections,
            connections_now=None if connections else shares.connections,
            bytes_per_second=shares.bytes_per_second,
            connect_seconds=now.connect_seconds,
            stall_seconds=now.stall_seconds,
            network_wait_seconds=now.network_wait_seconds,
            retry_seconds=now.retry_seconds,
            disk_reserve=now.disk_reserve,
        )

    def remembered(
        self,
        key: dict[str, object],
        ask: Callable[[Hub, str | None], T],
        dump: Callable[[T], str],
        load: Callable[[str], T],
        *,
        refresh: bool = False,
    ) -> tuple[T, Freshness]:
        """An answer of the Hub, from the metadata cache within its lifetime, and from there at any age without network.

        What is older is asked for again by its ETag: an answer that still stands is not sent twice.

        Args:
            key: what was asked; the endpoint, and whose token was used, are part of it too.
            ask: asks the Hub, given the ETag of what is kept; raises NotChangedError where that still stands.
            dump: the answer as text to keep.
            load: the answer from that text.
            refresh: ask even if a fresh answer is kept.

        Raises:
            NetworkError: the Hub can't be reached and nothing is kept.
        """
        token = self.token()
        hub = self._hub(token)
        name = json.dumps({**key, "endpoint": self.endpoint(), "token": _mark(token)}, sort_keys=True)
        with self.db() as db:
            kept, old = _kept(db, name, load)
            if kept and old is not None and not refresh and self._is_young(kept):
                return old, _age(kept)
            try:
                if kept and old is not None:
                    answer = ask(hub, kept.etag)
                else:
                    answer = self.patiently(lambda: ask(hub, None), again=_soon_over)
            except NotChangedError:
                if kept is None or old is None:
                    raise HubUnavailableError("The Hub answered 304 to what was not asked so") from None
                db.keep(name, kept.body, kept.etag)
                return old, Freshness()
            except NetworkError as error:
                if kept is None or old is None:
                    raise _with_offline_hint(error) from None
                return old, _age(kept, problem=error.message)
            db.keep(name, dump(answer), hub.etag)
        return answer, Freshness()

    def _is_young(self, kept: CachedMetadata) -> bool:
        return 0 <= time.time() - kept.fetched < self.settings().metadata_lifetime_seconds

    def patiently(
        self,
        ask: Callable[[], T],
        again: Callable[[NetworkError], bool] = lambda _error: True,
    ) -> T:
        """Asks up to three times, and says why it waits: as long as the Hub tells, else a moment.

        Raises:
            whatever `ask` raises; at once where nobody is there to be told, where `network_wait_seconds` would not do,
            and without a network or trust, which a moment does not bring.
        """
        now = self.settings()
        for attempt in range(1, ATTEMPTS):
            try:
                return ask()
            except NetworkError as error:
                told = error.retry_after if isinstance(error, RateLimitedError) else None
                wait = now.retry_seconds * 2 ** (attempt - 1) if told is None else told
                lasting = isinstance(error, (OfflineError, TlsError))
                if self.notice is None or lasting or wait > now.network_wait_seconds or not again(error):
                    raise
                self.notice(f"{error.message}: asking again in {format_duration(wait)}")
                threading.Event().wait(wait)
        return ask()

    def kept_by_digest(
        self, key: str | None, ask: Callable[[], T], dump: Callable[[T], str], load: Callable[[str], T]
    ) -> T:
        """What follows from a file's bytes, kept for good under their digest; `key` None asks each time."""
        with self.db() as db:
            old = _kept(db, key, load)[1] if key else None
            if old is not None:
                return old
            found = ask()
            if key:
                db.keep(key, dump(found))
        return found


def _kept(db: LibraryDB, key: str, load: Callable[[str], T]) -> tuple[CachedMetadata | None, T | None]:
    """What is kept under a key, and what it says; nothing where another version of us kept it in another form."""
    kept = db.cached(key)
    if kept is None:
        return None, None
    try:
        return kept, load(kept.body)
    except ValueError:  # pydantic's is one
        return None, None


def _mark(token: tokens.Token | None) -> str | None:
    """Tells answers to one token from those to another; the token can't be had back from it."""
    return hashlib.sha256(token.value.encode()).hexdigest()[:16] if token else None


def _age(kept: CachedMetadata, *, problem: str | None = None) -> Freshness:
    return Freshness("cache", max(0.0, time.time() - kept.fetched), problem is not None, problem)


def _soon_over(error: NetworkError) -> bool:
    """Whether the next answer may be another, and comes soon: after a 5xx, a 429, a connection that broke."""
    return isinstance(error, (HubTroubleError, RateLimitedError)) or type(error) is NetworkError


def _with_offline_hint(error: NetworkError) -> NetworkError:
    if isinstance(error, OfflineError) and not error.hint:
        error.hint = "What is on this machine still works: `llm hf list`, `llm -m MODEL 'prompt'`."
    return error
