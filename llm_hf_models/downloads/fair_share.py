"""Divide connections and bandwidth among the running downloads of all processes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_hf_models.errors import HfModelsError
from llm_hf_models.library.download_records import Download

if TYPE_CHECKING:
    from llm_hf_models.context import Context

REFRESH_SECONDS = 1.0  # how often a download rereads the settings and the list of running downloads
FOREGROUND_WEIGHT = 8  # a foreground download may use 8 times the rate of a background one


@dataclass(frozen=True)
class Share:
    """One download's part of the limits that all downloads share.

    `connections` may be 0. `rate` is a fraction between 0 and 1 of the rate limit for all downloads.
    """

    connections: int
    rate: float


def compute_share(download_id: int | None, running: Sequence[Download], connections: int) -> Share:
    """Compute the share of one download.

    Every download gets one connection, as long as there are enough. Foreground downloads come first, then the
    downloads that were requested first. The remaining connections are divided evenly among the foreground downloads,
    or among all downloads if none is in the foreground.

    Args:
        download_id: The download. If it is not among `running`, it counts as the last one in the foreground.
        running: The downloads that any process is carrying out now.
        connections: The number of connections for all downloads together.
    """
    all_keys = {(row.background, row.id) for row in running}
    own = next((key for key in all_keys if key[1] == download_id), (False, math.inf))
    served = sorted(all_keys | {own})[:connections]
    if own not in served:
        return Share(0, 0.0)
    preferred = [key for key in served if not key[0]] or served
    each, left = divmod(connections - len(served), len(preferred))
    more = each + (preferred.index(own) < left) if own in preferred else 0
    weights = [FOREGROUND_WEIGHT if key in preferred else 1 for key in served]
    return Share(1 + more, weights[served.index(own)] / sum(weights))


class FairShare:
    """The current limits of one download, recomputed at most once a second."""

    def __init__(self, context: Context, download_id: int | None, connections: int | None, rate: int | None) -> None:
        """Prepare the limits of one download.

        Args:
            context: The context with the settings and the library.
            download_id: The download.
            connections: The download's own number of connections, which replaces its share; None means no own number.
            rate: The download's own limit in bytes per second, which applies besides its share; None means no limit.
        """
        self._context, self._download_id = context, download_id
        self._own_connections, self._own_rate = connections, rate or 0
        self._running: Sequence[Download] = ()
        self._rate, self._connections, self._valid_until = 0, 1, 0.0
        self._lock = threading.Lock()

    def get_rate_limit(self) -> int:
        """Return the lower of the download's own limit and its share of the limit for all; 0 means no limit."""
        self._refresh()
        return self._rate

    def get_connection_limit(self) -> int:
        """Return the number of connections that the download may use."""
        self._refresh()
        return self._own_connections or self._connections

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() < self._valid_until:
                return
            # A locked database or a half-written settings file must not end a transfer: the last share stays valid.
            with suppress(HfModelsError), self._context.open_downloads() as db:
                stale = self._context.stale_seconds()
                rows = db.list_downloads(states=("running",), limit=-1, with_plans=False)
                self._running = [row for row in rows if row.is_owner_running(stale_seconds=stale)]
            with suppress(HfModelsError):
                now = self._context.settings()
                share = compute_share(self._download_id, self._running, now.connections)
                limit = max(1, int(now.limit_rate * share.rate)) if now.limit_rate else 0
                self._rate = min(self._own_rate or limit, limit or self._own_rate)
                self._connections = share.connections
            self._valid_until = time.monotonic() + REFRESH_SECONDS
