"""Confines a child process as far as the system allows, and says truthfully which layers applied. Stands apart: imports
nothing of ours but its own parts, sandbox_terms, sandbox_linux, sandbox_filter and sandbox_macos.

No package carries a layer: of those on the index one loads a libseccomp that need not be there and has stood still for
years, one is an alpha, others start processes of their own or bring megabytes for what are sixty lines of system calls
here. Code that runs inside the wall is best read in one sitting.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llm_hf_models.inference.sandbox.types import Confinement, Layer, LayerError

# A step closes one layer or raises LayerError; it is told which layers hold already.
Step = Callable[[Confinement, Sequence[Layer]], None]


@dataclass(frozen=True)
class ConfinementReport:
    """Which layers hold, and why each other one does not."""

    layers: tuple[Layer, ...]
    missing: tuple[tuple[Layer, str], ...] = ()

    @property
    def is_sandboxed(self) -> bool:
        """True only when file system and network are both closed.

        A network namespace alone leaves the unix sockets of other programs open (docker's is as good as root).
        """
        files = {"landlock", "seatbelt"} & set(self.layers)
        network = {"seccomp", "seatbelt"} & set(self.layers)
        return bool(files and network)


def confine(wanted: Confinement, *, without: Mapping[Layer, str] | None = None) -> ConfinementReport:
    """Confines the calling process, for good. Call it in the child, single-threaded, after imports, before any input.

    Args:
        wanted: what it may still do.
        without: layers that would stop it from doing its work, each with the reason.

    On Linux (x86-64, arm64) every layer is tried; on macOS rlimits and seatbelt, written from Apple's documentation
    and not tried by us on a Mac; on Windows none exists for a process that runs already.
    A layer that the system refuses is reported, never raised.
    """
    held: list[Layer] = []
    missing: list[tuple[Layer, str]] = []
    for layer, step in _get_steps().items():
        if without and layer in without:
            missing.append((layer, without[layer]))
            continue
        try:
            step(wanted, tuple(held))
        except (LayerError, OSError) as error:
            missing.append((layer, getattr(error, "strerror", None) or str(error)))
        else:
            held.append(layer)
    return ConfinementReport(tuple(held), tuple(missing))


def _get_steps() -> dict[Layer, Step]:
    """The layers of this system, in the order in which they must be closed."""
    if sys.platform == "linux":
        from llm_hf_models.inference.sandbox import linux, seccomp

        return {
            "rlimits": linux.limit_resources,
            "user-namespace": linux.enter_user_namespace,
            "network-namespace": linux.enter_network_namespace,
            "landlock": linux.restrict_files,
            "seccomp": seccomp.install_filter,
        }
    if sys.platform == "darwin":
        from llm_hf_models.inference.sandbox import macos

        return {"rlimits": macos.limit_resources, "seatbelt": macos.apply_profile}
    return dict.fromkeys(("rlimits", "seatbelt"), _raise_unsupported)


def _raise_unsupported(_wanted: Confinement, _held: Sequence[Layer]) -> None:
    raise LayerError(f"{sys.platform} has no way for a running process to confine itself")
