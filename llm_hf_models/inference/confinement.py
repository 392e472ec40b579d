"""Closes to an engine what it won't need: to engine_child itself, or to a llama-server in the moment before it starts.

Starts nothing, and imports nothing of this package but the sandbox.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_hf_models.inference.sandbox import confine as sandbox_confine
from llm_hf_models.inference.sandbox import types as sandbox_types
from llm_hf_models.inference.sandbox.types import Layer

MAX_OPEN_FILES = 256
SANDBOX_OFF = "any layer", "the sandbox is switched off (LLM_HF_SANDBOX, or the setting `sandbox`)"
_PT_INTERP = 3  # elf(5)


@dataclass(frozen=True)
class Program:
    """A program that takes a confined process's place: what it needs to start, and the layers that it can't have."""

    exec_paths: tuple[Path, ...] = ()
    read_paths: tuple[Path, ...] = ()
    without: dict[Layer, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerSummary:
    """The layers that hold as people read them (`llm hf ps`), and each other one with the reason."""

    layers: list[str]
    missing: list[tuple[str, str]]


def confine(task: dict[str, Any], *, gpu: bool, program: Program | None = None) -> LayerSummary:
    """Confines this process, for good, to what serving one task takes.

    Args:
        task: as engine_child reads it.
        gpu: leave the devices of GPUs open.
        program: what will take this process's place, if anything.
    """
    if not task["sandbox"]:
        return LayerSummary([], [SANDBOX_OFF])
    program = program or Program()
    wanted = sandbox_types.Confinement(
        read_paths=[*map(Path, (*task["read_paths"], task["folder"])), *program.read_paths],
        write_dirs=[Path(task["folder"])],
        max_memory_bytes=task["max_memory"],
        max_open_files=MAX_OPEN_FILES,
        allow_unix_server=True,
        allow_gpu=gpu,
        exec_paths=program.exec_paths,
    )
    report = sandbox_confine.confine(wanted, without=program.without)
    return LayerSummary(format_layers(report.layers, gpu=gpu, starts=bool(program.exec_paths)), list(report.missing))


def format_layers(layers: Sequence[str], *, gpu: bool, starts: bool = False) -> list[str]:
    """The layers as people read them: with a GPU, what closes files leaves its devices open; `starts`: exec is open."""
    but = {"seccomp": "exec"} if starts else {}
    but |= dict.fromkeys(("landlock", "seatbelt"), "GPU devices") if gpu else {}
    return [f"{layer} but for {but[layer]}" if layer in but else layer for layer in layers]


def inspect_program(binary: Path) -> Program:
    """What a program needs to start in a confined process's place.

    Limits and namespaces stay with a process whatever it runs. Landlock and the system call filter stay too, but have
    to leave exec open: to this program and its loader alone, which is all that one in machine code needs. A script
    starts other programs, so these two are left out.
    """
    binary = binary.resolve()
    if sys.platform == "darwin":
        return Program(without={"seatbelt": "its profile lets no other program start"})
    loader = _find_loader(binary)
    if loader is None:
        why = f"{binary.name} is a script, which has to start other programs"
        return Program(without={"landlock": why, "seccomp": why})
    # Its libraries lie beside it or in ../lib; not where that would be somebody's home.
    folders = [binary.parent, binary.parent.parent / "lib"]
    home = Path.home().resolve()
    return Program(
        (binary, loader), (binary, loader, *(folder for folder in folders if not home.is_relative_to(folder)))
    )


def _find_loader(binary: Path) -> Path | None:
    """The loader that a program in machine code names; the program itself where it needs none, None for a script.

    Format: elf(5), the header and the program headers of ELF64.
    """
    with binary.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return None
        (table,), (size, count) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
        for number in range(count):
            file.seek(table + number * size)
            kind, _, offset, _, _, length = struct.unpack("<IIQQQQ", file.read(40))
            if kind == _PT_INTERP:
                file.seek(offset)
                return Path(file.read(length).rstrip(b"\0").decode()).resolve()
    return binary
