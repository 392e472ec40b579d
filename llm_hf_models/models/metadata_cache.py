"""Cache the Hub's responses in the library, and retry requests to the Hub."""

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
    InterruptedByUserError,
    NetworkError,
    NotModifiedError,
    OfflineError,
    RateLimitedError,
    RedirectRefusedError,
    TlsError,
)
from llm_hf_models.models.types import Freshness
from llm_hf_models.network.errors import is_transient
from llm_hf_models.system.units import format_duration
from llm_hf_models.transfer.retry import Backoff
from llm_hf_models.transfer.types import TransferLimits

if TYPE_CHECKING:
    from llm_hf_models.hub import tokens
    from llm_hf_models.hub.client import Hub
    from llm_hf_models.library.database import Database
    from llm_hf_models.library.records import CachedMetadata

MAX_ATTEMPTS = 3  # attempts at a request that fails with a transient error
T = TypeVar("T")


def fetch_with_cache(
    context: Context,
    key: dict[str, object],
    send: Callable[[Hub, str | None], T],
    dump: Callable[[T], str],
    load: Callable[[str], T],
    *,
    refresh: bool = False,
    accepts_stale: bool = True,
) -> tuple[T, Freshness]:
    """Return the Hub's response, or the cached one if that is fresh or the Hub can't be reached.

    An expired response is requested again with its ETag, so that the Hub does not send an unchanged one twice.

    Args:
        context: The context with the settings, the token and the library.
        key: The request. The endpoint and a hash of the token become part of the key.
        send: Sends the request, given the ETag of the cached response. Raises NotModifiedError if that is still valid.
        dump: Serializes the response.
        load: Parses a serialized response.
        refresh: Send the request even if the cached response is fresh.
        accepts_stale: Return an expired response if the Hub can't be reached.

    Returns:
        The response and its freshness.

    Raises:
        NetworkError: The Hub can't be reached, and no response is cached or may be used.
    """
    token = context.token()
    hub = context.make_hub_client(token)
    name = _make_name(context, key, token)
    with context.open_database() as db:
        cached, old = _load_cached(db, name, load)
        if cached and old is not None and not refresh and _is_fresh(context, cached):
            return old, _make_freshness(cached)
        try:
            if cached and old is not None:
                response = send(hub, cached.etag)
            else:
                response = request_with_retry(context, lambda: send(hub, None), should_retry=_is_transient)
        except NotModifiedError:
            if cached is None or old is None:
                raise HubUnavailableError("The Hub returned 304 to an unconditional request") from None
            db.save_metadata(name, cached.body, cached.etag)
            return old, Freshness()
        except NetworkError as error:
            if cached is None or old is None or not accepts_stale:
                raise _add_offline_hint(error) from None
            return old, _make_freshness(cached, problem=error.message)
        if token is None:
            name = _make_name(context, key, context.token())  # the request may have unlocked the token
        db.save_metadata(name, dump(response), hub.last_etag)
    return response, Freshness()


def load_response(
    context: Context, key: dict[str, object], load: Callable[[str], T], problem: str
) -> tuple[T, Freshness] | None:
    """Return a cached response without a request, or None if there is none.

    Args:
        context: The context with the token and the library.
        key: The request, as in `fetch_with_cache`.
        load: Parses a serialized response.
        problem: Why no request is sent.
    """
    with context.open_database() as db:
        cached, value = _load_cached(db, _make_name(context, key, context.token()), load)
    return (value, _make_freshness(cached, problem=problem)) if cached and value is not None else None


def _make_name(context: Context, key: dict[str, object], token: tokens.Token | None) -> str:
    return json.dumps({**key, "endpoint": context.endpoint(), "token": _hash_token(token)}, sort_keys=True)


def _is_fresh(context: Context, cached: CachedMetadata) -> bool:
    return 0 <= time.time() - cached.fetched < context.settings().metadata_lifetime_seconds


