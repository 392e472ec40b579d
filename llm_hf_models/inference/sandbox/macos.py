"""macOS layers: resource limits and a seatbelt profile.

Written from sandbox-exec(1), sandbox_init(3) and macOS's own profiles in /System/Library/Sandbox/Profiles. It has not
been run on a Mac: the seatbelt layer counts as active if sandbox_init returns success.
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

# Everything without a rule is refused; later rules override earlier ones.
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


def limit_resources(allowed: Confinement, _active: Sequence[Layer]) -> None:
    """Limit CPU time and open files, and turn off core dumps. macOS accepts a memory limit, but does not enforce it."""
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, allowed.max_open_files)]
    if allowed.max_cpu_seconds:
        limits.append((resource.RLIMIT_CPU, int(time.process_time()) + 1 + allowed.max_cpu_seconds))
    for kind, value in limits:
        ceiling = resource.getrlimit(kind)[1]
        limit = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(kind, (limit, limit))


def apply_profile(allowed: Confinement, _active: Sequence[Layer]) -> None:
    """Restrict files, network, processes and signals with one profile.

    Raises:
        LayerError: sandbox_init is not available, or refuses the profile.
    """
    try:
        library = ctypes.CDLL("/usr/lib/libsandbox.1.dylib")
        sandbox_init = library.sandbox_init
    except (OSError, AttributeError):
        raise LayerError("this macOS has no sandbox_init") from None
    sandbox_init.argtypes = (ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_char_p))
    message = ctypes.c_char_p()
    if sandbox_init(os.fsencode(build_profile(allowed)), 0, ctypes.byref(message)) != 0:
        raise LayerError((message.value or b"sandbox_init refused the profile").decode(errors="replace"))


def build_profile(allowed: Confinement) -> str:
    """Return the seatbelt profile, in the language of sandbox-exec(1)."""
    readable = [*allowed.read_paths, *allowed.write_dirs, *list_interpreter_paths(), *map(Path, _SYSTEM)]
    lines = [_PROFILE, _format_rule("file-read*", readable)]
    if allowed.write_dirs and allowed.allow_unix_server:
        lines.append(
            _format_rule("network-bind network-inbound file-write-create file-write-unlink", allowed.write_dirs)
        )
    if allowed.allow_gpu:
        lines.append(_GPU)
    return "".join(lines)


def _format_rule(operations: str, paths: Iterable[Path]) -> str:
    """Return a rule for paths and everything below them. Seatbelt needs real paths, and quotes them as JSON does."""
    filters = " ".join(f"(subpath {json.dumps(str(path.resolve()), ensure_ascii=False)})" for path in paths)
    return f"(allow {operations} {filters})\n"
