"""Run processes of multiprocessing, also from several threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

_ASKING = threading.Lock()


def run_processes(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Start processes, and return how each ended.

    Each start checks all existing children (multiprocessing/process.py, _cleanup). If two threads check the same child
    at one instant, only one reads its status, and the other reports it as lost: 255.
    """
    for process in processes:
        with _ASKING:
            process.start()
    statuses = []
    for process in processes:
        wait([process.sentinel], 120)
        with _ASKING:
            statuses.append(process.exitcode)
    return statuses
