"""Confine an engine: engine_child or load_test_child itself, or a forked process just before llama-server replaces it.

Each layer is activated unless the system refuses it, the program can't start under it, or sandbox_probe found that a
test model does not run under it. The model to be run has no influence: nothing here is repeated after it has failed.
This module starts no process, and imports only the sandbox from this package.
"""

from __future__ import annotations

import os
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
SANDBOX_OFF = "any layer", "the sandbox is turned off (LLM_HF_SANDBOX, or the setting `sandbox`)"
_PT_INTERP = 3  # elf(5)


@dataclass(frozen=True)
class Program:
    """A program that replaces a confined process: the paths it needs to start, and the layers it can't start under."""

    exec_paths: tuple[Path, ...] = ()
    read_paths: tuple[Path, ...] = ()
    without: dict[Layer, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerSummary:
    """The active layers as `llm hf ps` shows them, and each missing layer with the reason."""

    layers: list[str]
    missing: list[tuple[str, str]]


def confine(task: dict[str, Any], *, gpu: bool, program: Program | None = None) -> LayerSummary:
    """Confine this process permanently to the files and system calls that one task needs.

    Args:
        task: The task that engine_child or load_test_child reads from stdin.
        gpu: Whether GPU devices stay accessible.
        program: The program that will replace this process, if any.

    Raises:
        RuntimeError: The task requires the sandbox, but a layer is inactive.
    """
    if task["sandbox"] == "off":
        return LayerSummary([], [SANDBOX_OFF])
    program = program or Program()
    allowed = sandbox_types.Confinement(
        read_paths=[*map(Path, task["read_paths"]), *program.read_paths],
        write_dirs=[Path(task["folder"])],
        max_memory_bytes=task["max_memory"],
        max_cpu_seconds=task["max_cpu"],
        max_open_files=MAX_OPEN_FILES,
        allow_unix_server=True,
        allow_gpu=gpu,
        exec_paths=program.exec_paths,
    )
    report = sandbox_confine.confine(allowed, without={**task["without"], **program.without})
    if report.missing and task["sandbox"] == "required":
        raise RuntimeError(
            "The setting `sandbox` is `required`, but a layer is inactive."
            " To run models without it: llm hf settings sandbox on"
            + "".join(f"\n{layer}: {reason}" for layer, reason in report.missing)
        )
    return LayerSummary(
        format_layers(report.layers, gpu=gpu, exec_allowed=bool(program.exec_paths)), list(report.missing)
    )


def format_layers(layers: Sequence[str], *, gpu: bool, exec_allowed: bool = False) -> list[str]:
    """Return the layers' names for display, each with its exception, such as `landlock except GPU devices`.

    Args:
        layers: The active layers.
        gpu: Whether GPU devices are accessible.
        exec_allowed: Whether the process may replace itself with a program.
    """
    exceptions = {"seccomp": "exec"} if exec_allowed else {}
    exceptions |= dict.fromkeys(("landlock", "seatbelt"), "GPU devices") if gpu else {}
    return [f"{layer} except {exceptions[layer]}" if layer in exceptions else layer for layer in layers]


def inspect_program(binary: Path) -> Program:
    """Return the paths a program needs to replace a confined process, and the layers it can't start under.

    Resource limits and namespaces stay with a process when it runs another program. Landlock and the system call
    filter stay too, so they must allow exec. For machine code, exec is allowed for this program and its loader only.
    A script has to start other programs, so Landlock and the system call filter are left out for it.
    """
    binary = binary.resolve()
    if sys.platform == "darwin":
        return Program(without={"seatbelt": "its profile doesn't allow another program to start"})
    loader = _find_loader(binary)
    if loader is None:
        reason = f"{binary.name} is a script, which has to start other programs"
        return Program(without={"landlock": reason, "seccomp": reason})
    # Its libraries are in its own folder or in ../lib. A folder that contains the home directory stays closed.
    folders = [binary.parent, binary.parent.parent / "lib"]
    home = Path(os.path.expanduser("~")).resolve()  # noqa: PTH111 - Path.home() raises if there is none
    return Program(
        (binary, loader), (binary, loader, *(folder for folder in folders if not home.is_relative_to(folder)))
    )


def _find_loader(binary: Path) -> Path | None:
    """Return the loader that an ELF program names, the program itself if it needs none, or None for a script.

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
