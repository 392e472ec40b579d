"""The process that imports llama.cpp's bindings and serves one model on a unix socket until idle for long enough.

Stands apart: imports nothing of this package but what confinement needs, reads its whole task from stdin (the key must
not stand in argv), answers one line of JSON on stdout when it is ready, and talks to nobody but through its socket.
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

# A client that was given the address has this long to send its request, even where keep_alive is 0.
GRACE_SECONDS = 10.0
MAX_PAUSE_SECONDS = 1.0
MIN_PAUSE_SECONDS = 0.05
LINGER_SECONDS = 0.5  # between the last work and the exit: bytes on their way arrive
MAX_LOG_BYTES = 256 * 1024


@dataclass
class IdleTimer:
    """Decides when an engine has been idle long enough. Knows no clock: times are given, in seconds.

    The lease file holds the keep_alive that was last asked for; writing it also says "a request is about to come".
    """

    keep_alive: float
    idle_since: float  # of the last sign of life
    lease_mtime_ns: int = 0  # mtime of the lease that was last seen, in nanoseconds
    activity: float = 0.0  # counter of work done that was last seen
    served: bool = False  # whether a request has come since the lease was last written

    def record_lease(self, now: float, lease: int, keep_alive: float) -> None:
        """Takes note of the lease file as it stands."""
        if lease != self.lease_mtime_ns:
            self.lease_mtime_ns, self.keep_alive, self.idle_since, self.served = lease, keep_alive, now, False

    def record_work(self, now: float, activity: float, *, busy: bool) -> None:
        """Takes note of the server's counters."""
        if busy or activity != self.activity:
            self.activity, self.idle_since, self.served = activity, now, True

    def get_seconds_left(self, now: float) -> float:
        """Seconds until it should leave; infinite when it should stay."""
        if self.keep_alive < 0:
            return float("inf")
        patience = self.keep_alive if self.served else max(self.keep_alive, GRACE_SECONDS)
        return self.idle_since + patience - now


