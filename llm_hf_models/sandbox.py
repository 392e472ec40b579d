"""Confines a child process as far as the system allows, and says truthfully which layers applied. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Layer = Literal["rlimits", "user-namespace", "network-namespace", "landlock", "seccomp", "seatbelt"]


@dataclass(frozen=True)
class Confinement:
    """What a child may still do after `confine`."""

    read_paths: Sequence[Path] = ()  # besides what the interpreter and its libraries need
    write_dirs: Sequence[Path] = ()  # where it may make its socket
    max_memory_bytes: int = 0  # 0 is no limit
    max_cpu_seconds: int = 0
    max_open_files: int = 256
    allow_unix_server: bool = False  # bind, listen and accept on a path socket in write_dirs
    allow_gpu: bool = False


@dataclass(frozen=True)
class ConfinementReport:
    """Which layers hold, and why each other one does not."""

    layers: tuple[Layer, ...]
    missing: tuple[tuple[Layer, str], ...] = ()

    @property
    def sandboxed(self) -> bool:
        """True only when file system and network are both closed."""
        files = {"landlock", "seatbelt"} & set(self.layers)
        network = {"network-namespace", "seccomp", "seatbelt"} & set(self.layers)
        return bool(files and network)


def confine(wanted: Confinement) -> ConfinementReport:
    """Confines the calling process, for good. Call it in the child, single-threaded, after imports and before any input.

    A layer that the system refuses is reported, never raised.
    """
    raise NotImplementedError
