"""Linux's system call filter: compile the list of calls that llama.cpp and Python need to a seccomp-BPF program.

Calls that are not listed fail with EPERM, such as fork, exec, ptrace, connect, mount, bpf, io_uring, keyctl and
userfaultfd. Calls that are newer than the list fail with ENOSYS. The arguments of some listed calls are checked too. A
filter sees only the numbers, never the memory that a pointer refers to.

Formats: seccomp(2), linux/seccomp.h, linux/bpf_common.h. Numbers: asm/unistd_64.h (x86-64) and asm-generic/unistd.h
(arm64).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_hf_models.inference.sandbox.linux import call_libc
from llm_hf_models.inference.sandbox.types import Confinement, Layer, LayerError

NEWEST_CALL = 469  # calls with higher numbers are newer than this list, or x32's, which start at 2^30
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_SET_MODE_FILTER, _TSYNC = 1, 1
_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True)
class CpuArchitecture:
    """The values that differ between architectures."""

    audit: int  # AUDIT_ARCH_*
    column: int  # index of the numbers in the tables of calls
    seccomp: int  # number of the call seccomp(2)


ARCHITECTURES = {"x86_64": CpuArchitecture(0xC000003E, 0, 317), "aarch64": CpuArchitecture(0xC00000B7, 1, 277)}

# name -> numbers on x86-64 and arm64; None if the architecture has no such call.
_BASE_CALLS: dict[str, tuple[int | None, int | None]] = {
    # threads and locks, the most frequent first: a kernel that does not cache results reads the list from the top
    "futex": (202, 98), "sched_yield": (24, 124), "read": (0, 63), "write": (1, 64), "poll": (7, None),
    "ppoll": (271, 73), "clone": (56, 220), "set_robust_list": (273, 99), "get_robust_list": (274, 100),
    "rseq": (334, 293), "set_tid_address": (218, 96), "gettid": (186, 178), "getpid": (39, 172), "getppid": (110, 173),
    "getcpu": (309, 168), "arch_prctl": (158, None), "exit": (60, 93), "exit_group": (231, 94),
    "restart_syscall": (219, 128), "futex_waitv": (449, 449), "futex_wake": (454, 454), "futex_wait": (455, 455),
    "futex_requeue": (456, 456), "sched_getaffinity": (204, 123), "sched_setaffinity": (203, 122),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_setscheduler": (144, 119),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "membarrier": (324, 283),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233),
    "brk": (12, 214), "mincore": (27, 232), "msync": (26, 227), "mlock": (149, 228), "munlock": (150, 229),
    "mlock2": (325, 284), "mbind": (237, 235), "set_mempolicy": (238, 237), "get_mempolicy": (239, 236),
    # open files, and opening files that Landlock allows
    "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68), "preadv": (295, 69),
    "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "fcntl": (72, 25), "ioctl": (16, 29), "ftruncate": (77, 46),
    "fsync": (74, 82), "fadvise64": (221, 223), "open": (2, None), "openat": (257, 56), "fstat": (5, 80),
    "stat": (4, None),
    "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None),
    "getdents64": (217, 61), "getcwd": (79, 17), "statfs": (137, 43), "fstatfs": (138, 44), "select": (23, None),
    "pselect6": (270, 72), "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "eventfd": (284, None),
    "eventfd2": (290, 19), "pipe": (22, None), "pipe2": (293, 59),
    # time
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "pause": (34, None),
    # signals
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "tgkill": (234, 131),
    "kill": (62, 129),
    # information about the process and the system
    "uname": (63, 160), "sysinfo": (99, 179), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "getrlimit": (97, 163),
    "prlimit64": (302, 261), "getrandom": (318, 278), "getpriority": (140, 141), "capget": (125, 90),
    "prctl": (157, 167),
}  # fmt: skip

_SERVER_CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "getsockname": (51, 204), "getpeername": (52, 205), "getsockopt": (55, 209), "setsockopt": (54, 208),
    "shutdown": (48, 210), "recvfrom": (45, 207), "recvmsg": (47, 212), "sendto": (44, 206),
}  # fmt: skip
_REMOVE_CALLS: dict[str, tuple[int | None, int | None]] = {"unlink": (87, None), "unlinkat": (263, 35)}
_EXEC_CALLS: dict[str, tuple[int | None, int | None]] = {"execve": (59, 221)}  # of files that Landlock allows

_GPU_CALLS: dict[str, tuple[int | None, int | None]] = {  # additional calls of GPU drivers; not tested
    "memfd_create": (319, 279), "mlockall": (151, 230), "sched_getattr": (315, 275), "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "kcmp": (312, 272), "umask": (95, 166), "flock": (73, 32),
}  # fmt: skip

# Their flags are in memory, which a filter can't read. ENOSYS makes the C library use an older call instead.
_UNIMPLEMENTED_CALLS: dict[str, tuple[int | None, int | None]] = {"clone3": (435, 435), "openat2": (437, 437)}
_CLONE_THREAD = 0x00010000
_SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS
_WRITE_FLAGS = 0o3 | os.O_CREAT | os.O_TRUNC  # O_ACCMODE: anything but O_RDONLY
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE = 1, 1, 0xF

# FIONCLEX, FIOCLEX, FIONBIO, FIONREAD, TCGETS, TIOCGWINSZ, TCGETS2
_IOCTLS = (0x5450, 0x5451, 0x5421, 0x541B, 0x5401, 0x5413, 0x802C542A)

# TIOCSTI, TIOCLINUX type into the terminal; FIOSETOWN, SIOCSPGRP make the kernel send signals to other processes
_BAD_IOCTLS = (0x5412, 0x541C, 0x8901, 0x8902)
_BAD_FCNTLS = (8, 15, 10, 1024, 1026)  # F_SETOWN, F_SETOWN_EX, F_SETSIG (also signals); F_SETLEASE, F_NOTIFY

# PR_{SET,GET}_NAME, _GET_DUMPABLE, _GET_SECCOMP, _CAPBSET_READ, _SET_TIMERSLACK, _GET_NO_NEW_PRIVS, _SET_VMA
_PRCTLS = (15, 16, 3, 21, 23, 29, 39, 0x53564D41)


@dataclass(frozen=True)
class ArgumentCheck:
    """A check of one argument: `argument & mask` must be one of `values`, or none of them if `deny` is set.

    It compares the lower 32 bits, which is all that the kernel reads of an int; with `upper`, the other 32 bits.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    deny: bool = False
    upper: bool = False

    def build_instructions(self) -> list[bytes]:
        """Return instructions that continue if the argument passes, and otherwise return EPERM."""
        code = [_encode_instruction(_LOAD, _ARGUMENTS + 8 * self.argument + 4 * self.upper)]
        if self.mask != 0xFFFFFFFF:  # noqa: PLR2004 - all bits
            code.append(_encode_instruction(_AND, self.mask))
        refusal = _return_errno(errno.EPERM)
        if self.deny:
            return code + [
                line for value in self.values for line in (_encode_instruction(_EQUAL, value, 0, 1), refusal)
            ]
        left = len(self.values)
        return [
            *code,
            *(_encode_instruction(_EQUAL, value, left - at) for at, value in enumerate(self.values)),
            refusal,
        ]


