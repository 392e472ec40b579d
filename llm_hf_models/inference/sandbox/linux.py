"""Linux layers other than the system call filter: resource limits, namespaces, capabilities and Landlock.

Formats and numbers: linux/landlock.h, linux/capability.h, namespaces(7), landlock(7), setrlimit(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_hf_models.inference.sandbox.types import Confinement, Layer, LayerError, list_interpreter_paths

MAX_FILE_BYTES = 16 * 2**20  # of the log, which is open already
MAX_THREADS = 4096  # llama.cpp starts one for each tensor that it checks
RESERVED_BYTES = 64 * 2**30  # address space, not memory: libraries, and a stack and an arena for each thread
HARD_CPU_SECONDS = 2  # between SIGXCPU, which can be caught, and SIGKILL
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 1 << 2
_LAST_CAPABILITY = 63

# Landlock is newer than the unified system call table, so its numbers are the same on every architecture.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION = 1 << 0
_PATH_BENEATH = 1
_EXECUTE = 1 << 0
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_SOCK, _IOCTL_DEV = (1 << bit for bit in (1, 2, 3, 5, 9, 15))
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | _IOCTL_DEV  # allowed in a rule for a file

# (ABI, the rights that it added). Every right that the kernel knows is handled, so access without a rule is refused.
_FILES_BY_ABI = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, _IOCTL_DEV), (9, 1 << 16))
_NETWORK_BY_ABI = ((4, 0b11),)  # bind and connect TCP
_SCOPE_BY_ABI = ((6, 0b11),)  # abstract unix sockets and signals stay within the domain
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store")

_SYSTEM = (
    "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/usr/share/locale", "/dev/null", "/dev/urandom",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm", "/sys/devices/system/cpu",
    "/sys/devices/system/node", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage",
)  # fmt: skip

_GPU_FILES = ("/sys", "/proc/driver", "/proc/devices", "/proc/modules", "/proc/version", "/etc/vulkan", "/etc/OpenCL",
              "/usr/share", "/usr/local", "/opt")  # fmt: skip
_GPU_DEVICES = ("dri", "kfd", "nvidia*")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call_libc(name: str, *arguments: Any) -> int:  # noqa: ANN401 - integers, buffers and None
    """Call a function of the C library.

    Raises:
        OSError: The function returned -1.
    """
    # Pass integers as long, because a variadic function may read all 64 bits.
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(getattr(_libc, name)(*converted))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def limit_resources(allowed: Confinement, _active: Sequence[Layer]) -> None:
    """Limit memory, CPU time, open files and file size, and turn off core dumps, which could contain a prompt.

    RLIMIT_DATA limits private writable memory, however it was allocated. RLIMIT_AS also counts mapped weights and each
    thread's reserved arena, so this limit is larger. It bounds the memory for page tables. RLIMIT_DATA does not count
    shared anonymous memory, which the system call filter refuses.
    """
    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    _lower_limit(resource.RLIMIT_NOFILE, allowed.max_open_files)
    if allowed.max_memory_bytes:
        _lower_limit(resource.RLIMIT_DATA, allowed.max_memory_bytes)
        if not allowed.allow_gpu:  # drivers reserve terabytes of address space
            mapped = sum(map(_get_size, allowed.read_paths))
            _lower_limit(resource.RLIMIT_AS, allowed.max_memory_bytes + mapped + RESERVED_BYTES)
    if allowed.max_cpu_seconds:
        limit = int(time.process_time()) + 1 + allowed.max_cpu_seconds
        _lower_limit(resource.RLIMIT_CPU, limit, limit + HARD_CPU_SECONDS)


def _get_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lower_limit(kind: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(kind)[1]
    limits = [value if ceiling == resource.RLIM_INFINITY else min(value, ceiling) for value in (soft, hard or soft)]
    resource.setrlimit(kind, (limits[0], limits[1]))


def enter_user_namespace(allowed: Confinement, _active: Sequence[Layer]) -> None:
    """Enter a new user namespace, without rights outside it and with a thread limit for this process only."""
    _require_single_thread()
    if not _can_read_without_capabilities([*allowed.read_paths, *allowed.write_dirs]):
        raise LayerError("the model can only be read with root's capabilities, which a user namespace removes")
    user, group = os.geteuid(), os.getegid()
    call_libc("unshare", _CLONE_NEWUSER)
    # The maps are optional: without them, ids appear as nobody's. Some systems allow the namespace but not the maps.
    with suppress(OSError):
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/uid_map").write_bytes(b"%d %d 1" % (user, user))
        Path("/proc/self/gid_map").write_bytes(b"%d %d 1" % (group, group))
    # In a new namespace this limit counts only this process, not all of the user's processes. Root is exempt.
    _lower_limit(resource.RLIMIT_NPROC, MAX_THREADS)


def enter_network_namespace(_allowed: Confinement, active: Sequence[Layer]) -> None:
    """Enter a new network namespace, in which no interface is up, then drop all capabilities."""
    try:
        _require_single_thread()
        call_libc("unshare", _CLONE_NEWNET)
    finally:
        # Without a user namespace, root needs this capability to read a model that another user owns.
        _drop_capabilities(0 if "user-namespace" in active else _CAP_DAC_READ_SEARCH)


def restrict_files(allowed: Confinement, _active: Sequence[Layer]) -> None:
    """Restrict file access with Landlock.

    The process can read the model, the interpreter, its libraries and some system files, and create sockets in
    `write_dirs`. Any other access is refused.
    """
    _require_single_thread()
    try:
        abi = call_libc("syscall", _LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    except OSError as error:
        reason = "is turned off" if error.errno == errno.EOPNOTSUPP else "is not available or not allowed"
        raise LayerError(f"Landlock {reason} ({error.strerror})") from None
    handled = [_combine_rights(table, abi) for table in (_FILES_BY_ABI, _NETWORK_BY_ABI, _SCOPE_BY_ABI)]
    # A kernel accepts a structure shorter than its own, but a longer one only if the rest is zero.
    ruleset = call_libc("syscall", _LANDLOCK_CREATE, struct.pack("=QQQ", *handled), 24, 0)
    try:
        for path, rights in _list_rules(allowed):
            _add_rule(ruleset, path, rights & handled[0])
        call_libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        call_libc("syscall", _LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _combine_rights(table: Iterable[tuple[int, int]], abi: int) -> int:
    return sum(rights for since, rights in table if abi >= since)


def _list_rules(allowed: Confinement) -> Iterable[tuple[Path, int]]:
    """Yield each path that stays accessible, with its rights."""
    for path in (*allowed.read_paths, *list_interpreter_paths(), *map(Path, _LIBRARIES + _SYSTEM)):
        yield path, _READ_FILE | _READ_DIR
    for path in allowed.write_dirs:
        yield path, _READ_FILE | _READ_DIR | _REMOVE_FILE | (_MAKE_SOCK if allowed.allow_unix_server else 0)
    for path in allowed.exec_paths:
        yield path, _READ_FILE | _EXECUTE
    if allowed.allow_gpu:
        for path in map(Path, _GPU_FILES):
            yield path, _READ_FILE | _READ_DIR
        for pattern in _GPU_DEVICES:
            for path in Path("/dev").glob(pattern):
                yield path, _READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL_DEV


def _add_rule(ruleset: int, path: Path, rights: int) -> None:
    """Add a rule for a path, unless it does not exist or the user has no access to it."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FILE_RIGHTS
        call_libc("syscall", _LANDLOCK_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _require_single_thread() -> None:
    """Raise an error if this process has several threads.

    Namespaces, capabilities and Landlock apply to the calling thread only, so other threads would not be confined.
    """
    try:
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - no paths are allowed
    except OSError:
        return
    if threads > 1:
        raise LayerError(f"this process has {threads} threads, but the layer applies to only one")


def _can_read_without_capabilities(paths: Iterable[Path]) -> bool:
    """Return whether all paths can be read without capabilities. Only root has any, so other users need no test."""
    if os.geteuid() != 0:
        return True
    effective, permitted = _get_capabilities()
    _set_capabilities(0, permitted)
    try:
        for path in paths:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        return True  # the path is missing or not a file, in any namespace
    finally:
        _set_capabilities(effective, permitted)
    return True


def _drop_capabilities(keep: int) -> None:
    _effective, permitted = _get_capabilities()
    for capability in range(_LAST_CAPABILITY + 1):
        if not keep >> capability & 1:
            with suppress(OSError):  # EPERM without capabilities; EINVAL beyond the last one
                call_libc("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    with suppress(OSError):
        call_libc("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _set_capabilities(permitted & keep, permitted & keep)


def _get_capabilities() -> tuple[int, int]:
    """Return the effective and the permitted set."""
    data = ctypes.create_string_buffer(24)
    call_libc("capget", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)
    low_effective, low_permitted, _, high_effective, high_permitted, _ = struct.unpack("=6I", data.raw)
    return high_effective << 32 | low_effective, high_permitted << 32 | low_permitted


def _set_capabilities(effective: int, permitted: int) -> None:
    """Set the effective and the permitted set, and clear the inheritable one."""
    halves = [(effective >> shift & 0xFFFFFFFF, permitted >> shift & 0xFFFFFFFF, 0) for shift in (0, 32)]
    data = struct.pack("=6I", *halves[0], *halves[1])
    call_libc("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)
