"""Processes of this machine, told from later ones of the same number."""

from __future__ import annotations

import os
import platform
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models.journal import boot_id

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


def own_name() -> str:
    """A name of this process that no other has, here or elsewhere, now or later; for `has_ended`."""
    return _name(os.getpid())


@cache
def _name(pid: int) -> str:
    import psutil

    return f"{pid}/{_since_boot(psutil.Process(pid)):.1f}/{_numbering()}"


def _since_boot(process: psutil.Process) -> float:
    """When a process was started, in seconds by a clock that nobody sets.

    On Linux, where that is what the system keeps, and the time of day of it moves when this machine's clock is set.
    """
    import psutil

    return float(process.create_time()) - (psutil.boot_time() if sys.platform == "linux" else 0)


@cache
def _numbering() -> str:
    """Whose numbers of processes ours are.

    Not those of another machine, nor those of another container, though it may share our folders (Linux,
    pid_namespaces(7)): its processes can't be seen from here.
    """
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{platform.node()}/{boot_id()}/{namespace}"


def has_ended(name: str) -> bool:
    """Whether a process has certainly ended; False where that can't be told from here.

    Args:
        name: its `own_name`, or that with more after a slash.
    """
    import psutil

    try:
        pid, started, numbering = name.split("/", 2)
        if not f"{numbering}/".startswith(f"{_numbering()}/"):
            return False
        process = psutil.Process(int(pid))
        is_another = abs(_since_boot(process) - float(started)) >= CLOCK_SECONDS
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (ValueError, psutil.Error):  # a name that another version gave; a process that we may not look at
        return False


def ends_within(process: psutil.Process, seconds: float) -> bool:
    """Waits until a process has ended. Its parent may notice late or never, as the first process of many containers."""
    started, until = process.create_time(), time.monotonic() + seconds
    while running_process(process.pid, started) is not None:
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_SECONDS)
    return True
