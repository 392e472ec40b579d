"""macOS's layers: resource limits and a seatbelt profile. Only for `sandbox`.

Written from sandbox-exec(1), sandbox_init(3) and the profiles that macOS brings in /System/Library/Sandbox/Profiles.
It has not been run on a Mac: what it claims there is what sandbox_init answered.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm_hf_models.inference.sandbox.types import Confinement, Layer, LayerError, list_interpreter_paths

_SYSTEM = ("/System", "/Library", "/usr/lib", "/usr/share", "/usr/local/lib", "/opt/homebrew", "/opt/local", "/dev",
           "/private/etc/localtime", "/private/var/db/timezone", "/private/var/db/dyld")  # fmt: skip

# Everything is refused but what is named; later rules win.
_PROFILE = """(version 1)
(deny default)
(allow process-info* (target self))
(allow signal (target self))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-map-executable)
(allow mach-lookup (global-name "com.apple.system.logger") (global-name "com.apple.system.notification_center"))
"""

_GPU = """(allow iokit-open)
(allow mach-lookup)
"""


def limit_resources(wanted: Confinement, _held: Sequence[Layer]) -> None:
    """Time, open files and core dumps. macOS accepts a limit of memory, and does not enforce it."""
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, wanted.max_open_files)]
    if wanted.max_cpu_seconds:
        limits.append((resource.RLIMIT_CPU, int(time.process_time()) + 1 + wanted.max_cpu_seconds))
    for kind, value in limits:
        ceiling = resource.getrlimit(kind)[1]
        most = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(kind, (most, most))


def apply_profile(wanted: Confinement, _held: Sequence[Layer]) -> None:
    """Files, network, processes and signals, by one profile.

    Raises:
        LayerError: sandbox_init is not there, or refuses.
    """
    try:
        library = ctypes.CDLL("/usr/lib/libsandbox.1.dylib")
        start = library.sandbox_init
    except (OSError, AttributeError):
        raise LayerError("this macOS has no sandbox_init") from None
    start.argtypes = (ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_char_p))
    said = ctypes.c_char_p()
    if start(os.fsencode(build_profile(wanted)), 0, ctypes.byref(said)) != 0:
        raise LayerError((said.value or b"sandbox_init refused").decode(errors="replace"))


def build_profile(wanted: Confinement) -> str:
    """The seatbelt profile, in the language of sandbox-exec(1)."""
    readable = [*wanted.read_paths, *wanted.write_dirs, *list_interpreter_paths(), *map(Path, _SYSTEM)]
    lines = [_PROFILE, _format_rule("file-read*", readable)]
    if wanted.write_dirs and wanted.allow_unix_server:
        lines.append(
            _format_rule("network-bind network-inbound file-write-create file-write-unlink", wanted.write_dirs)
        )
    if wanted.allow_gpu:
        lines.append(_GPU)
    return "".join(lines)


def _format_rule(what: str, paths: Iterable[Path]) -> str:
    """One rule for paths and what is beneath them. Seatbelt sees real paths, and quotes them as JSON does."""
    places = " ".join(f"(subpath {json.dumps(str(path.resolve()), ensure_ascii=False)})" for path in paths)
    return f"(allow {what} {places})\n"
