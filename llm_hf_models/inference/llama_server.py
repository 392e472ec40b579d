"""A `llama-server` from PATH in the place of the bindings: runs inside engine_child, which watches over it and ends it.

It is confined in the moment before it takes a forked process's place; engine_confine says which layers survive that.
Its key goes through the environment (LLAMA_API_KEY), never argv. Options: llama.cpp's tools/server/README.md.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llm_hf_models.inference.confinement import confine, inspect_program

REQUEST_TIMEOUT_SECONDS = 5.0
HELP_TIMEOUT_SECONDS = 30.0  # a driver of a GPU may take its time to wake
PAUSE_SECONDS = 0.05
ERROR_VERBOSITY = 1  # --log-verbosity: its last words, when it comes to that

# Options that came last: a llama-server that knows them knows the others.
REQUIRED_OPTIONS = (
    "--kv-unified",
    "--jinja",
    "--reasoning-format",
    "--cache-ram",
    "--metrics",
    "--fit",
    "--log-verbosity",
)

# `  CUDA0: NVIDIA … (24111 MiB, 23000 MiB free)`; `  (none)` where there is none. BLAS computes on the processor.
_GPU_LINE = re.compile(r"^ +(?!BLAS\d*:|CPU\d*:)[^\s:()]+: ", re.MULTILINE)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LlamaServer:
    """One running `llama-server`, with what engine_child needs of the bindings' Server."""

    def __init__(self, task: dict[str, Any]) -> None:
        """Starts it and waits until it has loaded.

        Raises:
            RuntimeError: it is too old, or ended before it was ready; its own words are in the log.
        """
        self._socket, self._key = task["socket"], task["key"]
        check_version(task["binary"])
        if task["chat_template"]:
            _get_template_path(task).write_text(task["chat_template"], encoding="utf-8")
        self.layers, self.missing = self._start(task)
        self.listening_address = self._socket
        while self._get("/health")[0] != http.client.OK:
            if self._process.poll() is not None:
                # Some versions lose their last words on the way out.
                advice = "" if os.fstat(2).st_size else f" and said nothing; try: {task['binary']} -m {task['model']}"
                raise RuntimeError(f"llama-server {_describe_exit(self._process.returncode)}{advice}")
            time.sleep(PAUSE_SECONDS)
        time.sleep(PAUSE_SECONDS)  # it closes its end of what we asked, and open_sockets counts what it listens on

    def _start(self, task: dict[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
        """Forks, confines the fork and has the program take its place. Returns the layers that hold, and the others.

        Raises:
            RuntimeError: it can't be started.
        """
        gpu, program = has_gpu(task["binary"]), inspect_program(Path(task["binary"]))
        reads, writes = os.pipe()

        def last_thing() -> None:
            if sys.platform == "linux":
                _exit_with_parent()
            confined = confine(task, gpu=gpu, program=program)
            os.write(writes, json.dumps([confined.layers, confined.missing]).encode())

        try:
            self._process = subprocess.Popen(
                [task["binary"], *build_arguments(task, gpu=gpu)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                stderr=2,
                env={**os.environ, "LLAMA_API_KEY": self._key},
                preexec_fn=last_thing,  # noqa: PLW1509 - this process has one thread
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(reads)
            raise RuntimeError(f"{task['binary']} can't be started: {error}") from None
        finally:
            os.close(writes)
        with os.fdopen(reads, encoding="utf-8") as said:
            layers, missing = json.load(said)
        return layers, [(layer, why) for layer, why in missing]

    def open_sockets(self) -> int:
        """How many sockets it holds; 0 where the system does not tell (all but Linux)."""
        count = 0
        try:
            for number in os.listdir(f"/proc/{self._process.pid}/fd"):  # noqa: PTH208 - no paths are wanted
                count += stat.S_ISSOCK(os.stat(f"/proc/{self._process.pid}/fd/{number}").st_mode)  # noqa: PTH116
        except OSError:
            return 0
        return count

    def handle_metrics(self) -> str:
        """Its counters, in the bindings' form.

        Raises:
            RuntimeError: it has ended.
        """
        status, text = self._get("/metrics")
        if status != http.client.OK:
            raise RuntimeError(f"llama-server does not answer (status {status})")
        return text

    def _get(self, path: str) -> tuple[int, str]:
        """Status and text of one answer; status 0 where there was none."""
        connection = _UnixConnection(self._socket)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._key}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=REQUEST_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def check_version(binary: str) -> None:
    """Whether it knows every option that we give it.

    Raises:
        RuntimeError: it does not, or can't be run.
    """
    try:
        said = _read_output(binary, "--help")
    except OSError as error:
        raise RuntimeError(f"{binary} can't be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{binary} did not say within {HELP_TIMEOUT_SECONDS:g} s which options it knows") from None
    missing = [option for option in REQUIRED_OPTIONS if option not in said]
    if missing:
        raise RuntimeError(f"{binary} is too old, or no llama-server: it does not know {', '.join(missing)}")


def has_gpu(binary: str) -> bool:
    """Whether it names a device other than the processor (`--list-devices`: a heading, then one indented line each)."""
    try:
        return _GPU_LINE.search(_read_output(binary, "--list-devices")) is not None
    except (OSError, subprocess.TimeoutExpired):
        return False


def _read_output(binary: str, option: str) -> str:
    done = subprocess.run(
        [binary, option],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=HELP_TIMEOUT_SECONDS,
    )
    return done.stdout.decode("utf-8", "replace")


def _describe_exit(status: int) -> str:
    return f"was killed ({signal.strsignal(-status) or -status})" if status < 0 else f"ended with status {status}"


def build_arguments(task: dict[str, Any], *, gpu: bool) -> list[str]:
    """One task as llama-server's options."""
    batch = task["gpu_batch" if gpu else "batch"]
    values = {
        "--model": task["model"],
        "--alias": task["name"],
        "--host": task["socket"],
        "--ctx-size": task["context"],
        "--parallel": task["parallel"],
        "--batch-size": batch,
        "--ubatch-size": batch,
        "--threads": task["threads"],
        "--cache-ram": task["cache_mib"],
        "--threads-http": task["http_threads"],
        "--reasoning-format": "deepseek",
        "--fit": "off",
        "--log-verbosity": ERROR_VERBOSITY,
    }
    if task["gpu_layers"] >= 0:
        values["--gpu-layers"] = task["gpu_layers"]
    if task["mmproj"]:
        values["--mmproj"] = task["mmproj"]
    if task["chat_template"]:
        values["--chat-template-file"] = str(_get_template_path(task))
    switches = ["--kv-unified", "--jinja", "--metrics", "--slots", "--no-webui", "--offline"]
    if task["embedding"]:
        switches.append("--embeddings")
    return [str(part) for pair in values.items() for part in pair] + switches


def _get_template_path(task: dict[str, Any]) -> Path:
    """Where it reads a template that is not the header's: a command line can be too short for one."""
    return Path(task["folder"]) / "template.jinja"


def _exit_with_parent() -> None:
    """Linux: a kill -9 of engine_child ends this one too."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
