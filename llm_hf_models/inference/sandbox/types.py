"""The words that the parts of the sandbox share: what is wanted, which layers there are, what Python itself reads."""

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
    """What a child may still do after `confine`."""

    read_paths: Sequence[Path] = ()  # files or folders, besides what the interpreter and its libraries need
    write_dirs: Sequence[Path] = ()  # where it may make its socket and take it away; files can be written nowhere
    max_memory_bytes: int = (
        0  # heap, stacks, copied weights; mapped files don't count, as the page cache is not its own
    )
    max_cpu_seconds: int = 0  # from now on, of all threads together; 0 is no limit, here and above
    max_open_files: int = 256
    allow_unix_server: bool = False  # bind, listen and accept on a path socket in write_dirs
    allow_gpu: bool = False
    exec_paths: Sequence[Path] = ()  # the program that takes the process's place (execve), and its loader


class LayerError(Exception):
    """Why one layer can't hold here. Never leaves `confine`."""


def list_interpreter_paths() -> list[Path]:
    """The folders that Python imports from: the standard library, and what of sys.path lies in the installation.

    Neither the working directory nor PYTHONPATH is among them: both may be a home full of secrets.
    """
    roots = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)}
    installed = [Path(entry) for entry in sys.path if roots & set(Path(entry).resolve().parents)]
    return [Path(os.__file__).parent, *installed, Path(__file__).parents[2]]
