"""Confine a child process as far as the system allows, and report the active layers.

The sandbox imports only its own modules and the standard library. Of the packages on PyPI, one is unmaintained and
needs libseccomp, which may not be installed. Another is an alpha version. Others start processes, or add megabytes for
about sixty lines of system calls. Code that runs inside the sandbox should be short enough to review.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llm_hf_models.inference.sandbox.types import Confinement, Layer, LayerError

# A step activates one layer or raises LayerError. It receives the layers that are already active.
Step = Callable[[Confinement, Sequence[Layer]], None]


@dataclass(frozen=True)
class ConfinementReport:
    """The active layers, and each missing layer with the reason."""

    layers: tuple[Layer, ...]
    missing: tuple[tuple[Layer, str], ...] = ()


def confine(allowed: Confinement, *, without: Mapping[Layer, str] | None = None) -> ConfinementReport:
    """Confine the calling process permanently.

    Call it in the child process while it has one thread, after all imports and before it reads any untrusted input.

    On Linux (x86-64, arm64) all layers are attempted. On macOS, rlimits and seatbelt are attempted; they follow Apple's
    documentation and have not been tested on a Mac. Windows has no layers for a running process. A layer that the
    system refuses is reported as missing, not raised.

    Args:
        allowed: The access that the process keeps.
        without: Layers under which the process could not do its work, each with the reason.
    """
    active: list[Layer] = []
    missing: list[tuple[Layer, str]] = []
    for layer, step in _get_steps().items():
        if without and layer in without:
            missing.append((layer, without[layer]))
            continue
        try:
            step(allowed, tuple(active))
        except (LayerError, OSError) as error:
            missing.append((layer, getattr(error, "strerror", None) or str(error)))
        else:
            active.append(layer)
    return ConfinementReport(tuple(active), tuple(missing))


def list_layers() -> tuple[Layer, ...]:
    """Return the names of this system's layers, in the order in which they are activated."""
    return tuple(_get_steps())


def _get_steps() -> dict[Layer, Step]:
    """Return the layers of this system, in the order in which they must be activated."""
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


def _raise_unsupported(_allowed: Confinement, _active: Sequence[Layer]) -> None:
    raise LayerError(f"{sys.platform} offers no way for a running process to confine itself")
