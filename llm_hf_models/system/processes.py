"""Processes of this machine: identify them and check whether they still run."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str | None:
    """Tells one run of the system from another; None where the system doesn't say (then only synced bytes count)."""
    try:
        return _BOOT_ID.read_text("ascii").strip() or None
    except OSError:
        return None


# By which two readings of one process's start may differ, where it is a time of day.
START_TOLERANCE_SECONDS = 0.0 if sys.platform == "linux" else 2.0
POLL_SECONDS = 0.02


def _read_process(pid: int) -> tuple[float, bool]:
    """When a process was started, and whether it is dead and its parent has not noticed yet.

    Raises:
        ProcessLookupError: there is none of that number.
        PermissionError: it can't be looked at from here, which says nothing about whether it is there.
    """
    if sys.platform == "linux":
        return _read_proc_stat(pid)
    import psutil

    try:
        process = psutil.Process(pid)
        return float(process.create_time()), process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        raise ProcessLookupError from None
    except psutil.Error:
        raise PermissionError from None


def _read_proc_stat(pid: int) -> tuple[float, bool]:
    """As `_look`; the start in ticks since the system's. psutil makes a time of day of it, which a set clock moves."""
    try:
        if Path("/proc/self").readlink().name != str(os.getpid()):  # it tells of another pid namespace than ours
            raise PermissionError
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        os.kill(pid, 0)  # asks the system, from which /proc may hide it: raises where there is none, or none of ours
        raise PermissionError from None
    fields = stat.rpartition(")")[2].split()  # proc_pid_stat(5), from the third on
    state, threads, start = fields[0], int(fields[17]), float(fields[19])
    return start, state in "ZX" and threads <= 1  # of others the first thread alone has ended


def get_start_time(pid: int) -> float:
    """When a process was started, for `running_process`; 0 when it is gone, or can't be looked at.

    On Linux in ticks since the system's start, which no clock that is set moves; elsewhere in Unix seconds.
    """
    try:
        return _read_process(pid)[0]
    except OSError:
        return 0.0


def find_running_process(pid: int, started: float) -> psutil.Process | None:
    """The process if it still runs, and not another one of the same number; `started` as `pid_started` told it.

    One that is dead and that its parent has not noticed yet doesn't run.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        start, is_dead = _read_process(pid)
    except (OSError, psutil.Error):
        return None
    return process if abs(start - started) <= START_TOLERANCE_SECONDS and not is_dead else None


def get_own_name() -> str:
    """A name of this process, for `has_ended`; where it can be known from there, no other has the same."""
    return f"{os.getpid()}/{get_start_time(os.getpid()):.0f}/{_get_namespace_id()}"


def _get_namespace_id() -> str:
    """Whose numbers and ticks of processes ours are.

    Not those of another machine, nor those of another container, though it may share our folders: its processes can't
    be seen from here (pid_namespaces(7), time_namespaces(7)).
    """
    namespaces = []
    for kind in ("pid", "time"):
        try:
            namespaces.append(Path(f"/proc/self/ns/{kind}").readlink().name)
        except OSError:
            namespaces.append("")
    return "/".join((platform.node(), str(read_boot_id()), *namespaces))


def has_ended(name: str) -> bool:
    """Whether a process has certainly ended; False where that can't be told from here.

    Only Linux tells it from a later one of its number: elsewhere a clock that was set may make one look like another.

    Args:
        name: its `own_name`, or that with more after a slash.
    """
    try:
        pid, started, numbering = name.split("/", 2)
        if not f"{numbering}/".startswith(f"{_get_namespace_id()}/"):
            return False
        start, is_dead = _read_process(int(pid))
        return is_dead or (sys.platform == "linux" and float(started) not in (0, start))
    except ProcessLookupError:
        return True
    except (OSError, ValueError):  # it can't be looked at; another version gave the name
        return False


def wait_for_exit(process: psutil.Process, seconds: float) -> bool:
    """Waits until a process has ended. Its parent may notice late or never, as the first process of many containers."""
    started, until = get_start_time(process.pid), time.monotonic() + seconds
    while find_running_process(process.pid, started) is not None:
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)
    return True
