"""Linux's layers but the system call filter: resource limits, namespaces, capabilities, Landlock. Only for `sandbox`.

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

MAX_FILE_BYTES = 16 * 2**20  # its log, which it was given open
MAX_THREADS = 4096  # checking its tensors, llama.cpp starts one for each
RESERVED_BYTES = 64 * 2**30  # addresses, not memory: libraries, and a stack and an arena for each thread
HARD_CPU_SECONDS = 2  # between the signal that can be caught and the one that can't
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 1 << 2
_LAST_CAPABILITY = 63

# Landlock came after the tables of system calls had been joined: one number on every architecture.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION = 1 << 0
_PATH_BENEATH = 1
_EXECUTE = 1 << 0
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_SOCK, _IOCTL_DEV = (1 << bit for bit in (1, 2, 3, 5, 9, 15))
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | _IOCTL_DEV  # what a rule on a file may name

# (ABI, rights that it brought): every right that the kernel knows is handled, so that what no rule grants is refused.
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
    """One function of the C library.

    Raises:
        OSError: it answered -1.
    """
    # Integers go as long: a variadic function may read all 64 bits.
    made = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    answer = int(getattr(_libc, name)(*made))
    if answer == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def limit_resources(wanted: Confinement, _held: Sequence[Layer]) -> None:
    """Bounds memory, time, open files, file size; no core dump, which would hold a prompt.

    The memory limit is RLIMIT_DATA: private writable memory, however it was made. RLIMIT_AS counts weights that are
    only mapped, and each thread's reserved arena: it has room for these, and is there for what page tables cost.
    Shared anonymous memory, which the first misses, the filter refuses.
    """
    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    _lower_limit(resource.RLIMIT_NOFILE, wanted.max_open_files)
    if wanted.max_memory_bytes:
        _lower_limit(resource.RLIMIT_DATA, wanted.max_memory_bytes)
        if not wanted.allow_gpu:  # drivers reserve addresses by the terabyte
            mapped = sum(map(_get_size, wanted.read_paths))
            _lower_limit(resource.RLIMIT_AS, wanted.max_memory_bytes + mapped + RESERVED_BYTES)
    if wanted.max_cpu_seconds:
        limit = int(time.process_time()) + 1 + wanted.max_cpu_seconds
        _lower_limit(resource.RLIMIT_CPU, limit, limit + HARD_CPU_SECONDS)


def _get_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lower_limit(kind: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(kind)[1]
    most = [value if ceiling == resource.RLIM_INFINITY else min(value, ceiling) for value in (soft, hard or soft)]
    resource.setrlimit(kind, (most[0], most[1]))


def enter_user_namespace(wanted: Confinement, _held: Sequence[Layer]) -> None:
    """Into a user namespace of its own: no right over anything outside, and threads counted for this process alone."""
    _require_single_thread()
    if not _can_read_without_capabilities([*wanted.read_paths, *wanted.write_dirs]):
        raise LayerError("the model can only be read with root's rights, which it would take away")
    user, group = os.geteuid(), os.getegid()
    call_libc("unshare", _CLONE_NEWUSER)
    # Without the maps it works as well: ids merely show as nobody's. Some systems allow the one and not the other.
    with suppress(OSError):
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/uid_map").write_bytes(b"%d %d 1" % (user, user))
        Path("/proc/self/gid_map").write_bytes(b"%d %d 1" % (group, group))
    # Only in a namespace of its own does this count this process and not all of the user's. Root is exempt from it.
    _lower_limit(resource.RLIMIT_NPROC, MAX_THREADS)


def enter_network_namespace(_wanted: Confinement, held: Sequence[Layer]) -> None:
    """Into a network namespace without any interface that is up; then gives up every capability."""
    try:
        _require_single_thread()
        call_libc("unshare", _CLONE_NEWNET)
    finally:
        # Outside a user namespace root still needs the right to read a model that another user owns.
        _drop_capabilities(0 if "user-namespace" in held else _CAP_DAC_READ_SEARCH)


def restrict_files(wanted: Confinement, _held: Sequence[Layer]) -> None:
    """Landlock: reads the model, the interpreter and its libraries; makes sockets in write_dirs; nothing else."""
    _require_single_thread()
    try:
        abi = call_libc("syscall", _LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    except OSError as error:
        why = "is switched off" if error.errno == errno.EOPNOTSUPP else "is not there, or not allowed"
        raise LayerError(f"Landlock {why} ({error.strerror})") from None
    handled = [_combine_rights(table, abi) for table in (_FILES_BY_ABI, _NETWORK_BY_ABI, _SCOPE_BY_ABI)]
    # A kernel takes a shorter structure than its own; a longer one only if the rest is zero.
    ruleset = call_libc("syscall", _LANDLOCK_CREATE, struct.pack("=QQQ", *handled), 24, 0)
    try:
        for path, rights in _list_rules(wanted):
            _add_rule(ruleset, path, rights & handled[0])
        call_libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        call_libc("syscall", _LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _combine_rights(table: Iterable[tuple[int, int]], abi: int) -> int:
    return sum(rights for since, rights in table if abi >= since)


def _list_rules(wanted: Confinement) -> Iterable[tuple[Path, int]]:
    """Each path that stays reachable, and for what. Read-only unless it says otherwise."""
    for path in (*wanted.read_paths, *list_interpreter_paths(), *map(Path, _LIBRARIES + _SYSTEM)):
        yield path, _READ_FILE | _READ_DIR
    for path in wanted.write_dirs:
        yield path, _READ_FILE | _READ_DIR | _REMOVE_FILE | (_MAKE_SOCK if wanted.allow_unix_server else 0)
    for path in wanted.exec_paths:
        yield path, _READ_FILE | _EXECUTE
    if wanted.allow_gpu:
        for path in map(Path, _GPU_FILES):
            yield path, _READ_FILE | _READ_DIR
        for pattern in _GPU_DEVICES:
            for path in Path("/dev").glob(pattern):
                yield path, _READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL_DEV


def _add_rule(ruleset: int, path: Path, rights: int) -> None:
    """One rule. A path that isn't there, or that this user can't reach, needs none."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _FILE_RIGHTS
        call_libc("syscall", _LANDLOCK_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


def _require_single_thread() -> None:
    """Namespaces, capabilities and Landlock bind the calling thread: a layer that one thread slips does not hold."""
    try:
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - no paths are wanted
    except OSError:
        return
    if threads > 1:
        raise LayerError(f"{threads} threads run in this process, and it binds only one")


def _can_read_without_capabilities(paths: Iterable[Path]) -> bool:
    """Whether every path can be read without capabilities. For all but root that is how they are read anyway."""
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
        return True  # gone, or no file: no namespace changes that
    finally:
        _set_capabilities(effective, permitted)
    return True


def _drop_capabilities(keep: int) -> None:
    _effective, permitted = _get_capabilities()
    for capability in range(_LAST_CAPABILITY + 1):
        if not keep >> capability & 1:
            with suppress(OSError):  # EPERM for those without any; EINVAL past the last one
                call_libc("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    with suppress(OSError):
        call_libc("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _set_capabilities(permitted & keep, permitted & keep)


def _get_capabilities() -> tuple[int, int]:
    """The effective and the permitted set."""
    data = ctypes.create_string_buffer(24)
    call_libc("capget", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)
    low_effective, low_permitted, _, high_effective, high_permitted, _ = struct.unpack("=6I", data.raw)
    return high_effective << 32 | low_effective, high_permitted << 32 | low_permitted


def _set_capabilities(effective: int, permitted: int) -> None:
    """Both sets; the inheritable one becomes empty."""
    halves = [(effective >> shift & 0xFFFFFFFF, permitted >> shift & 0xFFFFFFFF, 0) for shift in (0, 32)]
    data = struct.pack("=6I", *halves[0], *halves[1])
    call_libc("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)
