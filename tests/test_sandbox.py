"""What a confined child can't do, tried for real, as root and as an ordinary user, and beside an unconfined control."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has layers that a test can try")
if sys.platform == "linux":
    from llm_hf_models import sandbox_filter
    from llm_hf_models.sandbox import Confinement, ConfinementReport, Layer
    from tests.support import sandbox_child

ALL = ("rlimits", "user-namespace", "network-namespace", "landlock", "seccomp")
X32 = 0x40000000


@dataclass(frozen=True)
class Outcome:
    """How a child's attempt ended. `status` is the process's: 0, or minus the signal that ended it."""

    report: dict[str, Any]
    said: Any = None
    refused: str | None = None
    status: int = 0


@dataclass
class Scene:
    """What there is to read, to reach and to kill, belonging to the user whom the child runs as."""

    folder: Path
    ordinary: bool
    task: dict[str, Any]

    def attempt(self, name: str, steps: Any = "all", **more: Any) -> Outcome:
        task = {**self.task, "attempt": name, "steps": steps, "ordinary": self.ordinary, **more}
        ran = subprocess.run(
            [sys.executable, sandbox_child.__file__],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        assert ran.stdout, ran.stderr
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        return Outcome(lines[0], lines[-1].get("outcome"), lines[-1].get("refused"), ran.returncode)


@pytest.fixture(params=["as root", "as an ordinary user"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    ordinary = request.param == "as an ordinary user"
    if os.geteuid() != 0 and not ordinary:
        pytest.skip("these tests don't run as root")
    change = ordinary and os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="llm-hf-sandbox-"))  # pytest's own folders are closed to other users
    as_nobody = {"user": sandbox_child.NOBODY, "group": sandbox_child.NOBODY, "extra_groups": []} if change else {}
    victim = subprocess.Popen(["/bin/sleep", "300"], **as_nobody)
    listeners = [
        socket.create_server(("127.0.0.1", 0)),
        _bound(socket.SOCK_STREAM, str(folder / "path.sock")),
        _bound(socket.SOCK_STREAM, f"\0{folder}"),
        _bound(socket.SOCK_DGRAM, str(folder / "letters.sock")),
    ]
    try:
        task = _task(folder, victim.pid, listeners[0].getsockname()[1])
        if change:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, sandbox_child.NOBODY, sandbox_child.NOBODY)
        yield Scene(folder, change, task)
    finally:
        for listener in listeners:
            listener.close()
        victim.kill()
        victim.wait()
        shutil.rmtree(folder)


def _bound(kind: int, address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(address)
    if kind == socket.SOCK_STREAM:
        listener.listen()
    return listener


def _task(folder: Path, victim: int, port: int) -> dict[str, Any]:
    for name in ("secret", "model"):
        (folder / name).write_text(f"the {name}", encoding="utf-8")
        (folder / name).chmod(0o600)
    (folder / "sockets").mkdir(mode=0o700)
    return {
        "home": str(folder),
        "secret": str(folder / "secret"),
        "model": str(folder / "model"),
        "folder": str(folder / "sockets"),
        "path_socket": str(folder / "path.sock"),
        "letter_box": str(folder / "letters.sock"),
        "abstract_socket": str(folder),
        "port": port,
        "victim": victim,
    }


def _need_all_layers(outcome: Outcome) -> None:
    if outcome.report["layers"] != list(ALL):
        pytest.skip(f"this machine lacks {outcome.report['missing']}")


REFUSED = (
    "read_a_secret", "list_the_root", "read_the_parents_environment", "write_a_file", "write_beside_the_socket",
    "empty_a_file", "empty_a_file_by_opening_it", "delete_a_file", "rename_a_file", "open_a_file_to_all", "link_a_file",
    "connect_by_tcp", "listen_on_tcp", "send_by_udp", "connect_to_a_path_socket", "connect_to_an_abstract_socket",
    "send_to_a_path_socket", "serve_on_a_path_socket_elsewhere", "run_a_program", "fork", "spawn", "signal_its_parent",
    "kill_another_process", "kill_a_thread_of_another_process", "kill_another_process_by_descriptor",
    "have_the_kernel_signal_another_process", "lower_another_process_limits", "be_traced", "make_a_user_namespace",
)  # fmt: skip
# An ordinary user's parent is root here, whom it can't signal anyway.
NEEDS_SAME_USER = ("signal_its_parent",)


@pytest.mark.parametrize("name", REFUSED)
def test_a_confined_child_is_refused_what_an_unconfined_one_may_do(scene: Scene, name: str) -> None:
    confined = scene.attempt(name)
    _need_all_layers(confined)
    assert confined.refused in ("EPERM", "EACCES")
    assert confined.status == 0
    if not (scene.ordinary and name in NEEDS_SAME_USER):
        assert scene.attempt(name, steps=[]).refused is None, "the control must succeed, or the attempt proves nothing"


def test_every_layer_holds_and_what_was_granted_still_works(scene: Scene) -> None:
    read = scene.attempt("read_the_model")
    _need_all_layers(read)
    assert read.report == {"layers": list(ALL), "missing": {}, "sandboxed": True}
    assert read.said == "the model"
    assert scene.attempt("serve_on_a_path_socket_in_its_folder").said == "done"


def test_a_child_that_was_not_granted_a_server_makes_no_socket_at_all(scene: Scene) -> None:
    outcome = scene.attempt("serve_on_a_path_socket_in_its_folder", server=False)
    _need_all_layers(outcome)
    assert outcome.refused == "EPERM"


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("landlock", "read_a_secret"),
        ("landlock", "list_the_root"),
        ("landlock", "write_a_file"),
        ("landlock", "delete_a_file"),
        ("landlock", "serve_on_a_path_socket_elsewhere"),
        ("seccomp", "write_a_file"),
        ("seccomp", "delete_a_file"),
        ("seccomp", "connect_by_tcp"),
        ("seccomp", "send_by_udp"),
        ("seccomp", "connect_to_a_path_socket"),
        ("seccomp", "connect_to_an_abstract_socket"),
        ("seccomp", "send_to_a_path_socket"),
        ("seccomp", "run_a_program"),
        ("seccomp", "fork"),
        ("seccomp", "kill_another_process"),
        ("seccomp", "be_traced"),
        ("seccomp", "hold_shared_memory"),
    ],
)
def test_one_layer_alone_holds_what_it_is_for(scene: Scene, layer: str, name: str) -> None:
    assert scene.attempt(name, steps=[layer]).refused in ("EPERM", "EACCES")


def test_a_network_of_its_own_reaches_nobody_here(scene: Scene) -> None:
    outcome = scene.attempt("connect_by_tcp", steps=["user-namespace", "network-namespace"])
    assert outcome.refused in ("ENETUNREACH", "EADDRNOTAVAIL")


@pytest.mark.parametrize("name", ["hold_much_memory", "hold_much_memory_in_pieces"])
def test_memory_ends_at_its_limit(scene: Scene, name: str) -> None:
    assert scene.attempt(name, steps=["rlimits"]).refused == "ENOMEM"
    assert scene.attempt(name, steps=[]).refused is None


def test_memory_that_no_limit_counts_is_refused(scene: Scene) -> None:
    outcome = scene.attempt("hold_shared_memory")
    _need_all_layers(outcome)
    assert outcome.refused == "EPERM"
    assert scene.attempt("hold_shared_memory", steps=["rlimits"]).refused is None


def test_threads_end_at_the_limit_of_memory(scene: Scene) -> None:
    outcome = scene.attempt("start_threads_without_end")
    _need_all_layers(outcome)
    assert outcome.refused == "EAGAIN"


def test_a_child_that_spins_and_ignores_the_first_signal_is_killed(scene: Scene) -> None:
    assert scene.attempt("spin_for_ever", cpu_seconds=1).status == -signal.SIGKILL


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="no other machine has this second table")
def test_a_call_by_the_32_bit_table_ends_the_process(scene: Scene) -> None:
    if scene.attempt("call_as_a_32_bit_program", steps=[]).said is not True:
        pytest.skip("this kernel has no 32-bit table")
    assert scene.attempt("call_as_a_32_bit_program", steps=["seccomp"]).status == -signal.SIGSYS


def test_a_thread_that_was_there_before_is_filtered_too_and_layers_that_it_slips_are_not_claimed(scene: Scene) -> None:
    outcome = scene.attempt("open_a_socket_in_an_older_thread", older_thread=True)
    assert outcome.refused == "EPERM"
    assert outcome.report["layers"] == ["rlimits", "seccomp"]
    assert outcome.report["sandboxed"] is False
    assert all("2 threads" in why for why in outcome.report["missing"].values())
    assert scene.attempt("open_a_socket_in_an_older_thread", steps=[], older_thread=True).said == "done"


def test_what_the_system_refuses_is_reported_and_not_raised(scene: Scene) -> None:
    again = scene.attempt("confine_itself_again")
    _need_all_layers(again)
    assert again.said["layers"] == ["rlimits"]
    assert set(again.said["missing"]) == set(ALL[1:])
    assert all(why for why in again.said["missing"].values())


def test_root_reads_a_model_of_another_user_and_says_what_that_costs(scene: Scene) -> None:
    if scene.ordinary or os.geteuid() != 0:
        pytest.skip("only root reads what belongs to others")
    for path in (scene.folder / "model", scene.folder / "secret"):
        os.chown(path, sandbox_child.NOBODY, sandbox_child.NOBODY)
    outcome = scene.attempt("read_the_model")
    assert outcome.said == "the model"
    assert outcome.report["layers"] == [layer for layer in ALL if layer != "user-namespace"]
    assert "root" in outcome.report["missing"]["user-namespace"]
    assert scene.attempt("read_a_secret").refused == "EACCES"
    assert scene.attempt("make_a_user_namespace").refused == "EPERM"


@pytest.mark.parametrize(
    ("layers", "sandboxed"),
    [
        (ALL, True),
        (("landlock", "seccomp"), True),
        (("seatbelt",), True),
        (("rlimits", "user-namespace", "network-namespace", "seccomp"), False),
        (("rlimits", "user-namespace", "network-namespace", "landlock"), False),
        ((), False),
    ],
)
def test_sandboxed_means_files_and_every_kind_of_socket(layers: tuple[Layer, ...], sandboxed: bool) -> None:
    assert ConfinementReport(layers).sandboxed is sandboxed


# The filter itself, run by an interpreter of the few instructions it is made of: for machines that are not here.


def verdict(code: bytes, audit: int, number: int, *arguments: int) -> str:
    """What a filter answers to one call: "allow", "kill" or the name of an error."""
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


def _program(machine: str, **wanted: Any) -> tuple[bytes, int, int]:
    kind = sandbox_filter.MACHINES[machine]
    wish = Confinement(write_dirs=[Path("/x")], **{"allow_unix_server": True, **wanted})
    return sandbox_filter.program(wish, kind, removes=True), kind.audit, kind.column


@MACHINES
@pytest.mark.parametrize("gpu", [False, True])
def test_the_filter_refuses_every_dangerous_call(machine: str, gpu: bool) -> None:
    code, audit, column = _program(machine, allow_gpu=gpu)
    for name, numbers in DANGEROUS.items():
        if numbers[column] is not None and not (gpu and name == "memfd_create"):
            assert verdict(code, audit, numbers[column]) == "EPERM", name


@MACHINES
def test_the_filter_knows_no_call_younger_than_itself_nor_x32s(machine: str) -> None:
    code, audit, column = _program(machine)
    for number in (sandbox_filter.NEWEST + 1, X32, X32 + 39, X32 + 520, 2**31, 2**32 - 1):
        assert verdict(code, audit, number) == "ENOSYS"
    assert verdict(code, audit, (435, 435)[column]) == "ENOSYS", "clone3: its flags can't be seen"


@MACHINES
def test_the_filter_kills_what_calls_by_another_machines_numbers(machine: str) -> None:
    code, audit, _ = _program(machine)
    for other in (0x40000003, 0x40000028, 0xC000003E, 0xC00000B7):  # i386, arm, x86-64, arm64
        assert (verdict(code, other, 0) == "kill") is (other != audit)


@MACHINES
def test_the_filter_looks_at_arguments(machine: str) -> None:
    code, audit, column = _program(machine)
    me, thread = os.getpid(), 0x3D0F00  # the flags of glibc's pthread_create

    def asked(name: str, *arguments: int) -> str:
        numbers = sandbox_filter.allowed(Confinement(allow_unix_server=True), removes=False)[name]
        number = numbers[column]
        assert number is not None
        return verdict(code, audit, number, *arguments)

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
def test_the_numbers_are_those_of_the_kernels_headers(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    text = Path(header).read_text(encoding="ascii")
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat", -1))
    wish = Confinement(write_dirs=[Path("/x")], allow_unix_server=True, allow_gpu=True)
    listed = {**sandbox_filter.allowed(wish, removes=True), **DANGEROUS, "clone3": (435, 435), "openat2": (437, 437)}
    column = sandbox_filter.MACHINES[machine].column
    newer = {"futex_wake", "futex_wait", "futex_requeue"}  # than many installed headers
    wrong = {
        name: (numbers[column], known.get(name))
        for name, numbers in listed.items()
        if numbers[column] != known.get(name) and not (name in newer and name not in known)
    }
    assert wrong == {}
