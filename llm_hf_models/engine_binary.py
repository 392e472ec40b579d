"""A `llama-server` from PATH in the place of the bindings: runs inside engine_child, which watches over it and ends it.

It is not confined: the layers that confine a process forbid what starting another program needs. Its key goes through
the environment (LLAMA_API_KEY), never argv. Options: llama.cpp's tools/server/README.md.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LOOK_SECONDS = 5.0
PAUSE_SECONDS = 0.05
# Options that came last: a llama-server that knows them knows the others.
NEEDED = ("--kv-unified", "--jinja", "--reasoning-format", "--cache-ram", "--metrics", "--fit")
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
            _template_file(task).write_text(task["chat_template"], encoding="utf-8")
        self._process = subprocess.Popen(
            [task["binary"], *arguments(task)],
            stdin=subprocess.DEVNULL,
            stdout=2,
            stderr=2,
            env={**os.environ, "LLAMA_API_KEY": self._key},
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads yet
        )
        self.listening_address = self._socket
        while self._get("/health")[0] != http.client.OK:
            if self._process.poll() is not None:
                raise RuntimeError(f"llama-server ended with status {self._process.returncode}")
            time.sleep(PAUSE_SECONDS)

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
        super().__init__("engine", timeout=LOOK_SECONDS)
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
    said = subprocess.run([binary, "--help"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    missing = [option for option in NEEDED if option not in said.stdout + said.stderr]
    if missing:
        raise RuntimeError(f"{binary} is too old, or no llama-server: it does not know {', '.join(missing)}")


def has_gpu(binary: str) -> bool:
    """Whether it names a device other than the processor (`--list-devices`: a heading, then one indented line each)."""
    try:
        said = subprocess.run(
            [binary, "--list-devices"], capture_output=True, text=True, check=False, timeout=LOOK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(line.startswith(" ") and line.strip() for line in said.stdout.splitlines())


def arguments(task: dict[str, Any]) -> list[str]:
    """One task as llama-server's options."""
    values = {
        "--model": task["model"],
        "--alias": task["name"],
        "--host": task["socket"],
        "--ctx-size": task["context"],
        "--parallel": task["parallel"],
        "--batch-size": task["batch"],
        "--ubatch-size": task["batch"],
        "--threads": task["threads"],
        "--cache-ram": task["cache_mib"],
        "--threads-http": task["http_threads"],
        "--reasoning-format": "deepseek",
        "--fit": "off",
    }
    if task["gpu_layers"] >= 0:
        values["--gpu-layers"] = task["gpu_layers"]
    if task["mmproj"]:
        values["--mmproj"] = task["mmproj"]
    if task["chat_template"]:
        values["--chat-template-file"] = str(_template_file(task))
    switches = ["--kv-unified", "--jinja", "--metrics", "--slots", "--no-webui", "--offline"]
    if task["embedding"]:
        switches.append("--embeddings")
    return [str(part) for pair in values.items() for part in pair] + switches


def _template_file(task: dict[str, Any]) -> Path:
    """Where it reads a template that is not the header's: a command line can be too short for one."""
    return Path(task["folder"]) / "template.jinja"


def _end_with_parent() -> None:
    """Linux: a kill -9 of engine_child ends this one too."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
