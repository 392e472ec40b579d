"""Read the memory and the cores of this machine or its container.

gguf/memory_fit.py compares them with the needs of a model. Linux describes control groups in its documents
admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def choose_thread_count() -> int:
    """Return the number of physical cores, less one for other programs if there are more than two."""
    cores = count_usable_cores(physical=True)
    return cores - 1 if cores > 2 else cores  # noqa: PLR2004


@dataclass(frozen=True)
class MachineMemory:
    """The memory of this machine, within the limits of its container."""

    total_memory_bytes: int
    free_memory_bytes: int


def read_memory(root: Path = _ROOT) -> MachineMemory:
    """Return the total and free memory of this machine, within the limits of its container.

    Args:
        root: the folder that contains `proc` and `sys`, from which control groups are read (Linux).
    """
    import psutil

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    for limit, used in _iter_group_limits(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return MachineMemory(total, free)


def _iter_group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit and the use, in bytes, of every memory control group of this process.

    A container may see its own group as the root of the tree. Each parent path is therefore tried up to the root;
    groups that do not exist are skipped.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        tree = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inside = PurePosixPath(path.lstrip("/"))
        for group in (inside, *inside.parents):
            if ".." not in group.parts and (found := _read_group_limit(tree / group, *names)):
                yield found


def _read_group_limit(group: Path, limit_name: str, used_name: str) -> tuple[int, int] | None:
    try:
        limit = int((group / limit_name).read_text(encoding="ascii"))  # `max` means no limit and raises ValueError
        used = int((group / used_name).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        prefix = "total_" if "total_inactive_file" in stat else ""  # v1 counts child groups separately
        # The kernel can reclaim file pages at any time, so they do not count as used.
        used -= int(stat.get(f"{prefix}inactive_file", 0)) + int(stat.get(f"{prefix}active_file", 0))
    except (OSError, ValueError):
        return None
    return limit, max(0, used)


def count_usable_cores(root: Path = _ROOT, *, physical: bool = False) -> int:
    """Return the number of cores that this process may use, at least one.

    Args:
        root: the folder that contains `sys`, from which control groups are read (Linux).
        physical: count two threads of one core as one, if the system provides this information.
    """
    import psutil

    cores = psutil.cpu_count(logical=not physical) or psutil.cpu_count() or 1
    if hasattr(psutil.Process, "cpu_affinity"):
        cores = min(cores, len(psutil.Process().cpu_affinity()))
    with suppress(OSError, ValueError):
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores
