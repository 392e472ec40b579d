"""The engine process: loads one model with llama.cpp and serves it on a unix socket until idle for long enough.

From this package it imports only confinement and llama_server. It reads its task from stdin, so that the key does not
appear in argv, and writes one line of JSON to stdout when it is ready. All other communication goes through the socket.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from llm_hf_models.inference.confinement import MAX_OPEN_FILES, confine

# A client that has the address gets this long to send its request, even if keep_alive is 0.
GRACE_SECONDS = 10.0
MAX_PAUSE_SECONDS = 1.0
MIN_PAUSE_SECONDS = 0.05
LINGER_SECONDS = 0.5  # after the last work, so that bytes in transit arrive before the exit
MAX_LOG_BYTES = 256 * 1024


@dataclass
class IdleTimer:
    """Decides when an engine has been idle long enough. All times are arguments, in seconds of a monotonic clock.

    The lease file holds the most recently requested keep_alive. A client writes it before it sends a request.
    """

    keep_alive: float
    idle_since: float  # time of the last request or lease
    lease_mtime_ns: int = 0  # of the most recently read lease
    activity: float = 0.0  # the most recently read counter of completed work
    served: bool = False  # whether a request has arrived since the lease was last written

    def record_lease(self, now: float, lease_mtime_ns: int, keep_alive: float) -> None:
        """Restart the timer if the lease file was written again."""
        if lease_mtime_ns != self.lease_mtime_ns:
            self.lease_mtime_ns, self.keep_alive, self.idle_since, self.served = lease_mtime_ns, keep_alive, now, False

    def record_work(self, now: float, activity: float, *, busy: bool) -> None:
        """Restart the timer if the server is busy or has worked since the last call."""
        if busy or activity != self.activity:
            self.activity, self.idle_since, self.served = activity, now, True

    def get_seconds_left(self, now: float) -> float:
        """Return the seconds until the engine should exit; infinite if it should keep running."""
        if self.keep_alive < 0:
            return float("inf")
        allowed = self.keep_alive if self.served else max(self.keep_alive, GRACE_SECONDS)
        return self.idle_since + allowed - now


def main() -> NoReturn:
    """Read the task, confine this process, load the model, report readiness, serve and exit."""
    task = json.load(sys.stdin)
    report = os.dup(1)
    os.dup2(2, 1)  # llama.cpp's output goes to the log, never into the report
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server, ready = start_server(task)
        listeners = count_open_sockets(server)  # no client is connected yet
    except (ImportError, RuntimeError, OSError, MemoryError) as error:
        shut_down(task)
        # A regular exit: llama.cpp writes the end of its log during teardown.
        sys.exit(str(error) if isinstance(error, RuntimeError) and str(error) else f"{type(error).__name__}: {error}")
    status = 1
    try:
        os.write(report, json.dumps(ready).encode() + b"\n")
        os.close(report)
        serve(server, task, listeners)
        status = 0
    except SystemExit:
        status = 0
    except (RuntimeError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is the log
    finally:
        shut_down(task)
        os._exit(status)  # a regular exit would hang: the server can't be stopped, and its destructors wait for it


def shut_down(task: dict[str, Any]) -> None:
    """Remove the address and terminate the llama-server, if any. It belongs to the process group of this process."""
    remove_address(task)
    if task["binary"] and hasattr(os, "killpg"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)


def start_server(task: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Import the bindings, confine this process and load the model.

    Returns:
        The server, and the report for the parent process.
    """
    if should_use_llama_server(task):
        from llm_hf_models.inference.llama_server import LlamaServer

        started = time.monotonic()
        server: Any = LlamaServer(task)
        layers, missing = server.layers, server.missing
    else:
        import xllamacpp

        confined = confine(task, gpu=has_gpu(xllamacpp))
        layers, missing = confined.layers, confined.missing
        started = time.monotonic()
        server = xllamacpp.Server(build_parameters(xllamacpp, task))
    ready = {
        "address": task["socket"] or server.listening_address,
        "load_seconds": time.monotonic() - started,
        "layers": layers,
        "missing": missing,
        "memory": measure_peak_memory(),
    }
    return server, ready


def should_use_llama_server(task: dict[str, Any]) -> bool:
    """Return whether to run llama-server instead of the bindings.

    It runs if the settings require it, if the bindings are not installed, or if only llama-server can use a GPU.
    """
    if task["engine"] != "auto" or not task["binary"]:
        return bool(task["engine"] == "llama-server")
    try:
        import xllamacpp
    except ImportError:
        return True
    from llm_hf_models.inference import llama_server

    return not has_gpu(xllamacpp) and llama_server.has_gpu(task["binary"])


def has_gpu(xllamacpp: Any) -> bool:  # noqa: ANN401 - the bindings carry no types
    """Return whether the bindings support a GPU of this machine."""
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = {kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU}
    return any(device["type"] in gpus for device in xllamacpp.get_device_info())