def install_filter(allowed: Confinement, active: Sequence[Layer]) -> None:
    """Install the filter on all threads of this process.

    Raises:
        LayerError: The tables of calls don't include this architecture.
        OSError: The kernel refuses the filter.
    """
    architecture = ARCHITECTURES.get(os.uname().machine)
    if architecture is None or struct.calcsize("P") != 8 or sys.byteorder != "little":  # noqa: PLR2004 - a 64-bit Python
        raise LayerError(f"there is no list of system calls for {os.uname().machine}")
    code = ctypes.create_string_buffer(build_program(allowed, architecture, removes="landlock" in active))
    instructions = (len(code) - 1) // 8  # the buffer ends with a zero byte
    header = struct.pack("@HP", instructions, ctypes.addressof(code))
    call_libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    thread = call_libc("syscall", architecture.seccomp, _SET_MODE_FILTER, _TSYNC, header)
    if thread:
        raise LayerError(f"the filter could not be installed on thread {thread}")


def build_program(allowed: Confinement, architecture: CpuArchitecture, *, removes: bool) -> bytes:
    """Return the filter's instructions, 8 bytes each.

    Args:
        allowed: The access that the process keeps in addition to the base calls.
        architecture: The architecture whose numbers to use.
        removes: Whether to allow unlink. Only Landlock restricts it to `write_dirs`.
    """
    lines = [
        _encode_instruction(_LOAD, _ARCHITECTURE),
        _encode_instruction(_EQUAL, architecture.audit, 1),
        _encode_instruction(_RETURN, _KILL_PROCESS),  # 32-bit calls, which no regular 64-bit process makes
        _encode_instruction(_LOAD, _NUMBER),
        _encode_instruction(_GREATER, NEWEST_CALL, 0, 1),
        _return_errno(errno.ENOSYS),
    ]
    checks = _build_argument_checks(allowed)
    for name, numbers in list_allowed_calls(allowed, removes=removes).items():
        lines += _match_call(
            numbers[architecture.column], [*_flatten(checks.get(name, ())), _encode_instruction(_RETURN, _ALLOW)]
        )
    for numbers in _UNIMPLEMENTED_CALLS.values():
        lines += _match_call(numbers[architecture.column], [_return_errno(errno.ENOSYS)])
    return b"".join([*lines, _return_errno(errno.EPERM)])