def main() -> NoReturn:
    """Reads the task, confines itself, loads, says ready, serves, leaves."""
    task = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # what llama.cpp prints goes to the log, never between our lines
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server, ready = start_server(task)
        doors = count_open_sockets(server)  # those it listens on
    except (ImportError, RuntimeError, OSError, MemoryError) as error:
        shut_down(task)
        # The usual way out: llama.cpp writes the last of its log when it is torn down.
        sys.exit(str(error) if isinstance(error, RuntimeError) and str(error) else f"{type(error).__name__}: {error}")
    status = 1
    try:
        os.write(answer, json.dumps(ready).encode() + b"\n")
        os.close(answer)
        serve(server, task, doors)
        status = 0
    except SystemExit:
        status = 0
    except (RuntimeError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the log
    finally:
        shut_down(task)
        os._exit(status)  # the server can't be stopped, and its destructors wait for it


def shut_down(task: dict[str, Any]) -> None:
    """Takes away the address, and ends the llama-server if there is one: this session is ours."""
    remove_address(task)
    if task["binary"] and hasattr(os, "killpg"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)


def start_server(task: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Imports the bindings, confines this process, loads the model. Returns the server and what to tell the parent."""
    if should_use_binary(task):
        from llm_hf_models.inference.llama_server import LlamaServer

        before = time.monotonic()
        server: Any = LlamaServer(task)
        layers, missing = server.layers, server.missing
    else:
        import xllamacpp

        confined = confine(task, gpu=has_gpu(xllamacpp))
        layers, missing = confined.layers, confined.missing
        before = time.monotonic()
        server = xllamacpp.Server(build_parameters(xllamacpp, task))
    ready = {
        "address": task["socket"] or server.listening_address,
        "load_seconds": time.monotonic() - before,
        "layers": layers,
        "missing": missing,
        "memory": measure_peak_memory(),
    }
    return server, ready


def should_use_binary(task: dict[str, Any]) -> bool:
    """Whether a llama-server takes the bindings' place: asked for, or alone there, or alone with a GPU."""
    if task["engine"] != "auto" or not task["binary"]:
        return bool(task["engine"] == "llama-server")
    try:
        import xllamacpp
    except ImportError:
        return True
    from llm_hf_models.inference import llama_server

    return not has_gpu(xllamacpp) and llama_server.has_gpu(task["binary"])


def has_gpu(xllamacpp: Any) -> bool:  # noqa: ANN401 - the bindings carry no types
    """Whether the bindings were built for a GPU that is there."""
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = {kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU}
    return any(device["type"] in gpus for device in xllamacpp.get_device_info())


def build_parameters(xllamacpp: Any, task: dict[str, Any]) -> Any:  # noqa: ANN401 - the bindings carry no types
    """The bindings' parameters for one task."""
    params = xllamacpp.CommonParams()
    params.model.path = task["model"]
    if task["mmproj"]:
        params.mmproj.path = task["mmproj"]
    params.model_alias = {task["name"]}
    params.hostnames = [task["socket"] or "127.0.0.1"]
    params.port = 0
    params.api_keys = [task["key"]]
    params.n_ctx = task["context"]
    params.fit_params = False  # the parent has weighed it, and said so
    params.n_parallel = task["parallel"]
    params.kv_unified = True  # each request may use the whole context, not a fixed share of it
    params.n_batch = params.n_ubatch = task["gpu_batch" if has_gpu(xllamacpp) else "batch"]
    params.n_gpu_layers = task["gpu_layers"]
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = task["threads"]
    params.embedding = task["embedding"]
    params.use_jinja = True
    if task["chat_template"]:
        params.chat_template = task["chat_template"]
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_DEEPSEEK
    params.cache_ram_mib = task["cache_mib"]
    params.n_threads_http = task["http_threads"]
    params.endpoint_metrics = True
    params.ui = False
    params.offline = True
    params.verbosity = 1  # errors: its last words, when it comes to that
    return params


def measure_peak_memory() -> int:
    """The most memory this process has held, in bytes; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def serve(server: Any, task: dict[str, Any], doors: int) -> None:  # noqa: ANN401 - the bindings carry no types
    """Stays until idle for long enough; the server answers in threads of its own. `doors`: sockets it listens on."""
    watch = IdleTimer(keep_alive=task["keep_alive"], idle_since=time.monotonic())
    while update_timer(server, watch, task, doors) and (left := watch.get_seconds_left(time.monotonic())) > 0:
        pause = MIN_PAUSE_SECONDS if watch.keep_alive == 0 else left / 2
        time.sleep(min(MAX_PAUSE_SECONDS, max(MIN_PAUSE_SECONDS, pause)))
    remove_address(task)  # nobody new comes in; whoever got in before is served to the end
    time.sleep(LINGER_SECONDS)
    while count_open_sockets(server) > doors or read_activity(server)[0]:
        time.sleep(MIN_PAUSE_SECONDS)


def update_timer(server: Any, watch: IdleTimer, task: dict[str, Any], doors: int) -> bool:  # noqa: ANN401 - the bindings carry no types
    """One look at the lease and the counters. False when the lease is gone: nobody can find this engine any more."""
    try:
        lease = Path(task["lease"])
        stamp, text = lease.stat().st_mtime_ns, lease.read_text(encoding="ascii")
        watch.record_lease(time.monotonic(), stamp, float(text))
    except (OSError, ValueError):
        return False
    talking = count_open_sockets(server) > doors  # before a llama-server is asked, which opens one
    working, activity = read_activity(server)
    watch.record_work(time.monotonic(), activity, busy=working or talking)
    truncate_log()
    return True


def read_activity(server: Any) -> tuple[bool, float]:  # noqa: ANN401 - the bindings carry no types
    """Whether requests are worked on or wait, and a counter that grows with all work (llama.cpp's own metrics)."""
    counts: dict[str, float] = {}
    for line in server.handle_metrics().splitlines():
        name, _, value = line.partition(" ")
        if name.startswith("llamacpp:"):
            counts[name.removeprefix("llamacpp:")] = float(value)
    working = counts["requests_processing"] + counts["requests_deferred"] > 0
    return working, counts["n_decode_total"] + counts["prompt_tokens_total"] + counts["tokens_predicted_total"]


def count_open_sockets(server: Any) -> int:  # noqa: ANN401 - the bindings carry no types
    """How many sockets the server holds: a client that reads slowly is still there when the work is done.

    (Not so on Windows, nor for a llama-server on macOS: there, lingering must do.)
    """
    if hasattr(server, "open_sockets"):  # a llama-server
        return int(server.open_sockets())
    count = 0
    for number in range(3, MAX_OPEN_FILES):
        try:
            count += stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            continue
    return count


def truncate_log() -> None:
    """Empties the log when it has grown too long."""
    try:
        if os.fstat(2).st_size > MAX_LOG_BYTES:
            os.ftruncate(2, 0)
    except OSError:
        pass  # not a file: nothing to shorten


def remove_address(task: dict[str, Any]) -> None:
    """Takes away what clients find this engine by; what the sandbox doesn't let go, the parent sweeps."""
    for path in (task["socket"], task["lease"]):
        if path:
            try:
                Path(path).unlink(missing_ok=True)
            except OSError:
                continue


if __name__ == "__main__":
    main()
