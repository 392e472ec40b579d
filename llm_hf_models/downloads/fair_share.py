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
    from llm_hf_models.transfer.types import TransferLimits

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
    """The current share of one download, recomputed at most once a second."""

    def __init__(self, context: Context, download_id: int | None, own_rate: int | None) -> None:
        """`own_rate` is the download's own limit in bytes per second; None means no limit."""
        self._context, self._download_id, self._own_rate = context, download_id, own_rate or 0
        self._running: Sequence[Download] = ()
        self._rate, self._connections, self._valid_until = 0, 1, 0.0
        self._lock = threading.Lock()

    def bytes_per_second(self) -> int:
        """Return the lower of the download's own limit and its share of the limit for all; 0 means no limit."""
        self._refresh()
        return self._rate

    def connections(self) -> int:
        """Return the number of connections that the download may use."""
        self._refresh()
        return self._connections

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


def make_transfer_limits(
    context: Context, download_id: int | None, connections: int | None = None, limit_rate: int | None = None
) -> TransferLimits:
    """Return the limits of one download, from the settings and from its own `connections` and `limit_rate`."""
    from llm_hf_models.transfer.types import TransferLimits

    now = context.settings()
    share = FairShare(context, download_id, limit_rate)
    return TransferLimits(
        connections=connections or now.connections,
        connections_now=None if connections else share.connections,
        bytes_per_second=share.bytes_per_second,
        connect_seconds=now.connect_seconds,
        stall_seconds=now.stall_seconds,
        network_wait_seconds=now.network_wait_seconds,
        retry_seconds=now.retry_seconds,
        disk_reserve=now.disk_reserve,
    )
