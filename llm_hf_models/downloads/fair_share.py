"""What one download may take of what all share, over all processes: connections, and bytes per second."""

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

REFRESH_SECONDS = 1.0  # how often a running download looks again who else runs
FOREGROUND_WEIGHT = 8  # times the rate of a download in the background, while both run


@dataclass(frozen=True)
class Share:
    """`connections` may be none; `rate` is between 0 and 1, of the limit for all."""

    connections: int
    rate: float


def compute_share(download_id: int | None, running: Sequence[Download], connections: int) -> Share:
    """The share of one download.

    Each has one connection while they last: those in the foreground come first, then those that were asked for first.
    What is left goes to those in the foreground, or to all alike where there are none.

    Args:
        download_id: which; one that is not among `running` is in the foreground, and the last there.
        running: the downloads that processes carry out now.
        connections: how many there are for all.
    """
    everyone = {(row.background, row.id) for row in running}
    own = next((key for key in everyone if key[1] == download_id), (False, math.inf))
    served = sorted(everyone | {own})[:connections]
    if own not in served:
        return Share(0, 0.0)
    preferred = [key for key in served if not key[0]] or served
    each, left = divmod(connections - len(served), len(preferred))
    more = each + (preferred.index(own) < left) if own in preferred else 0
    weights = [FOREGROUND_WEIGHT if key in preferred else 1 for key in served]
    return Share(1 + more, weights[served.index(own)] / sum(weights))


class FairShare:
    """The share of one download as it is now: asked for all the time, and looked for once a second."""

    def __init__(self, context: Context, number: int | None, own_rate: int | None) -> None:
        """`own_rate`: bytes per second that the download itself is held to; None is no limit."""
        self._context, self._number, self._own_rate = context, number, own_rate or 0
        self._running: Sequence[Download] = ()
        self._rate, self._connections, self._until = 0, 1, 0.0
        self._lock = threading.Lock()

    def bytes_per_second(self) -> int:
        """Its own limit, and its share of the limit for all together; 0 is none."""
        self._refresh()
        return self._rate

    def connections(self) -> int:
        """Its share of the connections."""
        self._refresh()
        return self._connections

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() < self._until:
                return
            # A busy library, settings that a person is just writing: no transfer ends for that, all stays as it was.
            with suppress(HfModelsError), self._context.open_downloads() as db:
                stale = self._context.stale_seconds()
                rows = db.list_downloads(states=("running",), limit=-1, with_plans=False)
                self._running = [row for row in rows if row.is_owner_running(stale_seconds=stale)]
            with suppress(HfModelsError):
                now = self._context.settings()
                share = compute_share(self._number, self._running, now.connections)
                limit = max(1, int(now.limit_rate * share.rate)) if now.limit_rate else 0
                self._rate = min(self._own_rate or limit, limit or self._own_rate)
                self._connections = share.connections
            self._until = time.monotonic() + REFRESH_SECONDS


def make_transfer_limits(
    context: Context, number: int | None, connections: int | None = None, limit_rate: int | None = None
) -> TransferLimits:
    """How the download of that number behaves, from settings and what was asked for this one."""
    from llm_hf_models.transfer.types import TransferLimits

    now = context.settings()
    shares = FairShare(context, number, limit_rate)
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
