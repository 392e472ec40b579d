"""Types that the modules of the sandbox share, and the paths that Python itself reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Layer = Literal["rlimits", "user-namespace", "network-namespace", "landlock", "seccomp", "seatbelt"]


@dataclass(frozen=True)
class Confinement:
    """The access that a child process keeps after `confine`."""

    read_paths: Sequence[Path] = ()  # files or folders, in addition to the interpreter and its libraries
    write_dirs: Sequence[Path] = ()  # folders in which it can create and remove its socket; it can't write files
    # Heap, stacks and copied weights; mapped files don't count, as they are in the page cache. 0 sets no limit.
    max_memory_bytes: int = 0
    max_cpu_seconds: int = 0  # from now on, of all threads together; 0 sets no limit
    max_open_files: int = 256
    allow_unix_server: bool = False  # bind, listen and accept on a path socket in write_dirs
    allow_gpu: bool = False
    exec_paths: Sequence[Path] = ()  # the program that replaces the process (execve), and its loader


class LayerError(Exception):
    """The reason why a layer can't be activated. `confine` catches it."""


def list_interpreter_paths() -> list[Path]:
    """Return the folders that Python imports from: the standard library, installed packages and this package.

    The working directory and PYTHONPATH are left out, because they may contain private files.
    """
    roots = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)}
    installed = [Path(entry) for entry in sys.path if roots & set(Path(entry).resolve().parents)]
    return [Path(os.__file__).parent, *installed, Path(__file__).parents[2]]
