"""Start one engine process and wait until it is ready or has failed. `engine` finds and shares engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_hf_models.errors import EngineResourceError, EngineStartError
from llm_hf_models.inference.engine_folder import EngineFolder
from llm_hf_models.system.private_files import PRIVATE_UMASK, append_to_private_file
from llm_hf_models.system.processes import wait_in_background
from llm_hf_models.system.text import clean_text

KILL_SECONDS = 5.0

# libgomp's number of spins before a waiting thread sleeps. llama.cpp's threads synchronize hundreds of times per token.
# Threads that only spin slow each other down when another process needs a core. Threads that sleep at once are slow
# even on an idle machine. Measured with benchmarks/threads.py.
SPIN_COUNT = "2000"

# Environment variables that an engine may need. Tokens and other programs' secrets are not passed on.
_ENVIRONMENT = {
    "PATH", "HOME", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "SYSTEMDRIVE", "USERPROFILE", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LD_PRELOAD", "APPDATA", "LOCALAPPDATA",
}  # fmt: skip

_ENVIRONMENT_PREFIXES = (
    "PYTHON", "LC_", "CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "VK_", "GGML_", "OMP_", "GOMP_", "COVERAGE_",
)  # fmt: skip


_OUT_OF_MEMORY_MESSAGES = (
    "bad_alloc", "failed to allocate", "unable to allocate", "cannot allocate", "out of memory",
    "resource temporarily unavailable",  # no memory for a thread's stack
)  # fmt: skip


@dataclass(frozen=True)
class StartedEngine:
    """The report of an engine that is ready. Memory is in bytes."""

    process: subprocess.Popen[bytes]
    address: str
    load_seconds: float
    memory: int
    layers: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]  # inactive layers, each with the reason

    def kill(self) -> None:
        """Kill the engine, and its llama-server, if any."""
        _kill(self.process)


def build_child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables to pass to an engine."""
    passed = {k: v for k, v in environment.items() if k.upper() in _ENVIRONMENT or k.startswith(_ENVIRONMENT_PREFIXES)}
    return {"GOMP_SPINCOUNT": SPIN_COUNT, **passed}


def start_child(module: str, folder: EngineFolder) -> subprocess.Popen[bytes]:
    """Start a module of this package as a process with pipes for stdin and stdout.

    Args:
        module: The module's name without its package.
        folder: The folder for its log. It is also the working directory, so that the process imports nothing from the
            user's current directory.
    """
    with append_to_private_file(folder.log) as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"llm_hf_models.inference.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder.path,
            umask=PRIVATE_UMASK,
            env=build_child_environment(os.environ),
            start_new_session=True,  # Ctrl-C in the terminal must not reach it
            creationflags=getattr(subprocess, "DETACHED_PROCESS", 0)
            | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def start_engine(task: Mapping[str, Any], folder: EngineFolder, *, seconds: float) -> StartedEngine:
    """Start the process for one task and wait until it is ready.

    Args:
        task: The task that engine_child reads from stdin, without the paths in its folder.
        folder: The engine's folder, with its lease.
        seconds: Time limit for starting.

    Raises:
        EngineResourceError: The process exceeded the time limit, was killed, or ran out of memory.
        EngineStartError: The process ended or exceeded the time limit; the cause holds the errors from its log.
    """
    paths = {
        "folder": str(folder.path),
        "socket": str(folder.socket) if sys.platform != "win32" else None,
        "lease": str(folder.lease),
    }
    process = start_child("engine_child", folder)
    started = time.monotonic()
    try:
        ready = _wait_until_ready(process, json.dumps({**task, **paths}).encode(), seconds)
    except BaseException:
        _kill(process)
        process.wait()
        raise
    if ready is None:
        raise _build_start_error(process, folder, f"{seconds:g} s" if time.monotonic() - started >= seconds else None)
    wait_in_background(process)
    return StartedEngine(
        process=process,
        address=ready["address"],
        load_seconds=ready["load_seconds"],
        memory=ready["memory"],
        layers=tuple(ready["layers"]),
        missing=tuple((layer, reason) for layer, reason in ready["missing"]),
    )


def _wait_until_ready(process: subprocess.Popen[bytes], task: bytes, seconds: float) -> dict[str, Any] | None:
    """Send the task and return the process's report, or None if the process ended without one or timed out."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    timer = threading.Timer(seconds, _kill, [process])
    timer.daemon = True
    timer.start()
    try:
        with process.stdin as stdin, process.stdout as stdout:
            stdin.write(task)
            stdin.close()
            line = stdout.readline()
    except BrokenPipeError:
        return None
    finally:
        timer.cancel()
    return json.loads(line) if line.endswith(b"\n") else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its llama-server, if any. Both are in the process's own session."""
    if sys.platform == "win32":
        process.kill()
    elif process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended, or has no session of its own yet
            process.kill()


def _build_start_error(
    process: subprocess.Popen[bytes], folder: EngineFolder, time_limit: str | None
) -> EngineStartError:
    """Return the error for a process that ended before it was ready. `time_limit` is set if it was exceeded."""
    try:
        code = process.wait(timeout=KILL_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        code = process.wait()
    log_errors = folder.read_log_errors()
    killed = code == -getattr(signal, "SIGKILL", 9)
    if time_limit:
        reason = f"It took longer than {time_limit} and was stopped."
    elif killed:
        reason = "It was killed, possibly because memory ran out."
    elif code < 0:
        reason = f"It crashed ({clean_text(signal.strsignal(-code) or str(-code))})."
    else:
        reason = "" if log_errors else f"It exited with status {code} and logged nothing."
    error_class = EngineResourceError if time_limit or killed or is_out_of_memory(log_errors) else EngineStartError
    return error_class("The engine did not start", cause="\n".join(part for part in (reason, log_errors) if part))


def is_out_of_memory(log: str) -> bool:
    """Return whether a process's log says that memory ran out."""
    return any(text in log.lower() for text in _OUT_OF_MEMORY_MESSAGES)