def build_parameters(xllamacpp: Any, task: dict[str, Any]) -> Any:  # noqa: ANN401 - the bindings carry no types
    """Return the bindings' parameters for one task."""
    params = xllamacpp.CommonParams()
    params.model.path = task["model"]
    if task["mmproj"]:
        params.mmproj.path = task["mmproj"]
    params.model_alias = {task["name"]}
    params.hostnames = [task["socket"] or "127.0.0.1"]
    params.port = 0
    params.api_keys = [task["key"]]
    params.n_ctx = task["context"]
    params.fit_params = False  # the parent process has estimated the memory and chosen the context
    params.n_parallel = task["parallel"]
    params.kv_unified = True  # each request can use the whole context, not a fixed share
    params.n_batch = params.n_ubatch = task["gpu_batch" if has_gpu(xllamacpp) else "batch"]
    params.n_gpu_layers = task["gpu_layers"]
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = task["threads"]
    params.embedding = task["embedding"]
    if task["pooling"]:
        kinds = xllamacpp.llama_pooling_type
        params.pooling_type = getattr(kinds, f"LLAMA_POOLING_TYPE_{task['pooling'].upper()}")
    params.use_jinja = True
    if task["chat_template"]:
        params.chat_template = task["chat_template"]
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_DEEPSEEK
    params.cache_ram_mib = task["cache_mib"]
    params.n_threads_http = task["http_threads"]
    params.endpoint_metrics = True
    params.ui = False
    params.offline = True
    params.verbosity = 1  # errors only, for the message if the engine fails
    return params


def measure_peak_memory() -> int:
    """Return this process's peak resident memory in bytes, or 0 on Windows."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def serve(server: Any, task: dict[str, Any], listeners: int) -> None:  # noqa: ANN401 - the bindings carry no types
    """Wait until the engine has been idle for long enough. The server handles requests in its own threads.

    Args:
        server: The bindings' Server or a LlamaServer.
        task: The task that was read from stdin.
        listeners: The number of sockets that the server listens on.
    """
    timer = IdleTimer(keep_alive=task["keep_alive"], idle_since=time.monotonic())
    while update_timer(server, timer, task, listeners) and (left := timer.get_seconds_left(time.monotonic())) > 0:
        pause = MIN_PAUSE_SECONDS if timer.keep_alive == 0 else left / 2
        time.sleep(min(MAX_PAUSE_SECONDS, max(MIN_PAUSE_SECONDS, pause)))
    remove_address(task)  # no new client can connect; connected clients are served to the end
    time.sleep(LINGER_SECONDS)
    while count_open_sockets(server) > listeners or read_activity(server)[0]:
        time.sleep(MIN_PAUSE_SECONDS)


def update_timer(server: Any, timer: IdleTimer, task: dict[str, Any], listeners: int) -> bool:  # noqa: ANN401 - the bindings carry no types
    """Record the lease and the server's counters in the timer.

    Returns:
        False if nobody can find or stop this engine: its lease file can't be read, or this package was uninstalled.
    """
    if not Path(__file__).exists():
        return False
    try:
        lease = Path(task["lease"])
        mtime_ns, text = lease.stat().st_mtime_ns, lease.read_text(encoding="ascii")
        timer.record_lease(time.monotonic(), mtime_ns, float(text))
    except (OSError, ValueError):
        return False
    connected = count_open_sockets(server) > listeners  # before read_activity, which opens a socket to llama-server
    working, activity = read_activity(server)
    timer.record_work(time.monotonic(), activity, busy=working or connected)
    truncate_log()
    return True


def read_activity(server: Any) -> tuple[bool, float]:  # noqa: ANN401 - the bindings carry no types
    """Read llama.cpp's metrics.

    Returns:
        Whether requests are in progress or queued, and a counter that grows with all completed work.
    """
    counts: dict[str, float] = {}
    for line in server.handle_metrics().splitlines():
        name, _, value = line.partition(" ")
        if name.startswith("llamacpp:"):
            counts[name.removeprefix("llamacpp:")] = float(value)
    working = counts["requests_processing"] + counts["requests_deferred"] > 0
    return working, counts["n_decode_total"] + counts["prompt_tokens_total"] + counts["tokens_predicted_total"]


def count_open_sockets(server: Any) -> int:  # noqa: ANN401 - the bindings carry no types
    """Return the number of sockets the server holds. A client that reads slowly stays connected after the work is done.

    Windows, and llama-server on macOS, don't report sockets. There only LINGER_SECONDS protects slow clients.
    """
    if hasattr(server, "count_open_sockets"):  # a LlamaServer
        return int(server.count_open_sockets())
    count = 0
    for number in range(3, MAX_OPEN_FILES):
        try:
            count += stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            continue
    return count


def truncate_log() -> None:
    """Empty the log if it is larger than MAX_LOG_BYTES."""
    try:
        if os.fstat(2).st_size > MAX_LOG_BYTES:
            os.ftruncate(2, 0)
    except OSError:
        pass  # stderr is not a file


def remove_address(task: dict[str, Any]) -> None:
    """Remove the socket and the lease, so that no client finds this engine.

    If the sandbox refuses, the next engine that starts removes them.
    """
    for path in (task["socket"], task["lease"]):
        if path:
            try:
                Path(path).unlink(missing_ok=True)
            except OSError:
                continue


if __name__ == "__main__":
    main()
