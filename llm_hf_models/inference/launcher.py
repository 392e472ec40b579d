"""Starts one engine process and waits until it serves, or says why not. Finds and shares nothing (inference/engine.py
does).
"""

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

from llm_hf_models.errors import EngineStartError
from llm_hf_models.inference.engine_folder import EngineFolder
from llm_hf_models.system.text import clean_text

KILL_SECONDS = 5.0

# llama.cpp's threads meet hundreds of times for each token. Those that wait by spinning starve each other when another
# process wants a core, those that sleep at once are slow alone: libgomp's spins before sleep (benchmarks/threads.py).
SPIN_COUNT = "2000"

# What an engine may need of our environment. Tokens and other programs' secrets are not among it.
_ENVIRONMENT = {
    "PATH", "HOME", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "SYSTEMDRIVE", "USERPROFILE", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LD_PRELOAD", "APPDATA", "LOCALAPPDATA",
}  # fmt: skip

_ENVIRONMENT_PREFIXES = (
    "PYTHON", "LC_", "CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "VK_", "GGML_", "OMP_", "GOMP_", "COVERAGE_",
)  # fmt: skip


@dataclass(frozen=True)
class StartedEngine:
    """What a new engine said of itself. Memory in bytes."""

    pid: int
    address: str
    load_seconds: float
    memory: int
    layers: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]  # layers that don't hold, each with the reason


def build_child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that an engine is given."""
    kept = {k: v for k, v in environment.items() if k.upper() in _ENVIRONMENT or k.startswith(_ENVIRONMENT_PREFIXES)}
    return {"GOMP_SPINCOUNT": SPIN_COUNT, **kept}


def start_child(module: str, place: EngineFolder) -> subprocess.Popen[bytes]:
    """Starts one of our modules as a process that hears and speaks through pipes.

    Args:
        module: its bare name.
        place: its folder; the working directory too, so that nothing where the user stands is imported.
    """
    with place.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"llm_hf_models.inference.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=place.path,
            env=build_child_environment(os.environ),
            start_new_session=True,  # Ctrl-C in the terminal that started it is not meant for it
            creationflags=getattr(subprocess, "DETACHED_PROCESS", 0)
            | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def start_engine(task: Mapping[str, Any], place: EngineFolder, *, seconds: float) -> StartedEngine:
    """Starts the process for one task and waits until it serves.

    Args:
        task: as engine_child reads it.
        place: its folder.
        seconds: how long it may take.

    Raises:
        EngineStartError: it ended, or took too long; the cause holds its own last words.
    """
    process = start_child("engine_child", place)
    began = time.monotonic()
    try:
        ready = _wait_until_ready(process, json.dumps(task).encode(), seconds)
    except BaseException:
        _kill(process)
        process.wait()
        raise
    if ready is None:
        raise _build_start_error(process, place, f"{seconds:g} s" if time.monotonic() - began >= seconds else None)
    # Somebody must take its exit status, or it stays a zombie for as long as we live.
    threading.Thread(target=process.wait, daemon=True, name=f"engine-{process.pid}").start()
    return StartedEngine(
        pid=process.pid,
        address=ready["address"],
        load_seconds=ready["load_seconds"],
        memory=ready["memory"],
        layers=tuple(ready["layers"]),
        missing=tuple((layer, why) for layer, why in ready["missing"]),
    )


def _wait_until_ready(process: subprocess.Popen[bytes], task: bytes, seconds: float) -> dict[str, Any] | None:
    """Hands the task over and reads the one line that comes back; None when none came in time."""
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
    """Ends it and what it started (a llama-server): they are a session of their own."""
    if sys.platform == "win32":
        process.kill()
    elif process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _build_start_error(process: subprocess.Popen[bytes], place: EngineFolder, too_long: str | None) -> EngineStartError:
    """The error for a process that ended before it was ready. `too_long`: how long it was given, if it took longer."""
    try:
        code = process.wait(timeout=KILL_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        code = process.wait()
    words = place.read_log_errors()
    if too_long:
        why = f"It took longer than {too_long} and was ended."
    elif code == -getattr(signal, "SIGKILL", 9):
        why = "It was killed, as happens when memory runs out."
    elif code < 0:
        why = f"It crashed ({clean_text(signal.strsignal(-code) or str(-code))})."
    else:
        why = "" if words else f"It ended with status {code} and said nothing."
    return EngineStartError("The engine did not start", cause="\n".join(part for part in (why, words) if part))
