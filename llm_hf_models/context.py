"""What every verb of the service needs: settings as they are now, the Hub with the token in force, the open library."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from llm_hf_models import settings as settings_module
from llm_hf_models import tokens
from llm_hf_models.errors import NetworkError, OfflineError
from llm_hf_models.hub import Hub
from llm_hf_models.library import LibraryDB
from llm_hf_models.records import LIVE, CachedMetadata
from llm_hf_models.settings import Settings
from llm_hf_models.transfer import TransferLimits

RATE_SECONDS = 1.0  # how often a running download looks at the limits again

T = TypeVar("T")


@dataclass(frozen=True)
class Freshness:
    """Where an answer came from: the Hub just now, or the metadata cache. `age` in seconds."""

    source: Literal["hub", "cache"] = "hub"
    age: float = 0.0
    stale: bool = False  # older than its lifetime, and shown because the Hub could not be reached


@dataclass(frozen=True)
class Context:
    """Reads settings and the environment when asked, never before."""

    asked_by: str = "python"
    ask_passphrase: Callable[[], str] | None = None
    agent: str | None = None  # which agent asks, by its host's name; None is a person

    def settings(self) -> Settings:
        """The settings in force now."""
        return settings_module.load()

    def db(self) -> LibraryDB:
        """The library, opened; a context manager."""
        return LibraryDB(settings_module.library_path())

    def cache_dir(self) -> Path:
        """The Hugging Face cache."""
        return settings_module.cache_dir()

    def token(self) -> tokens.Token | None:
        """The token in force, if any."""
        return tokens.find(self.ask_passphrase)

    def hub(self) -> Hub:
        """The configured Hub, with the token in force."""
        token = self.token()
        return Hub(
            settings_module.endpoint(),
            token=token.value if token else None,
            timeout=self.settings().metadata_seconds,
            offline=settings_module.offline(),
        )

    def transfer_limits(self, connections: int | None = None, limit_rate: int | None = None) -> TransferLimits:
        """How a download behaves, from settings and what was asked for this one."""
        now = self.settings()
        return TransferLimits(
            connections=connections or now.connections,
            bytes_per_second=_Rate(self, limit_rate),
            connect_seconds=now.connect_seconds,
            stall_seconds=now.stall_seconds,
            network_wait_seconds=now.network_wait_seconds,
            retry_seconds=now.retry_seconds,
            disk_reserve=now.disk_reserve,
        )

    def remembered(
        self,
        key: dict[str, object],
        ask: Callable[[], T],
        dump: Callable[[T], str],
        load: Callable[[str], T],
        *,
        refresh: bool = False,
    ) -> tuple[T, Freshness]:
        """An answer of the Hub, from the metadata cache within its lifetime, and from there at any age without network.

        Args:
            key: what was asked; the endpoint and whether a token was used are part of it too.
            ask: asks the Hub.
            dump: the answer as text to keep.
            load: the answer from that text.
            refresh: ask even if a fresh answer is kept.

        Raises:
            NetworkError: the Hub can't be reached and nothing is kept.
        """
        name = json.dumps(
            {**key, "endpoint": settings_module.endpoint(), "token": self.token() is not None}, sort_keys=True
        )
        with self.db() as db:
            kept = db.cached(name)
            if kept and not refresh and time.time() - kept.fetched < self.settings().metadata_lifetime_seconds:
                return load(kept.body), _age(kept)
            try:
                answer = ask()
            except NetworkError as error:
                if kept is None:
                    raise _with_offline_hint(error) from None
                return load(kept.body), _age(kept, stale=True)
            db.keep(name, dump(answer))
        return answer, Freshness()

    def kept_by_digest(
        self, key: str | None, ask: Callable[[], T], dump: Callable[[T], str], load: Callable[[str], T]
    ) -> T:
        """What follows from a file's bytes, kept for good under their digest; `key` None asks each time."""
        with self.db() as db:
            if key and (kept := db.cached(key)):
                return load(kept.body)
            found = ask()
            if key:
                db.keep(key, dump(found))
        return found


class _Rate:
    """Bytes per second that one download may take now: its own limit, and its share of the limit for all together."""

    def __init__(self, context: Context, own: int | None) -> None:
        self._context, self._own, self._until, self._rate = context, own or 0, 0.0, 0

    def __call__(self) -> int:
        if time.monotonic() >= self._until:
            self._rate, self._until = self._now(), time.monotonic() + RATE_SECONDS
        return self._rate

    def _now(self) -> int:
        together = self._context.settings().limit_rate
        if not together:
            return self._own
        with self._context.db() as db:
            share = max(1, together // max(1, len(db.downloads(states=LIVE))))
        return min(self._own or share, share)


def _age(kept: CachedMetadata, *, stale: bool = False) -> Freshness:
    return Freshness("cache", max(0.0, time.time() - kept.fetched), stale)


def _with_offline_hint(error: NetworkError) -> NetworkError:
    if isinstance(error, OfflineError) and not error.hint:
        error.hint = "What is on this machine still works: `llm hf list`, `llm -m MODEL 'prompt'`."
    return error
