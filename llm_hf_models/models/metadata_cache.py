"""Responses of the Hub that are kept in the library, and how requests to the Hub are repeated."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    HubServerError,
    HubUnavailableError,
    NetworkError,
    NotModifiedError,
    OfflineError,
    RateLimitedError,
    TlsError,
)
from llm_hf_models.models.types import Freshness
from llm_hf_models.system.units import format_duration

if TYPE_CHECKING:
    from llm_hf_models.hub import tokens
    from llm_hf_models.hub.client import Hub
    from llm_hf_models.library.database import Database
    from llm_hf_models.library.records import CachedMetadata

MAX_ATTEMPTS = 3  # at a question that a moment later may be answered
T = TypeVar("T")


def fetch_with_cache(
    context: Context,
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
        context: settings, the token and the library.
        key: what was asked; the endpoint, and whose token was used, are part of it too.
        ask: asks the Hub, given the ETag of what is kept; raises NotChangedError where that still stands.
        dump: the answer as text to keep.
        load: the answer from that text.
        refresh: ask even if a fresh answer is kept.

    Raises:
        NetworkError: the Hub can't be reached and nothing is kept.
    """
    token = context.token()
    hub = context.hub_with(token)
    name = json.dumps({**key, "endpoint": context.endpoint(), "token": _hash_token(token)}, sort_keys=True)
    with context.open_library() as db:
        kept, old = _load_cached(db, name, load)
        if kept and old is not None and not refresh and _is_fresh(context, kept):
            return old, _make_freshness(kept)
        try:
            if kept and old is not None:
                answer = ask(hub, kept.etag)
            else:
                answer = request_with_retry(context, lambda: ask(hub, None), again=_is_transient)
        except NotModifiedError:
            if kept is None or old is None:
                raise HubUnavailableError("The Hub answered 304 to what was not asked so") from None
            db.save_metadata(name, kept.body, kept.etag)
            return old, Freshness()
        except NetworkError as error:
            if kept is None or old is None:
                raise _add_offline_hint(error) from None
            return old, _make_freshness(kept, problem=error.message)
        db.save_metadata(name, dump(answer), hub.last_etag)
    return answer, Freshness()


def _is_fresh(context: Context, kept: CachedMetadata) -> bool:
    return 0 <= time.time() - kept.fetched < context.settings().metadata_lifetime_seconds


def request_with_retry(
    context: Context,
    ask: Callable[[], T],
    again: Callable[[NetworkError], bool] = lambda _error: True,
) -> T:
    """Asks up to three times, and says why it waits: as long as the Hub tells, else a moment.

    Raises:
        whatever `ask` raises; at once where nobody is there to be told, where `network_wait_seconds` would not do,
        and without a network or trust, which a moment does not bring.
    """
    now = context.settings()
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return ask()
        except NetworkError as error:
            told = error.retry_after if isinstance(error, RateLimitedError) else None
            wait = now.retry_seconds * 2 ** (attempt - 1) if told is None else told
            lasting = isinstance(error, (OfflineError, TlsError))
            if context.notify is None or lasting or wait > now.network_wait_seconds or not again(error):
                raise
            context.notify(f"{error.message}: asking again in {format_duration(wait)}")
            threading.Event().wait(wait)
    return ask()


def cache_by_digest(
    context: Context, key: str | None, ask: Callable[[], T], dump: Callable[[T], str], load: Callable[[str], T]
) -> T:
    """What follows from a file's bytes, kept for good under their digest; `key` None asks each time."""
    with context.open_library() as db:
        old = _load_cached(db, key, load)[1] if key else None
        if old is not None:
            return old
        found = ask()
        if key:
            db.save_metadata(key, dump(found))
    return found


def _load_cached(db: Database, key: str, load: Callable[[str], T]) -> tuple[CachedMetadata | None, T | None]:
    """What is kept under a key, and what it says; nothing where another version of us kept it in another form."""
    kept = db.get_metadata(key)
    if kept is None:
        return None, None
    try:
        return kept, load(kept.body)
    except ValueError:  # pydantic's is one
        return None, None


def _hash_token(token: tokens.Token | None) -> str | None:
    """Tells answers to one token from those to another; the token can't be had back from it."""
    return hashlib.sha256(token.value.encode()).hexdigest()[:16] if token else None


def _make_freshness(kept: CachedMetadata, *, problem: str | None = None) -> Freshness:
    return Freshness("cache", max(0.0, time.time() - kept.fetched), problem is not None, problem)


def _is_transient(error: NetworkError) -> bool:
    """Whether the next answer may be another, and comes soon: after a 5xx, a 429, a connection that broke."""
    return isinstance(error, (HubServerError, RateLimitedError)) or type(error) is NetworkError


def _add_offline_hint(error: NetworkError) -> NetworkError:
    if isinstance(error, OfflineError) and not error.hint:
        error.hint = "What is on this machine still works: `llm hf list`, `llm -m MODEL 'prompt'`."
    return error
