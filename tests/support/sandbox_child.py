"""A child that confines itself and then tries one thing that it should not be able to do. Prints the result to stdout.

Run with a JSON object on stdin; see `main`. It imports everything first, because an ordinary user may not be able to
read root's interpreter.
"""

from __future__ import annotations

import ctypes
import encodings.idna  # noqa: F401 - an ordinary user can't import it later
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_hf_models.inference.sandbox import confine, linux, seccomp
from llm_hf_models.inference.sandbox.types import Confinement

ATTEMPTS: dict[str, Callable[[dict[str, Any]], object]] = {}
STEPS = {
    "rlimits": linux.limit_resources,
    "user-namespace": linux.enter_user_namespace,
    "network-namespace": linux.enter_network_namespace,
    "landlock": linux.restrict_files,
    "seccomp": seccomp.install_filter,
}
NOBODY = 65534
PR_SET_DUMPABLE = 4


def attempt(function: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    ATTEMPTS[function.__name__] = function
    return function


@attempt
def nothing(_task: dict[str, Any]) -> object:
    return "done"


@attempt
def read_a_secret(task: dict[str, Any]) -> object:
    return Path(task["secret"]).read_text(encoding="utf-8")


@attempt
def read_the_model(task: dict[str, Any]) -> object:
    return Path(task["model"]).read_text(encoding="utf-8")


@attempt
def list_the_root(_task: dict[str, Any]) -> object:
    return [str(path) for path in Path("/").iterdir()]


@attempt
def read_the_parents_environment(_task: dict[str, Any]) -> object:
    return len(Path(f"/proc/{os.getppid()}/cmdline").read_bytes())


@attempt
def write_a_file(task: dict[str, Any]) -> object:
    return Path(task["home"], "new").write_text("x", encoding="utf-8")


@attempt
def write_beside_the_socket(task: dict[str, Any]) -> object:
    return Path(task["folder"], "new").write_text("x", encoding="utf-8")


@attempt
def empty_a_file(task: dict[str, Any]) -> object:
    return os.truncate(task["secret"], 0)


@attempt
def empty_a_file_by_opening_it(task: dict[str, Any]) -> object:
    return os.open(task["model"], os.O_RDONLY | os.O_TRUNC)


@attempt
def delete_a_file(task: dict[str, Any]) -> object:
    return Path(task["secret"]).unlink()


@attempt
def rename_a_file(task: dict[str, Any]) -> object:
    return str(Path(task["model"]).rename(task["model"] + ".2"))


@attempt
def open_a_file_to_all(task: dict[str, Any]) -> object:
    return Path(task["model"]).chmod(0o777)


@attempt
def link_a_file(task: dict[str, Any]) -> object:
    return Path(task["folder"], "link").symlink_to("/")


@attempt
def connect_by_tcp(task: dict[str, Any]) -> object:
    return socket.create_connection(("127.0.0.1", task["port"]), timeout=5).getpeername()


@attempt
def listen_on_tcp(_task: dict[str, Any]) -> object:
    return socket.create_server(("127.0.0.1", 0)).getsockname()


@attempt
def send_by_udp(task: dict[str, Any]) -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", task["port"]))


@attempt
def connect_to_a_path_socket(task: dict[str, Any]) -> object:
    return socket.socket(socket.AF_UNIX).connect(task["path_socket"])


@attempt
def connect_to_an_abstract_socket(task: dict[str, Any]) -> object:
    return socket.socket(socket.AF_UNIX).connect("\0" + task["abstract_socket"])


@attempt
def send_to_a_path_socket(task: dict[str, Any]) -> object:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", task["letter_box"])


@attempt
def serve_on_a_path_socket_elsewhere(task: dict[str, Any]) -> object:
    return socket.socket(socket.AF_UNIX).bind(str(Path(task["home"], "new.sock")))


@attempt
def serve_on_a_path_socket_in_its_folder(task: dict[str, Any]) -> object:
    with socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(task["folder"], "new.sock"))
        listener.bind(address)
        listener.listen()
        Path(address).unlink()
    return "done"


@attempt
def run_a_program(_task: dict[str, Any]) -> object:
    os.execv("/bin/true", ["/bin/true"])
    return "never"


@attempt
def fork(_task: dict[str, Any]) -> object:
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)


@attempt
def spawn(_task: dict[str, Any]) -> object:
    return os.posix_spawn("/bin/true", ["/bin/true"], {})


@attempt
def start_threads_without_end(_task: dict[str, Any]) -> object:
    waiting = threading.Event()
    for count in range(6000):
        try:
            threading.Thread(target=waiting.wait, daemon=True).start()
        except RuntimeError:
            raise OSError(errno.EAGAIN, f"{count} threads") from None
    return "all started"