def request_with_retry(
    context: Context,
    send: Callable[[], T],
    should_retry: Callable[[NetworkError], bool] = lambda _error: True,
) -> T:
    """Send a request up to three times, and notify the user of each wait. A patient context retries longer.

    The wait is the Hub's Retry-After time, else `retry_seconds`, doubled with each attempt.

    Raises:
        NetworkError: The last attempt failed. The first failure is raised at once if no user can be notified, if
            the wait would exceed `network_wait_seconds`, or if the machine is offline or does not trust the server.
    """
    if context.is_patient:
        return _request_patiently(context, send)
    now = context.settings()
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return send()
        except NetworkError as error:
            retry_after = error.retry_after if isinstance(error, RateLimitedError) else None
            wait = now.retry_seconds * 2 ** (attempt - 1) if retry_after is None else retry_after
            lasting = isinstance(error, (OfflineError, RedirectRefusedError, TlsError))
            if context.notify is None or lasting or wait > now.network_wait_seconds or not should_retry(error):
                raise
            context.notify(f"{error.message}: retrying in {format_duration(wait)}")
            threading.Event().wait(wait)
    return send()


def _request_patiently(context: Context, send: Callable[[], T]) -> T:
    """Send a request until it succeeds, as long and with the same waits as a transfer.

    Raises:
        NetworkError: The error is not transient, or the time is used up.
        InterruptedByUserError: The context's stop event was set.
    """
    now, stop = context.settings(), context.stop or threading.Event()
    max_seconds = min(now.network_wait_seconds, context.count_seconds_left())
    limits = TransferLimits(network_wait_seconds=max_seconds, retry_seconds=now.retry_seconds)
    backoff = Backoff(limits, lambda _kind, text: context.notify(text) if context.notify else None)
    while True:
        try:
            return send()
        except NetworkError as error:
            if not is_transient(error):
                raise
            backoff.pause(error, stop)
            if stop.is_set():
                raise InterruptedByUserError("Stopped while waiting for the Hub") from None


def cache_by_digest(
    context: Context,
    key: str | None,
    compute: Callable[[], T],
    dump: Callable[[T], str],
    load: Callable[[str], T],
    *,
    should_keep: Callable[[T], bool] = lambda _value: True,
) -> T:
    """Return a value that depends only on a file's content, cached forever under a key with the file's digest.

    With `key` None, the value is computed each time, and so is one for which `should_keep` returns False.
    """
    with context.open_database() as db:
        old = _load_cached(db, key, load)[1] if key else None
        if old is not None:
            return old
        value = compute()
        if key and should_keep(value):
            db.save_metadata(key, dump(value))
    return value


def _load_cached(db: Database, key: str, load: Callable[[str], T]) -> tuple[CachedMetadata | None, T | None]:
    """Return a cached response and its parsed value, or (None, None) if it is missing or has an unknown form."""
    cached = db.get_metadata(key)
    if cached is None:
        return None, None
    try:
        return cached, load(cached.body)
    except ValueError:  # pydantic's ValidationError is a ValueError
        return None, None


def _hash_token(token: tokens.Token | None) -> str | None:
    """Return a short hash that separates the responses to different tokens. It does not reveal the token."""
    return hashlib.sha256(token.value.encode()).hexdigest()[:16] if token else None


def _make_freshness(cached: CachedMetadata, *, problem: str | None = None) -> Freshness:
    return Freshness("cache", max(0.0, time.time() - cached.fetched), problem is not None, problem)


def _is_transient(error: NetworkError) -> bool:
    """Return True if a retry may soon succeed: after a 5xx or 429 response, or a broken connection."""
    return isinstance(error, (HubServerError, RateLimitedError)) or type(error) is NetworkError


def _add_offline_hint(error: NetworkError) -> NetworkError:
    if isinstance(error, OfflineError) and not error.hint:
        error.hint = "Local models still work: `llm hf list`, `llm -m MODEL 'prompt'`."
    return error
