"""Identify processes of this machine, also if their ids are reused later, and check whether they still run."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# Two readings of a process's start time may differ by this much if it is a time of day.
START_TOLERANCE_SECONDS = 0.0 if sys.platform == "linux" else 2.0
POLL_SECONDS = 0.02


def read_boot_id() -> str | None:
    """Return an identifier of the current boot of the system, or None if the system does not provide one."""
    try:
        return _BOOT_ID.read_text("ascii").strip() or None
    except OSError:
        return None


def _read_process(pid: int) -> tuple[float, bool]:
    """Return the start time of a process and whether it is a zombie.

    Raises:
        ProcessLookupError: no process has this id.
        PermissionError: the process can't be inspected; it may or may not exist.
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
    """Return the same as `_read_process`, with the start time in ticks since boot.

    psutil converts it to a time of day, which changes when the clock is set.
    """
    try:
        if Path("/proc/self").readlink().name != str(os.getpid()):  # /proc belongs to another pid namespace
            raise PermissionError
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        # /proc may hide a process that exists: this call raises if there is none, or if it belongs to another user.
        os.kill(pid, 0)
        raise PermissionError from None
    fields = stat.rpartition(")")[2].split()  # proc_pid_stat(5), from the third field on
    state, threads, start = fields[0], int(fields[17]), float(fields[19])
    return start, state in "ZX" and threads <= 1  # with more threads, only the first thread has ended


def get_start_time(pid: int) -> float:
    """Return the start time of a process for `find_running_process`, or 0 if it ended or can't be inspected.

    On Linux it is in ticks since boot, so that setting the clock does not change it; on other systems in Unix seconds.
    """
    try:
        return _read_process(pid)[0]
    except OSError:
        return 0.0


def find_running_process(pid: int, started: float) -> psutil.Process | None:
    """Return the process if it is still running, or None.

    A later process with the same id is not returned, and a zombie does not count as running.

    Args:
        pid: the process id.
        started: the start time that `get_start_time` returned for the process.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        start, is_zombie = _read_process(pid)
    except (OSError, psutil.Error):
        return None
    return process if abs(start - started) <= START_TOLERANCE_SECONDS and not is_zombie else None


def get_own_name() -> str:
    """Return a name of this process for `has_ended`. No other process has the same name, if /proc is available."""
    return f"{os.getpid()}/{get_start_time(os.getpid()):.0f}/{_get_namespace_id()}"


def _get_namespace_id() -> str:
    """Return an identifier of the machine, boot and namespaces to which process ids and start times belong.

    Processes of another machine or container are not visible, even if it shares the same folders (pid_namespaces(7),
    time_namespaces(7)).
    """
    namespaces = []
    for kind in ("pid", "time"):
        try:
            namespaces.append(Path(f"/proc/self/ns/{kind}").readlink().name)
        except OSError:
            namespaces.append("")
    return "/".join((platform.node(), str(read_boot_id()), *namespaces))


def has_ended(name: str) -> bool:
    """Return True if a process has certainly ended, False if it runs or if that can't be determined.

    Only on Linux is a later process with the same id recognised: on other systems, setting the clock changes start
    times.

    Args:
        name: the name that `get_own_name` returned in the process, optionally followed by a slash and more text.
    """
    try:
        pid, started, namespace_id = name.split("/", 2)
        if not f"{namespace_id}/".startswith(f"{_get_namespace_id()}/"):
            return False
        start, is_zombie = _read_process(int(pid))
        return is_zombie or (sys.platform == "linux" and float(started) not in (0, start))
    except ProcessLookupError:
        return True
    except (OSError, ValueError):  # the process can't be inspected, or another version wrote the name
        return False


def wait_in_background(process: subprocess.Popen[bytes]) -> None:
    """Wait for the exit of a child process in a thread, so that it does not stay a zombie while this process runs."""
    threading.Thread(target=process.wait, name=f"wait for {process.pid}", daemon=True).start()


def wait_for_exit(process: psutil.Process, seconds: float) -> bool:
    """Wait up to `seconds` for a process to end; return whether it ended.

    A zombie counts as ended: some parents reap it late or never, such as the first process of many containers.
    """
    started, until = get_start_time(process.pid), time.monotonic() + seconds
    while find_running_process(process.pid, started) is not None:
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)
    return True