@attempt
def signal_its_parent(_task: dict[str, Any]) -> object:
    return os.kill(os.getppid(), 0)


@attempt
def kill_another_process(task: dict[str, Any]) -> object:
    return os.kill(task["victim"], signal.SIGKILL)


@attempt
def kill_a_thread_of_another_process(task: dict[str, Any]) -> object:
    return _syscall({"x86_64": 234, "aarch64": 131}, task["victim"], task["victim"], signal.SIGKILL)


@attempt
def kill_another_process_by_descriptor(task: dict[str, Any]) -> object:
    return _syscall(dict.fromkeys(("x86_64", "aarch64"), 424), os.pidfd_open(task["victim"]), signal.SIGKILL, None, 0)


@attempt
def have_the_kernel_signal_another_process(task: dict[str, Any]) -> object:
    return fcntl.fcntl(0, fcntl.F_SETOWN, task["victim"])


@attempt
def lower_another_process_limits(task: dict[str, Any]) -> object:
    return resource.prlimit(task["victim"], resource.RLIMIT_CPU, (1, 1))


@attempt
def be_traced(_task: dict[str, Any]) -> object:
    return _syscall({"x86_64": 101, "aarch64": 117}, 0, 0, 0, 0)


@attempt
def make_a_user_namespace(_task: dict[str, Any]) -> object:
    return linux.call_libc("unshare", 0x10000000)


@attempt
def hold_much_memory(_task: dict[str, Any]) -> object:
    try:
        return len(bytearray(600 * 2**20))
    except MemoryError:
        raise OSError(errno.ENOMEM, "no memory") from None


@attempt
def hold_much_memory_in_pieces(_task: dict[str, Any]) -> object:
    try:
        return len([bytearray(2**20) for _ in range(600)])
    except MemoryError:
        raise OSError(errno.ENOMEM, "no memory") from None


@attempt
def hold_shared_memory(_task: dict[str, Any]) -> object:
    return len(mmap.mmap(-1, 2**20))  # Python's mmap makes shared memory from -1


@attempt
def spin_for_ever(_task: dict[str, Any]) -> object:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    while True:
        pass


@attempt
def call_as_a_32_bit_program(_task: dict[str, Any]) -> object:
    """Run `mov eax, 20; int 0x80; ret`: getpid through the other table."""
    code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0b111)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid()


@attempt
def confine_itself_again(task: dict[str, Any]) -> object:
    report = confine.confine(wanted(task))
    return {"layers": report.layers, "missing": dict(report.missing)}


@attempt
def open_a_socket_in_an_older_thread(task: dict[str, Any]) -> object:
    task["go"].set()
    task["thread"].join()
    if isinstance(task["outcome"], OSError):
        raise task["outcome"]
    return "done"


def _syscall(numbers: dict[str, int], *arguments: Any) -> int:
    return linux.call_libc("syscall", numbers[os.uname().machine], *arguments)


def wanted(task: dict[str, Any]) -> Confinement:
    return Confinement(
        read_paths=[Path(task["model"])],
        write_dirs=[Path(task["folder"])],
        max_memory_bytes=512 * 2**20,
        max_cpu_seconds=task.get("cpu_seconds", 60),
        allow_unix_server=task.get("server", True),
    )


def become_ordinary() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    # A program that an ordinary user starts owns its own entry in /proc; one that changed its user does not.
    linux.call_libc("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)


def start_older_thread(task: dict[str, Any]) -> None:
    def work() -> None:
        task["go"].wait()
        try:
            socket.socket(socket.AF_INET).close()
            task["outcome"] = "done"
        except OSError as error:
            task["outcome"] = error

    task["go"], task["thread"] = threading.Event(), threading.Thread(target=work)
    task["thread"].start()


def main() -> None:
    """Read the task. Keys: attempt, ordinary, older_thread, steps ("all", or the layers to try alone), and the
    attempt's own."""
    task = json.load(sys.stdin)
    if task["ordinary"]:
        become_ordinary()
    if task.get("older_thread"):
        start_older_thread(task)
    if task["steps"] == "all":
        report = confine.confine(wanted(task))
    else:
        for name in task["steps"]:
            STEPS[name](wanted(task), ())
        report = confine.ConfinementReport(tuple(task["steps"]))
    output: dict[str, Any] = {
        "layers": report.layers,
        "missing": dict(report.missing),
    }
    os.write(1, json.dumps(output).encode() + b"\n")
    try:
        output["outcome"] = ATTEMPTS[task["attempt"]](task)
    except OSError as error:
        output["refused"] = errno.errorcode[error.errno] if error.errno else str(error)
    os.write(1, json.dumps(output).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
