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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# A client that was given the address has this long to send its request, even where keep_alive is 0.
GRACE_SECONDS = 10.0
MAX_PAUSE_SECONDS = 1.0
MIN_PAUSE_SECONDS = 0.05
LINGER_SECONDS = 0.5  # between the last work and the exit: bytes on their way arrive
MAX_OPEN_FILES = 256
GPU_BATCH = 512  # tokens; a GPU reads so many at once, and soon enough
MAX_LOG_BYTES = 256 * 1024


@dataclass
class Watch:
    """Decides when an engine has been idle long enough. Knows no clock: times are given, in seconds.

    The lease file holds the keep_alive that was last asked for; writing it also says "a request is about to come".
    """

    keep_alive: float
    since: float  # of the last sign of life
    lease: int = 0  # mtime of the lease that was last seen, in nanoseconds
    activity: float = 0.0  # counter of work done that was last seen
    served: bool = False  # whether a request has come since the lease was last written

    def leased(self, now: float, lease: int, keep_alive: float) -> None:
        """Takes note of the lease file as it stands."""
        if lease != self.lease:
            self.lease, self.keep_alive, self.since, self.served = lease, keep_alive, now, False

    def worked(self, now: float, activity: float, *, busy: bool) -> None:
        """Takes note of the server's counters."""
        if busy or activity != self.activity:
            self.activity, self.since, self.served = activity, now, True

    def left(self, now: float) -> float:
        """Seconds until it should leave; infinite when it should stay."""
        if self.keep_alive < 0:
            return float("inf")
        patience = self.keep_alive if self.served else max(self.keep_alive, GRACE_SECONDS)
        return self.since + patience - now


