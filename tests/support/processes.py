"""Run processes of multiprocessing, also from several threads, and let a process kill itself during a download."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from llm_hf_models.transfer.types import Event

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


def kill_this_process() -> None:
    """End this process at once, as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_this_process_in(seconds: float) -> None:
    """End this process at once after some time, unless it has ended before."""
    alarm = threading.Timer(seconds, kill_this_process)
    alarm.daemon = True
    alarm.start()


class ByteCounter:
    """Counts the bytes of all files from the events of a download."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def add(self, event: Event) -> None:
        """Count an event."""
        self._first.setdefault(event.file, event.done)
        self._done[event.file] = event.done

    @property
    def total(self) -> int:
        """The bytes that are done, also those of earlier processes."""
        return sum(self._done.values())

    @property
    def new(self) -> int:
        """The bytes since the first event of each file."""
        return self.total - sum(self._first.values())
