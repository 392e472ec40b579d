"""Ask llama.cpp about GGUF files, in a process of its own: with a hostile file it may abort or never end.

As a program it reads paths from standard input, one per line, and answers each with `accepts`, `accepts the header` (as
loading a model reads it, without the data), `refuses` or the signal that ended it; every file is read in a fork. As a
module it starts that program.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SECONDS = 10
MEMORY_BYTES = 4 * 1024**3


class InitParams(ctypes.Structure):
    """`struct gguf_init_params` of ggml/include/gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


def read_all(paths: Sequence[Path]) -> list[str]:
    """Return the verdict of llama.cpp's reader on each file: `accepts`, `accepts the header`, `refuses`, or `killed by
    SIGABRT`."""
    lines = "".join(f"{path}\n" for path in paths)
    done = subprocess.run(
        [sys.executable, __file__],
        input=lines,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # otherwise an abort starts a debugger
    )
    return done.stdout.splitlines()


def engine() -> ctypes.CDLL:
    """Return llama.cpp from the engine's package, with its log silenced."""
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None
    assert spec.origin is not None
    library = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]
    library.gguf_init_from_file.restype = ctypes.c_void_p
    return library


def _reads(library: ctypes.CDLL, path: str) -> int:
    context = ctypes.c_void_p()
    for code, no_alloc in ((0, False), (2, True)):
        if library.gguf_init_from_file(path.encode(), InitParams(no_alloc, ctypes.pointer(context))):
            return code
    return 1


def _verdict(library: ctypes.CDLL, path: str) -> str:
    import resource
    import signal

    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os._exit(_reads(library, path))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {0: "accepts", 2: "accepts the header", 1: "refuses"}.get(code) or f"killed by {signal.Signals(-code).name}"


if __name__ == "__main__":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # ggml prints its messages about each file to standard error
    library = engine()
    for line in sys.stdin:
        print(_verdict(library, line.rstrip("\n")), flush=True)  # noqa: T201
