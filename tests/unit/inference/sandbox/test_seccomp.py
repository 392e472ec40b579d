"""The seccomp filter, run by a small interpreter of its instructions, for other architectures too."""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has layers that a test can try")
if sys.platform == "linux":
    from llm_hf_models.inference.sandbox import seccomp
    from llm_hf_models.inference.sandbox.types import Confinement
X32 = 0x40000000


# The filter itself, run by a small interpreter of its instructions, for other architectures too.


def run_filter(code: bytes, audit: int, number: int, *arguments: int) -> str:
    """Return a filter's result for one call: "allow", "kill" or the name of an error."""
    data = struct.pack("<IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    lines = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    loaded = at = 0
    while True:
        operation, if_true, if_false, value = lines[at]
        at += 1
        if operation == 0x20:
            loaded = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x54:
            loaded &= value
        elif operation == 0x15:
            at += if_true if loaded == value else if_false
        elif operation == 0x25:
            at += if_true if loaded > value else if_false
        elif operation == 0x06:
            named = {0x7FFF0000: "allow", 0x80000000: "kill"}
            return named.get(value) or errno.errorcode[value & 0xFFFF]
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")


MACHINES = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
DANGEROUS = {  # on x86-64 and arm64
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "connect": (42, 203), "sendmsg": (46, 211), "sendmmsg": (307, 269), "socketpair": (53, 199),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "bpf": (321, 280),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "perf_event_open": (298, 241), "init_module": (175, 105), "kexec_load": (246, 104),
    "open_by_handle_at": (304, 265), "setuid": (105, 146), "capset": (126, 91), "memfd_create": (319, 279),
    "shmget": (29, 194), "mknodat": (259, 33), "fchmodat": (268, 53), "fchownat": (260, 54), "truncate": (76, 45),
    "renameat2": (316, 276), "linkat": (265, 37), "symlinkat": (266, 36), "mkdirat": (258, 34), "utimensat": (280, 88),
    "setxattr": (188, 5), "setpriority": (141, 140), "ioprio_set": (251, 30), "move_pages": (279, 239),
    "process_madvise": (440, 440), "personality": (135, 92), "reboot": (169, 142), "mq_open": (240, 180),
}  # fmt: skip


def _build_filter(machine: str, **wanted: Any) -> tuple[bytes, int, int]:
    kind = seccomp.ARCHITECTURES[machine]
    wish = Confinement(write_dirs=[Path("/x")], **{"allow_unix_server": True, **wanted})
    return seccomp.build_program(wish, kind, removes=True), kind.audit, kind.column


@MACHINES
@pytest.mark.parametrize("gpu", [False, True])
def test_filter_refuses_every_dangerous_call(machine: str, gpu: bool) -> None:
    code, audit, column = _build_filter(machine, allow_gpu=gpu)
    for name, numbers in DANGEROUS.items():
        if numbers[column] is not None and not (gpu and name == "memfd_create"):
            assert run_filter(code, audit, numbers[column]) == "EPERM", name


@MACHINES
def test_filter_refuses_newer_calls_and_the_x32_table(machine: str) -> None:
    code, audit, column = _build_filter(machine)
    for number in (seccomp.NEWEST_CALL + 1, X32, X32 + 39, X32 + 520, 2**31, 2**32 - 1):
        assert run_filter(code, audit, number) == "ENOSYS"
    assert run_filter(code, audit, (435, 435)[column]) == "ENOSYS", "clone3: its flags can't be checked"


@MACHINES
def test_filter_kills_calls_with_numbers_of_another_architecture(machine: str) -> None:
    code, audit, _ = _build_filter(machine)
    for other in (0x40000003, 0x40000028, 0xC000003E, 0xC00000B7):  # i386, arm, x86-64, arm64
        assert (run_filter(code, other, 0) == "kill") is (other != audit)


@MACHINES
def test_filter_checks_arguments(machine: str) -> None:
    code, audit, column = _build_filter(machine)
    me, thread = os.getpid(), 0x3D0F00  # the flags of glibc's pthread_create

    def asked(name: str, *arguments: int) -> str:
        numbers = seccomp.list_allowed_calls(Confinement(allow_unix_server=True), removes=False)[name]
        number = numbers[column]
        assert number is not None
        return run_filter(code, audit, number, *arguments)

    assert asked("clone", thread) == "allow"
    assert asked("clone", 0x1200011) == "EPERM"
    assert asked("kill", me, 9) == asked("tgkill", me, me, 6) == "allow"
    assert {asked("kill", pid, 9) for pid in (0, 1, os.getppid(), 2**32 - 1, 2**64 - 1)} == {"EPERM"}
    assert asked("prlimit64", 0) == "allow"
    assert asked("prlimit64", os.getppid()) == "EPERM"
    assert asked("socket", 1, 1 | 0x80000) == "allow"
    assert {asked("socket", *kind) for kind in ((1, 2), (1, 5), (2, 1), (10, 1), (16, 3), (17, 3), (38, 5))} == {
        "EPERM"
    }
    assert asked("sendto", 5, 0, 0, 0, 0) == "allow"
    assert asked("sendto", 5, 0, 0, 0, 1) == asked("sendto", 5, 0, 0, 0, 1 << 32) == "EPERM"
    assert asked("mmap", 0, 1, 3, 0x22) == asked("mmap", 0, 1, 1, 0x01) == "allow"
    assert asked("mmap", 0, 1, 3, 0x21) == "EPERM"
    assert asked("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == "allow"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, 3):
        assert asked("openat", 0, 0, flags) == "EPERM"
    assert asked("ioctl", 0, 0x5401) == "allow"
    assert asked("ioctl", 0, 0x5412) == asked("ioctl", 0, 0x1_0000_5412) == "EPERM"
    assert asked("fcntl", 0, 3) == "allow"
    assert asked("fcntl", 0, 8) == "EPERM"
    assert asked("prctl", 15) == "allow"
    assert asked("prctl", 4) == "EPERM"


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("x86_64", "/usr/include/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_numbers_match_the_kernel_headers(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    text = Path(header).read_text(encoding="ascii")
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", -1))
    wish = Confinement(write_dirs=[Path("/x")], allow_unix_server=True, allow_gpu=True)
    listed = {
        **seccomp.list_allowed_calls(wish, removes=True),
        **DANGEROUS,
        "clone3": (435, 435),
        "openat2": (437, 437),
    }
    column = seccomp.ARCHITECTURES[machine].column
    newer = {"futex_wake", "futex_wait", "futex_requeue"}  # newer than many installed headers
    wrong = {
        name: (numbers[column], known.get(name))
        for name, numbers in listed.items()
        if numbers[column] != known.get(name) and not (name in newer and name not in known)
    }
    assert wrong == {}
