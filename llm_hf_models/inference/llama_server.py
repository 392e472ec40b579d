"""Run a `llama-server` from PATH instead of the bindings. engine_child starts, monitors and stops it.

The forked process is confined just before it executes llama-server; `confinement` explains which layers stay active.
The key is passed in the environment (LLAMA_API_KEY), never in argv. Options: llama.cpp's tools/server/README.md.
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
HELP_TIMEOUT_SECONDS = 30.0  # a GPU driver may be slow to start
PAUSE_SECONDS = 0.05
ERROR_VERBOSITY = 1  # --log-verbosity: errors only, for the message if the engine fails

# The newest of the options used: a llama-server that has them also has the others.
REQUIRED_OPTIONS = (
    "--kv-unified",
    "--jinja",
    "--reasoning-format",
    "--cache-ram",
    "--metrics",
    "--fit",
    "--log-verbosity",
)

# `  CUDA0: NVIDIA … (24111 MiB, 23000 MiB free)`, or `  (none)`. BLAS devices compute on the CPU.
_GPU_LINE = re.compile(r"^ +(?!BLAS\d*:|CPU\d*:)[^\s:()]+: ", re.MULTILINE)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LlamaServer:
    """One running `llama-server`, with the part of the bindings' Server interface that engine_child uses."""

    def __init__(self, task: dict[str, Any]) -> None:
        """Start llama-server and wait until it has loaded the model.

        Raises:
            RuntimeError: llama-server is too old, or ended before it was ready. Its errors are in the log.
        """
        self._socket, self._key = task["socket"], task["key"]
        check_required_options(task["binary"])
        if task["chat_template"]:
            _get_template_path(task).write_text(task["chat_template"], encoding="utf-8")
        self.layers, self.missing = self._start(task)
        self.listening_address = self._socket
        while self._get("/health")[0] != http.client.OK:
            if self._process.poll() is not None:
                # Some versions exit before they write their errors.
                hint = "" if os.fstat(2).st_size else f" and logged nothing; try: {task['binary']} -m {task['model']}"
                raise RuntimeError(f"llama-server {_describe_exit(self._process.returncode)}{hint}")
            time.sleep(PAUSE_SECONDS)
        # Let llama-server close the connection of the last request, so that count_open_sockets counts only listeners.
        time.sleep(PAUSE_SECONDS)

    def _start(self, task: dict[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
        """Fork, confine the forked process and execute llama-server in it.

        Returns:
            The active layers, and each missing layer with the reason.

        Raises:
            RuntimeError: llama-server can't be started, or the task requires a layer that is inactive.
        """
        gpu, program = has_gpu(task["binary"]), inspect_program(Path(task["binary"]))
        read_end, write_end = os.pipe()

        def confine_before_exec() -> None:
            if sys.platform == "linux":
                _exit_with_parent()
            try:
                confined = confine(task, gpu=gpu, program=program)
            except RuntimeError as error:
                os.write(write_end, json.dumps({"refused": str(error)}).encode())
                os._exit(1)
            os.write(write_end, json.dumps({"layers": confined.layers, "missing": confined.missing}).encode())

        try:
            self._process = subprocess.Popen(
                [task["binary"], *build_arguments(task, gpu=gpu)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                stderr=2,
                env={**os.environ, "LLAMA_API_KEY": self._key},
                preexec_fn=confine_before_exec,  # noqa: PLW1509 - this process has one thread
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(read_end)
            raise RuntimeError(f"{task['binary']} can't be started: {error}") from None
        finally:
            os.close(write_end)
        with os.fdopen(read_end, encoding="utf-8") as pipe:
            report = json.loads(pipe.read() or '{"refused": "llama-server ended while it was confined"}')
        if "refused" in report:
            raise RuntimeError(report["refused"])
        return report["layers"], report["missing"]

    def count_open_sockets(self) -> int:
        """Return the number of sockets that llama-server holds, or 0 on systems other than Linux."""
        count = 0
        try:
            for number in os.listdir(f"/proc/{self._process.pid}/fd"):  # noqa: PTH208 - no paths are wanted
                count += stat.S_ISSOCK(os.stat(f"/proc/{self._process.pid}/fd/{number}").st_mode)  # noqa: PTH116
        except OSError:
            return 0
        return count

    def handle_metrics(self) -> str:
        """Return llama-server's metrics in the format of the bindings.

        Raises:
            RuntimeError: llama-server does not respond.
        """
        status, text = self._get("/metrics")
        if status != http.client.OK:
            raise RuntimeError(f"llama-server does not respond (status {status})")
        return text

    def _get(self, path: str) -> tuple[int, str]:
        """Return the status and text of a response; status 0 if there is none."""
        connection = _UnixConnection(self._socket)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._key}"})
            response = connection.getresponse()
            return response.status, response.read().decode()
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


def check_required_options(binary: str) -> None:
    """Raise an error if the program lacks an option that the engine needs.

    Raises:
        RuntimeError: The program lacks an option, or can't be run.
    """
    try:
        help_text = _read_output(binary, "--help")
    except OSError as error:
        raise RuntimeError(f"{binary} can't be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{binary} --help timed out after {HELP_TIMEOUT_SECONDS:g} s") from None
    missing = [option for option in REQUIRED_OPTIONS if option not in help_text]
    if missing:
        raise RuntimeError(f"{binary} is too old, or is not a llama-server: it lacks {', '.join(missing)}")


def has_gpu(binary: str) -> bool:
    """Return whether `--list-devices` lists a device other than the CPU: a heading, then one indented line each."""
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
    """Return llama-server's options for one task."""
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
    if task["pooling"]:
        values["--pooling"] = task["pooling"]
    if task["chat_template"]:
        values["--chat-template-file"] = str(_get_template_path(task))
    switches = ["--kv-unified", "--jinja", "--metrics", "--slots", "--no-webui", "--offline"]
    if task["embedding"]:
        switches.append("--embeddings")
    return [str(part) for pair in values.items() for part in pair] + switches


def _get_template_path(task: dict[str, Any]) -> Path:
    """Return the path of the file for a custom chat template, which may be too long for a command line."""
    return Path(task["folder"]) / "template.jinja"


def _exit_with_parent() -> None:
    """On Linux, have the kernel kill this process when engine_child ends, even by kill -9."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
