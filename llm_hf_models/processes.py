"""Processes of this machine, told from later ones of the same number."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

CLOCK_SECONDS = 2.0  # by which two readings of one process's start may differ
LOOK_SECONDS = 0.02


def pid_started(pid: int) -> float:
    """When a process was started, by the system's clock (Unix seconds); 0 when it is gone."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def running_process(pid: int, started: float) -> psutil.Process | None:
    """The process if it still runs, and not another one of the same number; `started` as `pid_started` told it.

    One that is dead and that its parent has not noticed yet doesn't run.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < CLOCK_SECONDS
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def ends_within(process: psutil.Process, seconds: float) -> bool:
    """Waits until a process has ended. Its parent may notice late or never, as the first process of many containers."""
    started, until = process.create_time(), time.monotonic() + seconds
    while running_process(process.pid, started) is not None:
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_SECONDS)
    return True