def list_allowed_calls(allowed: Confinement, *, removes: bool) -> Mapping[str, tuple[int | None, int | None]]:
    """Return the allowed calls, including those with argument checks, and their numbers on x86-64 and arm64."""
    return {
        **_BASE_CALLS,
        **(_SERVER_CALLS if allowed.allow_unix_server else {}),
        **(_REMOVE_CALLS if removes and allowed.write_dirs else {}),
        **(_EXEC_CALLS if allowed.exec_paths else {}),
        **(_GPU_CALLS if allowed.allow_gpu else {}),
    }


def _build_argument_checks(allowed: Confinement) -> dict[str, tuple[ArgumentCheck, ...]]:
    """Return the argument checks by call.

    `sched_setaffinity` is not checked, because thread pools set the affinity of their threads.
    """
    me = os.getpid()
    common = {
        "clone": (ArgumentCheck(0, (0,), mask=_CLONE_THREAD, deny=True),),  # a thread, never a process
        "kill": (ArgumentCheck(0, (me,)),),
        "tgkill": (ArgumentCheck(0, (me,)),),
        "prlimit64": (ArgumentCheck(0, (0, me)),),
        "sched_setscheduler": (ArgumentCheck(0, (0,)),),
        "fcntl": (ArgumentCheck(1, _BAD_FCNTLS, deny=True),),
        "prctl": (ArgumentCheck(0, _PRCTLS),),
        "socket": (ArgumentCheck(0, (_AF_UNIX,)), ArgumentCheck(1, (_SOCK_STREAM,), mask=_SOCK_TYPE)),
        "sendto": (ArgumentCheck(4, (0,)), ArgumentCheck(4, (0,), upper=True)),  # no destination address
    }
    if allowed.allow_gpu:  # drivers open devices for writing and use their own ioctls
        return {**common, "ioctl": (ArgumentCheck(1, _BAD_IOCTLS, deny=True),)}
    return {
        **common,
        "ioctl": (ArgumentCheck(1, _IOCTLS),),
        "mmap": (
            ArgumentCheck(3, (_SHARED_ANONYMOUS,), mask=_SHARED_ANONYMOUS, deny=True),
        ),  # not counted by any resource limit
        "open": (ArgumentCheck(1, (0,), mask=_WRITE_FLAGS),),
        "openat": (ArgumentCheck(2, (0,), mask=_WRITE_FLAGS),),
    }


def _flatten(checks: Sequence[ArgumentCheck]) -> list[bytes]:
    return [line for check in checks for line in check.build_instructions()]


def _match_call(number: int | None, body: list[bytes]) -> list[bytes]:
    """Return instructions that run `body` for one call and skip it for others.

    The call's number must already be loaded. `body` always returns, so it may load other values.
    """
    return [] if number is None else [_encode_instruction(_EQUAL, number, 0, len(body)), *body]


def _encode_instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _return_errno(number: int) -> bytes:
    return _encode_instruction(_RETURN, _ERRNO | number)