def main() -> NoReturn:
    """Reads the task, confines itself, loads, says ready, serves, leaves."""
    task = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # what llama.cpp prints goes to the log, never between our lines
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server, ready = start(task)
    except (ImportError, RuntimeError, OSError, MemoryError) as error:
        leave(task)
        # The usual way out: llama.cpp writes the last of its log when it is torn down.
        sys.exit(f"{type(error).__name__}: {error}")
    status = 1
    try:
        os.write(answer, json.dumps(ready).encode() + b"\n")
        os.close(answer)
        serve(server, task)
        status = 0
    except SystemExit:
        status = 0
    except (RuntimeError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the log
    finally:
        leave(task)
        os._exit(status)  # the server can't be stopped, and its destructors wait for it


def leave(task: dict[str, Any]) -> None:
    """Takes away the address, and ends the llama-server if there is one: this session is ours."""
    close_address(task)
    if task["binary"] and hasattr(os, "killpg"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)


def start(task: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Imports the bindings, confines this process, loads the model. Returns the server and what to tell the parent."""
    before = time.monotonic()
    layers: list[str] = []
    missing: list[list[str]] = []
    if uses_binary(task):
        from llm_hf_models.engine_binary import LlamaServer

        server: Any = LlamaServer(task)
    else:
        import xllamacpp

        if task["sandbox"]:
            layers, missing = confine(task, gpu=has_gpu(xllamacpp))
        before = time.monotonic()
        server = xllamacpp.Server(parameters(xllamacpp, task))
    ready = {
        "address": task["socket"] or server.listening_address,
        "load_seconds": time.monotonic() - before,
        "layers": layers,
        "missing": missing,
        "memory": memory(),
    }
    return server, ready


def uses_binary(task: dict[str, Any]) -> bool:
    """Whether a llama-server takes the bindings' place: asked for, or alone there, or alone with a GPU."""
    if task["engine"] != "auto" or not task["binary"]:
        return bool(task["engine"] == "llama-server")
    try:
        import xllamacpp
    except ImportError:
        return True
    from llm_hf_models import engine_binary

    return not has_gpu(xllamacpp) and engine_binary.has_gpu(task["binary"])


def has_gpu(xllamacpp: Any) -> bool:  # noqa: ANN401 - the bindings carry no types
    """Whether the bindings were built for a GPU that is there."""
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = {kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU}
    return any(device["type"] in gpus for device in xllamacpp.get_device_info())


def confine(task: dict[str, Any], *, gpu: bool) -> tuple[list[str], list[list[str]]]:
    """Closes what this process won't need. Returns the layers that hold, and each other one with the reason."""
    from llm_hf_models import sandbox

    wanted = sandbox.Confinement(
        read_paths=[Path(path) for path in (*task["read_paths"], task["folder"])],
        write_dirs=[Path(task["folder"])],
        max_memory_bytes=task["max_memory"],
        max_open_files=MAX_OPEN_FILES,
        allow_unix_server=True,
        allow_gpu=gpu,
    )
    report = sandbox.confine(wanted)
    return layer_names(report.layers, gpu=gpu), [list(pair) for pair in report.missing]


def layer_names(layers: Sequence[str], *, gpu: bool) -> list[str]:
    """The layers as people read them (`llm hf ps`): with a GPU, what closes files leaves its devices open."""
    closes_files = ("landlock", "seatbelt")
    return [f"{layer} but for GPU devices" if gpu and layer in closes_files else layer for layer in layers]


def parameters(xllamacpp: Any, task: dict[str, Any]) -> Any:  # noqa: ANN401 - the bindings carry no types
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
    params.n_batch = params.n_ubatch = max(task["batch"], GPU_BATCH) if has_gpu(xllamacpp) else task["batch"]
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


def memory() -> int:
    """The most memory this process has held, in bytes; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def serve(server: Any, task: dict[str, Any]) -> None:  # noqa: ANN401 - the bindings carry no types
    """Stays until idle for long enough; the server answers in threads of its own."""
    watch = Watch(keep_alive=task["keep_alive"], since=time.monotonic())
    doors = open_sockets()  # those it listens on
    while look(server, watch, task, doors) and (left := watch.left(time.monotonic())) > 0:
        pause = MIN_PAUSE_SECONDS if watch.keep_alive == 0 else left / 2
        time.sleep(min(MAX_PAUSE_SECONDS, max(MIN_PAUSE_SECONDS, pause)))
    close_address(task)  # nobody new comes in; whoever got in before is served to the end
    time.sleep(LINGER_SECONDS)
    while busy(server)[0] or open_sockets() > doors:
        time.sleep(MIN_PAUSE_SECONDS)


def look(server: Any, watch: Watch, task: dict[str, Any], doors: int) -> bool:  # noqa: ANN401 - the bindings carry no types
    """One look at the lease and the counters. False when the lease is gone: nobody can find this engine any more."""
    try:
        lease = Path(task["lease"])
        stamp, text = lease.stat().st_mtime_ns, lease.read_text(encoding="ascii")
        watch.leased(time.monotonic(), stamp, float(text))
    except (OSError, ValueError):
        return False
    working, activity = busy(server)
    watch.worked(time.monotonic(), activity, busy=working or open_sockets() > doors)
    shorten_log()
    return True


def busy(server: Any) -> tuple[bool, float]:  # noqa: ANN401 - the bindings carry no types
    """Whether requests are worked on or wait, and a counter that grows with all work (llama.cpp's own metrics)."""
    counts: dict[str, float] = {}
    for line in server.handle_metrics().splitlines():
        name, _, value = line.partition(" ")
        if name.startswith("llamacpp:"):
            counts[name.removeprefix("llamacpp:")] = float(value)
    working = counts["requests_processing"] + counts["requests_deferred"] > 0
    return working, counts["n_decode_total"] + counts["prompt_tokens_total"] + counts["tokens_predicted_total"]


def open_sockets() -> int:
    """How many sockets this process holds: a client that reads slowly is still there when the work is done.

    (Not so for a llama-server's clients, nor on Windows: there, lingering must do.)
    """
    count = 0
    for number in range(3, MAX_OPEN_FILES):
        try:
            count += stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            continue
    return count


def shorten_log() -> None:
    """Empties the log when it has grown too long."""
    try:
        if os.fstat(2).st_size > MAX_LOG_BYTES:
            os.ftruncate(2, 0)
    except OSError:
        pass  # not a file: nothing to shorten


def close_address(task: dict[str, Any]) -> None:
    """Takes away what clients find this engine by; what the sandbox doesn't let go, the parent sweeps."""
    for path in (task["socket"], task["lease"]):
        if path:
            try:
                Path(path).unlink(missing_ok=True)
            except OSError:
                continue


if __name__ == "__main__":
    main()
