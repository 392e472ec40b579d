"""What this machine, or its container, has: memory and cores. Weighs nothing against it (gguf/memory_fit.py).

Control groups are the kernel's: admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


def default_threads() -> int:
    """Physical cores less one where there are more than two: room for everything else on the machine."""
    cores = count_usable_cores(physical=True)
    return cores - 1 if cores > 2 else cores  # noqa: PLR2004


_ROOT = Path("/")


@dataclass(frozen=True)
class MachineMemory:
    """Memory of this machine, in bytes; container limits are honoured."""

    total_memory: int
    free_memory: int


def read_memory(root: Path = _ROOT) -> MachineMemory:
    """This machine's memory now, or what its container leaves of it.

    Args:
        root: where `proc` and `sys` are, for reading control groups (Linux).
    """
    import psutil

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    for limit, used in _iter_group_limits(root):
        total, free = min(total, limit), min(free, max(0, limit - used))
    return MachineMemory(total, free)


def _iter_group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of every memory control group that this process is in. Bytes.

    A container may see its own group as the root of the tree, so each path is tried up to the root, and what is not
    there limits nothing.
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
        limit = int((group / limit_name).read_text(encoding="ascii"))  # `max` is no limit, and no number either
        used = int((group / used_name).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        prefix = "total_" if "total_inactive_file" in stat else ""  # v1 counts child groups apart
        # Pages of files can be taken back at any time: they are no use in this sense.
        used -= int(stat.get(f"{prefix}inactive_file", 0)) + int(stat.get(f"{prefix}active_file", 0))
    except (OSError, ValueError):
        return None
    return limit, max(0, used)


def count_usable_cores(root: Path = _ROOT, *, physical: bool = False) -> int:
    """How many cores this process may keep busy, at least one.

    Args:
        root: where `sys` is, for reading control groups (Linux).
        physical: two threads of one core count once, where the system tells.
    """
    import psutil

    cores = psutil.cpu_count(logical=not physical) or psutil.cpu_count() or 1
    if hasattr(psutil.Process, "cpu_affinity"):
        cores = min(cores, len(psutil.Process().cpu_affinity()))
    with suppress(OSError, ValueError):
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores
