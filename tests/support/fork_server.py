"""Start `llm` and `llm-hf-mcp` as processes that have imported their modules already.

The imports take each of these processes about a second. `fork_script` returns a command that takes a tenth of that:
forked_script.py passes its arguments, environment, working directory and streams to a server, which has imported the
modules and forks a process that runs the installed script. The command ends as that process does, passes on the signals
that it receives, and ends the process if it is killed.

The forked process has an environment, a memory and streams of its own, as any process. It differs from one that a user
starts in its parent, its session and its command line. Tests of these, of the start of a process and of its CPU time
run the script itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TextIO

SCRIPTS = Path(sysconfig.get_path("scripts"))
CLIENT = Path(__file__).with_name("forked_script.py")
# They read no variable at import that a test sets. (huggingface_hub does, so each process imports it when needed.)
_MODULES = {
    "llm": ("llm.cli", "llm_hf_models.cli.main", "llm_hf_models.service"),
    "llm-hf-mcp": ("llm_hf_mcp.server", "llm_hf_mcp.stdio_transport", "llm_hf_mcp.http_transport"),
}
_READ_AT_START = re.compile(r"PYTHON(?!WARNINGS)[A-Z0-9]+|LANG|LC_[A-Z]+")  # by Python, before it runs any code
_MAX_REQUEST_BYTES = 1 << 20


def _get_fixed(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if _READ_AT_START.fullmatch(name)}


_FIXED = _get_fixed(os.environ)


def fork_script(name: str, *words: str | Path) -> list[str]:
    """Return a command that runs an installed script. The first command of a session starts the server.

    It is the script itself if the test has set a variable that Python reads when it starts, such as PYTHONPATH.
    """
    if not sys.platform.startswith("linux") or _get_fixed(os.environ) != _FIXED:
        return [str(SCRIPTS / name), *map(str, words)]
    return [sys.executable, "-I", "-S", str(CLIENT), _start_server(name), *map(str, words)]


@cache
def _start_server(name: str) -> str:
    """Start a server that ends with this process, and return the path of its socket."""
    from tests.conftest import SESSION_FOLDER  # the server itself needs no pytest

    path = f"{SESSION_FOLDER}/{name}.s"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", name, str(listener.fileno()), str(os.getpid())],
            cwd=Path(__file__).parents[2], env={**environment, "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[listener.fileno()], start_new_session=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return path


def _serve(name: str, listener: socket.socket, parent: int) -> None:
    """Fork a supervisor for each client, until the parent has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes ended supervisors
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    poller.register(os.pidfd_open(parent), select.POLLIN)
    while [listener.fileno()] == [descriptor for descriptor, _ in poller.poll()]:
        connection = listener.accept()[0]
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _supervise(name, connection)
            return
        connection.close()


def _supervise(name: str, connection: socket.socket) -> None:
    """Run the script of one client in another process, forward signals to it, and report its exit code."""
    content, streams, _, _ = socket.recv_fds(connection, _MAX_REQUEST_BYTES, 3)
    while not content.endswith(b"\n"):
        content += connection.recv(_MAX_REQUEST_BYTES)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _run_script(name, streams, **json.loads(content))
        return
    for stream in streams:
        os.close(stream)
    poller, process = select.poll(), os.pidfd_open(pid)
    poller.register(process, select.POLLIN)
    poller.register(connection, select.POLLIN)
    while process not in [descriptor for descriptor, _ in poller.poll()]:
        received = connection.recv(1)
        os.kill(pid, received[0] if received else signal.SIGKILL)
        if not received:
            poller.unregister(connection)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        connection.sendall(str(code).encode())
    finally:
        os._exit(0)


def _run_script(
    name: str, streams: list[int], words: list[str], environment: dict[str, str], folder: str, umask: int
) -> None:
    """Become the process that a client requested."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _open_output(1, "strict")
    sys.stderr = _open_output(2, "backslashreplace")
    changed = _get_fixed(environment).items() ^ _FIXED.items()
    if changed:
        names = ", ".join(sorted(name for name, _ in changed))
        sys.exit(f"Python reads {names} when it starts: run the script itself")
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    os.umask(umask)
    if environment.get("PYTHONWARNINGS"):
        warnings.simplefilter("ignore")
    if "COVERAGE_PROCESS_CONFIG" in environment:
        import coverage

        coverage.process_startup()
    sys.path[0], sys.argv = str(SCRIPTS), [str(SCRIPTS / name), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _open_output(number: int, errors: str) -> TextIO:
    """Open a stream as Python does: the error stream and a terminal are written line by line."""
    return open(number, "w", 1 if number == 2 or os.isatty(number) else -1, errors=errors, closefd=False)


def main() -> None:
    """Import the modules of a script, and serve."""
    name, listener, parent = sys.argv[1:]
    for module in (*_MODULES[name], "coverage"):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that collecting garbage copies no pages in the forked processes
    _serve(name, socket.socket(fileno=int(listener)), int(parent))


if __name__ == "__main__":
    main()
